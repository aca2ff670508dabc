/* SPDX-License-Identifier: Apache-2.0
 * plugins/moe/deepseek_v3/deepseek_v3.c: the router of DeepSeek-V3 (arXiv 2412.19437): sigmoid
 * scores, balanced by a bias that no gradient changes (arXiv 2408.15664).
 *
 *   s = sigmoid(W x)    a group is as good as the sum of its two largest s + bias
 *   experts = the k largest s + bias of the best groups
 *   weights = their s, divided by their sum if norm_topk_prob, times scale
 *   after a step: bias_e += bias_speed * sign(mean load - load of e)
 *   balance loss = aux_loss * E / k * mean over sequences of sum_e f_e P_e     P: s / sum of s
 */
#include <lmoe/lmoe.h>
#include <lmoe/route.h>

typedef struct deepseek_v3_options {
    double aux_loss, bias_speed, scale;
    int64_t groups, top_groups;
    int32_t norm_topk_prob, aux_scope;
} deepseek_v3_options;

typedef struct deepseek_v3_params {
    lmoe_tensor gate, bias;
} deepseek_v3_params;

static const lmoe_option options[] = {
    {"groups", LMOE_OPTION_INT, offsetof(deepseek_v3_options, groups), "1", 1, 65536, NULL, NULL,
     "Groups of experts side by side that a token chooses among; 1: no groups."},
    {"top_groups", LMOE_OPTION_INT, offsetof(deepseek_v3_options, top_groups), "1", 1, 65536, NULL,
     NULL, "Groups that a token's experts come from."},
    {"norm_topk_prob", LMOE_OPTION_BOOL, offsetof(deepseek_v3_options, norm_topk_prob), "yes", 0, 0,
     NULL, NULL, "Divide the chosen scores by their sum."},
    {"scale", LMOE_OPTION_FLOAT, offsetof(deepseek_v3_options, scale), "1", 0, 1000, NULL, NULL,
     "Factor of all weights (routed_scaling_factor)."},
    {"bias_speed", LMOE_OPTION_FLOAT, offsetof(deepseek_v3_options, bias_speed), "0.001", 0, 1,
     NULL, NULL, "How far a step moves the bias of each expert against its load; 0: it stays."},
    {"aux_loss", LMOE_OPTION_FLOAT, offsetof(deepseek_v3_options, aux_loss), "0.0001", 0, 100, NULL,
     NULL, "Weight of the load-balancing loss; 0: none."},
    {"aux_scope", LMOE_OPTION_ENUM, offsetof(deepseek_v3_options, aux_scope), "sequence", 0, 0,
     "micro_batch sequence", NULL,
     "Means of the balance loss: over the micro-batch of all ranks, or over each sequence."},
    LMOE_OPTION_END};

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    deepseek_v3_params *w = params;
    const lmoe_param_def bias = {.size = sizeof bias,
                                 .name = "gate.e_score_correction_bias",
                                 .axes = "expert",
                                 .dim = {lmoe_size(t, "experts")},
                                 .init = LMOE_INIT_CONST,
                                 .flags = LMOE_PARAM_STATE};
    w->gate = lmoe_route_gate(t);
    w->bias = lmoe_param(t, &bias);
    return LMOE_OK;
}

static lmoe_status forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x,
                           lmoe_routing *out)
{
    const deepseek_v3_options *o = opt;
    const deepseek_v3_params *w = params;
    double experts = (double)lmoe_size(t, "experts"), top_k = (double)lmoe_size(t, "top_k");
    lmoe_tensor s = lmoe_sigmoid(t, lmoe_route_logits(t, x, w->gate));
    lmoe_tensor biased = lmoe_add(t, s, w->bias);
    lmoe_tensor scores = lmoe_route_groups(t, biased, o->groups, o->top_groups, 2);
    lmoe_top_k(t, scores, lmoe_size(t, "top_k"), &out->index);
    lmoe_tensor weight = lmoe_gather_last(t, s, out->index);
    if (o->norm_topk_prob) weight = lmoe_route_normalise(t, weight);
    out->weight = lmoe_mul_scalar(t, weight, o->scale);
    if (o->aux_loss <= 0) return LMOE_OK;
    lmoe_tensor probs = lmoe_route_normalise(t, s);
    lmoe_route_loss(t, "aux_loss", lmoe_route_share(t, probs, out->index, weight, o->aux_scope),
                    o->aux_loss * experts / top_k);
    return LMOE_OK;
}

/* sign(x) = tanh(x * much): differences of counts from their mean are 0 or at least 1 / experts. */
static lmoe_status update(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor load)
{
    const deepseek_v3_options *o = opt;
    const deepseek_v3_params *w = params;
    double experts = (double)lmoe_size(t, "experts");
    lmoe_tensor mean = lmoe_mul_scalar(t, lmoe_sum(t, "x ->", load), 1 / experts);
    lmoe_tensor less = lmoe_add(t, lmoe_mul_scalar(t, load, -1), mean);
    lmoe_tensor sign = lmoe_map(t, lmoe_mul_scalar(t, less, 100 * experts), LMOE_MAP_TANH);
    lmoe_accumulate(t, w->bias, lmoe_mul_scalar(t, sign, o->bias_speed));
    return LMOE_OK;
}

static const lmoe_router router = {
    .base = {sizeof(lmoe_router), LMOE_KIND_ROUTER, "moe/deepseek_v3",
             "Sigmoid scores, groups, a bias that balances without a loss.", options,
             sizeof(deepseek_v3_options), LMOE_ROUTER_SUM_ONE},
    .params_size = sizeof(deepseek_v3_params),
    .params = declare,
    .forward = forward,
    .update = update,
};
static const lmoe_class *const classes[] = {&router.base, NULL};

LMOE_PLUGIN(.id = "moe/deepseek_v3", .version = "0.1.0", .licence = "Apache-2.0",
            .classes = classes)
