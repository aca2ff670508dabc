/* SPDX-License-Identifier: Apache-2.0
 * breaks: numerics/extremes
 * Divides each token by its norm, which may be 0.
 */
#include "layer.h"

static lmoe_tensor forward(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x)
{
    lmoe_tensor squares = lmoe_sum(t, "b s e -> b s", lmoe_mul(t, x, x));
    x = lmoe_div(t, x, lmoe_map(t, squares, LMOE_MAP_SQRT));
    return good_forward(t, options, params, x);
}

ZOO_LAYER(.forward = forward)
