/* SPDX-License-Identifier: Apache-2.0
 * core/op/moe/moe_ref.c: references of moe_sort/1, moe_gather/1, moe_combine/1, moe_weight/1 and
 * their derivatives; the equations stand in moe.c.
 */
#include "core/op/op.h"

lmoe_status lmoe__moe_sort_reference(const lmoe_args *args);
lmoe_status lmoe__moe_gather_reference(const lmoe_args *args);
lmoe_status lmoe__moe_combine_reference(const lmoe_args *args);
lmoe_status lmoe__moe_combine_grad_reference(const lmoe_args *args);
lmoe_status lmoe__moe_weight_reference(const lmoe_args *args);
lmoe_status lmoe__moe_weight_grad_reference(const lmoe_args *args);

/* Experts in turn, slots in turn: sorted, and stable, by construction. */
lmoe_status lmoe__moe_sort_reference(const lmoe_args *args)
{
    const lmoe_moe_sort_attrs *o = args->attrs;
    const lmoe_buf *index = &args->in[0];
    const lmoe_buf *order = &args->out[0], *offsets = &args->out[1], *position = &args->out[2];
    int64_t slots = lmoe_buf_count(index), row = 0;
    int64_t rows = lmoe_buf_present(order) ? order->dim[0] : slots;
    for (int64_t slot = 0; slot < slots; slot++) {
        int64_t expert = (int64_t)lmoe_get(index, slot);
        if (lmoe_buf_present(position)) lmoe_put(position, slot, -1);
        if (expert >= o->experts)
            return lmoe_error(args->ctx, LMOE_E_USAGE,
                              "moe_sort/1: choice %lld is expert %lld; there are %lld experts, "
                              "numbered from 0",
                              (long long)slot, (long long)expert, (long long)o->experts);
    }
    for (int64_t expert = 0; expert <= o->experts; expert++) {
        if (lmoe_buf_present(offsets)) lmoe_put(offsets, expert, (double)row);
        for (int64_t slot = 0; slot < slots; slot++) {
            if ((int64_t)lmoe_get(index, slot) != expert) continue;
            if (row == rows)
                return lmoe_error(args->ctx, LMOE_E_USAGE,
                                  "moe_sort/1: experts get more tokens than the capacity of %lld "
                                  "lets them have",
                                  (long long)o->capacity);
            if (lmoe_buf_present(order)) lmoe_put(order, row, (double)slot);
            if (lmoe_buf_present(position)) lmoe_put(position, slot, (double)row);
            row++;
        }
    }
    for (; lmoe_buf_present(order) && row < rows; row++) lmoe_put(order, row, -1);
    return LMOE_OK;
}

/* An element, or zero where order or position leads to none. */
static double element(const lmoe_buf *x, int64_t of, int64_t width, int64_t i)
{
    return of < 0 ? 0 : lmoe_get(x, of * width + i);
}

/* Token of a row; -1 for a row of nobody. */
static int64_t token_of(const lmoe_buf *order, int64_t row, int64_t choice)
{
    int64_t slot = (int64_t)lmoe_get(order, row);
    return slot < 0 ? -1 : slot / choice;
}

lmoe_status lmoe__moe_gather_reference(const lmoe_args *args)
{
    const lmoe_buf *x = &args->in[0], *order = &args->in[1], *rows = &args->out[0];
    int64_t choice = args->in[2].dim[2], embed = x->dim[2];
    for (int64_t r = 0; r < order->dim[0]; r++) {
        for (int64_t e = 0; e < embed; e++)
            lmoe_put(rows, r * embed + e, element(x, token_of(order, r, choice), embed, e));
    }
    return LMOE_OK;
}

lmoe_status lmoe__moe_combine_reference(const lmoe_args *args)
{
    const lmoe_buf *rows = &args->in[0], *position = &args->in[2], *weight = &args->in[3];
    bool weighted = args->n_in > 3 && lmoe_buf_present(weight);
    int64_t choice = position->dim[2], embed = rows->dim[1];
    int64_t tokens = position->dim[0] * position->dim[1];
    for (int64_t token = 0; token < tokens; token++) {
        for (int64_t e = 0; e < embed; e++) {
            double sum = 0;
            for (int64_t slot = token * choice; slot < (token + 1) * choice; slot++) {
                int64_t r = (int64_t)lmoe_get(position, slot);
                sum += (weighted ? lmoe_get(weight, slot) : 1) * element(rows, r, embed, e);
            }
            lmoe_put(&args->out[0], token * embed + e, sum);
        }
    }
    return LMOE_OK;
}

lmoe_status lmoe__moe_combine_grad_reference(const lmoe_args *args)
{
    const lmoe_buf *rows = &args->in[0], *order = &args->in[1], *position = &args->in[2];
    const lmoe_buf *weight = &args->in[3], *dy = &args->in[4];
    const lmoe_buf *drows = &args->out[0], *dweight = &args->out[1];
    int64_t choice = position->dim[2], embed = rows->dim[1];
    for (int64_t r = 0; lmoe_buf_present(drows) && r < order->dim[0]; r++) {
        double scale = element(weight, (int64_t)lmoe_get(order, r), 1, 0);
        for (int64_t e = 0; e < embed; e++)
            lmoe_put(drows, r * embed + e,
                     scale * element(dy, token_of(order, r, choice), embed, e));
    }
    for (int64_t slot = 0; lmoe_buf_present(dweight) && slot < lmoe_buf_count(position); slot++) {
        int64_t r = (int64_t)lmoe_get(position, slot);
        double dot = 0;
        for (int64_t e = 0; e < embed; e++)
            dot += element(rows, r, embed, e) * lmoe_get(dy, slot / choice * embed + e);
        lmoe_put(dweight, slot, dot);
    }
    return LMOE_OK;
}

lmoe_status lmoe__moe_weight_reference(const lmoe_args *args)
{
    const lmoe_buf *weight = &args->in[0], *order = &args->in[1];
    for (int64_t r = 0; r < order->dim[0]; r++)
        lmoe_put(&args->out[0], r, element(weight, (int64_t)lmoe_get(order, r), 1, 0));
    return LMOE_OK;
}

lmoe_status lmoe__moe_weight_grad_reference(const lmoe_args *args)
{
    const lmoe_buf *dy = &args->in[0], *position = &args->in[2];
    for (int64_t slot = 0; slot < lmoe_buf_count(position); slot++)
        lmoe_put(&args->out[0], slot, element(dy, (int64_t)lmoe_get(position, slot), 1, 0));
    return LMOE_OK;
}
