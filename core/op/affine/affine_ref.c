/* SPDX-License-Identifier: Apache-2.0
 * core/op/affine/affine_ref.c: y = scale * x + shift.
 */
#include "core/op/op.h"

lmoe_status lmoe__affine_reference(const lmoe_args *args);

lmoe_status lmoe__affine_reference(const lmoe_args *args)
{
    const lmoe_affine_attrs *o = args->attrs;
    for (int64_t i = 0; i < lmoe_buf_count(&args->in[0]); i++)
        lmoe_put(&args->out[0], i, o->scale * lmoe_get(&args->in[0], i) + o->shift);
    return LMOE_OK;
}
