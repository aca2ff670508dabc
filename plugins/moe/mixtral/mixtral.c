/* SPDX-License-Identifier: Apache-2.0
 * plugins/moe/mixtral/mixtral.c: the router of Mixtral (arXiv 2401.04088): the top k, then softmax
 * over them.
 *
 *   l = W x    weights = softmax(the k largest of l)
 *   balance loss = aux_loss * experts * sum_e f_e P_e     P_e = mean of softmax(l)_e, f_e = choices
 *                  of expert e / tokens
 */
#include <lmoe/lmoe.h>
#include <lmoe/route.h>

typedef struct mixtral_options {
    double aux_loss, z_loss, jitter;
    int32_t aux_scope, jitter_on;
} mixtral_options;

typedef struct mixtral_params {
    lmoe_tensor gate;
} mixtral_params;

enum { ON_INPUT = 0, ON_LOGITS = 1 };

static const lmoe_option options[] = {
    {"aux_loss", LMOE_OPTION_FLOAT, offsetof(mixtral_options, aux_loss), "0.001", 0, 100, NULL,
     NULL, "Weight of the load-balancing loss; 0: none."},
    {"aux_scope", LMOE_OPTION_ENUM, offsetof(mixtral_options, aux_scope), "micro_batch", 0, 0,
     "micro_batch sequence", NULL,
     "Means of the balance loss: over the micro-batch of all ranks, or over each sequence."},
    {"z_loss", LMOE_OPTION_FLOAT, offsetof(mixtral_options, z_loss), "0", 0, 100, NULL, NULL,
     "Weight of the loss that keeps the router's logits small; 0: none."},
    {"jitter", LMOE_OPTION_FLOAT, offsetof(mixtral_options, jitter), "0", 0, 1, NULL, NULL,
     "Training multiplies by random numbers of 1 - jitter ... 1 + jitter."},
    {"jitter_on", LMOE_OPTION_ENUM, offsetof(mixtral_options, jitter_on), "input", 0, 0,
     "input logits", NULL,
     "What jitter multiplies: the router's input, or its logits as in the Linear-MoE release."},
    LMOE_OPTION_END};

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    mixtral_params *w = params;
    w->gate = lmoe_route_gate(t);
    return LMOE_OK;
}

static lmoe_status forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x,
                           lmoe_routing *out)
{
    const mixtral_options *o = opt;
    const mixtral_params *w = params;
    if (o->jitter_on == ON_INPUT) x = lmoe_route_jitter(t, x, o->jitter);
    lmoe_tensor logits = lmoe_route_logits(t, x, w->gate);
    if (o->jitter_on == ON_LOGITS) logits = lmoe_route_jitter(t, logits, o->jitter);
    out->weight = lmoe_softmax(t, lmoe_top_k(t, logits, lmoe_size(t, "top_k"), &out->index));
    if (o->aux_loss > 0)
        lmoe_route_loss(
            t, "aux_loss",
            lmoe_route_share(t, lmoe_softmax(t, logits), out->index, out->weight, o->aux_scope),
            o->aux_loss * (double)lmoe_size(t, "experts"));
    if (o->z_loss > 0) lmoe_route_z_loss(t, logits, o->z_loss);
    return LMOE_OK;
}

static const lmoe_router router = {
    .base = {sizeof(lmoe_router), LMOE_KIND_ROUTER, "moe/mixtral",
             "The top k, softmax over them, balance and z losses.", options,
             sizeof(mixtral_options), LMOE_ROUTER_SUM_ONE},
    .params_size = sizeof(mixtral_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&router.base, NULL};

LMOE_PLUGIN(.id = "moe/mixtral", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
