/* SPDX-License-Identifier: Apache-2.0
 * tests/abi/frozen/0/comm.c: ranks that are threads and look into each other's memory, as an author
 * wrote it with the headers of API 1.0. Collectives are done in the order in which they were started,
 * when they are waited for: all ranks publish their call, meet, read, meet. No messages.
 */
#include <lmoe/exchange.h>
#include <lmoe/plugin.h>
#include <pthread.h>
#include <stdlib.h>

enum { MOST = 16, QUEUE = 64 };

/* What the ranks of one communicator share. */
typedef struct group {
    pthread_mutex_t mutex;
    pthread_cond_t moved;
    int32_t ranks, here, aborted;
    int64_t round;
    lmoe_exchange call[MOST];
    int32_t color[MOST], key[MOST];
    struct group *sub[MOST]; /* made by the lowest rank of a color */
    int32_t users;
} group;

typedef struct comm {
    group *g;
    int32_t rank;
    lmoe_exchange queue[QUEUE];
    int64_t started, done;
    const char *message;
} comm;

static lmoe_status group_create(const void *options, int32_t ranks, void **out)
{
    if (ranks > MOST) return LMOE_E_UNSUPPORTED;
    group *g = calloc(1, sizeof *g);
    if (!g) return LMOE_E_MEMORY;
    pthread_mutex_init(&g->mutex, NULL);
    pthread_cond_init(&g->moved, NULL);
    g->ranks = ranks;
    *out = g;
    return LMOE_OK;
}

static void group_destroy(void *p)
{
    group *g = p;
    pthread_cond_destroy(&g->moved);
    pthread_mutex_destroy(&g->mutex);
    free(g);
}

static lmoe_status open_rank(const void *options, const lmoe_comm_env *env, void **out)
{
    comm *c = calloc(1, sizeof *c);
    if (!c) return LMOE_E_MEMORY;
    c->g = env->group;
    c->rank = env->rank;
    c->message = "";
    *out = c;
    return LMOE_OK;
}

static void close_rank(void *p)
{
    comm *c = p;
    group *g = c->g;
    pthread_mutex_lock(&g->mutex);
    int last = g->users > 0 && --g->users == 0; /* of a part: nobody else destroys it */
    pthread_mutex_unlock(&g->mutex);
    if (last) group_destroy(g);
    free(c);
}

static void abort_all(void *p)
{
    group *g = ((comm *)p)->g;
    pthread_mutex_lock(&g->mutex);
    g->aborted = 1;
    pthread_cond_broadcast(&g->moved);
    pthread_mutex_unlock(&g->mutex);
}

/* Until all ranks are here. */
static lmoe_status meet(comm *c)
{
    group *g = c->g;
    pthread_mutex_lock(&g->mutex);
    int64_t round = g->round;
    if (++g->here == g->ranks) {
        g->here = 0;
        g->round++;
        pthread_cond_broadcast(&g->moved);
    }
    while (g->round == round && !g->aborted) pthread_cond_wait(&g->moved, &g->mutex);
    int aborted = g->aborted;
    pthread_mutex_unlock(&g->mutex);
    if (!aborted) return LMOE_OK;
    c->message = "the communicator was aborted";
    return LMOE_E_COMM;
}

static lmoe_status split(void *p, int32_t color, int32_t key, void **out)
{
    comm *c = p;
    group *g = c->g;
    int32_t first = -1, n = 0, rank = 0;
    g->color[c->rank] = color;
    g->key[c->rank] = key;
    LMOE_TRY(meet(c));
    for (int32_t i = 0; i < g->ranks; i++) {
        if (g->color[i] != color) continue;
        if (first < 0) first = i;
        rank += g->key[i] < key || (g->key[i] == key && i < c->rank);
        n++;
    }
    if (first == c->rank) {
        void *sub;
        LMOE_TRY(group_create(NULL, n, &sub));
        g->sub[first] = sub;
        g->sub[first]->users = n;
    }
    LMOE_TRY(meet(c));
    const lmoe_comm_env env = {.size = sizeof env, .rank = rank, .group = g->sub[first]};
    lmoe_status status = open_rank(NULL, &env, out);
    lmoe_status met = meet(c);
    return status != LMOE_OK ? status : met;
}

