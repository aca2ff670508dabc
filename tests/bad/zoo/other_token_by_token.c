/* SPDX-License-Identifier: Apache-2.0
 * breaks: layers/decode
 * also: layers/split (a piece may have one token)
 * Another factor when there is one token.
 */
#include "layer.h"

static lmoe_tensor forward(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x)
{
    lmoe_tensor y = good_forward(t, options, params, x);
    return lmoe_size(t, "seq") == 1 && lmoe_size(t, "context") > 0 ? lmoe_mul_scalar(t, y, 1.001)
                                                                   : y;
}

ZOO_LAYER(.forward = forward)
