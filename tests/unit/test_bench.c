/* SPDX-License-Identifier: Apache-2.0
 * tests/unit/test_bench.c: the tool that tests kernels finds what is wrong with one: a host device
 * whose kernels of affine/1 each have one fault.
 */
#include "core/bench/bench.h"

#include <check.h>
#include <stdlib.h>

/* ---- a device of host memory ---- */

static lmoe_status device_alloc(void *dev, size_t bytes, void **p)
{
    *p = aligned_alloc(64, bytes);
    return *p ? LMOE_OK : LMOE_E_MEMORY;
}

static void device_free(void *dev, void *p)
{
    free(p);
}

static lmoe_status device_copy(void *dev, void *dst, const void *src, size_t bytes)
{
    memcpy(dst, src, bytes);
    return LMOE_OK;
}

static lmoe_status device_synchronize(void *dev)
{
    return LMOE_OK;
}

static void *device_stream(void *dev)
{
    return NULL;
}

static lmoe_device device_with(const lmoe_kernel *const *kernels)
{
    return (lmoe_device){.base = {.size = sizeof(lmoe_device), .name = "device/test"},
                         .device = "cpu",
                         .kernels = kernels,
                         .stream = device_stream,
                         .alloc = device_alloc,
                         .free = device_free,
                         .upload = device_copy,
                         .download = device_copy,
                         .synchronize = device_synchronize};
}

/* ---- kernels of affine/1: the right one, then faults ---- */

static int takes_f32(const lmoe_args *a)
{
    return a->in[0].dtype == LMOE_F32 ? 10 : 0;
}

static size_t some_workspace(const lmoe_args *a)
{
    return 100;
}

static void affine(const lmoe_args *a, int64_t begin, int64_t end)
{
    const lmoe_affine_attrs *o = a->attrs;
    const float *x = a->in[0].data;
    float *y = a->out[0].data;
    for (int64_t i = begin; i < end; i++) y[i] = (float)(o->scale * x[i] + o->shift);
}

static int64_t count(const lmoe_args *a)
{
    return lmoe_buf_count(&a->in[0]);
}

static lmoe_status right(const lmoe_args *a)
{
    memset(a->workspace, 1, 100);
    affine(a, 0, count(a));
    return LMOE_OK;
}

static lmoe_status inexact(const lmoe_args *a)
{
    float *y = a->out[0].data;
    affine(a, 0, count(a));
    for (int64_t i = 0; i < count(a); i++) y[i] *= 1.00001f;
    return LMOE_OK;
}

static lmoe_status forgets_one(const lmoe_args *a)
{
    affine(a, 0, count(a) - 1);
    return LMOE_OK;
}

static lmoe_status infinite(const lmoe_args *a)
{
    float *y = a->out[0].data;
    affine(a, 0, count(a));
    y[0] = y[0] / 0.0f;
    return LMOE_OK;
}

static lmoe_status writes_past_end(const lmoe_args *a)
{
    float *y = a->out[0].data;
    affine(a, 0, count(a));
    y[count(a)] = 0;
    return LMOE_OK;
}

static lmoe_status writes_before_start(const lmoe_args *a)
{
    float *y = a->out[0].data;
    affine(a, 0, count(a));
    y[-1] = 0;
    return LMOE_OK;
}

static lmoe_status changes_input(const lmoe_args *a)
{
    float *x = a->in[0].data;
    affine(a, 0, count(a));
    if (a->in[0].data != a->out[0].data) x[0] += 1;
    return LMOE_OK;
}

static lmoe_status overruns_workspace(const lmoe_args *a)
{
    affine(a, 0, count(a));
    memset(a->workspace, 1, 101);
    return LMOE_OK;
}

/* One unit in the last place more with every launch: within the tolerance, but not the same. */
static lmoe_status differs_each_time(const lmoe_args *a)
{
    static int launches;
    int32_t bits;
    affine(a, 0, count(a));
    memcpy(&bits, a->out[0].data, 4);
    bits += launches++ % 2;
    memcpy(a->out[0].data, &bits, 4);
    return LMOE_OK;
}

static lmoe_status depends_on_threads(const lmoe_args *a)
{
    int32_t bits;
    affine(a, 0, count(a));
    memcpy(&bits, a->out[0].data, 4);
    bits += lmoe_threads(a->ctx) > 1;
    memcpy(a->out[0].data, &bits, 4);
    return LMOE_OK;
}

static lmoe_status not_in_place(const lmoe_args *a)
{
    memset(a->out[0].data, 0, sizeof(float) * (size_t)count(a));
    affine(a, 0, count(a));
    return LMOE_OK;
}

static lmoe_status gives_up(const lmoe_args *a)
{
    return lmoe_error(a->ctx, LMOE_E_DEVICE, "no");
}

