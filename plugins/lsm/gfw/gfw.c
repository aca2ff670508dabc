/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/gfw/gfw.c: gated fast weights: a decay for each channel of the key and one for
 * each of the value (the outer-product gate of decaying fast weights, Mao 2022, arXiv 2210.04243).
 *
 *   S_t = (alpha_t gamma_t^T) * S_{t-1} + k_t v_t^T        o_t = scale S_t^T q_t
 *   log alpha, log gamma = logsigmoid(W_2 W_1 x + b) / gate_normalizer, over head_k and head_v
 *   y   = (rmsnorm(o) * silu(W_g x)) W_o                   the norm is over head_v
 */
#include <lmoe/lmoe.h>

typedef struct gfw_options {
    int64_t heads, low_rank;
    double expand_k, expand_v, gate_normalizer, norm_eps;
    int32_t activation;
} gfw_options;

typedef struct gfw_params {
    lmoe_qkv_params qkv;
    lmoe_low_rank_params alpha, gamma;
    lmoe_tensor gate, norm, out;
} gfw_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(gfw_options, heads), "4", 1, 65536, NULL, NULL, "Heads."},
    {"expand_k", LMOE_OPTION_FLOAT, offsetof(gfw_options, expand_k), "0.5", 1e-3, 64, NULL, NULL,
     "Width of all keys together, in units of embed."},
    {"expand_v", LMOE_OPTION_FLOAT, offsetof(gfw_options, expand_v), "1.0", 1e-3, 64, NULL, NULL,
     "Width of all values together, in units of embed."},
    {"activation", LMOE_OPTION_ENUM, offsetof(gfw_options, activation), "none", 0, 0,
     LMOE_ACTIVATIONS, NULL, "Applied to q and k."},
    {"low_rank", LMOE_OPTION_INT, offsetof(gfw_options, low_rank), "16", 1, 65536, NULL, NULL,
     "Inner size of each decay's two projections."},
    {"gate_normalizer", LMOE_OPTION_FLOAT, offsetof(gfw_options, gate_normalizer), "16", 1e-3, 1e6,
     NULL, NULL, "Divides the log decays: larger remembers longer."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(gfw_options, norm_eps), "1e-6", 0, 1, NULL, NULL,
     "Added to the mean square in the output norm."},
    LMOE_OPTION_END};

static lmoe_status widths(lmoe_trace *t, const gfw_options *o, lmoe_qkv_def *d)
{
    *d = (lmoe_qkv_def){.heads = o->heads};
    return lmoe_head_widths(t, o->heads, o->expand_k, o->expand_v, &d->head_k, &d->head_v);
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const gfw_options *o = opt;
    gfw_params *w = params;
    lmoe_qkv_def d;
    int64_t e = lmoe_size(t, "embed"), h = o->heads;
    LMOE_TRY(widths(t, o, &d));
    LMOE_TRY(lmoe_qkv_declare(t, &d, &w->qkv));
    w->alpha = lmoe_low_rank(t, "gk_proj", "heads", "head_k", o->low_rank, h, d.head_k);
    w->gamma = lmoe_low_rank(t, "gv_proj", "heads", "head_v", o->low_rank, h, d.head_v);
    w->gate = lmoe_cube(t, "g_proj.weight", "embed heads head_v", e, h, d.head_v, 0);
    w->norm = lmoe_vector(t, "g_norm_swish_gate.weight", "head_v", d.head_v, 1.0);
    w->out = lmoe_output_cube(t, "o_proj.weight", h, d.head_v, e);
    return LMOE_OK;
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const gfw_options *o = opt;
    const gfw_params *w = params;
    lmoe_qkv_def d;
    if (widths(t, o, &d) != LMOE_OK) return x;
    lmoe_qkv a = lmoe_qkv_project(t, &d, &w->qkv, x, o->activation, LMOE_THROUGH_NONE);
    lmoe_scan_diag_in in = {.q = a.q, .k = a.k, .v = a.v};
    in.decay = lmoe_low_rank_decay(t, &w->alpha, x, o->gate_normalizer);
    in.decay_v = lmoe_low_rank_decay(t, &w->gamma, x, o->gate_normalizer);
    lmoe_tensor y = lmoe_scan_diag_with(t, &in, lmoe_key_scale(t, a.q));
    lmoe_tensor gate = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->gate);
    y = lmoe_rmsnorm_gated(t, y, w->norm, gate, o->norm_eps);
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/gfw",
             "Gated fast weights: decays of key and value channels.", options, sizeof(gfw_options),
             0},
    .params_size = sizeof(gfw_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/gfw", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
