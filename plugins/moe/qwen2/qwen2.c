/* SPDX-License-Identifier: Apache-2.0
 * plugins/moe/qwen2/qwen2.c: the router of Qwen2-MoE (arXiv 2407.10671): softmax over all experts,
 * then the top k.
 *
 *   p = softmax(W x)    weights = the k largest of p, divided by their sum if norm_topk_prob
 *   balance loss = aux_loss * experts * sum_e f_e P_e     f_e = choices of expert e / tokens, P_e =
 * mean of p_e z loss       = z_loss * mean over tokens of logsumexp(W x)^2 Both are means over the
 * whole micro-batch of all ranks; they are equal for any number of ranks.
 */
#include <lmoe/lmoe.h>

typedef struct qwen2_options {
    double aux_loss, z_loss;
    int32_t norm_topk_prob;
} qwen2_options;

typedef struct qwen2_params {
    lmoe_tensor gate;
} qwen2_params;

static const lmoe_option options[] = {
    {"norm_topk_prob", LMOE_OPTION_BOOL, offsetof(qwen2_options, norm_topk_prob), "no", 0, 0, NULL,
     NULL, "Divide the chosen probabilities by their sum."},
    {"aux_loss", LMOE_OPTION_FLOAT, offsetof(qwen2_options, aux_loss), "0.001", 0, 100, NULL, NULL,
     "Weight of the load-balancing loss; 0: none."},
    {"z_loss", LMOE_OPTION_FLOAT, offsetof(qwen2_options, z_loss), "0", 0, 100, NULL, NULL,
     "Weight of the loss that keeps the router's logits small; 0: none."},
    LMOE_OPTION_END};

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    qwen2_params *w = params;
    w->gate = lmoe_matrix(t, "gate.weight", "embed expert", lmoe_size(t, "embed"),
                          lmoe_size(t, "experts"), 0);
    return LMOE_OK;
}

/* probs: (batch seq expert), index: (batch seq choice) */
static void balance_loss(lmoe_trace *t, const qwen2_options *o, lmoe_tensor probs,
                         lmoe_tensor index)
{
    int64_t experts = lmoe_size(t, "experts");
    double tokens =
        (double)lmoe_axis_size(t, probs, "batch") * (double)lmoe_axis_size(t, probs, "seq");
    lmoe_tensor f = lmoe_mul_scalar(t, lmoe_histogram(t, index, experts), 1.0 / tokens);
    lmoe_tensor p = lmoe_mul_scalar(t, lmoe_sum(t, "b s x -> x", probs), 1.0 / tokens);
    lmoe_tensor dot = lmoe_einsum(t, "x, x ->", p, f);
    lmoe_add_loss(t, "aux_loss", lmoe_mul_scalar(t, dot, o->aux_loss * (double)experts));
}

static void z_loss(lmoe_trace *t, const qwen2_options *o, lmoe_tensor logits)
{
    lmoe_tensor z = lmoe_logsumexp(t, logits);
    double tokens = (double)lmoe_axis_size(t, z, "batch") * (double)lmoe_axis_size(t, z, "seq");
    lmoe_tensor sum = lmoe_sum(t, "b s ->", lmoe_map(t, z, LMOE_MAP_SQUARE));
    lmoe_add_loss(t, "z_loss", lmoe_mul_scalar(t, sum, o->z_loss / tokens));
}

static lmoe_status forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x,
                           lmoe_routing *out)
{
    const qwen2_options *o = opt;
    const qwen2_params *w = params;
    lmoe_tensor logits = lmoe_f32(t, lmoe_einsum(t, "b s e, e x -> b s x", x, w->gate));
    lmoe_tensor probs = lmoe_softmax(t, logits);
    lmoe_tensor weight = lmoe_top_k(t, probs, lmoe_size(t, "top_k"), &out->index);
    if (o->norm_topk_prob) weight = lmoe_div(t, weight, lmoe_sum(t, "b s c -> b s", weight));
    out->weight = weight;
    if (o->aux_loss > 0) balance_loss(t, o, probs, out->index);
    if (o->z_loss > 0) z_loss(t, o, logits);
    return LMOE_OK;
}

static const lmoe_router router = {
    .base = {sizeof(lmoe_router), LMOE_KIND_ROUTER, "moe/qwen2",
             "Softmax over all experts, top k, balance and z losses.", options,
             sizeof(qwen2_options), 0},
    .params_size = sizeof(qwen2_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&router.base, NULL};

LMOE_PLUGIN(.id = "moe/qwen2", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
