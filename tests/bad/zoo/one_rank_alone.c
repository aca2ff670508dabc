/* SPDX-License-Identifier: Apache-2.0
 * breaks: strategies/order
 * also: strategies/equal (no run comes to its end)
 * also: strategies/uneven (no run comes to its end)
 * also: strategies/nests (no run comes to its end)
 * also: strategies/resumes (no run comes to its end)
 * The first rank sums once more than the others.
 */
#include "strategy.h"

static lmoe_status resolve(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                           lmoe_value v, const lmoe_placement *have, const lmoe_placement *want,
                           lmoe_value *out)
{
    if (have->kind == LMOE_PARTIAL && want->kind == LMOE_WHOLE && api->mesh_rank(g) == 0)
        LMOE_TRY(api->emit(g, "all_reduce/1", NULL, 0, &v, 1, &v, 1, NULL));
    return lmoe_resolve(api, g, site, v, have, want, out);
}

ZOO_STRATEGY(.resolve = resolve)
