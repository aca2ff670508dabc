/* SPDX-License-Identifier: Apache-2.0
 * tests/plugins/test_comm_loop.c: class comm/loop: results of collectives, parts of the world, and
 * that whatever goes wrong ends every rank with a message. Links the plugin built with
 * -DLMOE_BUILTIN=comm_loop.
 */
#include "../../core/check/comm_exchange.h"

#include <lmoe/plugin.h>

#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

const lmoe_plugin *lmoe_plugin_v1_comm_loop(const lmoe_host *host);

enum { MAX_RANKS = 8 };

static const lmoe_comm *loop(void)
{
    return (const lmoe_comm *)lmoe_plugin_v1_comm_loop(NULL)->classes[0];
}

/* ---- ranks of a test ---- */

typedef struct world world;

typedef struct rank {
    world *w;
    int32_t rank;
    void *comm;
    lmoe_status status; /* the body's last word */
    char message[1024];
} rank;

struct world {
    int32_t ranks;
    void *group;
    void (*body)(rank *r);
    const void *arg;
    double timeout;
    atomic_int wrong; /* findings of bodies; asserted when they are done */
    atomic_int flag;
    rank rank[MAX_RANKS];
};

static void *thread_main(void *p)
{
    rank *r = p;
    const lmoe_comm *c = loop();
    lmoe_comm_env env = {.size = sizeof env,
                         .rank = r->rank,
                         .ranks = r->w->ranks,
                         .group = r->w->group,
                         .timeout = r->w->timeout};
    if (c->open(NULL, &env, &r->comm) != LMOE_OK) {
        r->w->wrong++;
        return NULL;
    }
    if (c->rank(r->comm) != r->rank || c->ranks(r->comm) != r->w->ranks) r->w->wrong++;
    r->w->body(r);
    if (r->comm) {
        snprintf(r->message, sizeof r->message, "%s", c->message(r->comm));
        c->close(r->comm);
    }
    return NULL;
}

static void run_for(world *w, int32_t ranks, void (*body)(rank *r), const void *arg, double timeout)
{
    pthread_t thread[MAX_RANKS];
    memset(w, 0, sizeof *w);
    w->timeout = timeout;
    w->ranks = ranks;
    w->body = body;
    w->arg = arg;
    ck_assert_int_eq(loop()->group_create(NULL, ranks, &w->group), LMOE_OK);
    for (int32_t i = 0; i < ranks; i++) {
        w->rank[i].w = w;
        w->rank[i].rank = i;
        ck_assert_int_eq(pthread_create(&thread[i], NULL, thread_main, &w->rank[i]), 0);
    }
    for (int32_t i = 0; i < ranks; i++) pthread_join(thread[i], NULL);
    loop()->group_destroy(w->group);
    ck_assert_int_eq(w->wrong, 0);
}

static void run(world *w, int32_t ranks, void (*body)(rank *r), const void *arg)
{
    run_for(w, ranks, body, arg, 0);
}

static void wait_for(atomic_int *flag, int value)
{
    while (*flag < value) usleep(200);
}

/* Every rank failed, with one message that holds these words. */
static void check_failed(const world *w, const char *const *words)
{
    for (int32_t i = 0; i < w->ranks; i++) {
        ck_assert_int_eq(w->rank[i].status, LMOE_E_COMM);
        ck_assert_str_eq(w->rank[i].message, w->rank[0].message);
    }
    for (; *words; words++)
        ck_assert_msg(strstr(w->rank[0].message, *words), "\"%s\" lacks \"%s\"", w->rank[0].message,
                      *words);
}

/* ---- reductions ---- */

static uint64_t mixed(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdull;
    x ^= x >> 29;
    x *= 0xc4ceb9fe1a85ec53ull;
    return x ^ x >> 32;
}

/* One element of any dtype. */
typedef union element {
    float f32;
    double f64;
    uint16_t u16;
    int32_t i32;
    int64_t i64;
    uint8_t u8;
} element;

/* What rank r brings as element i: integers over their whole range, floats of many sizes. */
static element draw(lmoe_dtype dtype, int32_t r, int64_t i)
{
    uint64_t u = mixed((uint64_t)i * 64 + (uint64_t)r * 8 + (uint64_t)dtype);
    double x = ldexp((double)(int64_t)u * 0x1p-63, (int)(u % 9));
    element e;
    switch (dtype) {
    case LMOE_F32: e.f32 = (float)x; break;
    case LMOE_F64: e.f64 = x; break;
    case LMOE_BF16: e.u16 = (uint16_t)(0x3c00 + u % 1024 + (u >> 63 << 15)); break;
    case LMOE_F16: e.u16 = (uint16_t)(0x3000 + (u % 8 << 10)); break; /* powers of two */
    case LMOE_I32: e.i32 = (int32_t)u; break;
    case LMOE_I64: e.i64 = (int64_t)u; break;
    default: e.u8 = (uint8_t)u;
    }
    return e;
}

