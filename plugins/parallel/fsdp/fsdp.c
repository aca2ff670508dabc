/* SPDX-License-Identifier: Apache-2.0
 * plugins/parallel/fsdp/fsdp.c: data parallelism with everything in parts (ZeRO stage 3, Rajbhandari
 * et al. 2020, arXiv 1910.02054; fully sharded data parallelism).
 *
 * Weights, gradients and optimiser states rest in parts. Where an op reads a weight beside tokens,
 * the tokens stay split and the weight is gathered, for one layer and direction at a time; its
 * gradient, which comes out partial, is reduced and scattered. What cannot be cut equally stays
 * whole.
 */
#include <lmoe/graph.h>
#include <lmoe/plugin.h>

static lmoe_status place(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                         const char *name, const lmoe_desc *desc, lmoe_placement *out)
{
    if (lmoe_of_weight(kind, name)) return lmoe_place_largest(desc, api->mesh_size(g), out);
    return lmoe_place_inputs(kind, desc, "batch", out);
}

static const lmoe_strategy strategy = {
    .base = {sizeof(lmoe_strategy), LMOE_KIND_STRATEGY, "parallel/fsdp",
             "Data parallelism; weights, gradients and optimiser states in parts.", NULL, 0, 0},
    .place = place,
    .resolve = lmoe_resolve,
};
static const lmoe_class *const classes[] = {&strategy.base, NULL};

LMOE_PLUGIN(.id = "parallel/fsdp", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
