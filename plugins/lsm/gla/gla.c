/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/gla/gla.c: gated linear attention (Yang et al. 2023, arXiv 2312.06635).
 *
 *   S_t = diag(exp g_t) S_{t-1} + k_t v_t^T        o_t = scale S_t^T q_t
 *   g   = logsigmoid(W_2 W_1 x + b) / gate_normalizer      a decay for each channel of the key
 *   y   = (rmsnorm(o) * silu(W_g x)) W_o                   the norm is over head_v
 */
#include <lmoe/lmoe.h>

typedef struct gla_options {
    int64_t heads, kv_heads, low_rank, conv_kernel;
    double expand_k, expand_v, gate_normalizer, min_log_decay, norm_eps;
    int32_t short_conv, activation;
} gla_options;

typedef struct gla_params {
    lmoe_qkv_params qkv;
    lmoe_low_rank_params decay;
    lmoe_tensor gate, norm, out;
} gla_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(gla_options, heads), "4", 1, 65536, NULL, NULL, "Heads."},
    {"kv_heads", LMOE_OPTION_INT, offsetof(gla_options, kv_heads), "0", 0, 65536, NULL, NULL,
     "Heads of keys, values and decays; 0: as many as heads."},
    {"expand_k", LMOE_OPTION_FLOAT, offsetof(gla_options, expand_k), "0.5", 1e-3, 64, NULL, NULL,
     "Width of all keys together, in units of embed."},
    {"expand_v", LMOE_OPTION_FLOAT, offsetof(gla_options, expand_v), "1.0", 1e-3, 64, NULL, NULL,
     "Width of all values together, in units of embed."},
    {"activation", LMOE_OPTION_ENUM, offsetof(gla_options, activation), "none", 0, 0,
     LMOE_ACTIVATIONS, NULL, "Applied to q and k."},
    {"low_rank", LMOE_OPTION_INT, offsetof(gla_options, low_rank), "16", 1, 65536, NULL, NULL,
     "Inner size of the decay's two projections."},
    {"gate_normalizer", LMOE_OPTION_FLOAT, offsetof(gla_options, gate_normalizer), "16", 1e-3, 1e6,
     NULL, NULL, "Divides the log decay: larger remembers longer."},
    {"min_log_decay", LMOE_OPTION_FLOAT, offsetof(gla_options, min_log_decay), "0", -1e6, 0, NULL,
     NULL, "No log decay is below this; 0: no limit."},
    {"short_conv", LMOE_OPTION_BOOL, offsetof(gla_options, short_conv), "no", 0, 0, NULL, NULL,
     "A short causal convolution with silu on q, k and v."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(gla_options, conv_kernel), "4", 2, 64, NULL, "tokens",
     "Length of the short convolution."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(gla_options, norm_eps), "1e-6", 0, 1, NULL, NULL,
     "Added to the mean square in the output norm."},
    LMOE_OPTION_END};

static lmoe_status widths(lmoe_trace *t, const gla_options *o, lmoe_qkv_def *d)
{
    *d = (lmoe_qkv_def){.heads = o->heads,
                        .kv_heads = o->kv_heads,
                        .conv_kernel = o->short_conv ? o->conv_kernel : 0};
    return lmoe_head_widths(t, o->heads, o->expand_k, o->expand_v, &d->head_k, &d->head_v);
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const gla_options *o = opt;
    gla_params *w = params;
    lmoe_qkv_def d;
    int64_t e = lmoe_size(t, "embed"), h = o->heads, g = o->kv_heads ? o->kv_heads : h;
    LMOE_TRY(widths(t, o, &d));
    LMOE_TRY(lmoe_qkv_declare(t, &d, &w->qkv));
    w->decay = lmoe_low_rank(t, "gk_proj", g == h ? "heads" : "kv_heads", "head_k", o->low_rank, g,
                             d.head_k);
    w->gate = lmoe_cube(t, "g_proj.weight", "embed heads head_v", e, h, d.head_v, 0);
    w->norm = lmoe_vector(t, "g_norm_swish_gate.weight", "head_v", d.head_v, 1.0);
    w->out = lmoe_output_cube(t, "o_proj.weight", h, d.head_v, e);
    return LMOE_OK;
}

/* x: (batch seq embed) -> log decay (batch seq heads head_k), at most 0 */
static lmoe_tensor log_decay(lmoe_trace *t, const gla_options *o, const gla_params *w,
                             lmoe_tensor x)
{
    lmoe_tensor g = lmoe_low_rank_decay(t, &w->decay, x, o->gate_normalizer);
    if (o->min_log_decay < 0) { /* max(g, m) = relu(g - m) + m */
        g = lmoe_relu(t, lmoe_affine(t, g, 1.0, -o->min_log_decay));
        g = lmoe_affine(t, g, 1.0, o->min_log_decay);
    }
    if (o->kv_heads && o->kv_heads != o->heads) g = lmoe_repeat_heads(t, g, o->heads / o->kv_heads);
    return g;
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const gla_options *o = opt;
    const gla_params *w = params;
    lmoe_qkv_def d;
    if (widths(t, o, &d) != LMOE_OK) return x;
    lmoe_qkv a = lmoe_qkv_project(t, &d, &w->qkv, x, o->activation, LMOE_THROUGH_NONE);
    lmoe_tensor y = lmoe_scan_diag(t, a.q, a.k, a.v, log_decay(t, o, w, x), lmoe_key_scale(t, a.q));
    lmoe_tensor gate = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->gate);
    y = lmoe_rmsnorm_gated(t, y, w->norm, gate, o->norm_eps);
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/gla",
             "Gated linear attention: a decay for each key channel.", options, sizeof(gla_options),
             0},
    .params_size = sizeof(gla_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/gla", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