static double pick(lmoe_reduce op, double a, double b)
{
    return op == LMOE_MAX ? fmax(a, b) : fmin(a, b);
}

static float bf16_value(uint16_t u)
{
    float f;
    uint32_t w = (uint32_t)u << 16;
    memcpy(&f, &w, 4);
    return f;
}

/* The nearest bf16, the even one of two: tried out on the neighbours. */
static uint16_t nearest_bf16(float x)
{
    uint32_t w;
    memcpy(&w, &x, 4);
    uint16_t down = (uint16_t)(w >> 16), up = (uint16_t)(down + 1);
    float below = fabsf(x - bf16_value(down)), above = fabsf(bf16_value(up) - x);
    if (below != above) return below < above ? down : up;
    return down % 2 ? up : down;
}

/* Powers of two between 2^-3 and 2^4, eight at most: sums are exact in f16. */
static double power_of_two(uint16_t h)
{
    return ldexp(1 + (h & 1023) / 1024.0, (h >> 10 & 31) - 15);
}

/* Element i as all ranks should find it, next to what one of them found. */
static bool is_reduction(const void *buf, lmoe_dtype dtype, lmoe_reduce op, int32_t ranks,
                         int64_t i)
{
    float f32 = 0;
    double f64 = 0;
    uint64_t integer = 0;
    int64_t least = 0;
    for (int32_t r = 0; r < ranks; r++) {
        element x = draw(dtype, r, i);
        float f = dtype == LMOE_BF16 ? bf16_value(x.u16) : x.f32;
        double d = dtype == LMOE_F64 ? x.f64 : dtype == LMOE_F16 ? power_of_two(x.u16) : f;
        int64_t n = dtype == LMOE_I32 ? x.i32 : dtype == LMOE_I64 ? x.i64 : x.u8;
        bool sum = op == LMOE_SUM, better = op == LMOE_MAX ? n > least : n < least;
        f32 = r == 0 ? f : sum ? f32 + f : (float)pick(op, f32, f);
        f64 = r == 0 ? d : sum ? f64 + d : pick(op, f64, d);
        integer += (uint64_t)n;
        if (r == 0 || better) least = n;
    }
    if (op != LMOE_SUM) integer = (uint64_t)least;
    switch (dtype) {
    case LMOE_F32: return ((const float *)buf)[i] == f32;
    case LMOE_F64: return ((const double *)buf)[i] == f64;
    case LMOE_BF16: return ((const uint16_t *)buf)[i] == nearest_bf16(f32);
    case LMOE_F16: return power_of_two(((const uint16_t *)buf)[i]) == f64;
    case LMOE_I32: return ((const int32_t *)buf)[i] == (int32_t)integer;
    case LMOE_I64: return ((const int64_t *)buf)[i] == (int64_t)integer;
    default: return ((const uint8_t *)buf)[i] == (uint8_t)integer;
    }
}

static const int64_t counts[] = {0, 1, 2, 7, 511, 513, 10007};
enum { N_COUNTS = sizeof counts / sizeof *counts };

static void reduce_all(rank *r)
{
    const lmoe_comm *c = loop();
    for (int dtype = LMOE_F32; dtype <= LMOE_U8; dtype++) {
        for (int op = LMOE_SUM; op <= LMOE_MIN; op++) {
            for (int k = 0; k < N_COUNTS; k++) {
                size_t bytes = lmoe_dtype_bytes(dtype);
                char *buf = malloc((size_t)counts[k] * bytes + 1);
                for (int64_t i = 0; i < counts[k]; i++) {
                    element e = draw(dtype, r->rank, i);
                    memcpy(buf + (size_t)i * bytes, &e, bytes);
                }
                if (lmoe_all_reduce(c, r->comm, counts[k] ? buf : NULL, counts[k], dtype, op, NULL))
                    r->w->wrong++;
                for (int64_t i = 0; i < counts[k]; i++)
                    if (!is_reduction(buf, dtype, op, r->w->ranks, i)) r->w->wrong++;
                free(buf);
            }
        }
    }
}

START_TEST(reductions)
{
    world w;
    run(&w, _i, reduce_all, NULL);
}
END_TEST

typedef struct half_sum {
    uint16_t a, b, sum;
} half_sum;

