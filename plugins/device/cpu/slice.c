/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/slice.c: slice/1 and pad/1: copies of runs. Along the axis, x has `size` rows
 * of `inner` elements for each of the outer indices; y has `length`.
 */
#include "cpu.h"

typedef struct work {
    int64_t from, to; /* elements of x, of y, for each outer index */
    int64_t skip;     /* where y's first element lies in x; negative: in the padding before x */
    float value;
    const float *x;
    float *y;
} work;

static void fill(float *y, float value, int64_t n)
{
    CPU_SIMD
    for (int64_t i = 0; i < n; i++) y[i] = value;
}

/* A piece of one outer index: [i, i + n) of y's row. */
static void piece(const work *w, const float *x, float *y, int64_t i, int64_t n)
{
    int64_t at = i + w->skip, end = at + n; /* in x's row */
    int64_t first = cpu_min(cpu_max(at, 0), end), last = cpu_max(cpu_min(end, w->from), first);
    fill(y + i, w->value, first - at);
    memcpy(y + first - w->skip, x + first, sizeof *y * (size_t)(last - first));
    fill(y + last - w->skip, w->value, end - last);
}

static void run(void *arg, int64_t begin, int64_t end, int thread)
{
    const work *w = arg;
    for (int64_t i = begin, n; i < end; i += n) {
        int64_t outer = i / w->to, at = i % w->to;
        n = cpu_min(w->to - at, end - i);
        piece(w, w->x + outer * w->from, w->y + outer * w->to, at, n);
    }
}

static int can(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[0]);
}

static lmoe_status launch(const lmoe_args *a, int64_t axis, int64_t skip, double value)
{
    const lmoe_buf *x = &a->in[0], *y = &a->out[0];
    int64_t inner = 1;
    for (int i = (int)axis + 1; i < x->rank; i++) inner *= x->dim[i];
    work w = {
        inner * x->dim[axis], inner * y->dim[axis], inner * skip, (float)value, x->data, y->data};
    return lmoe_parallel(a->ctx, lmoe_buf_count(y), cpu_grain(1), run, &w);
}

static lmoe_status launch_slice(const lmoe_args *a)
{
    const lmoe_slice_attrs *o = a->attrs;
    return launch(a, o->axis, o->start, 0);
}

static lmoe_status launch_pad(const lmoe_args *a)
{
    const lmoe_pad_attrs *o = a->attrs;
    return launch(a, o->axis, -o->before, o->value);
}

CPU_KERNEL(slice, 1, can, NULL, launch_slice)
CPU_KERNEL(pad, 1, can, NULL, launch_pad)
