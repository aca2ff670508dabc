/* SPDX-License-Identifier: Apache-2.0
 * core/bench/time.c: how long a launch takes, and the rate of matrix products.
 */
#include "core/bench/bench.h"

#include <math.h>
#include <stdlib.h>

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of n launches. */
static lmoe_status stopwatch(lmoe__run *r, int64_t n, double *seconds)
{
    double start = lmoe__now();
    for (int64_t i = 0; i < n; i++) LMOE_TRY(lmoe__run_launch(r));
    if (r->kernel) LMOE_TRY(r->on.device->synchronize(r->on.dev));
    *seconds = lmoe__now() - start;
    return LMOE_OK;
}

/* Median of samples, each of as many launches as take a millisecond or more. */
static lmoe_status median_seconds(lmoe__run *r, double *seconds)
{
    enum { SAMPLES = 25 };
    const double least = 1e-3, enough = 0.5;
    double sample[SAMPLES], total = 0;
    int64_t launches = 1;
    LMOE_TRY(stopwatch(r, 1, seconds));
    LMOE_TRY(stopwatch(r, 1, seconds));
    if (*seconds < least) launches = 1 + (int64_t)(least / (*seconds + 1e-7));
    int n = 0;
    while (n < SAMPLES && (n < 3 || total < enough)) {
        LMOE_TRY(stopwatch(r, launches, &sample[n]));
        total += sample[n];
        sample[n++] /= (double)launches;
    }
    qsort(sample, (size_t)n, sizeof *sample, by_size);
    *seconds = sample[n / 2];
    return LMOE_OK;
}

static lmoe_status time_kernel(lmoe__bench *b, const lmoe__trial *t, const lmoe_kernel *kernel)
{
    lmoe__run r;
    double seconds = 0;
    char text[256];
    lmoe_status status = lmoe__run_new(b->ctx, t, kernel, b->on, false, -1, -1, &r);
    if (status == LMOE_OK) status = lmoe__run_once(&r);
    if (status == LMOE_OK) status = median_seconds(&r, &seconds);
    lmoe__run_free(&r);
    LMOE_TRY(status);
    if (b->out)
        fprintf(b->out, "%-28s %-32s %10.3f ms %8.1f GB/s %8.1f GFLOP/s  %s\n", t->op->base.name,
                kernel ? kernel->base.name : "reference", 1e3 * seconds,
                1e-9 * lmoe__trial_bytes(t) / seconds, 1e-9 * lmoe__trial_flops(t) / seconds,
                lmoe__trial_text(text, sizeof text, t));
    return LMOE_OK;
}

lmoe_status lmoe__bench_time(lmoe__bench *b, const lmoe_op *op)
{
    bool more = true;
    for (int index = 0; more; index++) {
        const lmoe_kernel *kernels[32] = {NULL};
        lmoe__trial t;
        LMOE_TRY(lmoe__trial_sample(b->ctx, op, index, b->dtype, &t, &more));
        if (!more) break;
        lmoe_status status = LMOE_OK;
        if (t.c.flags & LMOE_CASE_BENCH) {
            int n = lmoe__bench_kernels(b, &t, kernels, 32);
            int shown = n == 0 || !b->all ? 1 : n; /* without a kernel, the reference is used */
            for (int i = 0; status == LMOE_OK && i < shown; i++)
                status = time_kernel(b, &t, kernels[i]);
        }
        lmoe__trial_free(&t);
        LMOE_TRY(status);
    }
    return LMOE_OK;
}

/* ---- matrix products ---- */

/* y = x w, dx = dy w^T and dw = x^T dy, by which lmoe trains: (m n) from (m k) and (k n). */
static const struct form {
    const char *name, *text;
    bool ta, tb;
} forms[] = {
    {"y = x w", "m k, k n -> m n", false, false},
    {"y = x w^T", "m k, n k -> m n", false, true},
    {"y = x^T w", "k m, k n -> m n", true, false},
};

