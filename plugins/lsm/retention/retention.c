/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/retention/retention.c: retention (Sun et al. 2023, arXiv 2307.08621).
 *
 *   S_t = gamma_h S_{t-1} + k_t v_t^T ,  gamma_h = 1 - 2^(-5-h)      o_t = scale S_t^T q_t
 *   y   = (rmsnorm(o) * silu(W_g x)) W_o ; q and k are rotated by their positions
 */
#include <lmoe/lmoe.h>

typedef struct retention_options {
    int64_t heads, kv_heads, conv_kernel;
    double expand_k, expand_v, rope_base, norm_eps;
    int32_t output_gate, rope, short_conv, activation;
} retention_options;

typedef struct retention_params {
    lmoe_qkv_params qkv;
    lmoe_tensor gate, norm, out;
} retention_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(retention_options, heads), "8", 1, 65536, NULL, NULL,
     "Heads."},
    {"kv_heads", LMOE_OPTION_INT, offsetof(retention_options, kv_heads), "0", 0, 65536, NULL, NULL,
     "Heads of keys and values; 0: as many as heads."},
    {"expand_k", LMOE_OPTION_FLOAT, offsetof(retention_options, expand_k), "1.0", 1e-3, 64, NULL,
     NULL, "Width of all keys together, in units of embed."},
    {"expand_v", LMOE_OPTION_FLOAT, offsetof(retention_options, expand_v), "2.0", 1e-3, 64, NULL,
     NULL, "Width of all values together, in units of embed."},
    {"activation", LMOE_OPTION_ENUM, offsetof(retention_options, activation), "none", 0, 0,
     LMOE_ACTIVATIONS, NULL, "Applied to q and k before the rotation."},
    {"output_gate", LMOE_OPTION_BOOL, offsetof(retention_options, output_gate), "yes", 0, 0, NULL,
     NULL, "Multiply the normed output by silu of a projection of the input."},
    {"rope", LMOE_OPTION_BOOL, offsetof(retention_options, rope), "yes", 0, 0, NULL, NULL,
     "Rotate q and k by their positions."},
    {"rope_base", LMOE_OPTION_FLOAT, offsetof(retention_options, rope_base), "10000", 1, 1e9, NULL,
     NULL, "Base of the rotary positions."},
    {"short_conv", LMOE_OPTION_BOOL, offsetof(retention_options, short_conv), "no", 0, 0, NULL,
     NULL, "A short causal convolution with silu on q, k and v."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(retention_options, conv_kernel), "4", 2, 64, NULL,
     "tokens", "Length of the short convolution."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(retention_options, norm_eps), "1e-6", 0, 1, NULL, NULL,
     "Added to the mean square in the output norm."},
    LMOE_OPTION_END};

static lmoe_status widths(lmoe_trace *t, const retention_options *o, lmoe_qkv_def *d)
{
    *d = (lmoe_qkv_def){.heads = o->heads,
                        .kv_heads = o->kv_heads,
                        .conv_kernel = o->short_conv ? o->conv_kernel : 0};
    LMOE_TRY(lmoe_head_widths(t, o->heads, o->expand_k, o->expand_v, &d->head_k, &d->head_v));
    if (!o->rope || d->head_k % 2 == 0) return LMOE_OK;
    lmoe_fail(t, "a head's keys are %lld wide, but rotation takes pairs: an even width is needed",
              (long long)d->head_k);
    return LMOE_E_CONFIG;
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const retention_options *o = opt;
    retention_params *w = params;
    lmoe_qkv_def d;
    int64_t e = lmoe_size(t, "embed"), h = o->heads;
    LMOE_TRY(widths(t, o, &d));
    LMOE_TRY(lmoe_qkv_declare(t, &d, &w->qkv));
    if (o->output_gate) {
        w->gate = lmoe_cube(t, "g_proj.weight", "embed heads head_v", e, h, d.head_v, 0);
        w->norm = lmoe_vector(t, "g_norm_swish_gate.weight", "head_v", d.head_v, 1.0);
    } else {
        w->norm = lmoe_vector(t, "g_norm.weight", "head_v", d.head_v, 1.0);
    }
    w->out = lmoe_output_cube(t, "o_proj.weight", h, d.head_v, e);
    return LMOE_OK;
}

/* log(1 - 2^(-5-h)) for each head, as log(1 - exp(y)) with y = -(5 + h) log 2 */
static lmoe_tensor log_decay(lmoe_trace *t, int64_t heads)
{
    double log2 = log(2.0);
    return lmoe_map(t, lmoe_iota(t, "heads", heads, -5.0 * log2, -log2), LMOE_MAP_LOG1MEXP);
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const retention_options *o = opt;
    const retention_params *w = params;
    lmoe_qkv_def d;
    if (widths(t, o, &d) != LMOE_OK) return x;
    lmoe_qkv a = lmoe_qkv_project(t, &d, &w->qkv, x, o->activation, LMOE_THROUGH_NONE);
    if (o->rope) {
        a.q = lmoe_rope(t, a.q, o->rope_base);
        a.k = lmoe_rope(t, a.k, o->rope_base);
    }
    lmoe_tensor y =
        lmoe_scan_diag(t, a.q, a.k, a.v, log_decay(t, o->heads), lmoe_key_scale(t, a.q));
    if (o->output_gate) {
        lmoe_tensor gate = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->gate);
        y = lmoe_rmsnorm_gated(t, y, w->norm, gate, o->norm_eps);
    } else {
        y = lmoe_rmsnorm(t, y, w->norm, o->norm_eps);
    }
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/retention",
             "Retention: a fixed decay for each head, rotary positions.", options,
             sizeof(retention_options), 0},
    .params_size = sizeof(retention_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/retention", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
