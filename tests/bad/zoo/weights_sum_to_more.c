/* SPDX-License-Identifier: Apache-2.0
 * breaks: routers/choices
 * also: routers/ties (weights are looked at there too)
 * The weights of a token sum to 1.01.
 */
#include "router.h"

static lmoe_status route(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x,
                         lmoe_routing *out)
{
    LMOE_TRY(good_route(t, options, params, x, out));
    out->weight = lmoe_mul_scalar(t, out->weight, 1.01);
    return LMOE_OK;
}

ZOO_ROUTER(route)
