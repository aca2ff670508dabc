/* SPDX-License-Identifier: Apache-2.0
 * breaks: nothing
 * The op and layer of which others are made.
 */
#include "layer.h"
#include "through.h"

ZOO_THROUGH()

static lmoe_tensor forward(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x)
{
    return good_forward(t, options, params, through(t, x));
}

ZOO_LAYER_THROUGH(forward)
