/* SPDX-License-Identifier: Apache-2.0
 * breaks: ops/gradient
 * Gives no gradient of w, which means that it is zero.
 */
#include "op.h"

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    LMOE_TRY(good_vjp(t, v));
    v->din[1] = lmoe_absent();
    return LMOE_OK;
}

ZOO_OP(.vjp = vjp)
