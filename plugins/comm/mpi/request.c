/* SPDX-License-Identifier: Apache-2.0
 * plugins/comm/mpi/request.c: exchanges: started, and moved on.
 */
#include "mpi.h"

#include <limits.h>
#include <stdio.h>
#include <time.h>

/* Up to so many elements of all ranks together, an all_reduce is one exchange: everyone gets
 * everything. */
#define SMALL 4096

/* ---- requests ---- */

void ranks_request_delete(request *r)
{
    free(r->theirs);
    free(r->counts);
    free(r->scratch);
    free(r);
}

/* One that has not been used, if possible with room for the scratch bytes. */
static request *take(world *w, size_t bytes)
{
    request **at = &w->unused;
    while (*at && (*at)->room < bytes) at = &(*at)->next;
    if (!*at) at = &w->unused;
    request *r = *at;
    if (r)
        *at = r->next;
    else
        r = calloc(1, sizeof *r);
    return r;
}

static bool make_room(request *r, int32_t ranks, size_t bytes)
{
    if (r->room < bytes) {
        free(r->scratch);
        r->scratch = malloc(bytes);
        r->room = r->scratch ? bytes : 0;
    }
    if (r->ranks < ranks) {
        free(r->theirs);
        free(r->counts);
        r->theirs = calloc((size_t)ranks, sizeof *r->theirs);
        r->counts = calloc((size_t)ranks, 4 * sizeof *r->counts);
        r->ranks = r->theirs && r->counts ? ranks : 0;
    }
    return r->room >= bytes && r->ranks >= ranks;
}

void ranks_request_free(world *w, request *r)
{
    request **at = r->e.kind == LMOE_SEND ? &w->sends : &w->active;
    while (*at != r) at = &(*at)->next;
    *at = r->next;
    r->next = w->unused;
    w->unused = r;
}

static MPI_Datatype type_of(lmoe_dtype dtype)
{
    switch (lmoe_dtype_bytes(dtype)) {
    case 8: return MPI_UINT64_T;
    case 4: return MPI_UINT32_T;
    case 2: return MPI_UINT16_T;
    default: return MPI_UINT8_T;
    }
}

static char *at_element(const request *r, void *buf, int64_t element)
{
    return (char *)buf + (size_t)element * lmoe_dtype_bytes(r->e.dtype);
}

/* ---- reductions ---- */

static bool is_small(const lmoe_exchange *e, int32_t ranks)
{
    return e->count < ranks || e->count * ranks <= SMALL;
}

/* Rank i sums elements begin ... end-1, begin = share(count, n, i), end = share(count, n, i + 1). */
static int64_t share(int64_t count, int32_t n, int32_t i)
{
    int64_t each = count / n, more = count % n;
    return each * i + (i < more ? i : more);
}

static int64_t scratch_elements(const lmoe_exchange *e, int32_t rank, int32_t n)
{
    if (e->kind == LMOE_SEND) return e->count;
    if (e->kind == LMOE_REDUCE_SCATTER) return e->count * n;
    if (e->kind != LMOE_ALL_REDUCE) return 0;
    if (is_small(e, n)) return e->count * n;
    return n * (share(e->count, n, rank + 1) - share(e->count, n, rank));
}

/* The scratch holds n blocks of count elements: their sum goes to `to`. */
static void reduce_blocks(request *r, void *to, int64_t count)
{
    world *w = r->comm->world;
    int32_t n = r->comm->ranks;
    for (int32_t i = 0; i < n; i++) w->from[i] = at_element(r, r->scratch, i * count);
    lmoe_reduce_ordered(w->from, n, 0, &to, 1, 0, count, r->e.dtype, r->e.reduce);
}

static void between(request *r)
{
    const comm *c = r->comm;
    int64_t begin = share(r->e.count, c->ranks, c->rank);
    int64_t end = share(r->e.count, c->ranks, c->rank + 1);
    reduce_blocks(r, at_element(r, r->e.recv, begin), end - begin);
}

/* Everyone sends the blocks that the others sum. */
static int start_blocks(request *r)
{
    comm *c = r->comm;
    int32_t n = c->ranks;
    int64_t mine = share(r->e.count, n, c->rank + 1) - share(r->e.count, n, c->rank);
    int *sent = r->counts, *sent_at = sent + n, *got = sent_at + n, *got_at = got + n;
    for (int32_t i = 0; i < n; i++) {
        sent_at[i] = (int)share(r->e.count, n, i);
        sent[i] = (int)(share(r->e.count, n, i + 1) - share(r->e.count, n, i));
        got[i] = (int)mine;
        got_at[i] = (int)(i * mine);
    }
    r->two = true;
    return MPI_Ialltoallv(r->e.send, sent, sent_at, type_of(r->e.dtype), r->scratch, got, got_at,
                          type_of(r->e.dtype), c->first, &r->mpi);
}

