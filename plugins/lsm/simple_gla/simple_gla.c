/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/simple_gla/simple_gla.c: linear attention with one gated decay for each head (the
 * scalar form of Yang et al. 2023, arXiv 2312.06635, section 4.2).
 *
 *   S_t = exp(g_t) S_{t-1} + k_t v_t^T        o_t = scale S_t^T q_t
 *   g   = logsigmoid(W x + b) / gate_normalizer            a decay for each head
 *   y   = (rmsnorm(o) * silu(W_g x)) W_o                   the norm is over head_v
 */
#include <lmoe/lmoe.h>

typedef struct simple_gla_options {
    int64_t heads, kv_heads, conv_kernel;
    double expand_k, expand_v, gate_normalizer, norm_eps;
    int32_t short_conv, activation;
} simple_gla_options;

typedef struct simple_gla_params {
    lmoe_qkv_params qkv;
    lmoe_tensor decay, decay_bias, gate, norm, out;
} simple_gla_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(simple_gla_options, heads), "4", 1, 65536, NULL, NULL,
     "Heads."},
    {"kv_heads", LMOE_OPTION_INT, offsetof(simple_gla_options, kv_heads), "0", 0, 65536, NULL, NULL,
     "Heads of keys and values; 0: as many as heads."},
    {"expand_k", LMOE_OPTION_FLOAT, offsetof(simple_gla_options, expand_k), "1.0", 1e-3, 64, NULL,
     NULL, "Width of all keys together, in units of embed."},
    {"expand_v", LMOE_OPTION_FLOAT, offsetof(simple_gla_options, expand_v), "1.0", 1e-3, 64, NULL,
     NULL, "Width of all values together, in units of embed."},
    {"activation", LMOE_OPTION_ENUM, offsetof(simple_gla_options, activation), "none", 0, 0,
     LMOE_ACTIVATIONS, NULL, "Applied to q and k."},
    {"gate_normalizer", LMOE_OPTION_FLOAT, offsetof(simple_gla_options, gate_normalizer), "16",
     1e-3, 1e6, NULL, NULL, "Divides the log decay: larger remembers longer."},
    {"short_conv", LMOE_OPTION_BOOL, offsetof(simple_gla_options, short_conv), "yes", 0, 0, NULL,
     NULL, "A short causal convolution with silu on q, k and v."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(simple_gla_options, conv_kernel), "4", 2, 64, NULL,
     "tokens", "Length of the short convolution."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(simple_gla_options, norm_eps), "1e-5", 0, 1, NULL,
     NULL, "Added to the mean square in the output norm."},
    LMOE_OPTION_END};

static lmoe_status widths(lmoe_trace *t, const simple_gla_options *o, lmoe_qkv_def *d)
{
    *d = (lmoe_qkv_def){.heads = o->heads,
                        .kv_heads = o->kv_heads,
                        .conv_kernel = o->short_conv ? o->conv_kernel : 0};
    return lmoe_head_widths(t, o->heads, o->expand_k, o->expand_v, &d->head_k, &d->head_v);
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const simple_gla_options *o = opt;
    simple_gla_params *w = params;
    lmoe_qkv_def d;
    int64_t e = lmoe_size(t, "embed"), h = o->heads;
    LMOE_TRY(widths(t, o, &d));
    LMOE_TRY(lmoe_qkv_declare(t, &d, &w->qkv));
    w->decay = lmoe_matrix(t, "gk_proj.weight", "embed heads", e, h, 0);
    w->decay_bias = lmoe_vector(t, "gk_proj.bias", "heads", h, 0.0);
    w->gate = lmoe_cube(t, "g_proj.weight", "embed heads head_v", e, h, d.head_v, 0);
    w->norm = lmoe_vector(t, "g_norm_swish_gate.weight", "head_v", d.head_v, 1.0);
    w->out = lmoe_output_cube(t, "o_proj.weight", h, d.head_v, e);
    return LMOE_OK;
}

/* x: (batch seq embed) -> log decay (batch seq heads), at most 0 */
static lmoe_tensor log_decay(lmoe_trace *t, const simple_gla_options *o, const simple_gla_params *w,
                             lmoe_tensor x)
{
    lmoe_tensor logit = lmoe_einsum(t, "b s e, e h -> b s h", x, w->decay);
    logit = lmoe_f32(t, lmoe_add(t, logit, w->decay_bias));
    return lmoe_mul_scalar(t, lmoe_logsigmoid(t, logit), 1.0 / o->gate_normalizer);
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const simple_gla_options *o = opt;
    const simple_gla_params *w = params;
    lmoe_qkv_def d;
    if (widths(t, o, &d) != LMOE_OK) return x;
    lmoe_qkv a = lmoe_qkv_project(t, &d, &w->qkv, x, o->activation, LMOE_THROUGH_NONE);
    lmoe_tensor y = lmoe_scan_diag(t, a.q, a.k, a.v, log_decay(t, o, w, x), lmoe_key_scale(t, a.q));
    lmoe_tensor gate = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->gate);
    y = lmoe_rmsnorm_gated(t, y, w->norm, gate, o->norm_eps);
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/simple_gla",
             "Linear attention with one gated decay for each head.", options,
             sizeof(simple_gla_options), 0},
    .params_size = sizeof(simple_gla_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/simple_gla", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
