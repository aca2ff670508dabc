/* SPDX-License-Identifier: Apache-2.0
 * core/op/top_k/top_k_ref.c: references of top_k/1, gather_last/1 and scatter_last/1.
 *
 * top_k: elements of a row are ordered by value, largest first, then by index; NaN comes after all
 * numbers. The order is total, so the choices are different whatever the values are.
 */
#include "core/op/op.h"

#include <math.h>

lmoe_status lmoe__top_k_reference(const lmoe_args *args);
lmoe_status lmoe__gather_last_reference(const lmoe_args *args);
lmoe_status lmoe__scatter_last_reference(const lmoe_args *args);

/* Does element i of a row, of value x, come before element j, of value y? */
static bool comes_before(double x, int64_t i, double y, int64_t j)
{
    if (isnan(x) != isnan(y)) return isnan(y);
    if (x > y || x < y) return x > y;
    return i < j;
}

/* The first element in this order that comes after element `last` (-1: of all). */
static int64_t next_in_order(const lmoe_buf *x, int64_t row, int64_t n, int64_t last)
{
    int64_t best = -1;
    for (int64_t i = 0; i < n; i++) {
        double v = lmoe_get(x, row * n + i);
        if (last >= 0 && (i == last || comes_before(v, i, lmoe_get(x, row * n + last), last)))
            continue;
        if (best < 0 || comes_before(v, i, lmoe_get(x, row * n + best), best)) best = i;
    }
    return best;
}

lmoe_status lmoe__top_k_reference(const lmoe_args *args)
{
    const lmoe_buf *x = &args->in[0], *values = &args->out[0], *index = &args->out[1];
    const lmoe_top_k_attrs *o = args->attrs;
    int64_t n = x->dim[x->rank - 1], rows = lmoe_buf_count(x) / n;
    for (int64_t r = 0; r < rows; r++) {
        int64_t chosen = -1;
        for (int64_t j = 0; j < o->k; j++) {
            chosen = next_in_order(x, r, n, chosen);
            if (lmoe_buf_present(values))
                lmoe_put(values, r * o->k + j, lmoe_get(x, r * n + chosen));
            if (lmoe_buf_present(index)) lmoe_put(index, r * o->k + j, (double)chosen);
        }
    }
    return LMOE_OK;
}

lmoe_status lmoe__gather_last_reference(const lmoe_args *args)
{
    const lmoe_buf *x = &args->in[0], *index = &args->in[1];
    int64_t n = x->dim[x->rank - 1], k = index->dim[index->rank - 1];
    for (int64_t slot = 0; slot < lmoe_buf_count(index); slot++) {
        int64_t i = (int64_t)lmoe_get(index, slot);
        bool inside = i >= 0 && i < n;
        lmoe_put(&args->out[0], slot, inside ? lmoe_get(x, slot / k * n + i) : 0);
    }
    return LMOE_OK;
}

lmoe_status lmoe__scatter_last_reference(const lmoe_args *args)
{
    const lmoe_buf *x = &args->in[0], *index = &args->in[1], *y = &args->out[0];
    int64_t n = y->dim[y->rank - 1], k = index->dim[index->rank - 1];
    for (int64_t at = 0; at < lmoe_buf_count(y); at++) {
        int64_t row = at / n, i = at % n;
        double sum = 0;
        for (int64_t slot = row * k; slot < (row + 1) * k; slot++) {
            if ((int64_t)lmoe_get(index, slot) == i) sum += lmoe_get(x, slot);
        }
        lmoe_put(y, at, sum);
    }
    return LMOE_OK;
}
