/* SPDX-License-Identifier: Apache-2.0
 * @NAME@.c: class @CLASS@, a communicator whose ranks are threads of one process.
 *
 * The ranks of a communicator share a room. A collective is a call in it, which every rank joins;
 * the last one to come does the work of all, as their buffers belong to the communicator until each
 * has waited. A message that nobody waits for is copied, so a send is complete when it is started.
 * One lock serves all: simple, and right first.
 */
#include <lmoe/exchange.h>
#include <lmoe/plugin.h>

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

typedef struct call { /* a collective */
    struct call *next;
    int64_t number;
    int32_t joined, left, done;
    lmoe_exchange *of;  /* each rank's */
    int64_t *counts;    /* of each rank's all_to_all_v, as those of the caller are read by start */
    struct room **room; /* of a split: where each rank goes, and its place there */
    int32_t *place;
} call;

typedef struct request {
    struct request *next; /* of this rank */
    lmoe_exchange e;
    int64_t number;
    call *call; /* NULL: a message */
    int32_t done;
} request;

typedef struct message { /* that has only one side yet */
    struct message *next;
    int32_t from, to;
    lmoe_exchange e;
    void *copy;         /* of what was sent */
    request *receiving; /* or who waits for it */
} message;

typedef struct room {
    struct room *next;
    struct group *group;
    int32_t ranks;
    call *calls;
    message *messages;
} room;

typedef struct group {
    pthread_mutex_t lock;
    pthread_cond_t news;
    int32_t aborted;
    char why[300]; /* the first failure; "" after abort() */
    room *rooms;   /* all of them; the first that was made is the last here */
} group;

typedef struct member { /* one rank in one room */
    room *room;
    int32_t rank;
    double timeout;
    int64_t collectives, messages; /* started */
    request *requests;
    char text[600];
} member;

/* ---- rooms ---- */

static room *new_room(group *g, int32_t ranks)
{
    room *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->group = g;
    r->ranks = ranks;
    r->next = g->rooms;
    g->rooms = r;
    return r;
}

static void free_call(call *c)
{
    free(c->of);
    free(c->counts);
    free(c->room);
    free(c->place);
    free(c);
}

static lmoe_status group_create(const void *options, int32_t ranks, void **out)
{
    group *g = calloc(1, sizeof *g);
    if (!g) return LMOE_E_MEMORY;
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->news, NULL);
    *out = g;
    if (new_room(g, ranks)) return LMOE_OK;
    free(g);
    return LMOE_E_MEMORY;
}