static const half_sum half_sums[] = {
    {0x6800, 0x3c00, 0x6800},                           /* 2048 + 1: a tie, to even */
    {0x6801, 0x3c00, 0x6802},                           /* 2050 + 1: a tie, to even */
    {0x6800, 0x3e00, 0x6801},                           /* 2048 + 1.5 = 2050 */
    {0x7bff, 0x4c00, 0x7c00},                           /* 65504 + 16: infinite */
    {0x7bff, 0x4b80, 0x7bff},                           /* 65504 + 15 */
    {0xfbff, 0xcc00, 0xfc00}, {0x0001, 0x0001, 0x0002}, /* subnormal */
    {0x03ff, 0x0001, 0x0400},                           /* the smallest normal one */
    {0x3c00, 0xbc00, 0x0000}, {0x7c00, 0x3c00, 0x7c00},
};
enum { N_HALF_SUMS = sizeof half_sums / sizeof *half_sums };

static bool is_half_nan(unsigned h)
{
    return (h & 0x7c00) == 0x7c00 && (h & 0x3ff);
}

/* Rank 0 brings every half but -0, rank 1 zeros: nothing changes. */
static void add_halves(rank *r)
{
    uint16_t *all = malloc(65536 * 2), one[N_HALF_SUMS];
    for (unsigned i = 0; i < 65536; i++) all[i] = r->rank || i == 0x8000 ? 0 : (uint16_t)i;
    for (int i = 0; i < N_HALF_SUMS; i++) one[i] = r->rank ? half_sums[i].b : half_sums[i].a;
    if (lmoe_all_reduce(loop(), r->comm, all, 65536, LMOE_F16, LMOE_SUM, NULL)) r->w->wrong++;
    if (lmoe_all_reduce(loop(), r->comm, one, N_HALF_SUMS, LMOE_F16, LMOE_SUM, NULL)) r->w->wrong++;
    for (unsigned i = 0; i < 65536; i++) {
        bool same = is_half_nan(i) ? is_half_nan(all[i]) : all[i] == (i == 0x8000 ? 0 : i);
        if (!same) r->w->wrong++;
    }
    for (int i = 0; i < N_HALF_SUMS; i++)
        if (one[i] != half_sums[i].sum) r->w->wrong++;
    free(all);
}

START_TEST(halves_are_rounded)
{
    world w;
    run(&w, 2, add_halves, NULL);
}
END_TEST

static void reduce_nan(rank *r)
{
    float x[3] = {r->rank == 0 ? NAN : 1, r->rank == 1 ? NAN : 1, r->rank == 2 ? NAN : 1};
    for (int op = LMOE_SUM; op <= LMOE_MIN; op++) {
        float y[3];
        memcpy(y, x, sizeof y);
        if (lmoe_all_reduce(loop(), r->comm, y, 3, LMOE_F32, op, NULL)) r->w->wrong++;
        for (int i = 0; i < 3; i++)
            if (!isnan(y[i])) r->w->wrong++;
    }
}

START_TEST(nan_is_not_lost)
{
    world w;
    run(&w, 3, reduce_nan, NULL);
}
END_TEST

/* ---- gathering ---- */

static void gather_all(rank *r)
{
    const lmoe_comm *c = loop();
    for (int dtype = LMOE_F32; dtype <= LMOE_U8; dtype++) {
        for (int k = 0; k < 2 * N_COUNTS; k++) {
            int64_t n = counts[k / 2];
            bool inplace = k % 2;
            size_t bytes = (size_t)n * lmoe_dtype_bytes(dtype);
            unsigned char *send = malloc(bytes + 1);
            unsigned char *recv = malloc(bytes * (size_t)r->w->ranks + 1);
            unsigned char *mine = inplace ? recv + bytes * (size_t)r->rank : send;
            for (size_t i = 0; i < bytes; i++) mine[i] = (unsigned char)mixed(i * 8 + r->rank);
            recv[bytes * (size_t)r->w->ranks] = 77;
            if (lmoe_all_gather(c, r->comm, mine, recv, n, dtype, NULL)) r->w->wrong++;
            for (int32_t from = 0; from < r->w->ranks; from++)
                for (size_t i = 0; i < bytes; i++)
                    if (recv[(size_t)from * bytes + i] != (unsigned char)mixed(i * 8 + from))
                        r->w->wrong++;
            if (recv[bytes * (size_t)r->w->ranks] != 77) r->w->wrong++;
            free(send);
            free(recv);
        }
    }
}

START_TEST(gathers)
{
    world w;
    run(&w, _i, gather_all, NULL);
}
END_TEST

