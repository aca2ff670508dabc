/* SPDX-License-Identifier: Apache-2.0
 * sdk/examples/06-router/even.c: class vendor.example/even, a router that balances by a bias of its
 * own instead of a loss.
 *
 *   s = sigmoid(W x)      choices: the top_k largest of s + b      weights: s of the choices / their sum
 *   after each step       b_e += speed (1 - load_e / mean load)
 */
#include <lmoe/lmoe.h>
#include <lmoe/route.h>

typedef struct options {
    double speed;
} options;

typedef struct weights {
    lmoe_tensor gate, bias;
} weights;

static const lmoe_option table[] = {
    {"speed", LMOE_OPTION_FLOAT, offsetof(options, speed), "0.003", 0, 1, NULL, NULL,
     "How far a step moves the bias of an expert that nobody chose; 0: no balancing."},
    LMOE_OPTION_END};

/* A state is saved with the weights, has no gradient, and is changed by update() alone. */
static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    weights *w = params;
    const lmoe_param_def bias = {.size = sizeof bias,
                                 .name = "bias",
                                 .axes = "expert",
                                 .dim = {lmoe_size(t, "experts")},
                                 .init = LMOE_INIT_CONST,
                                 .flags = LMOE_PARAM_STATE};
    w->gate = lmoe_route_gate(t);
    w->bias = lmoe_param(t, &bias);
    return LMOE_OK;
}

/* x: (batch seq embed). The bias decides who is chosen, not how much a choice counts, so gradients
 * flow through s alone. Token t's choices depend on token t alone: a router that looks along the
 * sequence, as expert choice does, cannot be used to generate. */
static lmoe_status forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x,
                           lmoe_routing *out)
{
    const weights *w = params;
    lmoe_tensor s = lmoe_sigmoid(t, lmoe_route_logits(t, x, w->gate));
    lmoe_top_k(t, lmoe_add(t, s, w->bias), lmoe_size(t, "top_k"), &out->index);
    out->weight = lmoe_route_normalise(t, lmoe_gather_last(t, s, out->index));
    return LMOE_OK;
}

/* load: (expert), how often each was chosen, over all micro-batches and ranks of the step. Of the
 * parameters only states are there. */
static lmoe_status update(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor load)
{
    const options *o = opt;
    const weights *w = params;
    double experts = (double)lmoe_size(t, "experts");
    lmoe_tensor mean = lmoe_affine(t, lmoe_sum(t, "x ->", load), 1 / experts, 1e-9);
    lmoe_tensor less = lmoe_affine(t, lmoe_div(t, load, mean), -o->speed, o->speed);
    lmoe_accumulate(t, w->bias, less);
    return LMOE_OK;
}

static const lmoe_router router = {
    .base = {sizeof(lmoe_router), LMOE_KIND_ROUTER, "vendor.example/even",
             "Sigmoid scores, and a bias that keeps experts equally busy.", table, sizeof(options),
             LMOE_ROUTER_SUM_ONE},
    .params_size = sizeof(weights),
    .params = declare,
    .forward = forward,
    .update = update};
static const lmoe_class *const classes[] = {&router.base, NULL};

LMOE_PLUGIN(.id = "vendor.example/even", .version = "0.1", .licence = "Apache-2.0",
            .classes = classes)