static void make_case(const struct form *f, const int64_t size[3], lmoe_case *c)
{
    lmoe_einsum_attrs o = {""};
    int64_t m = size[0], n = size[1], k = size[2];
    int64_t a[2] = {f->ta ? k : m, f->ta ? m : k}, w[2] = {f->tb ? n : k, f->tb ? k : n};
    memset(c, 0, sizeof *c);
    c->size = sizeof *c;
    strcpy(o.text, f->text);
    memcpy(c->attrs.bytes, &o, sizeof o);
    lmoe__case_input(c, 0, LMOE_F32, f->ta ? "c a" : "a c", a, LMOE_FILL_NORMAL, 0, 1);
    lmoe__case_input(c, 1, LMOE_F32, f->tb ? "b c" : "c b", w, LMOE_FILL_NORMAL, 0, 1);
}

/* Compares elements of the result, drawn at random, with sums in double. */
static bool samples_agree(const lmoe__run *r, const struct form *f, const int64_t size[3])
{
    int64_t m = size[0], n = size[1], k = size[2];
    const double *a = r->trial->value[0], *w = r->trial->value[1];
    lmoe_buf y = lmoe__run_buf(r, 2);
    double error = 0, norm = 0;
    for (uint64_t s = 0; s < 256; s++) {
        int64_t i = (int64_t)lmoe__below(1, 1, s, (uint64_t)m);
        int64_t j = (int64_t)lmoe__below(1, 2, s, (uint64_t)n);
        double sum = 0;
        for (int64_t p = 0; p < k; p++)
            sum += (f->ta ? a[p * m + i] : a[i * k + p]) * (f->tb ? w[j * k + p] : w[p * n + j]);
        error += pow(lmoe_get(&y, i * n + j) - sum, 2);
        norm += sum * sum;
    }
    return sqrt(error / norm) <=
           r->trial->op->tolerance * (r->trial->out[0].dtype == LMOE_F32 ? 0x1p-24 : 0x1p-9);
}

static lmoe_status one_product(lmoe__bench *b, const struct form *f, const int64_t size[3])
{
    const lmoe_kernel *kernel = NULL;
    lmoe_case c;
    lmoe__trial t;
    lmoe__run r;
    double seconds = 0;
    make_case(f, size, &c);
    LMOE_TRY(lmoe__trial_init(b->ctx, &lmoe__op_einsum, &c, b->dtype, &t));
    if (lmoe__bench_kernels(b, &t, &kernel, 1) == 0) {
        lmoe__trial_free(&t);
        return lmoe_error(b->ctx, LMOE_E_UNSUPPORTED, "%s has no kernel for matrix products",
                          b->on.device->base.name);
    }
    lmoe_status status = lmoe__run_new(b->ctx, &t, kernel, b->on, false, -1, -1, &r);
    if (status == LMOE_OK) status = lmoe__run_once(&r);
    bool right = status == LMOE_OK && samples_agree(&r, f, size);
    if (status == LMOE_OK) status = median_seconds(&r, &seconds);
    if (status == LMOE_OK) {
        right ? b->passed++ : b->failed++;
        if (b->out)
            fprintf(b->out, "%6lld %6lld %6lld  %-10s %10.3f ms %8.1f GFLOP/s%s\n",
                    (long long)size[0], (long long)size[1], (long long)size[2], f->name,
                    1e3 * seconds, 1e-9 * lmoe__trial_flops(&t) / seconds,
                    right ? "" : "  FAILED: wrong result");
    }
    lmoe__run_free(&r);
    lmoe__trial_free(&t);
    return status;
}

lmoe_status lmoe__bench_gemm(lmoe__bench *b, int64_t m, int64_t n, int64_t k)
{
    /* m, n, k: large and square; projections, experts and head of the models in configs/ */
    static const int64_t list[][3] = {
        {2048, 2048, 2048}, {4096, 512, 512}, {4096, 1024, 1024}, {512, 1024, 1024},
        {256, 896, 1024},   {64, 896, 1024},  {16, 896, 1024},    {512, 8192, 512},
        {128, 128, 128},    {64, 64, 64},
    };
    const int64_t one[1][3] = {{m, n, k}};
    const int64_t(*shapes)[3] = m > 0 ? one : list;
    int count = m > 0 ? 1 : (int)(sizeof list / sizeof *list);
    if (b->out) fprintf(b->out, "%6s %6s %6s\n", "m", "n", "k");
    for (int i = 0; i < count; i++) {
        for (size_t f = 0; f < sizeof forms / sizeof *forms; f++)
            LMOE_TRY(one_product(b, &forms[f], shapes[i]));
    }
    return LMOE_OK;
}
