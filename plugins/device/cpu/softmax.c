/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/softmax.c: softmax/1, its derivative, and logsumexp/1, row by row.
 */
#include "cpu.h"
#include "vec.h"

typedef struct work {
    int64_t width;
    const float *x, *dy;
    float *y;
} work;

static void run(void *arg, int64_t begin, int64_t end, int thread)
{
    const work *w = arg;
    for (int64_t at = begin; at < end; at++) {
        const float *x = w->x + at * w->width;
        float *y = w->y + at * w->width, most = cpu_largest(x, w->width), sum = 0;
        CPU_SIMD_SUM(sum)
        for (int64_t i = 0; i < w->width; i++) {
            float e = cpu_expf(x[i] - most);
            y[i] = e;
            sum += e;
        }
        float scale = 1.0f / sum;
        CPU_SIMD
        for (int64_t i = 0; i < w->width; i++) y[i] *= scale;
    }
}

/* dx = y (dy - sum(y dy)) */
static void run_grad(void *arg, int64_t begin, int64_t end, int thread)
{
    const work *w = arg;
    for (int64_t at = begin; at < end; at++) {
        const float *y = w->x + at * w->width, *dy = w->dy + at * w->width;
        float *dx = w->y + at * w->width, dot = 0;
        CPU_SIMD_SUM(dot)
        for (int64_t i = 0; i < w->width; i++) dot += y[i] * dy[i];
        CPU_SIMD
        for (int64_t i = 0; i < w->width; i++) dx[i] = y[i] * (dy[i] - dot);
    }
}

static void run_logsumexp(void *arg, int64_t begin, int64_t end, int thread)
{
    const work *w = arg;
    for (int64_t at = begin; at < end; at++) {
        const float *x = w->x + at * w->width;
        float most = cpu_largest(x, w->width), sum = 0;
        CPU_SIMD_SUM(sum)
        for (int64_t i = 0; i < w->width; i++) sum += cpu_expf(x[i] - most);
        w->y[at] = (float)((double)most + log((double)sum));
    }
}

static int can(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[0]);
}

static lmoe_status launch(const lmoe_args *a, lmoe_range_fn fn, int64_t cost)
{
    const lmoe_buf *x = &a->in[0];
    work w = {x->dim[x->rank - 1], x->data, a->n_in > 1 ? a->in[1].data : NULL, a->out[0].data};
    return lmoe_parallel(a->ctx, lmoe_buf_count(x) / w.width, cpu_grain(cost * w.width), fn, &w);
}

static lmoe_status launch_softmax(const lmoe_args *a)
{
    return launch(a, run, 4);
}

static lmoe_status launch_grad(const lmoe_args *a)
{
    return launch(a, run_grad, 2);
}

static lmoe_status launch_logsumexp(const lmoe_args *a)
{
    return launch(a, run_logsumexp, 3);
}

CPU_KERNEL(softmax, 1, can, NULL, launch_softmax)
CPU_KERNEL(softmax_grad, 1, can, NULL, launch_grad)
CPU_KERNEL(logsumexp, 1, can, NULL, launch_logsumexp)