/* ---- every kind of exchange ---- */

static void exchange_all(rank *r)
{
    r->w->wrong += lmoe__exchange_check(loop(), r->comm, true, LMOE__EXCHANGE_ALL, NULL);
}

START_TEST(exchanges)
{
    world w;
    run(&w, _i, exchange_all, NULL);
}
END_TEST

/* ---- parts of the world ---- */

/* Sum over a communicator of the world's rank numbers. */
static int64_t sum_of_ranks(rank *r, void *comm)
{
    int64_t x = r->rank;
    if (lmoe_all_reduce(loop(), comm, &x, 1, LMOE_I64, LMOE_SUM, NULL)) r->w->wrong++;
    return x;
}

/* Even and odd ranks, in reverse order; then each of these into single ranks; all in use in turn.
 */
static void use_parts(rank *r)
{
    const lmoe_comm *c = loop();
    int32_t n = r->w->ranks, color = r->rank % 2, size = (n + 1 - color) / 2;
    int64_t all = (int64_t)n * (n - 1) / 2, part = 0;
    void *half, *alone;
    for (int32_t i = color; i < n; i += 2) part += i;
    if (c->split(r->comm, color, -r->rank, &half)) r->w->wrong++;
    if (c->ranks(half) != size || c->rank(half) != size - 1 - r->rank / 2) r->w->wrong++;
    if (c->split(half, c->rank(half), 0, &alone)) r->w->wrong++;
    if (c->ranks(alone) != 1 || c->rank(alone) != 0) r->w->wrong++;
    for (int i = 0; i < 100; i++) {
        if (sum_of_ranks(r, half) != part) r->w->wrong++;
        if (i % 3 == r->rank % 2 && sum_of_ranks(r, half) != part) r->w->wrong++;
        if (sum_of_ranks(r, r->comm) != all) r->w->wrong++;
        if (sum_of_ranks(r, alone) != r->rank) r->w->wrong++;
    }
    int32_t members[MAX_RANKS];
    if (lmoe_all_gather(c, half, &r->rank, members, 1, LMOE_I32, NULL)) r->w->wrong++;
    for (int32_t i = 0; i < size; i++)
        if (members[i] != color + 2 * (size - 1 - i)) r->w->wrong++;
    c->close(alone);
    c->close(half);
}

START_TEST(parts)
{
    world w;
    run(&w, _i, use_parts, NULL);
}
END_TEST

/* Equal keys: the order of ranks. */
static void split_by_equal_keys(rank *r)
{
    void *same;
    if (loop()->split(r->comm, 5, 9, &same)) r->w->wrong++;
    if (loop()->rank(same) != r->rank || loop()->ranks(same) != r->w->ranks) r->w->wrong++;
    loop()->close(same);
}

START_TEST(equal_keys_keep_the_order)
{
    world w;
    run(&w, 5, split_by_equal_keys, NULL);
}
END_TEST

/* ---- failures ---- */

typedef struct mismatch {
    const char *words[8]; /* of the message */
    int what;             /* 0 gather, 1 count, 2 dtype, 3 reduction, 4 split */
} mismatch;

static const mismatch mismatches[] = {
    {{"rank 2 called all_gather number 2 (8 f32 of each rank)", "rank 0 waits in",
      "all_reduce number 2 (sum of 8 f32)"},
     0},
    {{"rank 2 called all_reduce number 2 (sum of 9 f32)", "rank 0", "number 2 (sum of 8 f32)"}, 1},
    {{"rank 2 called all_reduce number 2 (sum of 8 i32)", "rank 0", "number 2 (sum of 8 f32)"}, 2},
    {{"rank 2 called all_reduce number 2 (max of 8 f32)", "rank 0", "number 2 (sum of 8 f32)"}, 3},
    {{"rank 2 called split number 2", "rank 0", "number 2 (sum of 8 f32)"}, 4},
};

