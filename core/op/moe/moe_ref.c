/* SPDX-License-Identifier: Apache-2.0
 * core/op/moe/moe_ref.c: references of moe_sort/1, moe_gather/1, moe_combine/1 and
 * moe_combine_grad/1; the equations stand in moe.c.
 */
#include "core/op/op.h"

lmoe_status lmoe__moe_sort_reference(const lmoe_args *args);
lmoe_status lmoe__moe_gather_reference(const lmoe_args *args);
lmoe_status lmoe__moe_combine_reference(const lmoe_args *args);
lmoe_status lmoe__moe_combine_grad_reference(const lmoe_args *args);

/* Experts in turn, slots in turn: sorted, and stable, by construction. */
lmoe_status lmoe__moe_sort_reference(const lmoe_args *args)
{
    const lmoe_moe_sort_attrs *o = args->attrs;
    const lmoe_buf *index = &args->in[0];
    const lmoe_buf *order = &args->out[0], *offsets = &args->out[1], *position = &args->out[2];
    int64_t slots = lmoe_buf_count(index), row = 0;
    for (int64_t slot = 0; slot < slots; slot++) {
        int64_t expert = (int64_t)lmoe_get(index, slot);
        if (expert < 0 || expert >= o->experts)
            return lmoe_error(args->ctx, LMOE_E_USAGE,
                              "moe_sort/1: choice %lld is expert %lld; there are %lld experts, "
                              "numbered from 0",
                              (long long)slot, (long long)expert, (long long)o->experts);
    }
    for (int64_t expert = 0; expert <= o->experts; expert++) {
        if (lmoe_buf_present(offsets)) lmoe_put(offsets, expert, (double)row);
        for (int64_t slot = 0; slot < slots; slot++) {
            if ((int64_t)lmoe_get(index, slot) != expert) continue;
            if (lmoe_buf_present(order)) lmoe_put(order, row, (double)slot);
            if (lmoe_buf_present(position)) lmoe_put(position, slot, (double)row);
            row++;
        }
    }
    return LMOE_OK;
}

lmoe_status lmoe__moe_gather_reference(const lmoe_args *args)
{
    const lmoe_buf *x = &args->in[0], *order = &args->in[1], *rows = &args->out[0];
    int64_t choice = args->in[2].dim[2], embed = x->dim[2];
    for (int64_t r = 0; r < order->dim[0]; r++) {
        int64_t token = (int64_t)lmoe_get(order, r) / choice;
        for (int64_t e = 0; e < embed; e++)
            lmoe_put(rows, r * embed + e, lmoe_get(x, token * embed + e));
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
                sum += (weighted ? lmoe_get(weight, slot) : 1) * lmoe_get(rows, r * embed + e);
            }
            lmoe_put(&args->out[0], token * embed + e, sum);
        }
    }
    return LMOE_OK;
}

lmoe_status lmoe__moe_combine_grad_reference(const lmoe_args *args)
{
    const lmoe_buf *rows = &args->in[0], *position = &args->in[2], *weight = &args->in[3];
    const lmoe_buf *dy = &args->in[4], *drows = &args->out[0], *dweight = &args->out[1];
    int64_t choice = position->dim[2], embed = rows->dim[1];
    for (int64_t slot = 0; slot < lmoe_buf_count(position); slot++) {
        int64_t r = (int64_t)lmoe_get(position, slot), token = slot / choice;
        double dot = 0;
        for (int64_t e = 0; e < embed; e++) {
            double d = lmoe_get(dy, token * embed + e);
            dot += lmoe_get(rows, r * embed + e) * d;
            if (lmoe_buf_present(drows)) lmoe_put(drows, r * embed + e, lmoe_get(weight, slot) * d);
        }
        if (lmoe_buf_present(dweight)) lmoe_put(dweight, slot, dot);
    }
    return LMOE_OK;
}
