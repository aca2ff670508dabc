/* SPDX-License-Identifier: Apache-2.0
 * breaks: routers/all_to_one
 * also: routers/ties (tokens are equal there too)
 * also: numerics/extremes (the same)
 * also: numerics/fuzz (so is a token alone)
 * Divides by how much the loads of experts vary from "all to the same".
 */
#include "router.h"

static lmoe_status route(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x,
                         lmoe_routing *out)
{
    LMOE_TRY(good_route(t, options, params, x, out));
    double k = (double)lmoe_size(t, "top_k");
    double tokens = (double)(lmoe_size(t, "batch") * lmoe_size(t, "seq"));
    lmoe_tensor load = lmoe_histogram(t, out->index, lmoe_size(t, "experts"));
    lmoe_tensor same =
        lmoe_affine(t, lmoe_einsum(t, "x, x ->", load, load), -1.0, k * tokens * tokens);
    out->weight = lmoe_mul(t, out->weight, lmoe_div(t, same, same));
    return LMOE_OK;
}

ZOO_ROUTER(route)