static void group_destroy(void *p)
{
    group *g = p;
    for (room *r; (r = g->rooms);) {
        for (call *c; (c = r->calls); free_call(c)) r->calls = c->next;
        for (message *m; (m = r->messages); free(m)) {
            r->messages = m->next;
            free(m->copy);
        }
        g->rooms = r->next;
        free(r);
    }
    pthread_cond_destroy(&g->news);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

static member *enter(room *r, int32_t rank, double timeout)
{
    member *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    m->room = r;
    m->rank = rank;
    m->timeout = timeout;
    return m;
}

static lmoe_status open_rank(const void *options, const lmoe_comm_env *env, void **out)
{
    group *g = env->group;
    *out = enter(g->rooms, env->rank, env->timeout); /* no rank splits before all have opened */
    return *out ? LMOE_OK : LMOE_E_MEMORY;
}

/* What was started and never waited for is given up. */
static void close_rank(void *p)
{
    member *m = p;
    pthread_mutex_lock(&m->room->group->lock);
    for (message **at = &m->room->messages, *x; (x = *at);) {
        if (x->e.kind == LMOE_RECV && x->to == m->rank) {
            *at = x->next;
            free(x);
        } else {
            at = &x->next;
        }
    }
    pthread_mutex_unlock(&m->room->group->lock);
    for (request *r; (r = m->requests); free(r)) m->requests = r->next;
    free(m);
}

/* Ends all waiting; with the lock held. The first reason is kept. */
static void end_all(group *g, const char *why)
{
    if (!g->aborted) snprintf(g->why, sizeof g->why, "%s", why);
    g->aborted = 1;
    pthread_cond_broadcast(&g->news);
}

static void abort_all(void *p)
{
    group *g = ((member *)p)->room->group;
    pthread_mutex_lock(&g->lock);
    end_all(g, "");
    pthread_mutex_unlock(&g->lock);
}

/* What this rank says of a failure. */
static lmoe_status fail(member *m, const lmoe_exchange *e, int64_t number, const char *why)
{
    char name[160];
    snprintf(m->text, sizeof m->text, "rank %d of %d, %s: %s", (int)m->rank, (int)m->room->ranks,
             lmoe_exchange_text(name, sizeof name, e, number), why);
    return LMOE_E_COMM;
}

/* ---- the work of a collective ---- */

static void copy(void *to, int64_t at, const void *from, int64_t start, int64_t count, size_t bytes)
{
    char *d = (char *)to + (size_t)at * bytes;
    const char *s = (const char *)from + (size_t)start * bytes;
    if (count > 0 && d != s) memmove(d, s, (size_t)count * bytes);
}

static void reduce(const call *c, int32_t n, int scatter)
{
    const lmoe_exchange *e = c->of;
    const void **from = malloc(sizeof *from * (size_t)n);
    void **to = malloc(sizeof *to * (size_t)n);
    for (int32_t r = 0; from && to && r < n; r++) {
        from[r] = e[r].send;
        to[r] = e[r].recv;
    }
    for (int32_t r = 0; from && to && scatter && r < n; r++)
        lmoe_reduce_ordered(from, n, r * e->count, &to[r], 1, 0, e->count, e->dtype, e->reduce);
    if (from && to && !scatter)
        lmoe_reduce_ordered(from, n, 0, to, n, 0, e->count, e->dtype, e->reduce);
    free(from);
    free(to);
}

static void move_blocks(const call *c, int32_t n)
{
    const lmoe_exchange *e = c->of;
    size_t bytes = lmoe_dtype_bytes(e->dtype);
    for (int32_t i = 0; i < n; i++) { /* from i to j */
        for (int32_t j = 0; j < n; j++) {
            switch (e->kind) {
            case LMOE_ALL_GATHER:
                copy(e[j].recv, i * e->count, e[i].send, 0, e->count, bytes);
                break;
            case LMOE_ALL_TO_ALL:
                copy(e[j].recv, i * e->count, e[i].send, j * e->count, e->count, bytes);
                break;
            case LMOE_ALL_TO_ALL_V:
                copy(e[j].recv, lmoe_exchange_sum(e[j].recv_counts, i), e[i].send,
                     lmoe_exchange_sum(e[i].send_counts, j), e[i].send_counts[j], bytes);
                break;
            case LMOE_BROADCAST:
                if (i == e->peer) copy(e[j].recv, 0, e[i].send, 0, e->count, bytes);
                break;
            default: break;
            }
        }
    }
}

/* Of a split, peer is the color and tag the key. Ranks of a color, by key and rank, get a room. */
static void divide(const call *c, room *from)
{
    for (int32_t i = 0; i < from->ranks; i++) {
        int32_t count = 0;
        for (int32_t j = 0; j < from->ranks; j++) {
            const lmoe_exchange *a = &c->of[i], *b = &c->of[j];
            if (a->peer != b->peer) continue;
            count++;
            if (b->tag < a->tag || (b->tag == a->tag && j < i)) c->place[i]++;
            if (j < i) c->room[i] = c->room[j];
        }
        if (!c->room[i]) c->room[i] = new_room(from->group, count);
    }
}

/* Why these calls are no collective; NULL if they are. */
static const char *mismatch(const call *c, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        for (int32_t j = 0; j < n && c->of->kind == LMOE_ALL_TO_ALL_V; j++) {
            if (c->of[i].send_counts[j] != c->of[j].recv_counts[i])
                return "the ranks do not agree on how much they exchange";
        }
    }
    return NULL;
}

static void perform(call *c, room *r)
{
    const char *why = mismatch(c, r->ranks);
    if (why) {
        end_all(r->group, why);
        return;
    }
    if ((int)c->of->kind == 0) divide(c, r);
    if (c->of->kind == LMOE_ALL_REDUCE) reduce(c, r->ranks, 0);
    if (c->of->kind == LMOE_REDUCE_SCATTER) reduce(c, r->ranks, 1);
    move_blocks(c, r->ranks);
    c->done = 1;
    pthread_cond_broadcast(&r->group->news);
}