static void start_second(request *r)
{
    comm *c = r->comm;
    int *count = r->counts, *at = count + c->ranks;
    int code = MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, r->e.recv, count, at,
                               type_of(r->e.dtype), c->second, &r->mpi);
    if (!ranks_failed(c->world, "MPI_Iallgatherv", code)) r->phase = SECOND;
}

/* ---- starting ---- */

static int start_uneven(request *r)
{
    comm *c = r->comm;
    int32_t n = c->ranks;
    int *sent = r->counts, *sent_at = sent + n, *got = sent_at + n, *got_at = got + n;
    sent_at[0] = got_at[0] = 0;
    for (int32_t i = 0; i < n; i++) {
        sent[i] = (int)r->e.send_counts[i];
        got[i] = (int)r->e.recv_counts[i];
        if (i + 1 == n) break;
        sent_at[i + 1] = sent_at[i] + sent[i];
        got_at[i + 1] = got_at[i] + got[i];
    }
    return MPI_Ialltoallv(r->e.send, sent, sent_at, type_of(r->e.dtype), r->e.recv, got, got_at,
                          type_of(r->e.dtype), c->first, &r->mpi);
}

static int start_gather(request *r, void *to)
{
    comm *c = r->comm;
    int n = (int)r->e.count;
    bool in_place = r->e.send == at_element(r, to, r->e.count * c->rank);
    MPI_Datatype type = type_of(r->e.dtype);
    return MPI_Iallgather(in_place ? MPI_IN_PLACE : r->e.send, n, type, to, n, type, c->first,
                          &r->mpi);
}

static int start_mpi(request *r)
{
    comm *c = r->comm;
    lmoe_exchange *e = &r->e;
    int n = (int)e->count;
    size_t bytes = (size_t)e->count * lmoe_dtype_bytes(e->dtype);
    MPI_Datatype type = type_of(e->dtype);
    switch (e->kind) {
    case LMOE_ALL_REDUCE:
        return is_small(e, c->ranks) ? start_gather(r, r->scratch) : start_blocks(r);
    case LMOE_REDUCE_SCATTER:
        return MPI_Ialltoall(e->send, n, type, r->scratch, n, type, c->first, &r->mpi);
    case LMOE_ALL_GATHER: return start_gather(r, e->recv);
    case LMOE_BROADCAST:
        if (c->rank == e->peer && bytes > 0 && e->recv != e->send) memcpy(e->recv, e->send, bytes);
        return MPI_Ibcast(e->recv, n, type, e->peer, c->first, &r->mpi);
    case LMOE_ALL_TO_ALL:
        return MPI_Ialltoall(e->send, n, type, e->recv, n, type, c->first, &r->mpi);
    case LMOE_ALL_TO_ALL_V: return start_uneven(r);
    case LMOE_SEND:
        if (bytes > 0) memcpy(r->scratch, e->send, bytes);
        return MPI_Isend(r->scratch, n, type, e->peer, e->tag, c->first, &r->mpi);
    case LMOE_RECV: return MPI_Irecv(e->recv, n, type, e->peer, e->tag, c->first, &r->mpi);
    default: return MPI_Ibarrier(c->first, &r->mpi);
    }
}

/* Each rank's call goes to all, beside the exchange itself. */
static void start_sign(request *r)
{
    comm *c = r->comm;
    const lmoe_exchange *e = &r->e;
    bool reduces = e->kind == LMOE_ALL_REDUCE || e->kind == LMOE_REDUCE_SCATTER;
    r->mine = (signature){.number = r->number, .kind = e->kind};
    if (e->kind != SPLIT && e->kind != LMOE_BARRIER) {
        r->mine.count = e->kind == LMOE_ALL_TO_ALL_V ? 0 : e->count;
        r->mine.dtype = e->dtype;
        r->mine.reduce = reduces ? e->reduce : 0;
        r->mine.peer = e->kind == LMOE_BROADCAST ? e->peer : 0;
    }
    int code = MPI_Iallgather(&r->mine, sizeof r->mine, MPI_BYTE, r->theirs, sizeof r->mine,
                              MPI_BYTE, c->first, &r->sign);
    r->unsure = !ranks_failed(c->world, "MPI_Iallgather", code);
}