/* Rank 0 waits, rank 2 calls something else; ranks 1 and 3 come only when both have been told. */
static void disagree(rank *r)
{
    const lmoe_comm *c = loop();
    const mismatch *m = r->w->arg;
    float buf[9] = {0}, all[8 * 4];
    void *sub;
    if (lmoe_all_reduce(c, r->comm, buf, 3, LMOE_F32, LMOE_SUM, NULL)) r->w->wrong++;
    if (r->rank == 2) {
        wait_for(&r->w->flag, 1);
        usleep(20000);
        switch (m->what) {
        case 0: r->status = lmoe_all_gather(c, r->comm, buf, all, 8, LMOE_F32, NULL); break;
        case 4: r->status = c->split(r->comm, 0, 0, &sub); break;
        default:
            r->status = lmoe_all_reduce(c, r->comm, buf, 8 + (m->what == 1),
                                        m->what == 2 ? LMOE_I32 : LMOE_F32,
                                        m->what == 3 ? LMOE_MAX : LMOE_SUM, NULL);
        }
    } else {
        if (r->rank == 0) r->w->flag = 1;
        if (r->rank % 2) wait_for(&r->w->flag, 3);
        r->status = lmoe_all_reduce(c, r->comm, buf, 8, LMOE_F32, LMOE_SUM, NULL);
    }
    r->w->flag++;
    if (c->split(r->comm, 0, 0, &sub) != LMOE_E_COMM || sub) r->w->wrong++; /* and from then on */
}

START_TEST(disagreement_is_named_at_once)
{
    world w;
    run(&w, 4, disagree, &mismatches[_i]);
    check_failed(&w, mismatches[_i].words);
}
END_TEST

static void call_badly(rank *r)
{
    float x = 0;
    const int *how = r->w->arg;
    if (r->rank == 0) {
        r->status = lmoe_all_reduce(loop(), r->comm, &x, 1, LMOE_F32, LMOE_SUM, NULL);
        return;
    }
    if (*how == 0) r->status = lmoe_all_reduce(loop(), r->comm, NULL, 1, LMOE_F32, LMOE_SUM, NULL);
    if (*how == 1) r->status = lmoe_all_reduce(loop(), r->comm, &x, -1, LMOE_F32, LMOE_SUM, NULL);
    if (*how == 2) r->status = lmoe_all_gather(loop(), r->comm, &x, &x, 1, LMOE_NONE, NULL);
    if (*how == 3) r->status = lmoe_all_reduce(loop(), r->comm, &x, 1, LMOE_F32, 3, NULL);
    lmoe_exchange e = {.size = sizeof e, .kind = LMOE_SEND, .dtype = LMOE_F32, .send = &x};
    if (*how == 4) e.peer = 1; /* itself */
    if (*how == 5) e.peer = 2;
    if (*how == 6) e.tag = LMOE_MAX_TAG + 1;
    if (*how == 7) e.kind = (lmoe_exchange_kind)(LMOE_RECV + 1);
    if (*how == 8) e.kind = LMOE_ALL_TO_ALL_V;
    if (*how == 9) e.size--;
    if (*how >= 4) r->status = lmoe_exchange_run(loop(), r->comm, &e);
}

START_TEST(impossible_calls_are_refused)
{
    world w;
    run(&w, 2, call_badly, &_i);
    for (int i = 0; i < 2; i++) ck_assert_int_eq(w.rank[i].status, LMOE_E_COMM);
    ck_assert_ptr_nonnull(strstr(w.rank[1].message, "rank 1"));
}
END_TEST

static void be_aborted(rank *r)
{
    float x = 0;
    if (r->rank == 1) {
        usleep(20000);
        loop()->abort(r->comm);
        r->w->flag = 1;
    }
    if (r->rank == 2) wait_for(&r->w->flag, 1);
    r->status = lmoe_all_reduce(loop(), r->comm, &x, 1, LMOE_F32, LMOE_SUM, NULL);
}

START_TEST(abort_ends_all)
{
    world w;
    run(&w, 4, be_aborted, NULL);
    check_failed(&w, (const char *[]){"rank 1", "aborted", NULL});
}
END_TEST

/* A communicator is aborted by one thread while ranks work, each on memory that it frees at once.
 */
static void work_until_aborted(rank *r)
{
    if (r->rank == 0 && *(const int *)r->w->arg) usleep((useconds_t)(*(const int *)r->w->arg));
    for (int i = 0; r->status == LMOE_OK; i++) {
        double *x = malloc(4096 * sizeof *x);
        for (int k = 0; k < 4096; k++) x[k] = k;
        r->status = lmoe_all_reduce(loop(), r->comm, x, 4096, LMOE_F64, LMOE_SUM, NULL);
        for (int k = 0; r->status == LMOE_OK && k < 4096; k++)
            if (x[k] != (double)k * r->w->ranks) r->w->wrong++;
        free(x);
        if (r->rank == 0 && i == *(const int *)r->w->arg % 7) loop()->abort(r->comm);
    }
}

START_TEST(abort_while_working)
{
    for (int i = 0; i < 30; i++) {
        world w;
        run(&w, 4, work_until_aborted, &i);
        check_failed(&w, (const char *[]){"rank 0", "aborted", NULL});
    }
}
END_TEST

