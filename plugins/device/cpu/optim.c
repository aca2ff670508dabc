/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/optim.c: sum_squares/1, accumulate/1, adamw/1: one pass over memory each.
 *
 * Work is cut into blocks of 4096 elements. sum_squares adds up each block by itself and then the
 * blocks in their order, whatever the number of threads.
 */
#include "cpu.h"

#include <math.h>

enum { BLOCK = 4096 };

static int64_t blocks(const lmoe_buf *x)
{
    return (lmoe_buf_count(x) + BLOCK - 1) / BLOCK;
}

/* First element of a block, and of none past the end. */
static int64_t edge(const lmoe_buf *x, int64_t block)
{
    return cpu_min(block * BLOCK, lmoe_buf_count(x));
}

/* ---- sum_squares ---- */

static void square_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    const float *x = a->in[0].data;
    double *sums = a->workspace;
    for (int64_t b = begin; b < end; b++) {
        int64_t from = edge(&a->in[0], b), to = edge(&a->in[0], b + 1);
        float sum = 0;
        CPU_SIMD_SUM(sum)
        for (int64_t i = from; i < to; i++) sum += x[i] * x[i];
        sums[b] = sum;
    }
}

static lmoe_status launch_sum_squares(const lmoe_args *a)
{
    const double *sums = a->workspace;
    double total = 0;
    LMOE_TRY(lmoe_parallel(a->ctx, blocks(&a->in[0]), 8, square_blocks, (void *)a));
    for (int64_t b = 0; b < blocks(&a->in[0]); b++) total += sums[b];
    *(float *)a->out[0].data = (float)total;
    return LMOE_OK;
}

static size_t workspace_sum_squares(const lmoe_args *a)
{
    return (size_t)blocks(&a->in[0]) * sizeof(double);
}

static int can_sum_squares(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[0]) && cpu_is_f32(&a->out[0]);
}

CPU_KERNEL(sum_squares, 1, can_sum_squares, workspace_sum_squares, launch_sum_squares)

/* ---- accumulate ---- */

static void accumulate_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    float *buffer = a->in[0].data;
    const float *x = a->in[1].data;
    CPU_SIMD
    for (int64_t i = edge(&a->in[0], begin); i < edge(&a->in[0], end); i++) buffer[i] += x[i];
}

static lmoe_status launch_accumulate(const lmoe_args *a)
{
    return lmoe_parallel(a->ctx, blocks(&a->in[0]), 4, accumulate_blocks, (void *)a);
}

static int can_accumulate(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[0]) && cpu_is_f32(&a->in[1]);
}

CPU_KERNEL(accumulate, 1, can_accumulate, NULL, launch_accumulate)

/* ---- adamw ---- */

enum { PARAM, GRAD, M, V, NORM, LR, STEP, MASTER };

/* What is the same for all elements:
 *   m = beta1 m + grad_m grad          grad_m = (1 - beta1) clipping
 *   v = beta2 v + grad_v grad^2        grad_v = (1 - beta2) clipping^2
 *   param = keep param - rate m / (sqrt(v unbias) + eps) */
typedef struct adamw {
    const lmoe_args *a;
    float beta1, beta2, grad_m, grad_v, keep, rate, unbias, eps;
} adamw;

static double scalar(const lmoe_args *a, int i)
{
    return *(const float *)a->in[i].data;
}

static void adamw_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    const adamw w = *(const adamw *)arg;
    float *restrict param = w.a->in[PARAM].data;
    float *restrict m = w.a->in[M].data;
    float *restrict v = w.a->in[V].data;
    const float *restrict grad = w.a->in[GRAD].data;
    int64_t last = edge(&w.a->in[PARAM], end);
    CPU_SIMD
    for (int64_t i = edge(&w.a->in[PARAM], begin); i < last; i++) {
        float g = grad[i];
        float mi = w.beta1 * m[i] + w.grad_m * g;
        float vi = w.beta2 * v[i] + w.grad_v * g * g;
        m[i] = mi;
        v[i] = vi;
        param[i] = w.keep * param[i] - w.rate * mi / (sqrtf(vi * w.unbias) + w.eps);
    }
}

static lmoe_status launch_adamw(const lmoe_args *a)
{
    const lmoe_adamw_attrs *o = a->attrs;
    double norm = scalar(a, NORM), lr = scalar(a, LR), step = scalar(a, STEP);
    if (!isfinite(norm)) return LMOE_OK;
    double clipping = o->clip > 0 && norm > o->clip ? o->clip / norm : 1;
    adamw w = {.a = a,
               .beta1 = (float)o->beta1,
               .beta2 = (float)o->beta2,
               .grad_m = (float)((1 - o->beta1) * clipping),
               .grad_v = (float)((1 - o->beta2) * clipping * clipping),
               .keep = (float)(1 - lr * o->weight_decay),
               .rate = (float)(lr / (1 - pow(o->beta1, step))),
               .unbias = (float)(1 / (1 - pow(o->beta2, step))),
               .eps = (float)o->eps};
    return lmoe_parallel(a->ctx, blocks(&a->in[PARAM]), 2, adamw_blocks, &w);
}

static int can_adamw(const lmoe_args *a)
{
    for (int i = PARAM; i <= STEP; i++) {
        if (!cpu_is_f32(&a->in[i])) return 0;
    }
    return a->n_in <= MASTER || !lmoe_buf_present(&a->in[MASTER]);
}

CPU_KERNEL(adamw, 1, can_adamw, NULL, launch_adamw)
