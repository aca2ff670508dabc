/* SPDX-License-Identifier: Apache-2.0
 * core/check/comm_exchange.c: what every communicator must do alike. Element i of rank r's data
 * is a function of (r, i), so each rank knows what it must receive; reductions are done again here,
 * in rank order, and must agree in every bit.
 */
#include "comm_exchange.h"

#include <lmoe/exchange.h>

#include <stdbool.h>
#include <stdlib.h>

enum { MOST = 16 }; /* ranks */

typedef struct all { /* of one communicator */
    const lmoe_comm *c;
    void *comm;
    int32_t rank, ranks;
    bool any_order; /* of tags */
    int wrong;
    char at[160]; /* the exchange at work */
    char *first;  /* the first that was wrong; room for 160 characters, or NULL */
} all;

static void wrong(all *a)
{
    if (a->wrong++ == 0 && a->first)
        snprintf(a->first, sizeof a->at, "rank %d of %d: %.120s", (int)a->rank, (int)a->ranks,
                 a->at);
}

static void note(all *a, const lmoe_exchange *e)
{
    int in_place = e->send && e->send == e->recv;
    char text[120];
    lmoe_exchange_text(text, sizeof text, e, 0);
    char *number = strstr(text, " number 0");
    if (number) memmove(number, number + 9, strlen(number + 9) + 1);
    snprintf(a->at, sizeof a->at, "%s%s", text, in_place ? ", in place" : "");
}

/* Starts an exchange that must be possible. */
static void *begin(all *a, const lmoe_exchange *e)
{
    void *request = NULL;
    note(a, e);
    if (a->c->start(a->comm, e, &request)) wrong(a);
    return request;
}

static uint64_t mixed(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdull;
    x ^= x >> 29;
    x *= 0xc4ceb9fe1a85ec53ull;
    return x ^ x >> 32;
}

/* Elements that are no NaN, as bytes. */
static void *make(int32_t rank, int64_t count, lmoe_dtype dtype)
{
    size_t size = lmoe_dtype_bytes(dtype);
    char *data = malloc((size_t)count * size + 1);
    for (int64_t i = 0; i < count; i++) {
        uint64_t u = mixed((uint64_t)i * 64 + (uint64_t)rank * 8 + (uint64_t)dtype);
        double x = ldexp((double)(int64_t)u * 0x1p-63, (int)(u % 9));
        float f = (float)x;
        uint16_t half = (uint16_t)(u % 0x7000);
        const void *from = dtype == LMOE_F64                         ? (const void *)&x
                           : dtype == LMOE_F32                       ? (const void *)&f
                           : dtype == LMOE_BF16 || dtype == LMOE_F16 ? (const void *)&half
                                                                     : (const void *)&u;
        memcpy(data + (size_t)i * size, from, size);
    }
    return data;
}

/* Memory with one byte behind it that must stay as it is. */
static char *room_for(int64_t count, lmoe_dtype dtype)
{
    size_t bytes = (size_t)count * lmoe_dtype_bytes(dtype);
    char *room = malloc(bytes + 1);
    memset(room, 0x55, bytes + 1);
    return room;
}

static void expect(all *a, const void *got, const void *want, int64_t count, lmoe_dtype dtype)
{
    size_t bytes = (size_t)count * lmoe_dtype_bytes(dtype);
    if (bytes > 0 && memcmp(got, want, bytes) != 0) wrong(a);
}

/* expect, and the byte behind. */
static void expect_all(all *a, const char *got, const void *want, int64_t count, lmoe_dtype dtype)
{
    expect(a, got, want, count, dtype);
    if (got[(size_t)count * lmoe_dtype_bytes(dtype)] != 0x55) wrong(a);
}

static void run(all *a, const lmoe_exchange *e)
{
    note(a, e);
    if (lmoe_exchange_run(a->c, a->comm, e) != LMOE_OK) wrong(a);
}

/* ---- each kind ---- */

static void *reduced(const all *a, int64_t count, lmoe_dtype dtype, lmoe_reduce reduce)
{
    void *from[MOST], *to = malloc((size_t)count * lmoe_dtype_bytes(dtype) + 1);
    for (int32_t i = 0; i < a->ranks; i++) from[i] = make(i, count, dtype);
    lmoe_reduce_ordered((const void *const *)from, a->ranks, 0, &to, 1, 0, count, dtype, reduce);
    for (int32_t i = 0; i < a->ranks; i++) free(from[i]);
    return to;
}

