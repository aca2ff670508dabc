/* SPDX-License-Identifier: Apache-2.0
 * plugins/parallel/ring/ring.c: sequence parallelism by handing carries from rank to rank.
 */
#include <lmoe/plugin.h>
#include <lmoe/sequence.h>

static lmoe_status place(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                         const char *name, const lmoe_desc *desc, lmoe_placement *out)
{
    return lmoe_place_inputs(kind, desc, "seq", out);
}

static lmoe_status carry(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                         lmoe_value *out)
{
    return lmoe_emit_hand_over(api, g, site, 1, out);
}

static const lmoe_strategy strategy = {
    .base = {sizeof(lmoe_strategy), LMOE_KIND_STRATEGY, "parallel/ring",
             "Splits the sequence, hands carries from rank to rank.", NULL, 0, 0},
    .place = place,
    .resolve = lmoe_resolve,
    .carry = carry,
    .carried = lmoe_carried,
};
static const lmoe_class *const classes[] = {&strategy.base, NULL};

LMOE_PLUGIN(.id = "parallel/ring", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
