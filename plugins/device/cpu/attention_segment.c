/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/attention_segment.c: what sequence parallelism needs of attention, beside
 * attention_grad_summary (attention_grad.c): keys, values and positions of segments side by side,
 * and the sums of what later segments add to the gradients of one's keys.
 */
#include "cpu.h"

/* Elements of one segment of one sequence in x, whose first axes are the segments (all of them
 * multiplied). */
static int64_t each(const lmoe_buf *x, int64_t segments)
{
    return lmoe_buf_count(x) / segments;
}

/* ---- summary: k, v, positions, skip -> keys, values, key_positions (-1: never seen) ---- */

static void run_summary(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    int64_t batch = a->in[2].dim[0], seq = a->in[2].dim[1];
    int none = ((const lmoe_attention_attrs *)a->attrs)->past; /* nothing is left to later ones */
    for (int64_t b = begin; b < end; b++) {
        for (int m = 0; m < 2; m++) {
            int64_t n = each(&a->in[m], batch);
            if (lmoe_buf_present(&a->out[m]))
                memcpy((float *)a->out[m].data + b * n, (const float *)a->in[m].data + b * n,
                       sizeof(float) * (size_t)n);
        }
        if (!lmoe_buf_present(&a->out[2])) continue;
        const int32_t *from = (const int32_t *)a->in[2].data + b * seq;
        const uint8_t *skip = a->in[3].data;
        int32_t *to = (int32_t *)a->out[2].data + b * seq;
        for (int64_t s = 0; s < seq; s++)
            to[s] = none || (skip && skip[b * seq + s]) ? -1 : from[s];
    }
}

static lmoe_status launch_summary(const lmoe_args *a)
{
    int64_t batch = a->in[2].dim[0];
    return lmoe_parallel(a->ctx, batch, cpu_grain(each(&a->in[0], batch)), run_summary, (void *)a);
}

static int can(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[0]) && cpu_is_f32(&a->in[1]);
}

CPU_KERNEL(attention_summary, 1, can, NULL, launch_summary)

/* ---- combine: (rank batch seq ...) -> (batch rank seq ...); segments from `rank` on are hidden ---- */

static void run_combine(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    const lmoe_combine_attrs *o = a->attrs;
    int64_t batch = a->in[2].dim[1];
    for (int64_t i = begin; i < end; i++) {
        int64_t r = i / batch, to = i % batch * o->ranks + r;
        for (int m = 0; m < 3; m++) { /* four bytes an element, floats and positions alike */
            int64_t n = each(&a->in[m], o->ranks * batch);
            if (!lmoe_buf_present(&a->out[m])) continue;
            int32_t *x = (int32_t *)a->out[m].data + to * n;
            if (m < 2 || r < o->rank)
                memcpy(x, (const int32_t *)a->in[m].data + i * n, sizeof *x * (size_t)n);
            else
                memset(x, -1, sizeof *x * (size_t)n);
        }
    }
}

static lmoe_status launch_combine(const lmoe_args *a)
{
    int64_t segments = ((const lmoe_combine_attrs *)a->attrs)->ranks * a->in[2].dim[1];
    return lmoe_parallel(a->ctx, segments, cpu_grain(each(&a->in[0], segments)), run_combine,
                         (void *)a);
}

CPU_KERNEL(attention_combine, 1, can, NULL, launch_combine)

/* ---- grad_combine: (rank batch rank seq ...) -> (batch seq ...), sums over later ranks ---- */

static void run_grad_combine(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    const lmoe_combine_attrs *o = a->attrs;
    int64_t batch = a->in[0].dim[1];
    for (int64_t b = begin; b < end; b++) {
        for (int m = 0; m < 2; m++) {
            int64_t n = each(&a->in[m], o->ranks * batch * o->ranks);
            if (!lmoe_buf_present(&a->out[m])) continue;
            float *restrict to = (float *)a->out[m].data + b * n;
            memset(to, 0, sizeof *to * (size_t)n);
            for (int64_t r = o->rank + 1; r < o->ranks; r++) {
                const float *restrict from =
                    (const float *)a->in[m].data + ((r * batch + b) * o->ranks + o->rank) * n;
                CPU_SIMD
                for (int64_t i = 0; i < n; i++) to[i] += from[i];
            }
        }
    }
}

static lmoe_status launch_grad_combine(const lmoe_args *a)
{
    const lmoe_combine_attrs *o = a->attrs;
    int64_t batch = a->in[0].dim[1], work = each(&a->in[0], batch * o->ranks);
    return lmoe_parallel(a->ctx, batch, cpu_grain(work), run_grad_combine, (void *)a);
}

CPU_KERNEL(attention_grad_combine, 1, can, NULL, launch_grad_combine)
