/* SPDX-License-Identifier: Apache-2.0
 * core/op/moe/grouped_ref.c: references of grouped_linear/1 and grouped_weight_grad/1; the
 * equations stand in grouped.c.
 */
#include "core/op/op.h"

lmoe_status lmoe__grouped_linear_reference(const lmoe_args *args);
lmoe_status lmoe__grouped_weight_grad_reference(const lmoe_args *args);

/* Offsets rise from 0 and stay within the rows. */
static lmoe_status check_offsets(const lmoe_args *args, const char *op)
{
    const lmoe_buf *offsets = &args->in[2];
    int64_t rows = args->in[0].dim[0], before = 0;
    for (int64_t i = 0; i < offsets->dim[0]; i++) {
        int64_t at = (int64_t)lmoe_get(offsets, i);
        if (at < before || at > rows || (i == 0 && at != 0))
            return lmoe_error(args->ctx, LMOE_E_USAGE,
                              "%s: offset %lld is %lld; offsets must rise from 0 to at most the "
                              "%lld rows",
                              op, (long long)i, (long long)at, (long long)rows);
        before = at;
    }
    return LMOE_OK;
}

lmoe_status lmoe__grouped_linear_reference(const lmoe_args *args)
{
    const lmoe_grouped_attrs *o = args->attrs;
    const lmoe_buf *rows = &args->in[0], *weight = &args->in[1], *offsets = &args->in[2];
    const lmoe_buf *y = &args->out[0];
    const int64_t n_e = rows->dim[1], n_f = y->dim[1], experts = weight->dim[0];
    LMOE_TRY(check_offsets(args, "grouped_linear/1"));
    int64_t x = 0; /* expert of row r; `experts`: of nobody */
    for (int64_t r = 0; r < rows->dim[0]; r++) {
        while (x < experts && r >= (int64_t)lmoe_get(offsets, x + 1)) x++;
        for (int64_t f = 0; f < n_f; f++) {
            double sum = 0;
            for (int64_t e = 0; x < experts && e < n_e; e++) {
                int64_t at = o->transpose ? f * n_e + e : e * n_f + f;
                sum += lmoe_get(rows, r * n_e + e) * lmoe_get(weight, x * n_e * n_f + at);
            }
            lmoe_put(y, r * n_f + f, sum);
        }
    }
    return LMOE_OK;
}

lmoe_status lmoe__grouped_weight_grad_reference(const lmoe_args *args)
{
    const lmoe_buf *rows = &args->in[0], *drows = &args->in[1], *offsets = &args->in[2];
    const lmoe_buf *dweight = &args->out[0];
    const int64_t n_e = rows->dim[1], n_f = drows->dim[1];
    LMOE_TRY(check_offsets(args, "grouped_weight_grad/1"));
    for (int64_t x = 0; x < dweight->dim[0]; x++) {
        int64_t begin = (int64_t)lmoe_get(offsets, x), end = (int64_t)lmoe_get(offsets, x + 1);
        for (int64_t i = 0; i < n_e * n_f; i++) {
            int64_t e = i / n_f, f = i % n_f;
            double sum = 0;
            for (int64_t r = begin; r < end; r++)
                sum += lmoe_get(rows, r * n_e + e) * lmoe_get(drows, r * n_f + f);
            lmoe_put(dweight, x * n_e * n_f + i, sum);
        }
    }
    return LMOE_OK;
}
