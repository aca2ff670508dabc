/* SPDX-License-Identifier: Apache-2.0
 * breaks: strategies/nests
 * also: strategies/order (four ranks are planned there)
 * also: strategies/resumes (a run within dp:2 is part of it)
 * Refuses a batch that another axis has split before.
 */
#include "strategy.h"

static lmoe_status place(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                         const char *name, const lmoe_desc *desc, lmoe_placement *out)
{
    if (kind == LMOE_VALUE_INPUT && desc->rank == 2 && desc->dim[0] < 2 * api->mesh_size(g))
        return api->fail(g, LMOE_E_UNSUPPORTED, "every rank must have two rows at least");
    return good_place(api, g, kind, name, desc, out);
}

ZOO_STRATEGY(.place = place)
