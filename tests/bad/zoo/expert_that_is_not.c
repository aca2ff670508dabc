/* SPDX-License-Identifier: Apache-2.0
 * breaks: routers/identity
 * also: routers/choices (it looks at the numbers of experts)
 * In evaluation it may choose an expert that there is not.
 */
#include "router.h"

static lmoe_status route(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x,
                         lmoe_routing *out)
{
    if (lmoe_size(t, "training") == 1) return good_route(t, options, params, x, out);
    lmoe_tensor twice = lmoe_cast(t, lmoe_iota(t, "copy", 2, 1.0, 0.5), lmoe_state_dtype(t));
    lmoe_tensor all = lmoe_einsum(t, "b s x, g -> b s g x", good_logits(t, params, x), twice);
    lmoe_tensor probs = lmoe_softmax(t, lmoe_merge_axes(t, all, "copy", "expert"));
    lmoe_tensor weight = lmoe_top_k(t, probs, lmoe_size(t, "top_k"), &out->index);
    out->weight = lmoe_route_normalise(t, weight);
    return LMOE_OK;
}

ZOO_ROUTER(route)
