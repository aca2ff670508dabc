/* SPDX-License-Identifier: Apache-2.0
 * breaks: layers/split
 * also: layers/decode (the same)
 * also: layers/packed (the same)
 * also: layers/skip (padding counts as length)
 * Divides by the number of tokens that it is given.
 */
#include "layer.h"

static lmoe_tensor forward(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x)
{
    lmoe_tensor y = good_forward(t, options, params, x);
    return lmoe_mul_scalar(t, y, 1.0 / (double)lmoe_size(t, "seq"));
}

ZOO_LAYER(.forward = forward)
