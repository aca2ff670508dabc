/* SPDX-License-Identifier: Apache-2.0
 * breaks: routers/permuted
 * Later tokens are surer of their experts.
 */
#include "router.h"

static lmoe_status route(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x,
                         lmoe_routing *out)
{
    lmoe_tensor logits = good_logits(t, params, x);
    lmoe_tensor place = lmoe_iota(t, "seq", lmoe_size(t, "seq"), 1.0, 0.1);
    return good_choose(
        t, lmoe_einsum(t, "b s x, s -> b s x", logits, lmoe_cast(t, place, lmoe_state_dtype(t))),
        out);
}

ZOO_ROUTER(route)