static void reductions(all *a, int64_t n, lmoe_dtype dtype, lmoe_reduce reduce)
{
    int64_t block = n / a->ranks, whole = block * a->ranks;
    char *mine = make(a->rank, n, dtype), *out = room_for(n, dtype),
         *want = reduced(a, n, dtype, reduce);
    size_t at = (size_t)(a->rank * block) * lmoe_dtype_bytes(dtype);
    lmoe_exchange e = {.size = sizeof e, .dtype = dtype, .reduce = reduce, .send = mine};
    e.kind = LMOE_ALL_REDUCE;
    e.recv = out;
    e.count = n;
    run(a, &e);
    expect_all(a, out, want, n, dtype);
    e.kind = LMOE_REDUCE_SCATTER;
    e.count = block;
    free(out);
    e.recv = out = room_for(block, dtype);
    run(a, &e);
    expect_all(a, out, want + at, block, dtype);
    e.recv = mine + at; /* in place */
    run(a, &e);
    expect(a, mine + at, want + at, block, dtype);
    free(mine);
    e.kind = LMOE_ALL_REDUCE;
    e.send = e.recv = mine = make(a->rank, n, dtype);
    e.count = whole;
    run(a, &e);
    expect(a, mine, want, whole, dtype);
    free(mine);
    free(out);
    free(want);
}

static void gathers(all *a, int64_t n, lmoe_dtype dtype)
{
    size_t bytes = (size_t)n * lmoe_dtype_bytes(dtype);
    char *mine = make(a->rank, n, dtype), *out = room_for(n * a->ranks, dtype);
    lmoe_exchange e = {.size = sizeof e, .kind = LMOE_ALL_GATHER, .dtype = dtype, .count = n};
    e.send = mine;
    e.recv = out;
    run(a, &e);
    for (int again = 0; again < 2; again++) {
        for (int32_t r = 0; r < a->ranks; r++) {
            char *his = make(r, n, dtype);
            expect(a, out + (size_t)r * bytes, his, n, dtype);
            free(his);
        }
        if (out[bytes * (size_t)a->ranks] != 0x55) wrong(a);
        if (again) break;
        memset(out, 0, bytes * (size_t)a->ranks);
        e.send = out + (size_t)a->rank * bytes; /* in place */
        if (bytes > 0) memcpy(out + (size_t)a->rank * bytes, mine, bytes);
        run(a, &e);
    }
    free(mine);
    free(out);
}

static void broadcasts(all *a, int64_t n, lmoe_dtype dtype)
{
    for (int32_t root = 0; root < a->ranks; root++) {
        char *want = make(root, n, dtype), *out = room_for(n, dtype);
        bool in_place = root % 2 && a->rank == root;
        lmoe_exchange e = {.size = sizeof e, .kind = LMOE_BROADCAST, .dtype = dtype, .count = n};
        e.peer = root;
        e.send = a->rank != root ? NULL : in_place ? out : want;
        e.recv = out;
        if (in_place) memcpy(out, want, (size_t)n * lmoe_dtype_bytes(dtype));
        run(a, &e);
        expect_all(a, out, want, n, dtype);
        free(want);
        free(out);
    }
}

static void equal_blocks(all *a, int64_t n, lmoe_dtype dtype)
{
    size_t bytes = (size_t)n * lmoe_dtype_bytes(dtype);
    char *mine = make(a->rank, n * a->ranks, dtype), *out = room_for(n * a->ranks, dtype);
    lmoe_exchange e = {.size = sizeof e, .kind = LMOE_ALL_TO_ALL, .dtype = dtype, .count = n};
    e.send = mine;
    e.recv = out;
    run(a, &e);
    for (int32_t r = 0; r < a->ranks; r++) {
        char *his = make(r, n * a->ranks, dtype);
        expect(a, out + (size_t)r * bytes, his + (size_t)a->rank * bytes, n, dtype);
        free(his);
    }
    if (out[bytes * (size_t)a->ranks] != 0x55) wrong(a);
    free(mine);
    free(out);
}

/* What rank r sends to rank s, of blocks of up to n; some are empty, and rank 1 receives nothing. */
static int64_t block_of(int64_t n, int32_t r, int32_t s)
{
    return s == 1 ? 0 : (int64_t)(mixed((uint64_t)(r * MOST + s)) % (uint64_t)(n + 1));
}

