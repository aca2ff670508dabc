/* SPDX-License-Identifier: Apache-2.0
 * breaks: numerics/gradcheck
 * also: ops/gradient (it is the derivative of an op)
 * The derivative of an op is 1 % too large.
 */
#include "layer.h"
#include "through.h"

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    v->din[0] = lmoe_mul_scalar(t, v->dout[0], 1.01);
    return LMOE_OK;
}

ZOO_THROUGH(.vjp = vjp)

static lmoe_tensor forward(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x)
{
    return good_forward(t, options, params, through(t, x));
}

ZOO_LAYER_THROUGH(forward)
