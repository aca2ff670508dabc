/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/lightning/lightning.c: lightning attention (Qin et al. 2024, arXiv 2401.04658), the
 * layer of TransNormerLLM (arXiv 2307.14995).
 *
 *   S_t = lambda_h S_{t-1} + k_t v_t^T        o_t = S_t^T q_t        q, k, v through silu
 *   lambda_h = exp(-slope_h), fixed for each head (and layer): option `slopes`
 *   y   = (rmsnorm(o) * sigmoid(W_g x)) W_o                   the norm is over head_v
 */
#include <lmoe/lmoe.h>

enum { LAYERWISE, ALIBI, LINEAR };

typedef struct lightning_options {
    int64_t heads;
    double expand_k, expand_v, norm_eps;
    int32_t slopes, activation, value_activation, gate, scaled;
} lightning_options;

typedef struct lightning_params {
    lmoe_qkv_params qkv;
    lmoe_tensor gate, norm, out;
} lightning_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(lightning_options, heads), "8", 1, 65536, NULL, NULL,
     "Heads."},
    {"expand_k", LMOE_OPTION_FLOAT, offsetof(lightning_options, expand_k), "1.0", 1e-3, 64, NULL,
     NULL, "Width of all keys together, in units of embed."},
    {"expand_v", LMOE_OPTION_FLOAT, offsetof(lightning_options, expand_v), "1.0", 1e-3, 64, NULL,
     NULL, "Width of all values together, in units of embed."},
    {"slopes", LMOE_OPTION_ENUM, offsetof(lightning_options, slopes), "layerwise", 0, 0,
     "layerwise alibi linear", NULL,
     "The heads' log decays: alibi's, weaker in each further layer; alibi's; or linear in the "
     "head."},
    {"activation", LMOE_OPTION_ENUM, offsetof(lightning_options, activation), "silu", 0, 0,
     LMOE_ACTIVATIONS, NULL, "Applied to q and k."},
    {"value_activation", LMOE_OPTION_ENUM, offsetof(lightning_options, value_activation), "silu", 0,
     0, LMOE_ACTIVATIONS, NULL, "Applied to v."},
    {"output_gate", LMOE_OPTION_ENUM, offsetof(lightning_options, gate), "sigmoid", 0, 0,
     LMOE_ACTIVATIONS, NULL, "What a projection of the input goes through to gate; none: no gate."},
    {"scaled", LMOE_OPTION_BOOL, offsetof(lightning_options, scaled), "no", 0, 0, NULL, NULL,
     "Multiply the output by head_k^(-1/2)."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(lightning_options, norm_eps), "1e-6", 0, 1, NULL, NULL,
     "Added to the mean square in the output norm."},
    LMOE_OPTION_END};

static lmoe_status widths(lmoe_trace *t, const lightning_options *o, lmoe_qkv_def *d)
{
    *d = (lmoe_qkv_def){.heads = o->heads};
    return lmoe_head_widths(t, o->heads, o->expand_k, o->expand_v, &d->head_k, &d->head_v);
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const lightning_options *o = opt;
    lightning_params *w = params;
    lmoe_qkv_def d;
    int64_t e = lmoe_size(t, "embed"), h = o->heads;
    LMOE_TRY(widths(t, o, &d));
    LMOE_TRY(lmoe_qkv_declare(t, &d, &w->qkv));
    if (o->gate) w->gate = lmoe_cube(t, "g_proj.weight", "embed heads head_v", e, h, d.head_v, 0);
    w->norm = lmoe_vector(t, "g_norm.weight", "head_v", d.head_v, 1.0);
    w->out = lmoe_output_cube(t, "o_proj.weight", h, d.head_v, e);
    return LMOE_OK;
}

/* 2^(first + step i), i = 0 ... n-1 */
static lmoe_tensor powers(lmoe_trace *t, int64_t n, double first, double step)
{
    return lmoe_exp(t, lmoe_iota(t, "heads", n, first * log(2.0), step * log(2.0)));
}

/* alibi's 2^(-8 (h + 1) / heads); for other numbers than powers of two those of the next lower power
 * and then every other one of its double. */
static lmoe_tensor alibi(lmoe_trace *t, int64_t heads)
{
    int64_t n = 1;
    while (2 * n <= heads) n *= 2;
    double step = -8.0 / (double)n;
    lmoe_tensor slopes = powers(t, n, step, step);
    if (n == heads) return slopes;
    return lmoe_concat(t, slopes, powers(t, heads - n, step / 2, step), "heads");
}

/* (heads), at most 0 */
static lmoe_tensor log_decay(lmoe_trace *t, const lightning_options *o)
{
    double l = (double)lmoe_size(t, "layer"), layers = (double)lmoe_size(t, "layers");
    if (o->slopes == LINEAR) {
        double step = -8.0 / (double)o->heads * (1.0 - l / layers);
        return lmoe_iota(t, "heads", o->heads, 0.0, step);
    }
    double factor = o->slopes == ALIBI || layers < 2 ? 1.0 : 1.0 - l / (layers - 1) + 1e-5;
    return lmoe_mul_scalar(t, alibi(t, o->heads), -factor);
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const lightning_options *o = opt;
    const lightning_params *w = params;
    lmoe_qkv_def d;
    if (widths(t, o, &d) != LMOE_OK) return x;
    lmoe_qkv a = lmoe_qkv_project(t, &d, &w->qkv, x, o->activation, o->value_activation);
    double scale = o->scaled ? lmoe_key_scale(t, a.q) : 1.0;
    lmoe_tensor y = lmoe_scan_diag(t, a.q, a.k, a.v, log_decay(t, o), scale);
    y = lmoe_rmsnorm(t, y, w->norm, o->norm_eps);
    if (o->gate) {
        lmoe_tensor gate = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->gate);
        y = lmoe_mul(t, y, lmoe_activate(t, gate, o->gate));
    }
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/lightning",
             "Lightning attention: a fixed decay for each head and layer.", options,
             sizeof(lightning_options), 0},
    .params_size = sizeof(lightning_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/lightning", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
