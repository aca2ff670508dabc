/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/moe_act.c: expert_act/1, scale f(gate) up row by row, and its derivative.
 * Results may lie over operands: an element is read before it is written.
 */
#include "cpu.h"
#include "vec.h"

enum { GATE, UP, SCALE, DH };

/* f(x) and its slope */
CPU_INLINE float function(int fn, float x, float *slope)
{
    if (fn == LMOE_ACT_RELU2) {
        float y = x > 0.0f ? x : 0.0f;
        *slope = 2.0f * y;
        return y * y;
    }
    if (fn == LMOE_ACT_SILU) {
        float t, s = cpu_sigmoid_pair(x, &t), y = x < -3.40282347e+38f ? -0.0f : x * s;
        *slope = s + y * t;
        return y;
    }
    float t, s = cpu_sigmoid_pair(1.59576912f * (x + 0.044715f * x * x * x), &t);
    *slope = s + x * (s * t) * (1.59576912f * (1.0f + 0.134145f * x * x));
    return x * s;
}

CPU_INLINE void act_row(int fn, const float *gate, const float *up, float scale, float *h,
                        int64_t n)
{
    if (up) {
        CPU_SIMD
        for (int64_t i = 0; i < n; i++) {
            float slope;
            h[i] = scale * (function(fn, gate[i], &slope) * up[i]);
        }
    } else {
        CPU_SIMD
        for (int64_t i = 0; i < n; i++) {
            float slope;
            h[i] = scale * function(fn, gate[i], &slope);
        }
    }
}

/* Returns the derivative by the scale. */
CPU_INLINE float grad_row(int fn, const float *gate, const float *up, float scale, const float *dh,
                          float *dgate, float *dup, int64_t n)
{
    float sum = 0;
    if (up) {
        CPU_SIMD_SUM(sum)
        for (int64_t i = 0; i < n; i++) {
            float slope, y = function(fn, gate[i], &slope), u = up[i], d = dh[i];
            sum += y * u * d;
            dgate[i] = scale * d * u * slope;
            dup[i] = scale * d * y;
        }
    } else {
        CPU_SIMD_SUM(sum)
        for (int64_t i = 0; i < n; i++) {
            float slope, y = function(fn, gate[i], &slope), d = dh[i];
            sum += y * d;
            dgate[i] = scale * d * slope;
        }
    }
    return sum;
}

static const float *row_of(const lmoe_args *a, int i, int64_t r)
{
    const lmoe_buf *b = &a->in[i];
    return lmoe_buf_present(b) ? (const float *)b->data + r * b->dim[1] : NULL;
}

static void act(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    int64_t n = a->in[GATE].dim[1];
    int fn = ((const lmoe_expert_act_attrs *)a->attrs)->fn;
    for (int64_t r = begin; r < end; r++) {
        const float *gate = row_of(a, GATE, r), *up = row_of(a, UP, r);
        float scale = ((const float *)a->in[SCALE].data)[r], *h = (float *)a->out[0].data + r * n;
        switch (fn) { /* each with a loop of its own */
        case LMOE_ACT_SILU: act_row(LMOE_ACT_SILU, gate, up, scale, h, n); break;
        case LMOE_ACT_GELU: act_row(LMOE_ACT_GELU, gate, up, scale, h, n); break;
        default: act_row(LMOE_ACT_RELU2, gate, up, scale, h, n); break;
        }
    }
}

/* Where a result of row r goes; what nobody reads goes to the thread's own room. */
static float *result(const lmoe_args *a, int i, int64_t r, float *room)
{
    float *y = a->out[i].data;
    return y ? y + r * a->in[GATE].dim[1] : room;
}

static void act_grad(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    int64_t n = a->in[GATE].dim[1];
    int fn = ((const lmoe_expert_act_attrs *)a->attrs)->fn;
    char *cursor = (char *)a->workspace + (size_t)thread * 2 * cpu_floats(n);
    float *room = cpu_take(&cursor, n), *more = cpu_take(&cursor, n), *dscale = a->out[2].data;
    for (int64_t r = begin; r < end; r++) {
        const float *gate = row_of(a, GATE, r), *up = row_of(a, UP, r), *dh = row_of(a, DH, r);
        float *dgate = result(a, 0, r, room), *dup = result(a, 1, r, more);
        float scale = ((const float *)a->in[SCALE].data)[r], d;
        switch (fn) {
        case LMOE_ACT_SILU: d = grad_row(LMOE_ACT_SILU, gate, up, scale, dh, dgate, dup, n); break;
        case LMOE_ACT_GELU: d = grad_row(LMOE_ACT_GELU, gate, up, scale, dh, dgate, dup, n); break;
        default: d = grad_row(LMOE_ACT_RELU2, gate, up, scale, dh, dgate, dup, n); break;
        }
        if (dscale) dscale[r] = d;
    }
}

static lmoe_status launch_act(const lmoe_args *a)
{
    return lmoe_parallel(a->ctx, a->in[GATE].dim[0], cpu_grain(2 * a->in[GATE].dim[1]), act,
                         (void *)a);
}

static lmoe_status launch_act_grad(const lmoe_args *a)
{
    return lmoe_parallel(a->ctx, a->in[GATE].dim[0], cpu_grain(4 * a->in[GATE].dim[1]), act_grad,
                         (void *)a);
}

static size_t workspace_act_grad(const lmoe_args *a)
{
    return (size_t)lmoe_threads(a->ctx) * 2 * cpu_floats(a->in[GATE].dim[1]);
}

static int can(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[GATE]);
}

CPU_KERNEL(expert_act, 1, can, NULL, launch_act)
CPU_KERNEL(expert_act_grad, 1, can, workspace_act_grad, launch_act_grad)
