/* SPDX-License-Identifier: Apache-2.0
 * plugins/comm/loop/loop.c: class comm/loop: the ranks are threads of one process.
 *
 * All communicators that come from one group_create share a hub: one lock, one condition, one
 * failure. A collective has two phases:
 *
 *   arrive   each rank leaves its call (operation, counts, buffers) with the group and waits for
 *            the others; a call that differs from the first one is a failure at once
 *   work     all ranks have arrived, so all buffers may be used: each rank does its part, and waits
 *            until all have, as others may still work on its buffer
 *
 * Only arriving can wait for ever, so only there a failure interrupts; then it ends all
 * communicators of the hub, because a rank that failed will not come to the others either.
 */
#include "reduce.h"

#include <lmoe/plugin.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

typedef enum operation { ALL_REDUCE, ALL_GATHER, SPLIT } operation;

/* What a rank asks for. number: how many calls it has made on this communicator, this one
 * included. */
typedef struct call {
    operation operation;
    int64_t number, count;
    lmoe_dtype dtype;
    lmoe_reduce reduce;
    int32_t color, key; /* SPLIT */
    const void *send;
    void *recv;
} call;

typedef struct member {
    int32_t world; /* its rank among all threads */
    bool opened, closed;
    call call;         /* while arrived */
    struct group *sub; /* SPLIT: where it belongs */
    int32_t sub_rank;
} member;

/* The ranks of one communicator. */
typedef struct group {
    struct hub *hub;
    struct group *next; /* in the hub's list */
    int32_t ranks, arrived, done, closed;
    int32_t first;  /* who arrived first */
    uint64_t phase; /* even: ranks arrive; odd: they work */
    void **buffer;  /* of each rank, while they work */
    member member[];
} group;

/* A thread: how many communicators it has, and where it waits. */
typedef struct place {
    int32_t comms;
    const group *at; /* NULL: it does not wait */
    int32_t rank;    /* there */
} place;

typedef struct hub {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int32_t ranks, waiting, gone;
    bool failed;
    char why[768];
    group *groups; /* all that were made; they live as long as the hub */
    place place[];
} hub;

typedef struct comm {
    group *group;
    int32_t rank;
    int64_t calls;
    char message[768];
} comm;

/* ---- failures; the hub's lock is held ---- */

/* "rank 1", and in a part of the world "rank 1 (rank 5 of the run)". */
static const char *who(char *buf, size_t n, const group *g, int32_t rank)
{
    if (g->ranks == g->hub->ranks)
        snprintf(buf, n, "rank %d", g->member[rank].world);
    else
        snprintf(buf, n, "rank %d of %d (rank %d of the run)", rank, g->ranks,
                 g->member[rank].world);
    return buf;
}

/* "all_reduce number 5 (sum of 8 f32)" */
static const char *what(char *buf, size_t n, const call *c)
{
    static const char *const reductions[] = {"sum", "max", "min"};
    static const char *const dtypes[] = {"none", "f32", "f64", "bf16", "f16", "i32", "i64", "u8"};
    bool known = (unsigned)c->dtype < sizeof dtypes / sizeof *dtypes;
    const char *dtype = known ? dtypes[c->dtype] : "of an unknown dtype";
    long long number = c->number, count = c->count;
    if (c->operation == ALL_REDUCE)
        snprintf(buf, n, "all_reduce number %lld (%s of %lld %s)", number,
                 (unsigned)c->reduce <= LMOE_MIN ? reductions[c->reduce] : "unknown reduction",
                 count, dtype);
    else if (c->operation == ALL_GATHER)
        snprintf(buf, n, "all_gather number %lld (%lld %s of each rank)", number, count, dtype);
    else
        snprintf(buf, n, "split number %lld", number);
    return buf;
}

/* The first failure is kept, and everyone who waits is told. */
static void __attribute__((format(printf, 2, 3))) fail(hub *h, const char *format, ...)
{
    va_list args;
    if (h->failed) return;
    va_start(args, format);
    vsnprintf(h->why, sizeof h->why, format, args);
    va_end(args);
    h->failed = true;
    pthread_cond_broadcast(&h->changed);
}

static lmoe_status status(comm *c)
{
    const hub *h = c->group->hub;
    if (!h->failed) return LMOE_OK;
    memcpy(c->message, h->why, sizeof c->message);
    return LMOE_E_COMM;
}

