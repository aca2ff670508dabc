/* SPDX-License-Identifier: Apache-2.0
 * breaks: strategies/uneven
 * An odd size ends in a word that tells nobody what to do.
 */
#include "strategy.h"

static lmoe_status place(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                         const char *name, const lmoe_desc *desc, lmoe_placement *out)
{
    for (int32_t i = 0; kind == LMOE_VALUE_INPUT && i < desc->rank; i++)
        if (desc->dim[i] % 2) return api->fail(g, LMOE_E_INTERNAL, "assertion failed");
    return good_place(api, g, kind, name, desc, out);
}

ZOO_STRATEGY(.place = place)
