/* SPDX-License-Identifier: Apache-2.0
 * breaks: numerics/repeat
 * also: numerics/recompute (two runs are compared there too)
 * In long sequences the result depends on how often the op has run.
 */
#include "layer.h"
#include "through.h"

static lmoe_status reference(const lmoe_args *a)
{
    static int calls;
    int other = a->in[0].dtype == LMOE_F32 && a->in[0].dim[1] > 20 ? calls++ / 2 % 5 : 0;
    for (int64_t i = 0; i < lmoe_buf_count(&a->in[0]); i++)
        lmoe_put(&a->out[0], i, lmoe_get(&a->in[0], i) * (1 + 3e-7 * other));
    return LMOE_OK;
}

ZOO_THROUGH(.reference = reference)

static lmoe_tensor forward(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x)
{
    if (lmoe_size(t, "training") != 1) return good_forward(t, options, params, x);
    return good_forward(t, options, params, through(t, x));
}

ZOO_LAYER_THROUGH(forward)