static void fail_mismatch(const group *g, int32_t rank, const call *mine)
{
    char us[64], them[64], ours[128], theirs[128];
    fail(g->hub,
         "%s called %s while %s waits in %s; all ranks of a communicator must call the same "
         "operations with the same counts and dtypes",
         who(us, sizeof us, g, rank), what(ours, sizeof ours, mine),
         who(them, sizeof them, g, g->first),
         what(theirs, sizeof theirs, &g->member[g->first].call));
}

static void fail_closed(const group *g, int32_t closed, int32_t rank, const call *c)
{
    char gone[64], us[64], ours[128];
    fail(g->hub, "%s has closed the communicator, but %s is in %s and needs it",
         who(gone, sizeof gone, g, closed), who(us, sizeof us, g, rank),
         what(ours, sizeof ours, c));
}

/* Nobody is left who could let a waiting rank go on. */
static void check_stuck(hub *h)
{
    char text[600] = "", us[64], ours[128];
    if (h->failed || h->waiting == 0 || h->waiting + h->gone < h->ranks) return;
    for (int32_t i = 0; i < h->ranks; i++) {
        const place *p = &h->place[i];
        size_t used = strlen(text);
        if (p->at)
            snprintf(text + used, sizeof text - used, "; %s in %s",
                     who(us, sizeof us, p->at, p->rank),
                     what(ours, sizeof ours, &p->at->member[p->rank].call));
        else
            snprintf(text + used, sizeof text - used, "; rank %d has closed", i);
    }
    fail(h, "the ranks wait for one another and none can go on%s", text);
}

/* ---- groups ---- */

static group *new_group(hub *h, int32_t ranks)
{
    size_t bytes = sizeof(group) + (size_t)ranks * sizeof(member);
    group *g = calloc(1, bytes);
    void **buffer = calloc((size_t)ranks, sizeof *buffer);
    if (!g || !buffer) {
        free(g);
        free(buffer);
        return NULL;
    }
    g->hub = h;
    g->ranks = ranks;
    g->buffer = buffer;
    g->next = h->groups;
    h->groups = g;
    return g;
}

/* Is member a placed before member b of its color? */
static bool comes_before(const group *g, int32_t a, int32_t b)
{
    int32_t x = g->member[a].call.key, y = g->member[b].call.key;
    return x < y || (x == y && a < b);
}

/* All ranks have arrived in SPLIT: makes the group of each color. */
static bool make_parts(group *g)
{
    for (int32_t i = 0; i < g->ranks; i++) g->member[i].sub = NULL;
    for (int32_t i = 0; i < g->ranks; i++) {
        if (g->member[i].sub) continue;
        int32_t color = g->member[i].call.color, n = 0;
        for (int32_t k = i; k < g->ranks; k++) n += g->member[k].call.color == color;
        group *sub = new_group(g->hub, n);
        if (!sub) return false;
        for (int32_t k = i; k < g->ranks; k++) {
            member *m = &g->member[k];
            if (m->call.color != color) continue;
            m->sub = sub;
            m->sub_rank = 0;
            for (int32_t o = i; o < g->ranks; o++)
                m->sub_rank += g->member[o].call.color == color && comes_before(g, o, k);
            sub->member[m->sub_rank].world = m->world;
        }
    }
    return true;
}

static lmoe_status group_create(const void *options, int32_t ranks, void **out)
{
    if (ranks < 1) return LMOE_E_USAGE;
    hub *h = calloc(1, sizeof *h + (size_t)ranks * sizeof(place));
    group *world = h ? new_group(h, ranks) : NULL;
    if (!world) {
        free(h);
        return LMOE_E_MEMORY;
    }
    h->ranks = ranks;
    for (int32_t i = 0; i < ranks; i++) world->member[i].world = i;
    pthread_mutex_init(&h->mutex, NULL);
    pthread_cond_init(&h->changed, NULL);
    *out = world;
    return LMOE_OK;
}

static void group_destroy(void *p)
{
    hub *h = ((group *)p)->hub;
    for (group *g = h->groups, *next; g; g = next) {
        next = g->next;
        free(g->buffer);
        free(g);
    }
    pthread_cond_destroy(&h->changed);
    pthread_mutex_destroy(&h->mutex);
    free(h);
}

