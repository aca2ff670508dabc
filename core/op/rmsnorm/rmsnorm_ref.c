/* SPDX-License-Identifier: Apache-2.0
 * core/op/rmsnorm/rmsnorm_ref.c: row by row, with r = 1 / sqrt(mean(x^2) + eps) and n = x r:
 *
 *   y = n w s(g)                       s = silu
 *   du = dy w s(g)                     gradient of n
 *   dx = r (du - n mean(du n))
 *   dw = sum over rows of dy n s(g)
 *   dg = dy n w s'(g)
 */
#include "core/op/op.h"
#include "core/op/silu.h"

#include <math.h>
#include <stdlib.h>

lmoe_status lmoe__rmsnorm_reference(const lmoe_args *args);
lmoe_status lmoe__rmsnorm_grad_reference(const lmoe_args *args);

enum { X, WEIGHT, GATE, DY };

/* Factors of element i, which lies at place e of its row; 1 without weight or gate. */
static double weight_of(const lmoe_args *args, int64_t e)
{
    return lmoe_buf_present(&args->in[WEIGHT]) ? lmoe_get(&args->in[WEIGHT], e) : 1;
}

static double gate_of(const lmoe_args *args, int64_t i)
{
    if (!lmoe_buf_present(&args->in[GATE])) return 1;
    return lmoe__silu(lmoe_get(&args->in[GATE], i));
}

/* 1 / sqrt(mean(x^2) + eps) of the row that starts at element `first`. */
static double scale_of(const lmoe_args *args, int64_t first, int64_t width)
{
    const lmoe_rmsnorm_attrs *o = args->attrs;
    double sum = 0;
    for (int64_t e = 0; e < width; e++) {
        double x = lmoe_get(&args->in[X], first + e);
        sum += x * x;
    }
    return 1 / sqrt(sum / (double)width + o->eps);
}

lmoe_status lmoe__rmsnorm_reference(const lmoe_args *args)
{
    const lmoe_buf *x = &args->in[X];
    int64_t width = x->dim[x->rank - 1], count = lmoe_buf_count(x);
    for (int64_t first = 0; first < count; first += width) {
        double r = scale_of(args, first, width);
        for (int64_t e = 0; e < width; e++) {
            int64_t i = first + e;
            lmoe_put(&args->out[0], i, lmoe_get(x, i) * r * weight_of(args, e) * gate_of(args, i));
        }
    }
    return LMOE_OK;
}

/* dx and dgate of one row; adds its part of dweight. */
static void row_gradient(const lmoe_args *args, int64_t first, int64_t width, double *dweight)
{
    const lmoe_buf *x = &args->in[X], *dy = &args->in[DY];
    double r = scale_of(args, first, width), mean = 0;
    for (int64_t e = 0; e < width; e++) {
        int64_t i = first + e;
        double n = lmoe_get(x, i) * r, d = lmoe_get(dy, i);
        mean += d * weight_of(args, e) * gate_of(args, i) * n / (double)width;
        dweight[e] += d * n * gate_of(args, i);
    }
    for (int64_t e = 0; e < width; e++) {
        int64_t i = first + e;
        double n = lmoe_get(x, i) * r, d = lmoe_get(dy, i), w = weight_of(args, e);
        if (lmoe_buf_present(&args->out[0]))
            lmoe_put(&args->out[0], i, r * (d * w * gate_of(args, i) - n * mean));
        if (lmoe_buf_present(&args->out[2])) {
            double g = lmoe_get(&args->in[GATE], i);
            lmoe_put(&args->out[2], i, d * n * w * lmoe__silu_slope(g));
        }
    }
}

lmoe_status lmoe__rmsnorm_grad_reference(const lmoe_args *args)
{
    const lmoe_buf *x = &args->in[X];
    int64_t width = x->dim[x->rank - 1], count = lmoe_buf_count(x);
    double *dweight = calloc((size_t)width, sizeof *dweight);
    if (!dweight) return lmoe_error(args->ctx, LMOE_E_MEMORY, "rmsnorm_grad: out of memory");
    for (int64_t first = 0; first < count; first += width)
        row_gradient(args, first, width, dweight);
    for (int64_t e = 0; e < width && lmoe_buf_present(&args->out[1]); e++)
        lmoe_put(&args->out[1], e, dweight[e]);
    free(dweight);
    return LMOE_OK;
}
