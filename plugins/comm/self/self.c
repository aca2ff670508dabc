/* SPDX-License-Identifier: Apache-2.0
 * plugins/comm/self/self.c: class comm/self: the communicator of a run with one rank.
 */
#include <lmoe/comm.h>
#include <lmoe/plugin.h>

#include <stdio.h>
#include <stdlib.h>

typedef struct comm {
    int aborted; /* written from any thread: atomic */
    char message[160];
} comm;

static const char cannot_open[] =
    "comm/self serves a run of one rank; with more ranks use comm = comm/loop, or a communicator "
    "between processes";

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

/* What every operation needs: a communicator that goes on, and elements to work on. */
static lmoe_status check(comm *c, const char *operation, const void *buf, int64_t count,
                         lmoe_dtype dtype)
{
    if (__atomic_load_n(&c->aborted, __ATOMIC_ACQUIRE))
        return fail(c, operation, "the communicator was aborted");
    if (count < 0) return fail(c, operation, "the number of elements is negative");
    if (lmoe_dtype_bytes(dtype) == 0) return fail(c, operation, "the dtype is unknown");
    if (!buf && count > 0) return fail(c, operation, "a buffer is missing");
    return LMOE_OK;
}

static lmoe_status split_alone(void *p, int32_t color, int32_t key, void **sub)
{
    LMOE_TRY(check(p, "split", NULL, 0, LMOE_F32));
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

static lmoe_status all_reduce(void *p, void *buf, int64_t count, lmoe_dtype dtype, lmoe_reduce op,
                              void *stream)
{
    LMOE_TRY(check(p, "all_reduce", buf, count, dtype));
    if (op < LMOE_SUM || op > LMOE_MIN) return fail(p, "all_reduce", "the reduction is unknown");
    return LMOE_OK;
}

static lmoe_status all_gather(void *p, const void *send, void *recv, int64_t count,
                              lmoe_dtype dtype, void *stream)
{
    LMOE_TRY(check(p, "all_gather", send && recv ? recv : NULL, count, dtype));
    if (count > 0 && recv != send) memcpy(recv, send, (size_t)count * lmoe_dtype_bytes(dtype));
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
    .all_reduce = all_reduce,
    .all_gather = all_gather,
    .message = message,
};

static const lmoe_class *const classes[] = {&comm_self.base, NULL};

LMOE_PLUGIN(.id = "comm/self", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