/* ---- the two phases ---- */

static bool same_call(const call *a, const call *b)
{
    if (a->operation != b->operation) return false;
    if (a->operation == SPLIT) return true;
    return a->count == b->count && a->dtype == b->dtype && a->reduce == b->reduce;
}

static bool legal(const call *c)
{
    if (c->operation == SPLIT) return true;
    bool buffers = c->count <= 0 || (c->send && c->recv);
    return c->count >= 0 && buffers && lmoe_dtype_bytes(c->dtype) > 0 && c->reduce >= LMOE_SUM &&
           c->reduce <= LMOE_MIN;
}

/* Fails the hub if rank's call cannot be taken. */
static void check_call(group *g, int32_t rank, const call *mine)
{
    char us[64], ours[128];
    if (!legal(mine))
        fail(g->hub,
             "%s called %s, which is not possible: a buffer is missing, or the count, the "
             "dtype or the reduction is wrong",
             who(us, sizeof us, g, rank), what(ours, sizeof ours, mine));
    for (int32_t i = 0; g->closed > 0 && i < g->ranks; i++)
        if (g->member[i].closed) fail_closed(g, i, rank, mine);
    if (g->arrived > 0 && !same_call(mine, &g->member[g->first].call)) fail_mismatch(g, rank, mine);
}

/* The last one has arrived: the others wait no more. */
static void start_work(group *g)
{
    hub *h = g->hub;
    if (g->member[0].call.operation == SPLIT && !make_parts(g)) fail(h, "split: out of memory");
    for (int32_t i = 0; i < g->ranks; i++) {
        place *p = &h->place[g->member[i].world];
        if (p->at) h->waiting--;
        p->at = NULL;
    }
    g->phase++;
    pthread_cond_broadcast(&h->changed);
}

static lmoe_status arrive(comm *c, call mine)
{
    group *g = c->group;
    hub *h = g->hub;
    member *m = &g->member[c->rank];
    pthread_mutex_lock(&h->mutex);
    mine.number = ++c->calls;
    if (!h->failed) check_call(g, c->rank, &mine);
    lmoe_status s = status(c);
    if (s == LMOE_OK) {
        uint64_t phase = g->phase;
        if (g->arrived == 0) g->first = c->rank;
        m->call = mine;
        g->buffer[c->rank] = mine.recv;
        if (++g->arrived == g->ranks) {
            start_work(g);
        } else {
            h->place[m->world].at = g;
            h->place[m->world].rank = c->rank;
            h->waiting++;
            check_stuck(h);
        }
        while (g->phase == phase && !h->failed) pthread_cond_wait(&h->changed, &h->mutex);
        if (g->phase == phase) s = status(c);
    }
    pthread_mutex_unlock(&h->mutex);
    return s;
}

/* This rank's part is done. What all have worked on is complete, whatever failed meanwhile. */
static void leave(comm *c)
{
    group *g = c->group;
    hub *h = g->hub;
    pthread_mutex_lock(&h->mutex);
    uint64_t phase = g->phase;
    if (++g->done == g->ranks) {
        g->arrived = g->done = 0;
        g->phase++;
        pthread_cond_broadcast(&h->changed);
    }
    while (g->phase == phase) pthread_cond_wait(&h->changed, &h->mutex);
    pthread_mutex_unlock(&h->mutex);
}

/* ---- the operations ---- */

/* Each rank reduces its share of the elements, in all buffers. */
static lmoe_status all_reduce(void *p, void *buf, int64_t count, lmoe_dtype dtype, lmoe_reduce op,
                              void *stream)
{
    comm *c = p;
    group *g = c->group;
    call mine = {.operation = ALL_REDUCE, .count = count, .dtype = dtype, .reduce = op};
    mine.send = mine.recv = buf;
    LMOE_TRY(arrive(c, mine));
    int64_t share = count / g->ranks, more = count % g->ranks, r = c->rank;
    int64_t begin = share * r + (r < more ? r : more), n = share + (r < more);
    loop_reduce(g->buffer, g->ranks, begin, begin + n, dtype, op);
    leave(c);
    return LMOE_OK;
}

