/* SPDX-License-Identifier: Apache-2.0
 * core/op/moe/capacity_ref.c: reference of moe_capacity/1: a choice is kept if fewer than `capacity`
 * others of its expert and sequence come before it.
 */
#include "core/op/op.h"

lmoe_status lmoe__moe_capacity_reference(const lmoe_args *args);

/* Slot a comes before slot b. */
static bool before(const lmoe_buf *score, int64_t a, int64_t b)
{
    double x = lmoe_buf_present(score) ? lmoe_get(score, a) : 0;
    double y = lmoe_buf_present(score) ? lmoe_get(score, b) : 0;
    return x > y || (x == y && a < b);
}

lmoe_status lmoe__moe_capacity_reference(const lmoe_args *args)
{
    const lmoe_moe_capacity_attrs *o = args->attrs;
    const lmoe_buf *index = &args->in[0], *score = &args->in[1], *kept = &args->out[0];
    int64_t slots = index->dim[1] * index->dim[2];
    for (int64_t slot = 0; slot < lmoe_buf_count(index); slot++) {
        int64_t first = slot / slots * slots, rank = 0, expert = (int64_t)lmoe_get(index, slot);
        for (int64_t other = first; other < first + slots; other++)
            rank += (int64_t)lmoe_get(index, other) == expert && before(score, other, slot);
        lmoe_put(kept, slot,
                 expert >= 0 && expert < o->experts && rank < o->capacity ? (double)expert : -1);
    }
    return LMOE_OK;
}
