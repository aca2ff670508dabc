/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/zoo/strategy.h: a strategy with nothing wrong: each rank has its part of the batch.
 *
 *   ZOO_STRATEGY(.resolve = resolve)    later fields win
 */
#ifndef LMOE_ZOO_STRATEGY_H
#define LMOE_ZOO_STRATEGY_H

#include <lmoe/graph.h>
#include <lmoe/plugin.h>

static lmoe_status good_place(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                              const char *name, const lmoe_desc *desc, lmoe_placement *out)
{
    return lmoe_place_inputs(kind, desc, "batch", out);
}

#define ZOO_STRATEGY(...)                                                                  \
    static const lmoe_strategy zoo_strategy = {.base = {.size = sizeof(lmoe_strategy),     \
                                                        .kind = LMOE_KIND_STRATEGY,        \
                                                        .name = "zoo.x/" ZOO,              \
                                                        .summary = "One thing is wrong."}, \
                                               .place = good_place,                        \
                                               .resolve = lmoe_resolve,                    \
                                               ##__VA_ARGS__};                             \
    static const lmoe_class *const zoo_classes[] = {&zoo_strategy.base, NULL};             \
    LMOE_PLUGIN(.id = "zoo.x/" ZOO, .version = "1.0", .licence = "Apache-2.0",             \
                .classes = zoo_classes)

#endif
