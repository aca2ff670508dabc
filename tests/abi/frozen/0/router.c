/* SPDX-License-Identifier: Apache-2.0
 * tests/abi/frozen/0/router.c: the top k of a softmax with a balance loss, and an update() that counts
 * steps in a state, as an author wrote it with the headers of API 1.0.
 */
#include <lmoe/lmoe.h>
#include <lmoe/route.h>

typedef struct options {
    double aux_loss;
} options;

typedef struct params {
    lmoe_tensor gate;
} params;

static const lmoe_option table[] = {{"aux_loss", LMOE_OPTION_FLOAT, offsetof(options, aux_loss),
                                     "0.01", 0, 100, NULL, NULL, "Weight of the balance loss."},
                                    LMOE_OPTION_END};

static lmoe_status declare(lmoe_trace *t, const void *opt, void *p)
{
    ((params *)p)->gate = lmoe_route_gate(t);
    return LMOE_OK;
}

static lmoe_status forward(lmoe_trace *t, const void *opt, const void *p, lmoe_tensor x,
                           lmoe_routing *out)
{
    lmoe_tensor logits = lmoe_route_logits(t, x, ((const params *)p)->gate);
    lmoe_tensor share = lmoe_softmax(t, logits);
    out->weight = lmoe_top_k(t, share, lmoe_size(t, "top_k"), &out->index);
    lmoe_route_loss(t, "aux_loss", lmoe_route_share(t, share, out->index, out->weight, 0),
                    ((const options *)opt)->aux_loss * (double)lmoe_size(t, "experts"));
    return LMOE_OK;
}

static const lmoe_router router = {.base = {sizeof(lmoe_router), LMOE_KIND_ROUTER,
                                            "vendor.v0/router", "The top k of a softmax.", table,
                                            sizeof(options), 0},
                                   .params_size = sizeof(params),
                                   .params = declare,
                                   .forward = forward};
static const lmoe_class *const classes[] = {&router.base, NULL};

LMOE_PLUGIN(.id = "vendor.v0/router", .version = "1", .licence = "Apache-2.0", .classes = classes)