request *ranks_start(comm *c, const lmoe_exchange *e)
{
    world *w = c->world;
    bool collective = lmoe_exchange_is_collective(e);
    int64_t number = collective ? ++c->collectives : ++c->messages;
    int64_t most = e->kind == SPLIT ? 0 : lmoe_exchange_sends(e, c->rank, c->ranks);
    int64_t other = e->kind == SPLIT ? 0 : lmoe_exchange_receives(e, c->ranks);
    char text[160];
    ranks_progress(w);
    if (w->failed) return NULL;
    if (most < other) most = other;
    if (most > INT_MAX) {
        ranks_fail(w, "rank %d called %s: MPI counts up to %d elements", (int)w->rank,
                   lmoe_exchange_text(text, sizeof text, e, number), INT_MAX);
        return NULL;
    }
    size_t bytes = (size_t)scratch_elements(e, c->rank, c->ranks) * lmoe_dtype_bytes(e->dtype);
    request *r = take(w, bytes);
    if (!r || !make_room(r, c->ranks, bytes)) {
        ranks_fail(w, "rank %d: out of memory in %s", (int)w->rank,
                   lmoe_exchange_text(text, sizeof text, e, number));
        if (r) ranks_request_delete(r);
        return NULL;
    }
    *r = (request){.theirs = r->theirs,
                   .counts = r->counts,
                   .scratch = r->scratch,
                   .room = r->room,
                   .ranks = r->ranks};
    r->comm = c;
    r->e = *e;
    r->number = number;
    request **last = e->kind == LMOE_SEND ? &w->sends : &w->active;
    while (*last) last = &(*last)->next;
    *last = r;
    if (collective && w->check) start_sign(r);
    ranks_failed(w, lmoe_exchange_name(e), start_mpi(r));
    r->e.send_counts = r->e.recv_counts = NULL; /* the caller's, read by now */
    return r;
}

/* ---- moving on ---- */

static void check_signatures(request *r)
{
    comm *c = r->comm;
    char ours[160], theirs[160];
    for (int32_t i = 0; i < c->ranks; i++) {
        const signature *s = &r->theirs[i];
        if (memcmp(s, &r->mine, sizeof *s) == 0) continue;
        const lmoe_exchange his = {.kind = (lmoe_exchange_kind)s->kind,
                                   .dtype = (lmoe_dtype)s->dtype,
                                   .reduce = (lmoe_reduce)s->reduce,
                                   .peer = s->peer,
                                   .count = s->count};
        ranks_fail(c->world,
                   "rank %d called %s while rank %d of %d called %s; all ranks of a communicator "
                   "must call the same operations with the same counts and dtypes",
                   (int)c->world->rank, lmoe_exchange_text(ours, sizeof ours, &r->e, r->number),
                   (int)i, (int)c->ranks,
                   lmoe_exchange_text(theirs, sizeof theirs, &his, s->number));
        return;
    }
}

/* What a receive has got must be what it asked for. */
static void check_received(request *r, MPI_Status *status)
{
    int got = 0;
    char text[160];
    if (r->e.kind != LMOE_RECV) return;
    MPI_Get_count(status, type_of(r->e.dtype), &got);
    if (got != (int)r->e.count)
        ranks_fail(r->comm->world, "rank %d called %s, but the message has %d elements",
                   (int)r->comm->world->rank,
                   lmoe_exchange_text(text, sizeof text, &r->e, r->number), got);
}

static void finish_first(request *r)
{
    bool all = r->e.kind == LMOE_ALL_REDUCE;
    r->phase = r->two ? BETWEEN : DONE;
    if (r->two)
        between(r);
    else if (all || r->e.kind == LMOE_REDUCE_SCATTER)
        reduce_blocks(r, r->e.recv, r->e.count);
}

/* Whether one that was started before on the same communicator has its second half still to start. */
static bool must_queue(const world *w, const request *r)
{
    for (const request *b = w->active; b != r; b = b->next)
        if (b->comm == r->comm && b->two && b->phase < SECOND) return true;
    return false;
}

/* An exchange that ranks have started differently may fail in MPI before the signatures, which say
 * how, are there. */
static void fail_exchange(request *r, int code)
{
    char text[160];
    int flag = 0;
    for (int i = 0; r->unsure && i < 1000 && !flag; i++) {
        const struct timespec millisecond = {0, 1000000};
        if (MPI_Test(&r->sign, &flag, MPI_STATUS_IGNORE) != MPI_SUCCESS) break;
        if (!flag) nanosleep(&millisecond, NULL);
    }
    if (flag) check_signatures(r);
    ranks_failed(r->comm->world, lmoe_exchange_text(text, sizeof text, &r->e, r->number), code);
}

static bool finished(request *r)
{
    MPI_Status status;
    int flag = 0;
    int code = MPI_Test(&r->mpi, &flag, &status);
    if (code != MPI_SUCCESS) {
        fail_exchange(r, code);
        return false;
    }
    if (flag && r->phase == FIRST) check_received(r, &status);
    return flag;
}

static void move_on(world *w, request *r)
{
    int flag = 0;
    if (r->unsure) {
        if (ranks_failed(w, "MPI_Test", MPI_Test(&r->sign, &flag, MPI_STATUS_IGNORE))) return;
        if (flag) check_signatures(r);
        if (w->failed) return; /* and the request is never done */
        r->unsure = !flag;
    }
    if (r->phase == FIRST && finished(r)) finish_first(r);
    if (r->phase == BETWEEN && !must_queue(w, r)) start_second(r);
    if (r->phase == SECOND && finished(r)) r->phase = DONE;
}

void ranks_progress(world *w)
{
    for (request *r = w->active; r && !w->failed; r = r->next)
        if (!ranks_done(r)) move_on(w, r);
    for (request *r = w->sends, *next; r && !w->failed; r = next) {
        next = r->next;
        if (finished(r)) ranks_request_free(w, r);
    }
}
