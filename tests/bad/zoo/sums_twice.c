/* SPDX-License-Identifier: Apache-2.0
 * breaks: strategies/resumes
 * also: strategies/equal (gradients are wrong everywhere)
 * also: strategies/uneven (the same)
 * also: strategies/nests (the same)
 * All ranks sum what is a sum already.
 */
#include "strategy.h"

static lmoe_status resolve(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                           lmoe_value v, const lmoe_placement *have, const lmoe_placement *want,
                           lmoe_value *out)
{
    if (have->kind == LMOE_PARTIAL && want->kind == LMOE_WHOLE)
        LMOE_TRY(api->emit(g, "all_reduce/1", NULL, 0, &v, 1, &v, 1, NULL));
    return lmoe_resolve(api, g, site, v, have, want, out);
}

ZOO_STRATEGY(.resolve = resolve)
