/* SPDX-License-Identifier: Apache-2.0
 * breaks: routers/capacity
 * In generation it states a capacity that it does not keep.
 */
#include "router.h"

static lmoe_status route(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x,
                         lmoe_routing *out)
{
    LMOE_TRY(good_route(t, options, params, x, out));
    if (lmoe_size(t, "generating") == 1) out->capacity = 1;
    return LMOE_OK;
}

ZOO_ROUTER(route)