static void uneven_blocks(all *a, int64_t n, lmoe_dtype dtype)
{
    int64_t to[MOST], from[MOST], sum = 0, at = 0;
    size_t size = lmoe_dtype_bytes(dtype);
    for (int32_t r = 0; r < a->ranks; r++) {
        to[r] = block_of(n, a->rank, r);
        from[r] = block_of(n, r, a->rank);
        sum += from[r];
    }
    char *mine = make(a->rank, n * a->ranks, dtype), *out = room_for(sum, dtype);
    lmoe_exchange e = {.size = sizeof e, .kind = LMOE_ALL_TO_ALL_V, .dtype = dtype};
    e.send = mine;
    e.recv = out;
    e.send_counts = to;
    e.recv_counts = from;
    void *request;
    request = begin(a, &e);
    memset(to, 77, sizeof to); /* start has read them */
    memset(from, 77, sizeof from);
    if (a->c->wait(a->comm, request)) wrong(a);
    for (int32_t r = 0; r < a->ranks; r++) {
        char *his = make(r, n * a->ranks, dtype);
        int64_t skip = 0, count = block_of(n, r, a->rank);
        for (int32_t s = 0; s < a->rank; s++) skip += block_of(n, r, s);
        expect(a, out + (size_t)at * size, his + (size_t)skip * size, count, dtype);
        at += count;
        free(his);
    }
    if (out[(size_t)sum * size] != 0x55) wrong(a);
    free(mine);
    free(out);
}

/* ---- messages ---- */

static void send_to(all *a, int32_t peer, int32_t tag, const void *data, int64_t n,
                    lmoe_dtype dtype)
{
    lmoe_exchange e = {.size = sizeof e, .kind = LMOE_SEND, .dtype = dtype, .count = n};
    e.peer = peer;
    e.tag = tag;
    e.send = data;
    run(a, &e);
}

static void receive_from(all *a, int32_t peer, int32_t tag, void *data, int64_t n, lmoe_dtype dtype)
{
    lmoe_exchange e = {.size = sizeof e, .kind = LMOE_RECV, .dtype = dtype, .count = n};
    e.peer = peer;
    e.tag = tag;
    e.recv = data;
    run(a, &e);
}

/* Everyone sends to everyone, and overwrites what it has sent; then everyone receives, the tags in
 * another order than they were sent in. */
static void messages(all *a, int64_t n, lmoe_dtype dtype)
{
    for (int32_t tag = 0; tag < 3; tag++) {
        char *mine = make(a->rank + tag, n, dtype);
        for (int32_t r = 0; r < a->ranks; r++)
            if (r != a->rank) send_to(a, r, tag * 1000, mine, n, dtype);
        memset(mine, 0, (size_t)n * lmoe_dtype_bytes(dtype));
        free(mine);
    }
    for (int32_t k = 0; k < 3; k++) {
        int32_t tag = a->any_order ? 2 - k : k;
        for (int32_t r = 0; r < a->ranks; r++) {
            if (r == a->rank) continue;
            char *want = make(r + tag, n, dtype), *out = room_for(n, dtype);
            receive_from(a, r, tag * 1000, out, n, dtype);
            expect_all(a, out, want, n, dtype);
            free(want);
            free(out);
        }
    }
}

/* Messages of one tag arrive in their order; receives are posted first, between collectives. */
static void in_order(all *a)
{
    enum { N = 5 };
    int32_t next = (a->rank + 1) % a->ranks, before = (a->rank + a->ranks - 1) % a->ranks;
    int64_t got[N], sum[N];
    void *receive[N], *collective[N];
    if (a->ranks == 1) return;
    for (int i = 0; i < N; i++) {
        lmoe_exchange e = {.size = sizeof e, .kind = LMOE_RECV, .dtype = LMOE_I64, .count = 1};
        e.peer = before;
        e.tag = LMOE_MAX_TAG;
        e.recv = &got[i];
        receive[i] = begin(a, &e);
    }
    for (int64_t i = 0; i < N; i++) {
        int64_t x = i * 100 + a->rank;
        lmoe_exchange e = {.size = sizeof e, .kind = LMOE_ALL_REDUCE, .dtype = LMOE_I64};
        sum[i] = x;
        e.send = e.recv = &sum[i];
        e.count = 1;
        collective[i] = begin(a, &e);
        send_to(a, next, LMOE_MAX_TAG, &x, 1, LMOE_I64);
    }
    /* Waited for in different orders by different ranks. */
    for (int k = 0; k < N; k++) {
        int i = a->rank % 2 ? k : N - 1 - k;
        if (a->c->wait(a->comm, collective[i])) wrong(a);
        if (a->c->wait(a->comm, receive[i])) wrong(a);
        if (got[i] != i * 100 + before) wrong(a);
        if (sum[i] != (int64_t)i * 100 * a->ranks + a->ranks * (a->ranks - 1) / 2) wrong(a);
    }
}

