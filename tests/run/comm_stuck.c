/* SPDX-License-Identifier: Apache-2.0
 * tests/run/comm_stuck.c: class comm/stuck: the other ranks never come, and whoever waits hangs, as a
 * host does that waits for a device. Only watch, which the run's first thread calls, notices.
 */
#include <lmoe/comm.h>
#include <lmoe/plugin.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

typedef struct stuck_options {
    int32_t deaf;
} stuck_options;

static const lmoe_option options[] = {{"deaf", LMOE_OPTION_BOOL, offsetof(stuck_options, deaf),
                                       "no", 0, 0, NULL, NULL, "Hang after abort, too."},
                                      LMOE_OPTION_END};

typedef struct comm {
    int32_t rank, ranks, deaf;
    double timeout;
    time_t since; /* atomic; 0: nobody waits */
    int aborted;  /* atomic */
} comm;

static lmoe_status open_rank(const void *opt, const lmoe_comm_env *env, void **out)
{
    comm *c = calloc(1, sizeof *c);
    *out = c;
    if (!c) return LMOE_E_MEMORY;
    c->rank = env->rank;
    c->ranks = env->ranks;
    c->timeout = env->timeout;
    c->deaf = ((const stuck_options *)opt)->deaf;
    return LMOE_OK;
}

static lmoe_status split(void *p, int32_t color, int32_t key, void **out)
{
    comm *c = malloc(sizeof *c);
    *out = c;
    if (!c) return LMOE_E_MEMORY;
    *c = *(comm *)p;
    return LMOE_OK;
}

static lmoe_status start(void *p, const lmoe_exchange *e, void **request)
{
    *request = p;
    return LMOE_OK;
}

static lmoe_status wait_for(void *p, void *request)
{
    comm *c = p;
    __atomic_store_n(&c->since, time(NULL), __ATOMIC_RELEASE);
    while (c->deaf || !__atomic_load_n(&c->aborted, __ATOMIC_ACQUIRE)) usleep(10000);
    return LMOE_E_COMM;
}

static lmoe_status test(void *p, void *request, int32_t *done)
{
    *done = 0;
    return LMOE_OK;
}

static lmoe_status watch(void *p, char *text, size_t size)
{
    comm *c = p;
    time_t since = __atomic_load_n(&c->since, __ATOMIC_ACQUIRE);
    if (since == 0 || (double)(time(NULL) - since) < c->timeout) return LMOE_OK;
    snprintf(text, size, "rank %d hangs", (int)c->rank);
    return LMOE_E_COMM;
}

static void abort_all(void *p)
{
    __atomic_store_n(&((comm *)p)->aborted, 1, __ATOMIC_RELEASE);
}

static int32_t rank_of(void *p)
{
    return ((comm *)p)->rank;
}

static int32_t ranks_of(void *p)
{
    return ((comm *)p)->ranks;
}

static const char *message(void *p)
{
    return "aborted";
}

static const lmoe_comm comm_stuck = {
    .base = {sizeof(lmoe_comm), LMOE_KIND_COMM, "comm/stuck", "Never comes back.", options,
             sizeof(stuck_options), LMOE_COMM_PROCESSES},
    .open = open_rank,
    .close = free,
    .abort = abort_all,
    .split = split,
    .rank = rank_of,
    .ranks = ranks_of,
    .start = start,
    .wait = wait_for,
    .test = test,
    .message = message,
    .watch = watch,
};

static const lmoe_class *const classes[] = {&comm_stuck.base, NULL};

LMOE_PLUGIN(.id = "comm/stuck", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
