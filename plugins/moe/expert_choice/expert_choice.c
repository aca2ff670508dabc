/* SPDX-License-Identifier: Apache-2.0
 * plugins/moe/expert_choice/expert_choice.c: experts choose tokens (arXiv 2202.09368), within one
 * sequence.
 *
 *   p = softmax(W x) over the experts
 *   each expert takes the C tokens of a sequence with its largest p; C = seq k factor / experts
 *   weights = p
 *
 * A token may get no expert, or all. In generation a token cannot be compared with later ones: it
 * goes to its k best experts.
 */
#include <lmoe/lmoe.h>
#include <lmoe/route.h>

typedef struct expert_choice_options {
    double factor, z_loss;
} expert_choice_options;

typedef struct expert_choice_params {
    lmoe_tensor gate;
} expert_choice_params;

static const lmoe_option options[] = {
    {"factor", LMOE_OPTION_FLOAT, offsetof(expert_choice_options, factor), "1", 0.001, 1000, NULL,
     NULL, "Experts per token on average, in multiples of top_k."},
    {"z_loss", LMOE_OPTION_FLOAT, offsetof(expert_choice_options, z_loss), "0", 0, 100, NULL, NULL,
     "Weight of the loss that keeps the router's logits small; 0: none."},
    LMOE_OPTION_END};

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    expert_choice_params *w = params;
    w->gate = lmoe_route_gate(t);
    return LMOE_OK;
}

/* Tokens of a sequence that an expert takes. */
static int64_t capacity_of(lmoe_trace *t, const expert_choice_options *o)
{
    int64_t seq = lmoe_size(t, "seq");
    double share = o->factor * (double)lmoe_size(t, "top_k") / (double)lmoe_size(t, "experts");
    int64_t capacity = (int64_t)(share * (double)seq + 0.999999);
    return capacity < 1 ? 1 : capacity > seq ? seq : capacity;
}

static lmoe_status forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x,
                           lmoe_routing *out)
{
    const expert_choice_options *o = opt;
    const expert_choice_params *w = params;
    int64_t experts = lmoe_size(t, "experts"), k = lmoe_size(t, "top_k");
    int generating = lmoe_size(t, "generating") == 1;
    lmoe_tensor logits = lmoe_route_logits(t, x, w->gate);
    out->weight = lmoe_top_k(t, lmoe_softmax(t, logits), generating ? k : experts, &out->index);
    if (!generating) {
        out->capacity = capacity_of(t, o);
        out->index = lmoe_moe_capacity(t, out->index, out->weight, experts, out->capacity);
    }
    if (o->z_loss > 0) lmoe_route_z_loss(t, logits, o->z_loss);
    return LMOE_OK;
}

static const lmoe_router router = {
    .base = {sizeof(lmoe_router), LMOE_KIND_ROUTER, "moe/expert_choice",
             "Each expert takes its best tokens of a sequence.", options,
             sizeof(expert_choice_options), LMOE_ROUTER_VARYING | LMOE_ROUTER_SUM_AT_MOST},
    .params_size = sizeof(expert_choice_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&router.base, NULL};

LMOE_PLUGIN(.id = "moe/expert_choice", .version = "0.1.0", .licence = "Apache-2.0",
            .classes = classes)
