/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/rmsnorm.c: rmsnorm/1 and its derivative, row by row.
 *
 *   r = 1 / sqrt(mean(x^2) + eps), n = x r, s = silu(gate)       y = n weight s
 *   dx = r (d - n mean(d n)) with d = dy weight s     dgate = dy n weight silu'(gate)
 *   dweight = sum over rows of dy n s
 *
 * Rows are cut into parts by their number alone; each part has a dweight of its own in the
 * workspace, and these are added up in order.
 */
#include "cpu.h"
#include "vec.h"

enum { X, WEIGHT, GATE, DY };
enum { MOST_PARTS = 256 };

typedef struct work {
    int64_t rows, width;
    double eps;
    const float *x, *weight, *gate, *dy;
    float *y, *dx, *dgate;
    int64_t parts, part_rows;
    float *partial, *dweight; /* partial: (part, width), then junk of the same size */
} work;

static float scale_of(const float *x, int64_t n, double eps)
{
    float sum = 0;
    CPU_SIMD_SUM(sum)
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    return (float)(1 / sqrt((double)sum / (double)n + eps));
}

CPU_INLINE void row(const work *w, int64_t at, int weighted, int gated)
{
    const float *x = w->x + at * w->width, *weight = w->weight;
    const float *gate = gated ? w->gate + at * w->width : NULL;
    float *y = w->y + at * w->width, r = scale_of(x, w->width, w->eps);
    CPU_SIMD
    for (int64_t i = 0; i < w->width; i++) {
        float n = x[i] * r;
        if (weighted) n *= weight[i];
        if (gated) n *= cpu_siluf(gate[i]);
        y[i] = n;
    }
}

static void run(void *arg, int64_t begin, int64_t end, int thread)
{
    const work *w = arg;
    for (int64_t at = begin; at < end; at++) {
        if (w->weight && w->gate)
            row(w, at, 1, 1);
        else if (w->weight)
            row(w, at, 1, 0);
        else if (w->gate)
            row(w, at, 0, 1);
        else
            row(w, at, 0, 0);
    }
}

/* dweight: of this part, added to; it takes the sums of dy n s also where there is no weight. junk:
 * a row for what nobody reads. */
CPU_INLINE void row_grad(const work *w, int64_t at, float *dweight, float *junk, int weighted,
                         int gated)
{
    const float *x = w->x + at * w->width, *dy = w->dy + at * w->width, *weight = w->weight;
    const float *gate = gated ? w->gate + at * w->width : NULL;
    float *dx = w->dx ? w->dx + at * w->width : junk;
    float *dgate = gated && w->dgate ? w->dgate + at * w->width : junk;
    float r = scale_of(x, w->width, w->eps), sum = 0;
    CPU_SIMD_SUM(sum)
    for (int64_t i = 0; i < w->width; i++) {
        float n = x[i] * r, d = dy[i];
        if (gated) {
            float t, s = cpu_sigmoid_pair(gate[i], &t), y = gate[i] * s;
            dgate[i] = d * n * (weighted ? weight[i] : 1.0f) * (s + y * t);
            d *= y;
        }
        dweight[i] += d * n;
        if (weighted) d *= weight[i];
        sum += d * n;
        dx[i] = d;
    }
    float mean = sum / (float)w->width;
    CPU_SIMD
    for (int64_t i = 0; i < w->width; i++) dx[i] = r * (dx[i] - x[i] * r * mean);
}

static void run_parts(void *arg, int64_t begin, int64_t end, int thread)
{
    const work *w = arg;
    for (int64_t part = begin; part < end; part++) {
        float *dweight = w->partial + part * w->width;
        float *junk = w->partial + (w->parts + part) * w->width;
        int64_t last = cpu_min(w->rows, (part + 1) * w->part_rows);
        memset(dweight, 0, sizeof(float) * (size_t)w->width);
        for (int64_t at = part * w->part_rows; at < last; at++) {
            if (w->weight && w->gate)
                row_grad(w, at, dweight, junk, 1, 1);
            else if (w->weight)
                row_grad(w, at, dweight, junk, 1, 0);
            else if (w->gate)
                row_grad(w, at, dweight, junk, 0, 1);
            else
                row_grad(w, at, dweight, junk, 0, 0);
        }
    }
}

static void add_parts(void *arg, int64_t begin, int64_t end, int thread)
{
    const work *w = arg;
    for (int64_t i = begin; i < end; i++) {
        double sum = 0;
        for (int64_t part = 0; part < w->parts; part++) sum += w->partial[part * w->width + i];
        w->dweight[i] = (float)sum;
    }
}

static int can(const lmoe_args *a)
{
    for (int i = 0; i < a->n_in; i++)
        if (lmoe_buf_present(&a->in[i]) && !cpu_is_f32(&a->in[i])) return 0;
    return 1;
}

/* In a row of one element the two terms of dx cancel: that takes the reference's doubles. */
static int can_grad(const lmoe_args *a)
{
    return can(a) && a->in[X].dim[a->in[X].rank - 1] > 1;
}

static work describe(const lmoe_args *a)
{
    const lmoe_rmsnorm_attrs *o = a->attrs;
    const lmoe_buf *x = &a->in[X];
    work w = {.eps = o->eps, .x = x->data, .weight = a->in[WEIGHT].data, .gate = a->in[GATE].data};
    w.width = x->dim[x->rank - 1];
    w.rows = lmoe_buf_count(x) / w.width;
    w.part_rows = (w.rows + MOST_PARTS - 1) / MOST_PARTS;
    w.parts = (w.rows + w.part_rows - 1) / w.part_rows;
    return w;
}

static lmoe_status launch(const lmoe_args *a)
{
    work w = describe(a);
    w.y = a->out[0].data;
    return lmoe_parallel(a->ctx, w.rows, cpu_grain(w.width), run, &w);
}

static size_t grad_workspace(const lmoe_args *a)
{
    work w = describe(a);
    return cpu_floats(2 * w.parts * w.width);
}

static lmoe_status launch_grad(const lmoe_args *a)
{
    work w = describe(a);
    w.dy = a->in[DY].data;
    w.dx = a->out[0].data;
    w.dweight = a->out[1].data;
    w.dgate = a->out[2].data;
    w.partial = a->workspace;
    LMOE_TRY(lmoe_parallel(a->ctx, w.parts, cpu_grain(w.part_rows * w.width), run_parts, &w));
    if (!w.dweight) return LMOE_OK;
    return lmoe_parallel(a->ctx, w.width, cpu_grain(w.parts), add_parts, &w);
}

CPU_KERNEL(rmsnorm, 1, can, NULL, launch)
CPU_KERNEL(rmsnorm_grad, 1, can_grad, grad_workspace, launch_grad)