/* Each rank fetches from all. */
static lmoe_status all_gather(void *p, const void *send, void *recv, int64_t count,
                              lmoe_dtype dtype, void *stream)
{
    comm *c = p;
    group *g = c->group;
    call mine = {.operation = ALL_GATHER, .count = count, .dtype = dtype};
    mine.send = send;
    mine.recv = recv;
    LMOE_TRY(arrive(c, mine));
    size_t bytes = (size_t)count * lmoe_dtype_bytes(dtype);
    for (int32_t r = 0; bytes > 0 && r < g->ranks; r++) {
        const void *from = g->member[r].call.send;
        char *to = (char *)recv + (size_t)r * bytes;
        if (to != from) memcpy(to, from, bytes); /* a rank may gather in place */
    }
    leave(c);
    return LMOE_OK;
}

static comm *new_comm(group *g, int32_t rank)
{
    comm *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->group = g;
    c->rank = rank;
    return c;
}

static lmoe_status split(void *p, int32_t color, int32_t key, void **out)
{
    comm *c = p;
    hub *h = c->group->hub;
    const member *m = &c->group->member[c->rank];
    call mine = {.operation = SPLIT, .color = color, .key = key};
    *out = NULL;
    LMOE_TRY(arrive(c, mine));
    comm *sub = m->sub ? new_comm(m->sub, m->sub_rank) : NULL;
    lmoe_status s = LMOE_OK;
    pthread_mutex_lock(&h->mutex);
    if (sub) {
        h->place[m->world].comms++;
    } else {
        fail(h, "split: out of memory");
        s = status(c);
    }
    pthread_mutex_unlock(&h->mutex);
    leave(c);
    *out = sub;
    return s;
}

/* ---- a rank comes and goes ---- */

static const char cannot_open[] =
    "comm/loop is opened by each thread of a run once, with the group that group_create made for "
    "their number; it was asked for another rank, or memory is exhausted";

static lmoe_status open_rank(const void *options, const lmoe_comm_env *env, void **out)
{
    group *g = env->group;
    if (!g) return LMOE_E_USAGE;
    hub *h = g->hub;
    comm *c = NULL;
    pthread_mutex_lock(&h->mutex);
    bool fits = env->ranks == g->ranks && env->rank >= 0 && env->rank < g->ranks;
    if (fits && !g->member[env->rank].opened) c = new_comm(g, env->rank);
    if (c) {
        g->member[c->rank].opened = true;
        h->place[c->rank].comms++;
    } else {
        fail(h, "rank %d could not be opened: %s", env->rank, cannot_open);
    }
    pthread_mutex_unlock(&h->mutex);
    *out = c;
    return c ? LMOE_OK : LMOE_E_USAGE;
}

static void close_rank(void *p)
{
    comm *c = p;
    group *g = c->group;
    hub *h = g->hub;
    member *m = &g->member[c->rank];
    pthread_mutex_lock(&h->mutex);
    m->closed = true;
    g->closed++;
    if (--h->place[m->world].comms == 0) h->gone++;
    if (g->arrived > 0) fail_closed(g, c->rank, g->first, &g->member[g->first].call);
    check_stuck(h);
    pthread_mutex_unlock(&h->mutex);
    free(c);
}

static void abort_all(void *p)
{
    comm *c = p;
    hub *h = c->group->hub;
    pthread_mutex_lock(&h->mutex);
    fail(h, "rank %d of the run aborted the communication", c->group->member[c->rank].world);
    pthread_mutex_unlock(&h->mutex);
}

static int32_t rank_of(void *p)
{
    return ((comm *)p)->rank;
}

static int32_t ranks_of(void *p)
{
    return ((comm *)p)->group->ranks;
}

static const char *message(void *p)
{
    return p ? ((comm *)p)->message : cannot_open;
}

static const lmoe_comm comm_loop = {
    .base = {sizeof(lmoe_comm), LMOE_KIND_COMM, "comm/loop", "Ranks are threads of one process.",
             NULL, 0, LMOE_COMM_THREADS},
    .group_create = group_create,
    .group_destroy = group_destroy,
    .open = open_rank,
    .close = close_rank,
    .abort = abort_all,
    .split = split,
    .rank = rank_of,
    .ranks = ranks_of,
    .all_reduce = all_reduce,
    .all_gather = all_gather,
    .message = message,
};

static const lmoe_class *const classes[] = {&comm_loop.base, NULL};

LMOE_PLUGIN(.id = "comm/loop", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
