/* SPDX-License-Identifier: Apache-2.0
 * plugins/parallel/zero1/zero1.c: data parallelism with the optimiser's states in parts (ZeRO stage
 * 1, Rajbhandari et al. 2020, arXiv 1910.02054).
 *
 * Gradients rest in parts too, so they are reduced and scattered, and each rank makes the step of
 * its part of every weight. The weights themselves are whole everywhere: the new parts are gathered.
 * What cannot be cut equally stays whole.
 */
#include <lmoe/graph.h>
#include <lmoe/plugin.h>

static lmoe_status place(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                         const char *name, const lmoe_desc *desc, lmoe_placement *out)
{
    if (kind != LMOE_VALUE_PARAM && lmoe_of_weight(kind, name))
        return lmoe_place_largest(desc, api->mesh_size(g), out);
    return lmoe_place_inputs(kind, desc, "batch", out);
}

static const lmoe_strategy strategy = {
    .base = {sizeof(lmoe_strategy), LMOE_KIND_STRATEGY, "parallel/zero1",
             "Data parallelism; gradients and optimiser states in parts.", NULL, 0, 0},
    .place = place,
    .resolve = lmoe_resolve,
};
static const lmoe_class *const classes[] = {&strategy.base, NULL};

LMOE_PLUGIN(.id = "parallel/zero1", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
