/* SPDX-License-Identifier: Apache-2.0
 * plugins/moe/hash/hash.c: a token's experts are a function of its id (hash layers, arXiv
 * 2106.04426): nothing is learned.
 *
 *   experts = the k largest of E numbers drawn for (token id, layer, salt)     weights = 1 / k
 */
#include <lmoe/lmoe.h>
#include <lmoe/route.h>

typedef struct hash_options {
    int64_t salt;
} hash_options;

static const lmoe_option options[] = {{"salt", LMOE_OPTION_INT, offsetof(hash_options, salt), "0",
                                       0, 1000000, NULL, NULL,
                                       "Another number gives other experts."},
                                      LMOE_OPTION_END};

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    return LMOE_OK;
}

static lmoe_status forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x,
                           lmoe_routing *out)
{
    const hash_options *o = opt;
    int64_t k = lmoe_size(t, "top_k");
    lmoe_tensor ids = lmoe_ambient_value(t, LMOE_AMBIENT_TOKENS);
    lmoe_tensor draws = lmoe_random(t, ids, "expert", lmoe_size(t, "experts"),
                                    o->salt * 4096 + lmoe_size(t, "layer"));
    lmoe_tensor values = lmoe_top_k(t, draws, k, &out->index);
    out->weight = lmoe_fill_like(t, values, 1 / (double)k);
    return LMOE_OK;
}

static const lmoe_router router = {
    .base = {sizeof(lmoe_router), LMOE_KIND_ROUTER, "moe/hash",
             "Experts by the token's id; nothing is learned.", options, sizeof(hash_options),
             LMOE_ROUTER_SUM_ONE},
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&router.base, NULL};

LMOE_PLUGIN(.id = "moe/hash", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
