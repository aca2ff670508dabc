/* SPDX-License-Identifier: Apache-2.0
 * plugins/moe/deepseek_v2/deepseek_v2.c: the router of DeepSeek-V2 (arXiv 2405.04434): softmax, the
 * best groups of experts, the top k in them.
 *
 *   p = softmax(W x)    a group is as good as its best expert; the k largest p of the best groups
 *   weights = their p, divided by their sum if norm_topk_prob, times scale
 *   balance loss = aux_loss * E / k * sum_e f_e P_e       f_e = choices of expert e / tokens
 *   device loss  = device_loss * E / k / devices * sum_d (sum of f_e) (sum of P_e)    e on device d
 */
#include <lmoe/lmoe.h>
#include <lmoe/route.h>

typedef struct deepseek_v2_options {
    double aux_loss, device_loss, scale;
    int64_t groups, top_groups, devices;
    int32_t norm_topk_prob, aux_scope;
} deepseek_v2_options;

typedef struct deepseek_v2_params {
    lmoe_tensor gate;
} deepseek_v2_params;

static const lmoe_option options[] = {
    {"groups", LMOE_OPTION_INT, offsetof(deepseek_v2_options, groups), "1", 1, 65536, NULL, NULL,
     "Groups of experts side by side that a token chooses among; 1: no groups."},
    {"top_groups", LMOE_OPTION_INT, offsetof(deepseek_v2_options, top_groups), "1", 1, 65536, NULL,
     NULL, "Groups that a token's experts come from."},
    {"norm_topk_prob", LMOE_OPTION_BOOL, offsetof(deepseek_v2_options, norm_topk_prob), "no", 0, 0,
     NULL, NULL, "Divide the chosen probabilities by their sum."},
    {"scale", LMOE_OPTION_FLOAT, offsetof(deepseek_v2_options, scale), "1", 0, 1000, NULL, NULL,
     "Factor of all weights (routed_scaling_factor)."},
    {"aux_loss", LMOE_OPTION_FLOAT, offsetof(deepseek_v2_options, aux_loss), "0.003", 0, 100, NULL,
     NULL, "Weight of the load-balancing loss; 0: none."},
    {"aux_scope", LMOE_OPTION_ENUM, offsetof(deepseek_v2_options, aux_scope), "sequence", 0, 0,
     "micro_batch sequence", NULL,
     "Means of the balance loss: over the micro-batch of all ranks, or over each sequence."},
    {"device_loss", LMOE_OPTION_FLOAT, offsetof(deepseek_v2_options, device_loss), "0", 0, 100,
     NULL, NULL, "Weight of the loss that balances devices, with the same means; 0: none."},
    {"devices", LMOE_OPTION_INT, offsetof(deepseek_v2_options, devices), "1", 1, 65536, NULL, NULL,
     "Devices that the device loss balances: runs of experts of equal length."},
    LMOE_OPTION_END};

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    deepseek_v2_params *w = params;
    w->gate = lmoe_route_gate(t);
    return LMOE_OK;
}

/* Shares of devices: what a device's experts have together. */
static lmoe_tensor by_device(lmoe_trace *t, const deepseek_v2_options *o, lmoe_tensor share)
{
    int64_t experts = lmoe_size(t, "experts");
    lmoe_desc d;
    if (experts % o->devices != 0)
        return lmoe_fail(t, "%d experts cannot be laid on devices = %d alike", (int)experts,
                         (int)o->devices);
    share = lmoe_split_axis(t, share, "expert", "device", experts / o->devices, "expert");
    if (lmoe_describe(t, share, &d) != LMOE_OK) return share;
    return lmoe_sum(t, d.rank == 2 ? "d x -> d" : "b d x -> b d", share);
}

static lmoe_status forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x,
                           lmoe_routing *out)
{
    const deepseek_v2_options *o = opt;
    const deepseek_v2_params *w = params;
    double experts = (double)lmoe_size(t, "experts"), top_k = (double)lmoe_size(t, "top_k");
    lmoe_tensor probs = lmoe_softmax(t, lmoe_route_logits(t, x, w->gate));
    lmoe_tensor scores = lmoe_route_groups(t, probs, o->groups, o->top_groups, 1);
    lmoe_top_k(t, scores, lmoe_size(t, "top_k"), &out->index);
    lmoe_tensor weight = lmoe_gather_last(t, probs, out->index);
    if (o->norm_topk_prob) weight = lmoe_route_normalise(t, weight);
    out->weight = lmoe_mul_scalar(t, weight, o->scale);
    if (o->aux_loss <= 0 && o->device_loss <= 0) return LMOE_OK;
    lmoe_route_shares r = lmoe_route_share(t, probs, out->index, weight, o->aux_scope);
    if (o->aux_loss > 0) lmoe_route_loss(t, "aux_loss", r, o->aux_loss * experts / top_k);
    if (o->device_loss > 0) {
        r.f = by_device(t, o, r.f);
        r.p = by_device(t, o, r.p);
        lmoe_route_loss(t, "device_loss", r,
                        o->device_loss * experts / top_k * (double)o->devices / experts);
    }
    return LMOE_OK;
}

static const lmoe_router router = {
    .base = {sizeof(lmoe_router), LMOE_KIND_ROUTER, "moe/deepseek_v2",
             "Softmax, the best groups, top k in them, balance losses of experts and devices.",
             options, sizeof(deepseek_v2_options), LMOE_ROUTER_SUM_AT_MOST},
    .params_size = sizeof(deepseek_v2_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&router.base, NULL};

LMOE_PLUGIN(.id = "moe/deepseek_v2", .version = "0.1.0", .licence = "Apache-2.0",
            .classes = classes)
