/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/gla/gla.c: gated linear attention (Yang et al. 2023, arXiv 2312.06635).
 *
 *   S_t = diag(exp g_t) S_{t-1} + k_t v_t^T        o_t = scale S_t^T q_t
 *   g   = logsigmoid(W_2 W_1 x + b) / gate_normalizer      a decay for each channel of the key
 *   y   = (rmsnorm(o) * silu(W_g x)) W_o                   the norm is over head_v
 */
#include <lmoe/lmoe.h>

typedef struct gla_options {
    int64_t heads, low_rank, conv_kernel;
    double expand_k, expand_v, gate_normalizer, norm_eps;
    int32_t short_conv;
} gla_options;

typedef struct gla_params {
    lmoe_tensor q, k, v, gate, gk_down, gk_up, gk_bias, norm, out;
    lmoe_tensor q_conv, k_conv, v_conv;
} gla_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(gla_options, heads), "4", 1, 65536, NULL, NULL, "Heads."},
    {"expand_k", LMOE_OPTION_FLOAT, offsetof(gla_options, expand_k), "0.5", 1e-3, 64, NULL, NULL,
     "Width of all keys together, in units of embed."},
    {"expand_v", LMOE_OPTION_FLOAT, offsetof(gla_options, expand_v), "1.0", 1e-3, 64, NULL, NULL,
     "Width of all values together, in units of embed."},
    {"low_rank", LMOE_OPTION_INT, offsetof(gla_options, low_rank), "16", 1, 65536, NULL, NULL,
     "Inner size of the decay's two projections."},
    {"gate_normalizer", LMOE_OPTION_FLOAT, offsetof(gla_options, gate_normalizer), "16", 1e-3, 1e6,
     NULL, NULL, "Divides the log decay: larger remembers longer."},
    {"short_conv", LMOE_OPTION_BOOL, offsetof(gla_options, short_conv), "no", 0, 0, NULL, NULL,
     "A short causal convolution with silu on q, k and v."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(gla_options, conv_kernel), "4", 2, 64, NULL, "tokens",
     "Length of the short convolution."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(gla_options, norm_eps), "1e-6", 0, 1, NULL, NULL,
     "Added to the mean square in the output norm."},
    LMOE_OPTION_END};

static lmoe_tensor conv_weight(lmoe_trace *t, const char *name, const char *axes, int64_t heads,
                               int64_t width, int64_t kernel)
{
    return lmoe_cube(t, name, axes, heads, width, kernel, 0.5 / sqrt((double)kernel));
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const gla_options *o = opt;
    gla_params *w = params;
    int64_t e = lmoe_size(t, "embed"), h = o->heads;
    int64_t k = (int64_t)((double)e * o->expand_k), v = (int64_t)((double)e * o->expand_v);
    if (k < h || v < h || k % h != 0 || v % h != 0) {
        lmoe_fail(t, "heads = %lld must divide the keys' width %lld and the values' width %lld",
                  (long long)h, (long long)k, (long long)v);
        return LMOE_E_CONFIG;
    }
    k /= h;
    v /= h;
    w->q = lmoe_cube(t, "q_proj.weight", "embed heads head_k", e, h, k, 0);
    w->k = lmoe_cube(t, "k_proj.weight", "embed heads head_k", e, h, k, 0);
    w->v = lmoe_cube(t, "v_proj.weight", "embed heads head_v", e, h, v, 0);
    w->gate = lmoe_cube(t, "g_proj.weight", "embed heads head_v", e, h, v, 0);
    w->gk_down = lmoe_matrix(t, "gk_proj.0.weight", "embed low_rank", e, o->low_rank, 0);
    w->gk_up = lmoe_cube(t, "gk_proj.1.weight", "low_rank heads head_k", o->low_rank, h, k, 0);
    lmoe_param_def bias = {.size = sizeof bias,
                           .name = "gk_proj.1.bias",
                           .axes = "heads head_k",
                           .dim = {h, k},
                           .init = LMOE_INIT_CONST,
                           .flags = LMOE_PARAM_NO_DECAY};
    w->gk_bias = lmoe_param(t, &bias);
    w->norm = lmoe_vector(t, "g_norm_swish_gate.weight", "head_v", v, 1.0);
    w->out = lmoe_output_cube(t, "o_proj.weight", h, v, e);
    if (o->short_conv) {
        w->q_conv = conv_weight(t, "q_conv1d.weight", "heads head_k kernel", h, k, o->conv_kernel);
        w->k_conv = conv_weight(t, "k_conv1d.weight", "heads head_k kernel", h, k, o->conv_kernel);
        w->v_conv = conv_weight(t, "v_conv1d.weight", "heads head_v kernel", h, v, o->conv_kernel);
    }
    return LMOE_OK;
}

/* x: (batch seq embed) -> log decay (batch seq heads head_k), at most 0 */
static lmoe_tensor log_decay(lmoe_trace *t, const gla_options *o, const gla_params *w,
                             lmoe_tensor x)
{
    lmoe_tensor low = lmoe_einsum(t, "b s e, e r -> b s r", x, w->gk_down);
    lmoe_tensor up = lmoe_einsum(t, "b s r, r h k -> b s h k", low, w->gk_up);
    lmoe_tensor logit = lmoe_f32(t, lmoe_add(t, up, w->gk_bias));
    return lmoe_mul_scalar(t, lmoe_logsigmoid(t, logit), 1.0 / o->gate_normalizer);
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const gla_options *o = opt;
    const gla_params *w = params;
    lmoe_tensor q = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->q);
    lmoe_tensor k = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->k);
    lmoe_tensor v = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->v);
    if (o->short_conv) {
        q = lmoe_short_conv(t, q, w->q_conv, 1);
        k = lmoe_short_conv(t, k, w->k_conv, 1);
        v = lmoe_short_conv(t, v, w->v_conv, 1);
    }
    double scale = 1.0 / sqrt((double)lmoe_axis_size(t, q, "head_k"));
    lmoe_tensor y = lmoe_scan_diag(t, q, k, v, log_decay(t, o, w, x), scale);
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
