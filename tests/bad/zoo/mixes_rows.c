/* SPDX-License-Identifier: Apache-2.0
 * breaks: layers/rows
 * A trace of the same token of all rows is in every result.
 */
#include "layer.h"

static lmoe_tensor forward(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x)
{
    lmoe_tensor y = good_forward(t, options, params, x);
    lmoe_tensor sum = lmoe_sum(t, "b s e -> s e", x), ones = lmoe_fill_like(t, x, 1.0);
    lmoe_tensor all = lmoe_einsum(t, "b s e, s e -> b s e", ones, sum);
    return lmoe_add(t, y, lmoe_mul_scalar(t, all, 1e-6));
}

ZOO_LAYER(.forward = forward)
