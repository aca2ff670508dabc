/* SPDX-License-Identifier: Apache-2.0
 * plugins/comm/self/self.c: class comm/self: the communicator of a run with one rank.
 */
#include <lmoe/exchange.h>
#include <lmoe/plugin.h>

#include <stdbool.h>
#include <stdlib.h>

typedef struct comm {
    int aborted; /* written from any thread: atomic */
    char message[160];
} comm;

static const char cannot_open[] =
    "comm/self serves a run of one rank; with more ranks use comm = comm/loop, or comm/mpi for "
    "processes";

static lmoe_status open_alone(const void *options, const lmoe_comm_env *env, void **out)
{
    if (env->ranks != 1 || env->rank != 0) return LMOE_E_CONFIG;
    *out = calloc(1, sizeof(comm));
    return *out ? LMOE_OK : LMOE_E_MEMORY;
}

static void close_alone(void *p)
{
    free(p);
}

static void abort_alone(void *p)
{
    __atomic_store_n(&((comm *)p)->aborted, 1, __ATOMIC_RELEASE);
}

static lmoe_status fail(comm *c, const char *operation, const char *why)
{
    snprintf(c->message, sizeof c->message, "%s: %s", operation, why);
    return LMOE_E_COMM;
}

static bool aborted(comm *c)
{
    return __atomic_load_n(&c->aborted, __ATOMIC_ACQUIRE);
}

static lmoe_status split_alone(void *p, int32_t color, int32_t key, void **sub)
{
    if (aborted(p)) return fail(p, "split", "the communicator was aborted");
    *sub = calloc(1, sizeof(comm));
    return *sub ? LMOE_OK : fail(p, "split", "out of memory");
}

static int32_t rank_alone(void *p)
{
    return 0;
}

static int32_t ranks_alone(void *p)
{
    return 1;
}

/* What a rank sends is what it receives: complete when it is started. */
static lmoe_status start(void *p, const lmoe_exchange *e, void **request)
{
    comm *c = p;
    const char *problem = lmoe_exchange_problem(e, 0, 1);
    *request = NULL;
    if (aborted(c)) problem = "the communicator was aborted";
    if (problem) return fail(c, lmoe_exchange_name(e), problem);
    size_t bytes = (size_t)lmoe_exchange_receives(e, 1) * lmoe_dtype_bytes(e->dtype);
    if (bytes > 0 && e->recv != e->send) memcpy(e->recv, e->send, bytes);
    *request = c;
    return LMOE_OK;
}

static lmoe_status wait_alone(void *p, void *request)
{
    return LMOE_OK;
}

static lmoe_status test_alone(void *p, void *request, int32_t *done)
{
    *done = 1;
    return LMOE_OK;
}

static const char *message(void *p)
{
    return p ? ((comm *)p)->message : cannot_open;
}

static const lmoe_comm comm_self = {
    .base = {sizeof(lmoe_comm), LMOE_KIND_COMM, "comm/self", "One rank: nothing to exchange.", NULL,
             0, 0},
    .open = open_alone,
    .close = close_alone,
    .abort = abort_alone,
    .split = split_alone,
    .rank = rank_alone,
    .ranks = ranks_alone,
    .start = start,
    .wait = wait_alone,
    .test = test_alone,
    .message = message,
};

static const lmoe_class *const classes[] = {&comm_self.base, NULL};

LMOE_PLUGIN(.id = "comm/self", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
