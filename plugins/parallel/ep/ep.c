/* SPDX-License-Identifier: Apache-2.0
 * plugins/parallel/ep/ep.c: expert parallelism: the batch is split outside of the experts, the
 * experts inside.
 *
 * Each rank sorts the rows of its own tokens by expert. They travel to the ranks that hold the
 * experts (all-to-all), are multiplied there, and travel back; so do their gradients. There is room
 * for all rows on every rank, so none is dropped, however the router chooses. An expert's gradient is
 * complete where the expert is; all others are summed as under data parallelism.
 */
#include <lmoe/graph.h>
#include <lmoe/plugin.h>

static lmoe_status place(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                         const char *name, const lmoe_desc *desc, lmoe_placement *out)
{
    if (lmoe_of_weight(kind, name) && desc->rank > 1 && strcmp(desc->axis[0], "expert") == 0) {
        out->kind = LMOE_SPLIT;
        out->dim = 0;
        return LMOE_OK;
    }
    return lmoe_place_inputs(kind, desc, "batch", out);
}

static const lmoe_strategy strategy = {
    .base = {sizeof(lmoe_strategy), LMOE_KIND_STRATEGY, "parallel/ep",
             "Expert parallelism: tokens travel to the ranks that hold their experts.", NULL, 0,
             LMOE_STRATEGY_EXPERTS},
    .place = place,
    .resolve = lmoe_resolve,
};
static const lmoe_class *const classes[] = {&strategy.base, NULL};

LMOE_PLUGIN(.id = "parallel/ep", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