#define KERNEL(fn)                                                                          \
    {                                                                                       \
        .base = {.size = sizeof(lmoe_kernel), .kind = LMOE_KIND_KERNEL, .name = #fn},       \
        .op = "affine/1", .device = "cpu", .score = takes_f32, .workspace = some_workspace, \
        .launch = fn,                                                                       \
    }

static const lmoe_kernel kernels[] = {
    KERNEL(right),
    KERNEL(inexact),
    KERNEL(forgets_one),
    KERNEL(infinite),
    KERNEL(writes_past_end),
    KERNEL(writes_before_start),
    KERNEL(changes_input),
    KERNEL(overruns_workspace),
    KERNEL(differs_each_time),
    KERNEL(depends_on_threads),
    KERNEL(not_in_place),
    KERNEL(gives_up),
};
enum { N_KERNELS = sizeof kernels / sizeof *kernels };

/* ---- tests ---- */

typedef struct outcome {
    int passed, failed;
} outcome;

static outcome bench(const lmoe_kernel *kernel)
{
    const lmoe_kernel *list[] = {kernel, NULL};
    lmoe_device device = device_with(list);
    lmoe_ctx ctx;
    lmoe__ctx_init(&ctx);
    ctx.team = lmoe__team_new(2);
    ck_assert_ptr_nonnull(ctx.team);
    lmoe__bench b = {.ctx = &ctx, .on = {&device, NULL}, .kernels = list, .dtype = LMOE_F32};
    ck_assert_int_eq(lmoe__bench_op(&b, &lmoe__op_affine), LMOE_OK);
    lmoe__team_free(ctx.team);
    return (outcome){b.passed, b.failed};
}

START_TEST(right_kernel_passes)
{
    outcome none = bench(NULL), o = bench(&kernels[0]);
    ck_assert_int_gt(none.passed, 0); /* the reference itself */
    ck_assert_int_eq(none.failed, 0);
    ck_assert_int_gt(o.passed, none.passed);
    ck_assert_int_eq(o.failed, 0);
}
END_TEST

START_TEST(fault_is_found)
{
    outcome o = bench(&kernels[_i]);
    ck_assert_msg(o.failed > 0, "%s: nothing was found", kernels[_i].base.name);
}
END_TEST

static int scores_more(const lmoe_args *a)
{
    return 20;
}

START_TEST(kernels_come_best_first)
{
    lmoe_kernel better = kernels[0];
    better.score = scores_more; /* and it takes integers too */
    const lmoe_kernel *list[] = {&kernels[0], &better, &kernels[1], NULL}, *got[4];
    lmoe_ctx ctx;
    lmoe__bench b = {.ctx = &ctx, .kernels = list};
    int seen[2] = {0, 0};
    lmoe__ctx_init(&ctx);
    for (int i = 0;; i++) {
        lmoe__trial t;
        bool more;
        ck_assert_int_eq(lmoe__trial_sample(&ctx, &lmoe__op_affine, i, LMOE_F32, &t, &more),
                         LMOE_OK);
        if (!more) break;
        bool real = t.in[0].dtype == LMOE_F32;
        ck_assert_int_eq(lmoe__bench_kernels(&b, &t, got, 4), real ? 3 : 1);
        ck_assert_ptr_eq(got[0], &better);
        if (real) ck_assert_ptr_eq(got[1], &kernels[0]);
        seen[real]++;
        lmoe__trial_free(&t);
    }
    ck_assert(seen[0] > 0 && seen[1] > 0);
}
END_TEST

/* Variations are legal calls of many lengths, the same each time, and no two have the same values. */
START_TEST(variations)
{
    enum { N = 300 };
    lmoe_ctx ctx;
    bool seen[130] = {false};
    int lengths = 0;
    double last = 0;
    lmoe__ctx_init(&ctx);
    for (int i = 0; i < N; i++) {
        lmoe__trial t, again;
        const lmoe_op *op = &lmoe__op_scan_delta;
        ck_assert_int_eq(lmoe__trial_vary(&ctx, op, i, LMOE_F32, &t), LMOE_OK);
        ck_assert_int_eq(lmoe__trial_vary(&ctx, op, i, LMOE_F32, &again), LMOE_OK);
        int64_t seq = t.in[0].dim[1];
        ck_assert_int_lt(seq, 130);
        lengths += !seen[seq];
        seen[seq] = true;
        ck_assert(t.value[0][0] == again.value[0][0]);
        ck_assert(t.value[0][0] != last);
        last = t.value[0][0];
        lmoe__trial_free(&t);
        lmoe__trial_free(&again);
    }
    ck_assert_int_gt(lengths, 50);
    ck_assert(seen[127] || seen[128] || seen[129]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("bench");
    TCase *c = tcase_create("bench");
    tcase_add_test(c, right_kernel_passes);
    tcase_add_loop_test(c, fault_is_found, 1, N_KERNELS);
    tcase_add_test(c, kernels_come_best_first);
    tcase_add_test(c, variations);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
