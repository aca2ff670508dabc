/* SPDX-License-Identifier: Apache-2.0
 * @NAME@.c: class @CLASS@, a router: which experts a token goes to, and with which weights.
 *
 *   p = softmax(W x)      weights = the top_k largest of p, divided by their sum
 *   balance loss = balance * experts * sum_e f_e P_e
 *                  f_e: choices of expert e / tokens      P_e: mean of p_e
 *
 * Sorting rows by expert, the experts themselves and what is exchanged between ranks are lmoe's.
 */
#include <lmoe/lmoe.h>
#include <lmoe/route.h>

/* What a run file may say, in the section [router]: one field and one line of the table for each. */
typedef struct options {
    double balance;
} options;

static const lmoe_option table[] = {
    {"balance", LMOE_OPTION_FLOAT, offsetof(options, balance), "0.01", 0, 100, NULL, NULL,
     "Weight of the loss that keeps experts equally busy; 0: none."},
    LMOE_OPTION_END};

typedef struct weights {
    lmoe_tensor gate;
} weights;

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    ((weights *)params)->gate = lmoe_route_gate(t); /* (embed expert) */
    return LMOE_OK;
}

/* x: (batch seq embed). Fills index (batch seq choice) i32 and weight (batch seq choice). An index
 * below 0 says: this choice is none. */
static lmoe_status forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x,
                           lmoe_routing *out)
{
    const options *o = opt;
    const weights *w = params;
    lmoe_tensor p = lmoe_softmax(t, lmoe_route_logits(t, x, w->gate));
    lmoe_tensor best = lmoe_top_k(t, p, lmoe_size(t, "top_k"), &out->index);
    out->weight = lmoe_route_normalise(t, best);
    if (o->balance > 0) {
        lmoe_route_shares shares = lmoe_route_share(t, p, out->index, best, LMOE_SCOPE_MICRO_BATCH);
        lmoe_route_loss(t, "balance_loss", shares, o->balance * (double)lmoe_size(t, "experts"));
    }
    return LMOE_OK;
}

/* The last flag is a promise, which lmoe plugin check holds it to: see lmoe/layer.h. */
static const lmoe_router router = {.base = {sizeof(lmoe_router), LMOE_KIND_ROUTER, "@CLASS@",
                                            "Softmax over all experts, the top k, a balance loss.",
                                            table, sizeof(options), LMOE_ROUTER_SUM_ONE},
                                   .params_size = sizeof(weights),
                                   .params = declare,
                                   .forward = forward};
static const lmoe_class *const classes[] = {&router.base, NULL};

LMOE_PLUGIN(.id = "@CLASS@", .version = "0.1", .licence = "Apache-2.0", .classes = classes)
