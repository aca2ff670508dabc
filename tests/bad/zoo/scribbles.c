/* SPDX-License-Identifier: Apache-2.0
 * breaks: numerics/recompute
 * also: ops/reference (it looks at the inputs of ops)
 * also: ops/rule (its inputs are read again)
 * also: ops/gradient (the same)
 * An op scribbles on its input when it has read it; who reads it again finds something else.
 */
#include "layer.h"
#include "through.h"

static lmoe_status reference(const lmoe_args *a)
{
    LMOE_TRY(through_reference(a));
    for (int64_t i = 0; i < lmoe_buf_count(&a->in[0]); i++)
        lmoe_put(&a->in[0], i, 0.9 * lmoe_get(&a->in[0], i));
    return LMOE_OK;
}

ZOO_THROUGH(.reference = reference)

static lmoe_tensor forward(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x)
{
    return good_forward(t, options, params, through(t, x));
}

ZOO_LAYER_THROUGH(forward)
