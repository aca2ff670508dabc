/* SPDX-License-Identifier: Apache-2.0
 * core/op/slice/slice_ref.c: element (o, i, j) of a tensor seen as (outer, axis, inner) comes from,
 * or goes to, place i + offset of the axis.
 */
#include "core/op/op.h"

lmoe_status lmoe__slice_reference(const lmoe_args *args);
lmoe_status lmoe__pad_reference(const lmoe_args *args);

static int64_t product(const lmoe_buf *x, int first, int end)
{
    int64_t n = 1;
    for (int i = first; i < end; i++) n *= x->dim[i];
    return n;
}

lmoe_status lmoe__slice_reference(const lmoe_args *args)
{
    const lmoe_slice_attrs *o = args->attrs;
    const lmoe_buf *x = &args->in[0], *y = &args->out[0];
    int axis = (int)o->axis;
    int64_t outer = product(x, 0, axis), inner = product(x, axis + 1, x->rank), n = x->dim[axis];
    for (int64_t k = 0; k < outer; k++) {
        for (int64_t i = 0; i < o->length; i++) {
            for (int64_t j = 0; j < inner; j++)
                lmoe_put(y, (k * o->length + i) * inner + j,
                         lmoe_get(x, (k * n + o->start + i) * inner + j));
        }
    }
    return LMOE_OK;
}

lmoe_status lmoe__pad_reference(const lmoe_args *args)
{
    const lmoe_pad_attrs *o = args->attrs;
    const lmoe_buf *x = &args->in[0], *y = &args->out[0];
    int axis = (int)o->axis;
    int64_t outer = product(x, 0, axis), inner = product(x, axis + 1, x->rank), n = x->dim[axis];
    int64_t padded = o->before + n + o->after;
    for (int64_t k = 0; k < outer; k++) {
        for (int64_t i = 0; i < padded; i++) {
            bool inside = i >= o->before && i < o->before + n;
            for (int64_t j = 0; j < inner; j++)
                lmoe_put(y, (k * padded + i) * inner + j,
                         inside ? lmoe_get(x, (k * n + i - o->before) * inner + j) : o->value);
        }
    }
    return LMOE_OK;
}