static int32_t rank_of(void *p)
{
    return ((comm *)p)->rank;
}

static int32_t ranks_of(void *p)
{
    return ((comm *)p)->g->ranks;
}

static lmoe_status start(void *p, const lmoe_exchange *e, void **request)
{
    comm *c = p;
    const char *problem = lmoe_exchange_problem(e, c->rank, c->g->ranks);
    if (!problem && !lmoe_exchange_is_collective(e)) problem = "there are no messages here";
    if (!problem && c->started - c->done == QUEUE) problem = "too many are in flight";
    c->message = problem ? problem : "";
    if (problem) return LMOE_E_COMM;
    c->queue[c->started++ % QUEUE] = *e;
    *request = (void *)(uintptr_t)c->started;
    return LMOE_OK;
}

/* Into to, what this rank receives of all ranks' calls. */
static void receive(comm *c, const lmoe_exchange *e, char *to)
{
    const group *g = c->g;
    size_t bytes = lmoe_dtype_bytes(e->dtype), part = (size_t)e->count * bytes;
    const void *from[MOST];
    void *out = to;
    for (int32_t i = 0; i < g->ranks; i++) {
        const char *send = g->call[i].send;
        from[i] = send;
        if (e->kind == LMOE_ALL_GATHER) memcpy(to + (size_t)i * part, send, part);
        if (e->kind == LMOE_BROADCAST && i == e->peer) memcpy(to, send, part);
        if (e->kind == LMOE_ALL_TO_ALL)
            memcpy(to + (size_t)i * part, send + (size_t)c->rank * part, part);
        if (e->kind != LMOE_ALL_TO_ALL_V) continue;
        const int64_t *counts = g->call[i].send_counts;
        size_t n = (size_t)counts[c->rank] * bytes;
        memcpy(to, send + (size_t)lmoe_exchange_sum(counts, c->rank) * bytes, n);
        to += n;
    }
    if (e->kind == LMOE_ALL_REDUCE)
        lmoe_reduce_ordered(from, g->ranks, 0, &out, 1, 0, e->count, e->dtype, e->reduce);
    if (e->kind == LMOE_REDUCE_SCATTER)
        lmoe_reduce_ordered(from, g->ranks, c->rank * e->count, &out, 1, 0, e->count, e->dtype,
                            e->reduce);
}

static lmoe_status run(comm *c, const lmoe_exchange *e)
{
    int64_t n = lmoe_exchange_receives(e, c->g->ranks) * (int64_t)lmoe_dtype_bytes(e->dtype);
    char *to = malloc(n > 0 ? (size_t)n : 1);
    if (!to) return LMOE_E_MEMORY;
    c->g->call[c->rank] = *e;
    lmoe_status status = meet(c);
    if (status == LMOE_OK && n > 0) receive(c, e, to);
    if (status == LMOE_OK) status = meet(c);
    if (status == LMOE_OK && n > 0) memcpy(e->recv, to, (size_t)n);
    free(to);
    return status;
}

static lmoe_status wait_for(void *p, void *request)
{
    comm *c = p;
    while (c->done < (int64_t)(uintptr_t)request) LMOE_TRY(run(c, &c->queue[c->done++ % QUEUE]));
    return LMOE_OK;
}

static lmoe_status test(void *p, void *request, int32_t *done)
{
    *done = ((comm *)p)->done >= (int64_t)(uintptr_t)request;
    return LMOE_OK;
}

static const char *message(void *p)
{
    return p ? ((comm *)p)->message : "out of memory";
}

static const lmoe_comm class_comm = {
    .base = {sizeof(lmoe_comm), LMOE_KIND_COMM, "vendor.v0/comm",
             "Ranks that are threads, by looking into each other's memory.", NULL, 0,
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
    .wait = wait_for,
    .test = test,
    .message = message};
static const lmoe_class *const classes[] = {&class_comm.base, NULL};

LMOE_PLUGIN(.id = "vendor.v0/comm", .version = "1", .licence = "Apache-2.0", .classes = classes)
