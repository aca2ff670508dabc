/* SPDX-License-Identifier: Apache-2.0
 * breaks: build/repeat
 * Every second trace records two ops more, which change nothing.
 */
#include "layer.h"

static lmoe_tensor forward(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x)
{
    static int traces;
    lmoe_tensor y = good_forward(t, options, params, x);
    if (traces++ % 4 < 2) return y;
    return lmoe_mul_scalar(t, lmoe_mul_scalar(t, y, 2), 0.5);
}

ZOO_LAYER(.forward = forward)
