/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/zoo/router.h: a router with nothing wrong: the top k of a softmax, divided by their sum,
 * and a balance loss.
 *
 *   ZOO_ROUTER(forward)            the plugin; forward as lmoe_router's
 *   ZOO_ROUTER_THROUGH(forward)    with the op of through.h
 */
#ifndef LMOE_ZOO_ROUTER_H
#define LMOE_ZOO_ROUTER_H

#include <lmoe/lmoe.h>
#include <lmoe/route.h>

typedef struct good_params {
    lmoe_tensor gate;
} good_params;

static lmoe_status good_declare(lmoe_trace *t, const void *options, void *params)
{
    ((good_params *)params)->gate = lmoe_route_gate(t);
    return LMOE_OK;
}

static lmoe_tensor good_logits(lmoe_trace *t, const void *params, lmoe_tensor x)
{
    return lmoe_route_logits(t, x, ((const good_params *)params)->gate);
}

/* logits: (batch seq expert) */
static lmoe_status good_choose(lmoe_trace *t, lmoe_tensor logits, lmoe_routing *out)
{
    lmoe_tensor probs = lmoe_softmax(t, logits);
    lmoe_tensor weight = lmoe_top_k(t, probs, lmoe_size(t, "top_k"), &out->index);
    out->weight = lmoe_route_normalise(t, weight);
    lmoe_route_loss(t, "aux_loss",
                    lmoe_route_share(t, probs, out->index, weight, LMOE_SCOPE_MICRO_BATCH), 0.01);
    return LMOE_OK;
}

static lmoe_status good_route(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x,
                              lmoe_routing *out)
{
    return good_choose(t, good_logits(t, params, x), out);
}

#define ZOO_ROUTER_CLASS(forward_)                                                    \
    static const lmoe_router zoo_router = {.base = {.size = sizeof(lmoe_router),      \
                                                    .kind = LMOE_KIND_ROUTER,         \
                                                    .name = "zoo.x/" ZOO,             \
                                                    .summary = "One thing is wrong.", \
                                                    .flags = LMOE_ROUTER_SUM_ONE},    \
                                           .params_size = sizeof(good_params),        \
                                           .params = good_declare,                    \
                                           .forward = forward_};
#define ZOO_ROUTER_PLUGIN                                                      \
    LMOE_PLUGIN(.id = "zoo.x/" ZOO, .version = "1.0", .licence = "Apache-2.0", \
                .classes = zoo_classes)

#define ZOO_ROUTER(forward_)                                                 \
    ZOO_ROUTER_CLASS(forward_)                                               \
    static const lmoe_class *const zoo_classes[] = {&zoo_router.base, NULL}; \
    ZOO_ROUTER_PLUGIN

#define ZOO_ROUTER_THROUGH(forward_)                                                            \
    ZOO_ROUTER_CLASS(forward_)                                                                  \
    static const lmoe_class *const zoo_classes[] = {&zoo_router.base, &zoo_through.base, NULL}; \
    ZOO_ROUTER_PLUGIN

#endif
