/* SPDX-License-Identifier: Apache-2.0
 * sdk/examples/08-comm/slow.c: class vendor.example/slow, a communicator around another one:
 * everything goes through to that one, and each wait takes longer, as over a slower network: how much
 * of an exchange a layout hides behind its work shows in the time of a step.
 */
#include <lmoe/inner.h>
#include <lmoe/plugin.h>

#include <stdlib.h>
#include <time.h>

typedef struct options {
    lmoe_inner inner;
    double delay;
} options;

static const lmoe_option table[] = {
    LMOE_OPTION_INNER("inner", offsetof(options, inner), "comm/loop",
                      "Class of the communicator inside; its options stand in [comm] too."),
    {"delay", LMOE_OPTION_FLOAT, offsetof(options, delay), "0", 0, 10, NULL, "seconds",
     "Added to each wait, as if the network were slower."},
    LMOE_OPTION_END};

/* A group, or a rank's handle, around the inner one's. */
typedef struct around {
    const options *o;
    void *inner;
} around;

static lmoe_status put_around(const options *o, void *inner, void **out)
{
    around *a = *out = calloc(1, sizeof *a);
    if (!a) return LMOE_E_MEMORY;
    *a = (around){o, inner};
    return LMOE_OK;
}

#define COMM(p)  (((around *)(p))->o->inner.comm)
#define INNER(p) (((around *)(p))->inner)

static lmoe_status group_create(const void *opt, int32_t ranks, void **group)
{
    const options *o = opt;
    void *inner;
    if (!o->inner.comm) return LMOE_E_UNSUPPORTED; /* a host of before lmoe/inner.h */
    LMOE_TRY(o->inner.comm->group_create(o->inner.options, ranks, &inner));
    return put_around(o, inner, group);
}

static void group_destroy(void *p)
{
    COMM(p)->group_destroy(INNER(p));
    free(p);
}

static lmoe_status open_rank(const void *opt, const lmoe_comm_env *env, void **out)
{
    const options *o = opt;
    lmoe_comm_env of_inner = *env;
    void *inner;
    of_inner.group = INNER(env->group);
    *out = NULL;
    LMOE_TRY(o->inner.comm->open(o->inner.options, &of_inner, &inner));
    return put_around(o, inner, out);
}

static void close_rank(void *p)
{
    COMM(p)->close(INNER(p));
    free(p);
}

static void abort_all(void *p)
{
    COMM(p)->abort(INNER(p));
}

/* A part of the ranks is slow too. */
static lmoe_status split(void *p, int32_t color, int32_t key, void **sub)
{
    void *inner;
    LMOE_TRY(COMM(p)->split(INNER(p), color, key, &inner));
    return put_around(((around *)p)->o, inner, sub);
}

static int32_t rank_of(void *p)
{
    return COMM(p)->rank(INNER(p));
}

static int32_t ranks_of(void *p)
{
    return COMM(p)->ranks(INNER(p));
}

/* Requests are the inner one's, handed on as they are. */
static lmoe_status start(void *p, const lmoe_exchange *e, void **request)
{
    return COMM(p)->start(INNER(p), e, request);
}

static lmoe_status wait_rank(void *p, void *request)
{
    double d = ((around *)p)->o->delay;
    const struct timespec t = {(time_t)d, (long)((d - (double)(time_t)d) * 1e9)};
    if (d > 0) nanosleep(&t, NULL);
    return COMM(p)->wait(INNER(p), request);
}

static lmoe_status test_rank(void *p, void *request, int32_t *done)
{
    return COMM(p)->test(INNER(p), request, done);
}

static const char *message(void *p)
{
    return p ? COMM(p)->message(INNER(p)) : "the communicator inside cannot be opened";
}

static const lmoe_comm communicator = {
    .base = {sizeof(lmoe_comm), LMOE_KIND_COMM, "vendor.example/slow",
             "Around another communicator: each wait takes longer.", table, sizeof(options),
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
    .message = message};
static const lmoe_class *const classes[] = {&communicator.base, NULL};

LMOE_PLUGIN(.id = "vendor.example/slow", .version = "0.1", .licence = "Apache-2.0",
            .classes = classes)
