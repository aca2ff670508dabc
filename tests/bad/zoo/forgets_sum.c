/* SPDX-License-Identifier: Apache-2.0
 * breaks: strategies/equal
 * also: strategies/uneven (gradients are wrong everywhere)
 * also: strategies/nests (gradients are wrong everywhere)
 * also: strategies/resumes (gradients are wrong everywhere)
 * Takes one rank's part of a sum for the sum.
 */
#include "strategy.h"

static lmoe_status resolve(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                           lmoe_value v, const lmoe_placement *have, const lmoe_placement *want,
                           lmoe_value *out)
{
    if (have->kind == LMOE_PARTIAL && want->kind == LMOE_WHOLE) {
        *out = v;
        return LMOE_OK;
    }
    return lmoe_resolve(api, g, site, v, have, want, out);
}

ZOO_STRATEGY(.resolve = resolve)
