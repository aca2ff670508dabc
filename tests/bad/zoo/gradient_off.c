/* SPDX-License-Identifier: Apache-2.0
 * breaks: ops/gradient
 * The gradient of x is wrong by 1 %.
 */
#include "op.h"

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    LMOE_TRY(good_vjp(t, v));
    if (v->want[0]) v->din[0] = lmoe_mul_scalar(t, v->din[0], 1.01);
    return LMOE_OK;
}

ZOO_OP(.vjp = vjp)
