/* SPDX-License-Identifier: Apache-2.0
 * plugins/moe/switch/switch.c: the router of Switch Transformers (arXiv 2101.03961): each token to
 * one expert.
 *
 *   p = softmax(W x')    x' = x times random numbers near 1, in training
 *   expert = the largest p, with p as its weight
 *   balance loss = aux_loss * experts * sum_e f_e P_e
 */
#include <lmoe/lmoe.h>
#include <lmoe/route.h>

typedef struct switch_options {
    double aux_loss, z_loss, jitter;
    int32_t aux_scope;
} switch_options;

typedef struct switch_params {
    lmoe_tensor gate;
} switch_params;

static const lmoe_option options[] = {
    {"aux_loss", LMOE_OPTION_FLOAT, offsetof(switch_options, aux_loss), "0.01", 0, 100, NULL, NULL,
     "Weight of the load-balancing loss; 0: none."},
    {"aux_scope", LMOE_OPTION_ENUM, offsetof(switch_options, aux_scope), "micro_batch", 0, 0,
     "micro_batch sequence", NULL,
     "Means of the balance loss: over the micro-batch of all ranks, or over each sequence."},
    {"z_loss", LMOE_OPTION_FLOAT, offsetof(switch_options, z_loss), "0", 0, 100, NULL, NULL,
     "Weight of the loss that keeps the router's logits small; 0: none."},
    {"jitter", LMOE_OPTION_FLOAT, offsetof(switch_options, jitter), "0.01", 0, 1, NULL, NULL,
     "Training multiplies the router's input by random numbers of 1 - jitter ... 1 + jitter."},
    LMOE_OPTION_END};

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    switch_params *w = params;
    w->gate = lmoe_route_gate(t);
    return LMOE_OK;
}

static lmoe_status forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x,
                           lmoe_routing *out)
{
    const switch_options *o = opt;
    const switch_params *w = params;
    if (lmoe_size(t, "top_k") != 1) {
        lmoe_fail(t, "a token goes to one expert here; write [ffn] top_k = 1, or take moe/qwen2");
        return LMOE_E_CONFIG;
    }
    lmoe_tensor logits = lmoe_route_logits(t, lmoe_route_jitter(t, x, o->jitter), w->gate);
    lmoe_tensor probs = lmoe_softmax(t, logits);
    out->weight = lmoe_top_k(t, probs, 1, &out->index);
    if (o->aux_loss > 0)
        lmoe_route_loss(t, "aux_loss",
                        lmoe_route_share(t, probs, out->index, out->weight, o->aux_scope),
                        o->aux_loss * (double)lmoe_size(t, "experts"));
    if (o->z_loss > 0) lmoe_route_z_loss(t, logits, o->z_loss);
    return LMOE_OK;
}

static const lmoe_router router = {
    .base = {sizeof(lmoe_router), LMOE_KIND_ROUTER, "moe/switch",
             "Each token to one expert, with jitter and a balance loss.", options,
             sizeof(switch_options), LMOE_ROUTER_SUM_AT_MOST},
    .params_size = sizeof(switch_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&router.base, NULL};

LMOE_PLUGIN(.id = "moe/switch", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