/* Rank 1 closes while rank 0 waits for it (arg 0), or before that (1); rank 2 comes when rank 0 has
 * been told. */
static void leave_early(rank *r)
{
    float x[2] = {0};
    bool late = *(const int *)r->w->arg;
    if (lmoe_all_reduce(loop(), r->comm, x, 2, LMOE_F32, LMOE_SUM, NULL)) r->w->wrong++;
    if (r->rank == 1) {
        if (!late) wait_for(&r->w->flag, 1);
        if (!late) usleep(20000);
        loop()->close(r->comm);
        r->comm = NULL;
        r->w->flag = 2;
        return;
    }
    if (r->rank == 0 && !late) r->w->flag = 1;
    if (r->rank == 2) wait_for(&r->w->flag, 3);
    if (late) wait_for(&r->w->flag, 2);
    r->status = lmoe_all_reduce(loop(), r->comm, x, 2, LMOE_F32, LMOE_SUM, NULL);
    if (r->rank == 0) wait_for(&r->w->flag, 2);
    if (r->rank == 0) r->w->flag = 3;
}

START_TEST(closing_early_is_named)
{
    world w;
    run(&w, 3, leave_early, &_i);
    for (int i = 0; i < 3; i += 2) {
        ck_assert_int_eq(w.rank[i].status, LMOE_E_COMM);
        ck_assert_ptr_nonnull(strstr(w.rank[i].message, "rank 1 has closed"));
        ck_assert_ptr_nonnull(strstr(w.rank[i].message, "all_reduce number 2 (sum of 2 f32)"));
    }
}
END_TEST

/* Rank 0 waits in a pair for rank 1, which waits with rank 2 for rank 0. */
static void cross(rank *r)
{
    void *pair;
    float x = 0;
    if (loop()->split(r->comm, r->rank < 2, 0, &pair)) r->w->wrong++;
    if (r->rank == 0) r->status = lmoe_all_reduce(loop(), pair, &x, 1, LMOE_F32, LMOE_SUM, NULL);
    if (r->rank > 0)
        r->status = lmoe_all_gather(loop(), r->comm, &x, (float[3]){0}, 1, LMOE_F32, NULL);
    snprintf(r->message, sizeof r->message, "%s", loop()->message(r->rank ? r->comm : pair));
    loop()->close(pair);
    loop()->close(r->comm);
    r->comm = NULL;
}

START_TEST(waiting_for_one_another_is_named)
{
    world w;
    run(&w, 3, cross, NULL);
    check_failed(&w,
                 (const char *[]){"wait for one another",
                                  "rank 0 of 2 (rank 0 of the run) in all_reduce number 1",
                                  "rank 1 in all_gather number 2", "rank 2 in all_gather", NULL});
}
END_TEST

/* A failure in a part reaches ranks that wait elsewhere. */
static void fail_in_a_part(rank *r)
{
    void *part;
    float x[2] = {0};
    if (loop()->split(r->comm, r->rank < 2, 0, &part)) r->w->wrong++;
    bool here = r->rank < 2;
    r->status = lmoe_all_reduce(loop(), here ? part : r->comm, x, r->rank == 1 ? 2 : 1, LMOE_F32,
                                LMOE_SUM, NULL);
    snprintf(r->message, sizeof r->message, "%s", loop()->message(here ? part : r->comm));
    loop()->close(part);
    loop()->close(r->comm);
    r->comm = NULL;
}

START_TEST(failure_of_a_part_ends_all)
{
    world w;
    run(&w, 4, fail_in_a_part, NULL);
    check_failed(&w, (const char *[]){"rank 0 of 2 (rank 0 of the run)",
                                      "rank 1 of 2 (rank 1 of the run)", "sum of 2 f32",
                                      "sum of 1 f32", NULL});
}
END_TEST

/* ---- failures of exchanges in flight and of messages ---- */

static lmoe_exchange message_of(lmoe_exchange_kind kind, int32_t peer, void *data, int64_t count)
{
    return (lmoe_exchange){.size = sizeof(lmoe_exchange),
                           .kind = kind,
                           .dtype = LMOE_F32,
                           .peer = peer,
                           .tag = 5,
                           .send = data,
                           .recv = data,
                           .count = count};
}

