/* SPDX-License-Identifier: Apache-2.0
 * plugins/moe/sinkhorn/sinkhorn.c: balanced choice by Sinkhorn's scaling (Clark et al., arXiv
 * 2202.01169), within one sequence.
 *
 *   l = W x,  c = softmax(l)
 *   repeated:  u_s = 1 / sum_e c_se v_e,   v_e = 1 / sum_s u_s c_se       (v starts at 1)
 *   experts = the k largest of c_se v_e    (u scales a token's row, which changes no choice)
 *   weights = sigmoid(l) of them for k = 1, else softmax(l)
 *
 * Only training balances. Otherwise, and so that a token's experts do not depend on later tokens,
 * the k largest of l are taken.
 */
#include <lmoe/lmoe.h>
#include <lmoe/route.h>

typedef struct sinkhorn_options {
    double z_loss;
    int64_t iterations;
} sinkhorn_options;

typedef struct sinkhorn_params {
    lmoe_tensor gate;
} sinkhorn_params;

static const lmoe_option options[] = {
    {"iterations", LMOE_OPTION_INT, offsetof(sinkhorn_options, iterations), "8", 1, 100, NULL, NULL,
     "How often rows and columns are scaled."},
    {"z_loss", LMOE_OPTION_FLOAT, offsetof(sinkhorn_options, z_loss), "0", 0, 100, NULL, NULL,
     "Weight of the loss that keeps the router's logits small; 0: none."},
    LMOE_OPTION_END};

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    sinkhorn_params *w = params;
    w->gate = lmoe_route_gate(t);
    return LMOE_OK;
}

static lmoe_tensor one_over(lmoe_trace *t, lmoe_tensor x)
{
    return lmoe_div(t, lmoe_fill_like(t, x, 1), lmoe_affine(t, x, 1, 1e-20));
}

/* cost: (b s x) -> it with each expert's column scaled */
static lmoe_tensor balance(lmoe_trace *t, lmoe_tensor cost, int64_t iterations)
{
    lmoe_tensor v = lmoe_fill_like(t, lmoe_sum(t, "b s x -> b x", cost), 1);
    for (int64_t i = 0; i < iterations; i++) {
        lmoe_tensor u = one_over(t, lmoe_einsum(t, "b s x, b x -> b s", cost, v));
        v = one_over(t, lmoe_einsum(t, "b s x, b s -> b x", cost, u));
    }
    return lmoe_einsum(t, "b s x, b x -> b s x", cost, v);
}

static lmoe_status forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x,
                           lmoe_routing *out)
{
    const sinkhorn_options *o = opt;
    const sinkhorn_params *w = params;
    int64_t k = lmoe_size(t, "top_k");
    lmoe_tensor logits = lmoe_route_logits(t, x, w->gate);
    lmoe_tensor probs = lmoe_softmax(t, logits), choice = logits;
    if (lmoe_size(t, "training") == 1) choice = balance(t, probs, o->iterations);
    lmoe_top_k(t, choice, k, &out->index);
    out->weight = lmoe_gather_last(t, k == 1 ? lmoe_sigmoid(t, logits) : probs, out->index);
    if (o->z_loss > 0) lmoe_route_z_loss(t, logits, o->z_loss);
    return LMOE_OK;
}

static const lmoe_router router = {
    .base = {sizeof(lmoe_router), LMOE_KIND_ROUTER, "moe/sinkhorn",
             "Choices of a sequence balanced by Sinkhorn scaling.", options,
             sizeof(sinkhorn_options), LMOE_ROUTER_SUM_AT_MOST},
    .params_size = sizeof(sinkhorn_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&router.base, NULL};

LMOE_PLUGIN(.id = "moe/sinkhorn", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
