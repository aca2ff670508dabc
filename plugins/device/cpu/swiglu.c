/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/swiglu.c: swiglu/1, silu(gate) * up, and its derivative.
 */
#include "cpu.h"
#include "vec.h"

typedef struct work {
    const float *gate, *up, *dy;
    float *y, *dgate, *dup;
} work;

static void run(void *arg, int64_t begin, int64_t end, int thread)
{
    const work *w = arg;
    const float *gate = w->gate, *up = w->up;
    float *y = w->y;
    CPU_SIMD
    for (int64_t i = begin; i < end; i++) y[i] = cpu_siluf(gate[i]) * up[i];
}

/* Outputs may lie over gate and up: an element is read before it is written. */
CPU_INLINE void grad(const work *w, int64_t begin, int64_t end, int want_gate, int want_up)
{
    const float *gate = w->gate, *up = w->up, *dy = w->dy;
    float *dgate = w->dgate, *dup = w->dup;
    CPU_SIMD
    for (int64_t i = begin; i < end; i++) {
        float g = gate[i], u = up[i], d = dy[i];
        float t, s = cpu_sigmoid_pair(g, &t), y = g * s;
        if (want_gate) dgate[i] = d * u * (s + y * t);
        if (want_up) dup[i] = d * y;
    }
}

static void run_grad(void *arg, int64_t begin, int64_t end, int thread)
{
    const work *w = arg;
    if (w->dgate && w->dup)
        grad(w, begin, end, 1, 1);
    else if (w->dgate)
        grad(w, begin, end, 1, 0);
    else
        grad(w, begin, end, 0, 1);
}

static int can(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[0]);
}

static lmoe_status launch(const lmoe_args *a)
{
    work w = {.gate = a->in[0].data, .up = a->in[1].data, .y = a->out[0].data};
    return lmoe_parallel(a->ctx, lmoe_buf_count(&a->in[0]), cpu_grain(2), run, &w);
}

static lmoe_status launch_grad(const lmoe_args *a)
{
    work w = {.gate = a->in[0].data,
              .up = a->in[1].data,
              .dy = a->in[2].data,
              .dgate = a->out[0].data,
              .dup = a->out[1].data};
    return lmoe_parallel(a->ctx, lmoe_buf_count(&a->in[0]), cpu_grain(4), run_grad, &w);
}

CPU_KERNEL(swiglu, 1, can, NULL, launch)
CPU_KERNEL(swiglu_grad, 1, can, NULL, launch_grad)