/* Rank 0 expects 4 elements, rank 1 sends 3; who is first depends on the argument. */
static void wrong_size(rank *r)
{
    const lmoe_comm *c = loop();
    float x[4] = {0};
    bool sends = r->rank == 1, late = *(const int *)r->w->arg == r->rank;
    lmoe_exchange e = message_of(sends ? LMOE_SEND : LMOE_RECV, !r->rank, x, sends ? 3 : 4);
    void *request = NULL;
    if (late) wait_for(&r->w->flag, 1);
    r->status = c->start(r->comm, &e, &request);
    if (!late) r->w->flag = 1;
    if (request) r->status = c->wait(r->comm, request);
    if (r->status == LMOE_OK)
        r->status = lmoe_all_reduce(c, r->comm, x, 1, LMOE_F32, LMOE_SUM, NULL);
}

START_TEST(messages_of_wrong_size_are_named)
{
    world w;
    run(&w, 2, wrong_size, &_i);
    check_failed(&w, (const char *[]){
                         "rank 1 called send number 1 (3 f32 to rank 0, tag 5)",
                         "rank 0 expects it in recv number 1 (4 f32 from rank 1, tag 5)", NULL});
}
END_TEST

/* Every rank receives and nobody sends. */
static void receive_only(rank *r)
{
    float x;
    lmoe_exchange e = message_of(LMOE_RECV, (r->rank + 1) % r->w->ranks, &x, 1);
    r->status = lmoe_exchange_run(loop(), r->comm, &e);
}

START_TEST(messages_that_nobody_sends_are_named)
{
    world w;
    run(&w, 3, receive_only, NULL);
    check_failed(&w, (const char *[]){"wait for one another",
                                      "rank 1 in recv number 1 (1 f32 from rank 2, tag 5)", NULL});
}
END_TEST

/* Rank 0 sends 2 elements to rank 1, which expects 1. */
static void uneven_blocks(rank *r)
{
    float x[8], y[8];
    int64_t to[2] = {1, r->rank == 0 ? 2 : 1}, from[2] = {1, 1};
    lmoe_exchange e = {.size = sizeof e, .kind = LMOE_ALL_TO_ALL_V, .dtype = LMOE_F32};
    memset(x, 0, sizeof x);
    e.send = x;
    e.recv = y;
    e.send_counts = to;
    e.recv_counts = from;
    r->status = lmoe_exchange_run(loop(), r->comm, &e);
}

START_TEST(blocks_of_wrong_size_are_named)
{
    world w;
    run(&w, 2, uneven_blocks, NULL);
    check_failed(&w,
                 (const char *[]){"all_to_all_v number 1 (f32): rank 0 sends 2 elements to rank "
                                  "1, which expects 1",
                                  NULL});
}
END_TEST

/* Rank 1 computes for ever, or nearly: until rank 0 has been told. */
static void never_come(rank *r)
{
    float x = 1;
    if (lmoe_all_reduce(loop(), r->comm, &x, 1, LMOE_F32, LMOE_SUM, NULL)) r->w->wrong++;
    if (r->rank == 1) wait_for(&r->w->flag, 2);
    r->status = lmoe_all_reduce(loop(), r->comm, &x, 1, LMOE_F32, LMOE_SUM, NULL);
    r->w->flag++;
}

START_TEST(a_rank_that_does_not_come_is_named)
{
    world w;
    run_for(&w, 3, never_come, NULL, 0.2);
    check_failed(&w, (const char *[]){"has waited for 0.2 seconds in all_reduce number 2 (sum of 1 "
                                      "f32), which is the time-out",
                                      "rank 0 in all_reduce number 2", "rank 1 waits for nobody",
                                      "rank 2 in all_reduce number 2", NULL});
}
END_TEST

/* All ranks have started an exchange; rank 0 closes without waiting for it, then frees its memory.
 * Others get their result all the same, or, of one that rank 1 has not started, are told. */
static void close_in_flight(rank *r)
{
    const lmoe_comm *c = loop();
    double *x = malloc(20000 * sizeof *x), *y = malloc(20000 * sizeof *y);
    void *first, *second;
    for (int i = 0; i < 20000; i++) x[i] = y[i] = i;
    lmoe_exchange e = message_of(LMOE_ALL_REDUCE, 0, x, 20000);
    e.dtype = LMOE_F64;
    if (c->start(r->comm, &e, &first)) r->w->wrong++;
    if (r->rank != 1) {
        e.send = e.recv = y;
        if (c->start(r->comm, &e, &second)) r->w->wrong++;
    }
    r->w->flag++;
    wait_for(&r->w->flag, 3);
    if (r->rank == 0) {
        c->close(r->comm);
        r->comm = NULL;
        free(x);
        free(y);
        r->w->flag = 4;
        return;
    }
    wait_for(&r->w->flag, 4);
    if (r->rank == 2) r->status = c->wait(r->comm, second);
    if (c->wait(r->comm, first)) r->w->wrong++;
    for (int i = 0; i < 20000; i++)
        if (x[i] != 3.0 * i) r->w->wrong++;
    free(x);
    free(y);
}

