/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/zoo/layer.h: a layer with nothing wrong, from which plugins with one broken thing are
 * made: linear attention in which every head has a decay that depends on the token.
 *
 *   S_t = d_t S_{t-1} + k_t v_t^T     o_t = S_t^T q_t / sqrt(head_k)     y = o W_o
 *
 *   #include "layer.h"
 *   static lmoe_tensor forward(...) { ... }         what is wrong with it
 *   ZOO_LAYER(.forward = forward)                   the rest is good; later fields win
 *
 * ZOO is the plugin's name, a text: its class is zoo.x/NAME, its file zoo.x-NAME.so.
 */
#ifndef LMOE_ZOO_LAYER_H
#define LMOE_ZOO_LAYER_H

#include <lmoe/lmoe.h>

typedef struct good_options {
    int64_t heads;
    double floor;
} good_options;

typedef struct good_params {
    lmoe_tensor q, k, v, decay, out;
} good_params;

static const lmoe_option good_table[] = {
    {"heads", LMOE_OPTION_INT, offsetof(good_options, heads), "2", 1, 1024, NULL, NULL, "Heads."},
    {"floor", LMOE_OPTION_FLOAT, offsetof(good_options, floor), "-5", -100, 0, NULL, NULL,
     "Added to the decay's logit."},
    LMOE_OPTION_END};

static lmoe_status good_declare(lmoe_trace *t, const void *options, void *params)
{
    int64_t e = lmoe_size(t, "embed"), h = ((const good_options *)options)->heads;
    good_params *w = params;
    if (e % h != 0) {
        lmoe_fail(t, "heads = %d does not divide embed = %d", (int)h, (int)e);
        return LMOE_E_CONFIG;
    }
    w->q = lmoe_cube(t, "q_proj.weight", "embed heads head_k", e, h, e / h, 0);
    w->k = lmoe_cube(t, "k_proj.weight", "embed heads head_k", e, h, e / h, 0);
    w->v = lmoe_cube(t, "v_proj.weight", "embed heads head_v", e, h, e / h, 0);
    w->decay = lmoe_matrix(t, "decay.weight", "embed heads", e, h, 0);
    w->out = lmoe_output_cube(t, "o_proj.weight", h, e / h, e);
    return LMOE_OK;
}

/* x: (batch seq embed) -> log decay (batch seq heads), at most 0 */
static lmoe_tensor good_decay(lmoe_trace *t, const good_options *o, const good_params *w,
                              lmoe_tensor x)
{
    lmoe_tensor z = lmoe_f32(t, lmoe_einsum(t, "b s e, e h -> b s h", x, w->decay));
    return lmoe_map(t, lmoe_affine(t, z, 1.0, -o->floor), LMOE_MAP_LOGSIGMOID);
}

static lmoe_tensor good_forward(lmoe_trace *t, const void *options, const void *params,
                                lmoe_tensor x)
{
    const good_params *w = params;
    lmoe_tensor q = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->q);
    lmoe_tensor k = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->k);
    lmoe_tensor v = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->v);
    lmoe_tensor y = lmoe_scan_diag(t, q, k, v, good_decay(t, options, w, x), lmoe_key_scale(t, q));
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

#define ZOO_CLASS(kind_, type) \
    .size = sizeof(type), .kind = kind_, .name = "zoo.x/" ZOO, .summary = "One thing is wrong."
#define ZOO_PLUGIN(...)                                                        \
    LMOE_PLUGIN(.id = "zoo.x/" ZOO, .version = "1.0", .licence = "Apache-2.0", \
                .classes = zoo_classes, ##__VA_ARGS__)

/* The class alone, for a plugin whose descriptor is the broken thing: ZOO_PLUGIN(...) follows. */
#define ZOO_LAYER_CLASS(...)                                                              \
    static const lmoe_layer zoo_layer = {.base = {ZOO_CLASS(LMOE_KIND_LAYER, lmoe_layer), \
                                                  .options = good_table,                  \
                                                  .options_size = sizeof(good_options)},  \
                                         .params_size = sizeof(good_params),              \
                                         .params = good_declare,                          \
                                         .forward = good_forward,                         \
                                         ##__VA_ARGS__};                                  \
    static const lmoe_class *const zoo_classes[] = {&zoo_layer.base, NULL};

#define ZOO_LAYER(...)           \
    ZOO_LAYER_CLASS(__VA_ARGS__) \
    ZOO_PLUGIN()

#endif