/* start does not wait: rank 0 starts only when another rank, which has started, has told it so. */
static void start_does_not_wait(all *a)
{
    int32_t x = a->rank, word = 1, done = 0;
    void *request;
    lmoe_exchange e = {.size = sizeof e, .kind = LMOE_ALL_REDUCE, .dtype = LMOE_I32, .count = 1};
    e.send = e.recv = &x;
    for (int32_t r = 1; a->rank == 0 && r < a->ranks; r++)
        receive_from(a, r, 7, &word, 1, LMOE_I32);
    request = begin(a, &e);
    if (a->rank > 0) send_to(a, 0, 7, &word, 1, LMOE_I32);
    while (!done)
        if (a->c->test(a->comm, request, &done)) wrong(a);
    if (a->c->wait(a->comm, request)) wrong(a);
    if (x != a->ranks * (a->ranks - 1) / 2) wrong(a);
}

static void barriers(all *a)
{
    lmoe_exchange e = {.size = sizeof e, .kind = LMOE_BARRIER};
    for (int i = 0; i < 3; i++) run(a, &e);
}

/* ---- parts of the whole ---- */

static const int64_t counts[] = {0, 1, 7, 513, 5000};
enum { N_COUNTS = sizeof counts / sizeof *counts };

/* Calls fn for each dtype and count. */
static void each(all *a, void (*fn)(all *a, int64_t n, lmoe_dtype dtype))
{
    for (int dtype = LMOE_F32; dtype <= LMOE_U8; dtype++)
        for (int i = 0; i < N_COUNTS; i++) fn(a, counts[i], (lmoe_dtype)dtype);
}

static void all_reductions(all *a, int64_t n, lmoe_dtype dtype)
{
    for (int op = LMOE_SUM; op <= LMOE_MIN; op++) reductions(a, n, dtype, (lmoe_reduce)op);
}

static void all_blocks(all *a, int64_t n, lmoe_dtype dtype)
{
    equal_blocks(a, n, dtype);
    uneven_blocks(a, n, dtype);
}

static void all_messages(all *a)
{
    each(a, messages);
    messages(a, 300000, LMOE_F32); /* more than any transport holds on its own */
}

static void in_flight(all *a)
{
    in_order(a);
    start_does_not_wait(a);
    barriers(a);
}

/* Even and odd ranks in reverse order; both parts and the whole are used in turn. */
static void parts(all *a)
{
    int32_t color = a->rank % 2, size = (a->ranks + 1 - color) / 2;
    all part = {.c = a->c, .any_order = a->any_order, .first = a->first};
    snprintf(a->at, sizeof a->at, "split by odd and even ranks");
    if (a->c->split(a->comm, color, -a->rank, &part.comm)) {
        wrong(a);
        return;
    }
    part.rank = a->c->rank(part.comm);
    part.ranks = a->c->ranks(part.comm);
    if (part.ranks != size || part.rank != size - 1 - a->rank / 2) wrong(a);
    for (int i = 0; i < 3; i++) {
        gathers(&part, 11 + i, LMOE_F32);
        in_order(&part);
        gathers(a, 11 + i, LMOE_I64);
        messages(&part, 3, LMOE_U8);
    }
    a->wrong += part.wrong;
    a->c->close(part.comm);
}

int lmoe__exchange_check(const lmoe_comm *c, void *comm, bool any_order, uint32_t what, char *first)
{
    all a = {.c = c,
             .comm = comm,
             .any_order = any_order,
             .first = first,
             .rank = c->rank(comm),
             .ranks = c->ranks(comm)};
    if (a.ranks > MOST) return 1;
    if (what & LMOE__EXCHANGE_REDUCTIONS) each(&a, all_reductions);
    if (what & LMOE__EXCHANGE_GATHERS) each(&a, gathers);
    if (what & LMOE__EXCHANGE_BROADCASTS) each(&a, broadcasts);
    if (what & LMOE__EXCHANGE_BLOCKS) each(&a, all_blocks);
    if (what & LMOE__EXCHANGE_MESSAGES) all_messages(&a);
    if (what & LMOE__EXCHANGE_FLIGHT) in_flight(&a);
    if (what & LMOE__EXCHANGE_PARTS) parts(&a);
    return a.wrong;
}