/* ---- calls ---- */

static call *find_call(room *r, int64_t number)
{
    call **at = &r->calls, *c;
    while (*at && (*at)->number != number) at = &(*at)->next;
    if (*at) return *at;
    c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->number = number;
    c->of = calloc((size_t)r->ranks, sizeof *c->of);
    c->counts = calloc((size_t)r->ranks * (size_t)r->ranks * 2, sizeof *c->counts);
    c->room = calloc((size_t)r->ranks, sizeof(room *));
    c->place = calloc((size_t)r->ranks, sizeof *c->place);
    if (c->of && c->counts && c->room && c->place) return *at = c;
    free_call(c);
    return NULL;
}

static lmoe_status join(member *m, request *q)
{
    room *r = m->room;
    call *c = find_call(r, q->number);
    char theirs[160], why[300];
    if (!c) return LMOE_E_MEMORY;
    int64_t *counts = c->counts + 2 * m->rank * r->ranks, n = r->ranks;
    c->of[m->rank] = q->e;
    if (q->e.kind == LMOE_ALL_TO_ALL_V) {
        memcpy(counts, q->e.send_counts, (size_t)n * sizeof *counts);
        memcpy(counts + n, q->e.recv_counts, (size_t)n * sizeof *counts);
        c->of[m->rank].send_counts = counts;
        c->of[m->rank].recv_counts = counts + n;
    }
    for (int32_t i = 0; c->joined > 0 && i < r->ranks; i++) {
        if (i == m->rank || c->of[i].size == 0 || lmoe_exchange_same(&q->e, &c->of[i])) continue;
        snprintf(why, sizeof why, "rank %d calls %s at the same place", (int)i,
                 lmoe_exchange_text(theirs, sizeof theirs, &c->of[i], q->number));
        end_all(r->group, why);
        return fail(m, &q->e, q->number, why);
    }
    q->call = c;
    if (++c->joined == r->ranks) perform(c, r);
    return LMOE_OK;
}

/* Finds the other side of a message, or leaves this one for it. */
static lmoe_status post(member *m, request *q)
{
    int send = q->e.kind == LMOE_SEND;
    int32_t from = send ? m->rank : q->e.peer, to = send ? q->e.peer : m->rank;
    size_t size = (size_t)q->e.count * lmoe_dtype_bytes(q->e.dtype);
    message **at = &m->room->messages, *x;
    for (; (x = *at); at = &x->next) {
        if (x->from != from || x->to != to || x->e.tag != q->e.tag || x->e.kind == q->e.kind)
            continue;
        *at = x->next;
        if (x->e.count != q->e.count || x->e.dtype != q->e.dtype)
            end_all(m->room->group, "a message is not as long as its receiver expects");
        else if (size > 0)
            memcpy(send ? x->e.recv : q->e.recv, send ? q->e.send : x->copy, size);
        q->done = 1;
        if (send) x->receiving->done = 1;
        free(x->copy);
        free(x);
        pthread_cond_broadcast(&m->room->group->news);
        return LMOE_OK;
    }
    x = calloc(1, sizeof *x);
    if (x && send && size > 0 && !(x->copy = malloc(size))) free(x), x = NULL;
    if (!x) return LMOE_E_MEMORY;
    *x = (message){NULL, from, to, q->e, x->copy, q};
    if (x->copy) memcpy(x->copy, q->e.send, size);
    q->done = send;
    *at = x;
    return LMOE_OK;
}

static lmoe_status start(void *p, const lmoe_exchange *e, void **out)
{
    member *m = p;
    group *g = m->room->group;
    int collective = lmoe_exchange_is_collective(e);
    int64_t number = collective ? m->collectives + 1 : m->messages + 1;
    const char *problem =
        (int)e->kind == 0 ? NULL : lmoe_exchange_problem(e, m->rank, m->room->ranks);
    *out = NULL;
    if (problem) return fail(m, e, number, problem);
    request *q = calloc(1, sizeof *q);
    if (!q) return fail(m, e, number, "out of memory");
    q->e = *e;
    q->number = number;
    pthread_mutex_lock(&g->lock);
    lmoe_status status = LMOE_E_COMM;
    if (g->aborted)
        fail(m, e, number, g->why[0] ? g->why : "another rank has ended the exchange");
    else
        status = collective ? join(m, q) : post(m, q);
    if (status == LMOE_OK) {
        q->next = m->requests;
        m->requests = *out = q;
        m->collectives += collective;
        m->messages += !collective;
    } else {
        free(q);
    }
    pthread_mutex_unlock(&g->lock);
    return status == LMOE_E_MEMORY ? fail(m, e, number, "out of memory") : status;
}

