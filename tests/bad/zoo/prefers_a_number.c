/* SPDX-License-Identifier: Apache-2.0
 * breaks: routers/relabelled
 * Experts of high numbers are favoured.
 */
#include "router.h"

static lmoe_status route(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x,
                         lmoe_routing *out)
{
    lmoe_tensor logits = good_logits(t, params, x);
    lmoe_tensor bonus = lmoe_iota(t, "expert", lmoe_size(t, "experts"), 0.0, 0.2);
    return good_choose(t, lmoe_add(t, logits, lmoe_cast(t, bonus, lmoe_state_dtype(t))), out);
}

ZOO_ROUTER(route)
