/* SPDX-License-Identifier: Apache-2.0
 * breaks: routers/choices
 * also: routers/ties (choices are looked at there too)
 * Chooses k + 1 experts.
 */
#include "router.h"

static lmoe_status route(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x,
                         lmoe_routing *out)
{
    lmoe_tensor probs = lmoe_softmax(t, good_logits(t, params, x));
    lmoe_tensor weight = lmoe_top_k(t, probs, lmoe_size(t, "top_k") + 1, &out->index);
    out->weight = lmoe_route_normalise(t, weight);
    return LMOE_OK;
}

ZOO_ROUTER(route)
