/* SPDX-License-Identifier: Apache-2.0
 * plugins/parallel/dp/dp.c: data parallelism: each rank has its part of the batch, weights are
 * whole on every rank.
 *
 * Nothing else needs to be said: gradients of weights sum over the batch, so they come out partial,
 * and what leaves the graph must be whole, so they are all-reduced.
 */
#include <lmoe/graph.h>
#include <lmoe/plugin.h>

static lmoe_status place(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                         const char *name, const lmoe_desc *desc, lmoe_placement *out)
{
    return lmoe_place_inputs(kind, desc, "batch", out);
}

static const lmoe_strategy strategy = {
    .base = {sizeof(lmoe_strategy), LMOE_KIND_STRATEGY, "parallel/dp",
             "Data parallelism: splits the batch, sums gradients.", NULL, 0, 0},
    .place = place,
    .resolve = lmoe_resolve,
};
static const lmoe_class *const classes[] = {&strategy.base, NULL};

LMOE_PLUGIN(.id = "parallel/dp", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