START_TEST(closing_in_flight)
{
    world w;
    run(&w, 3, close_in_flight, NULL);
    ck_assert_int_eq(w.rank[2].status, LMOE_E_COMM);
    ck_assert_ptr_nonnull(strstr(w.rank[2].message, "rank 0 has closed the communicator"));
}
END_TEST

/* A message that was sent before its sender closed is received. */
static void send_and_close(rank *r)
{
    float x = (float)r->rank;
    lmoe_exchange e = message_of(r->rank ? LMOE_SEND : LMOE_RECV, !r->rank, &x, 1);
    if (r->rank == 0) wait_for(&r->w->flag, 1);
    if (lmoe_exchange_run(loop(), r->comm, &e)) r->w->wrong++;
    if (x != 1) r->w->wrong++;
    if (r->rank == 0) return;
    loop()->close(r->comm);
    r->comm = NULL;
    r->w->flag = 1;
}

START_TEST(messages_outlive_their_senders)
{
    world w;
    run(&w, 2, send_and_close, NULL);
}
END_TEST

START_TEST(opening_is_checked)
{
    const lmoe_comm *c = loop();
    void *group, *a, *b = NULL;
    lmoe_comm_env env = {.size = sizeof env, .rank = 0, .ranks = 2, .group = NULL};
    float x = 0;
    ck_assert_int_ne(c->group_create(NULL, 0, &group), LMOE_OK);
    ck_assert_int_eq(c->group_create(NULL, 2, &group), LMOE_OK);
    ck_assert_int_ne(c->open(NULL, &env, &a), LMOE_OK);
    env.group = group;
    ck_assert_int_eq(c->open(NULL, &env, &a), LMOE_OK);
    ck_assert_int_ne(c->open(NULL, &env, &b), LMOE_OK); /* a second time */
    ck_assert_ptr_nonnull(strstr(c->message(NULL), "once"));
    /* nobody waits for a rank that could not be opened */
    ck_assert_int_eq(lmoe_all_reduce(c, a, &x, 1, LMOE_F32, LMOE_SUM, NULL), LMOE_E_COMM);
    ck_assert_ptr_nonnull(strstr(c->message(a), "rank 0 could not be opened"));
    c->close(a);
    c->group_destroy(group);
}
END_TEST

START_TEST(class_is_described)
{
    const lmoe_plugin *p = lmoe_plugin_v1_comm_loop(NULL);
    ck_assert_str_eq(p->id, "comm/loop");
    ck_assert_str_eq(p->classes[0]->name, "comm/loop");
    ck_assert_str_eq(p->classes[0]->kind, LMOE_KIND_COMM);
    ck_assert_uint_eq(p->classes[0]->flags, LMOE_COMM_THREADS);
    ck_assert_ptr_null(p->classes[1]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("comm_loop");
    TCase *c = tcase_create("loop");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, class_is_described);
    tcase_add_loop_test(c, reductions, 1, MAX_RANKS + 1);
    tcase_add_test(c, halves_are_rounded);
    tcase_add_test(c, nan_is_not_lost);
    tcase_add_loop_test(c, gathers, 1, MAX_RANKS + 1);
    tcase_add_loop_test(c, exchanges, 1, 6);
    tcase_add_loop_test(c, parts, 1, MAX_RANKS + 1);
    tcase_add_test(c, equal_keys_keep_the_order);
    tcase_add_loop_test(c, disagreement_is_named_at_once, 0,
                        (int)(sizeof mismatches / sizeof *mismatches));
    tcase_add_loop_test(c, impossible_calls_are_refused, 0, 10);
    tcase_add_test(c, abort_ends_all);
    tcase_add_test(c, abort_while_working);
    tcase_add_loop_test(c, closing_early_is_named, 0, 2);
    tcase_add_test(c, waiting_for_one_another_is_named);
    tcase_add_test(c, failure_of_a_part_ends_all);
    tcase_add_loop_test(c, messages_of_wrong_size_are_named, 0, 2);
    tcase_add_test(c, messages_that_nobody_sends_are_named);
    tcase_add_test(c, blocks_of_wrong_size_are_named);
    tcase_add_test(c, a_rank_that_does_not_come_is_named);
    tcase_add_test(c, closing_in_flight);
    tcase_add_test(c, messages_outlive_their_senders);
    tcase_add_test(c, opening_is_checked);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