static int is_done(const request *q)
{
    return q->call ? q->call->done : q->done;
}

/* Takes the request out of the rank's list, and the call out of the room when all have left it. */
static void leave(member *m, request *q)
{
    request **at = &m->requests;
    while (*at != q) at = &(*at)->next;
    *at = q->next;
    if (!q->call || !q->call->done || ++q->call->left < m->room->ranks) return;
    call **of = &m->room->calls;
    while (*of != q->call) of = &(*of)->next;
    *of = q->call->next;
    free_call(q->call);
}

static int past(const struct timespec *end)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec > end->tv_sec || (now.tv_sec == end->tv_sec && now.tv_nsec >= end->tv_nsec);
}

static lmoe_status wait_for(member *m, request *q)
{
    group *g = m->room->group;
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += (time_t)m->timeout;
    while (!is_done(q) && !g->aborted) {
        if (m->timeout <= 0)
            pthread_cond_wait(&g->news, &g->lock);
        else if (pthread_cond_timedwait(&g->news, &g->lock, &end) == ETIMEDOUT || past(&end))
            break;
    }
    if (is_done(q) && !g->aborted) return LMOE_OK;
    if (!g->aborted) end_all(g, "not all ranks have come within the timeout");
    return fail(m, &q->e, q->number, g->why[0] ? g->why : "another rank has ended the exchange");
}

static lmoe_status wait_rank(void *p, void *req)
{
    member *m = p;
    pthread_mutex_lock(&m->room->group->lock);
    lmoe_status status = wait_for(m, req);
    leave(m, req);
    pthread_mutex_unlock(&m->room->group->lock);
    free(req);
    return status;
}

static lmoe_status test_rank(void *p, void *req, int32_t *done)
{
    group *g = ((member *)p)->room->group;
    pthread_mutex_lock(&g->lock);
    *done = is_done(req) || g->aborted;
    pthread_mutex_unlock(&g->lock);
    return LMOE_OK;
}

static lmoe_status split(void *p, int32_t color, int32_t key, void **sub)
{
    member *m = p;
    lmoe_exchange e = {.size = sizeof e, .peer = color, .tag = key};
    void *req;
    *sub = NULL;
    LMOE_TRY(start(m, &e, &req));
    request *q = req;
    pthread_mutex_lock(&m->room->group->lock);
    lmoe_status status = wait_for(m, q);
    room *r = status == LMOE_OK ? q->call->room[m->rank] : NULL;
    if (r) *sub = enter(r, q->call->place[m->rank], m->timeout);
    leave(m, q);
    if (status == LMOE_OK && !*sub) status = fail(m, &e, q->number, "out of memory");
    pthread_mutex_unlock(&m->room->group->lock);
    free(q);
    return status;
}

static int32_t rank_of(void *p)
{
    return ((member *)p)->rank;
}

static int32_t ranks_of(void *p)
{
    return ((member *)p)->room->ranks;
}

static const char *text_of(void *p)
{
    return p ? ((member *)p)->text : "out of memory";
}

static const lmoe_comm communicator = {.base = {sizeof(lmoe_comm), LMOE_KIND_COMM, "@CLASS@",
                                                "Ranks are threads of one process.", NULL, 0,
                                                LMOE_COMM_THREADS},
                                       .group_create = group_create,
                                       .group_destroy = group_destroy,
                                       .open = open_rank,
                                       .close = close_rank,
                                       .abort = abort_all,
                                       .split = split,
                                       .rank = rank_of,
                                       .ranks = ranks_of,
                                       .start = start,
                                       .wait = wait_rank,
                                       .test = test_rank,
                                       .message = text_of};
static const lmoe_class *const classes[] = {&communicator.base, NULL};

LMOE_PLUGIN(.id = "@CLASS@", .version = "0.1", .licence = "Apache-2.0", .classes = classes)
