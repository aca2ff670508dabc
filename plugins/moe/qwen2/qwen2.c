/* SPDX-License-Identifier: Apache-2.0
 * plugins/moe/qwen2/qwen2.c: the router of Qwen2-MoE (arXiv 2407.10671): softmax over all experts,
 * then the top k.
 *
 *   p = softmax(W x)    weights = the k largest of p, divided by their sum if norm_topk_prob
 *   balance loss = aux_loss * experts * sum_e f_e P_e     f_e = choices of expert e / tokens, P_e =
 *                  mean of p_e; divided by k if aux_per_choice
 *   z loss       = z_loss * mean over tokens of logsumexp(W x)^2
 */
#include <lmoe/lmoe.h>
#include <lmoe/route.h>

typedef struct qwen2_options {
    double aux_loss, z_loss, jitter;
    int32_t norm_topk_prob, aux_scope, aux_per_choice;
} qwen2_options;

typedef struct qwen2_params {
    lmoe_tensor gate;
} qwen2_params;

static const lmoe_option options[] = {
    {"norm_topk_prob", LMOE_OPTION_BOOL, offsetof(qwen2_options, norm_topk_prob), "no", 0, 0, NULL,
     NULL, "Divide the chosen probabilities by their sum."},
    {"aux_loss", LMOE_OPTION_FLOAT, offsetof(qwen2_options, aux_loss), "0.001", 0, 100, NULL, NULL,
     "Weight of the load-balancing loss; 0: none."},
    {"aux_scope", LMOE_OPTION_ENUM, offsetof(qwen2_options, aux_scope), "micro_batch", 0, 0,
     "micro_batch sequence", NULL,
     "Means of the balance loss: over the micro-batch of all ranks, or over each sequence."},
    {"aux_per_choice", LMOE_OPTION_BOOL, offsetof(qwen2_options, aux_per_choice), "no", 0, 0, NULL,
     NULL, "Divide the balance loss by top_k, as the Linear-MoE release does."},
    {"z_loss", LMOE_OPTION_FLOAT, offsetof(qwen2_options, z_loss), "0", 0, 100, NULL, NULL,
     "Weight of the loss that keeps the router's logits small; 0: none."},
    {"jitter", LMOE_OPTION_FLOAT, offsetof(qwen2_options, jitter), "0", 0, 1, NULL, NULL,
     "Training multiplies the router's input by random numbers of 1 - jitter ... 1 + jitter."},
    LMOE_OPTION_END};

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    qwen2_params *w = params;
    w->gate = lmoe_route_gate(t);
    return LMOE_OK;
}

static lmoe_status forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x,
                           lmoe_routing *out)
{
    const qwen2_options *o = opt;
    const qwen2_params *w = params;
    double top_k = (double)lmoe_size(t, "top_k");
    lmoe_tensor logits = lmoe_route_logits(t, lmoe_route_jitter(t, x, o->jitter), w->gate);
    lmoe_tensor probs = lmoe_softmax(t, logits);
    lmoe_tensor weight = lmoe_top_k(t, probs, lmoe_size(t, "top_k"), &out->index);
    out->weight = o->norm_topk_prob ? lmoe_route_normalise(t, weight) : weight;
    if (o->aux_loss > 0) {
        double factor = o->aux_loss * (double)lmoe_size(t, "experts");
        lmoe_route_shares r = lmoe_route_share(t, probs, out->index, weight, o->aux_scope);
        lmoe_route_loss(t, "aux_loss", r, o->aux_per_choice ? factor / top_k : factor);
    }
    if (o->z_loss > 0) lmoe_route_z_loss(t, logits, o->z_loss);
    return LMOE_OK;
}

static const lmoe_router router = {
    .base = {sizeof(lmoe_router), LMOE_KIND_ROUTER, "moe/qwen2",
             "Softmax over all experts, top k, balance and z losses.", options,
             sizeof(qwen2_options), LMOE_ROUTER_SUM_AT_MOST},
    .params_size = sizeof(qwen2_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&router.base, NULL};

LMOE_PLUGIN(.id = "moe/qwen2", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
