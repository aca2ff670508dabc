/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/deltanet/deltanet.c: DeltaNet (Schlag et al. 2021, Yang et al. 2024, arXiv
 * 2406.06484).
 *
 *   S_t = (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T        o_t = scale S_t^T q_t
 *   beta = sigmoid(W_b x) for each head; q, k of length 1
 *   y    = rmsnorm(o) W_o, or (rmsnorm(o) * silu(W_g x)) W_o       the norm is over head_v
 */
#include <lmoe/lmoe.h>

enum { SILU, RELU, ELU, IDENTITY };
enum { NORM_L2, NORM_SUM, NORM_NONE };

typedef struct deltanet_options {
    int64_t heads, conv_kernel;
    double expand_k, expand_v, norm_eps;
    int32_t use_beta, allow_neg_eigval, short_conv, qk_activation, qk_norm, v_activation, use_gate;
} deltanet_options;

typedef struct deltanet_params {
    lmoe_tensor q, k, v, beta, q_conv, k_conv, v_conv, gate, norm, out;
} deltanet_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(deltanet_options, heads), "4", 1, 65536, NULL, NULL,
     "Heads."},
    {"expand_k", LMOE_OPTION_FLOAT, offsetof(deltanet_options, expand_k), "1.0", 1e-3, 64, NULL,
     NULL, "Width of all keys together, in units of embed."},
    {"expand_v", LMOE_OPTION_FLOAT, offsetof(deltanet_options, expand_v), "1.0", 1e-3, 64, NULL,
     NULL, "Width of all values together, in units of embed."},
    {"use_beta", LMOE_OPTION_BOOL, offsetof(deltanet_options, use_beta), "yes", 0, 0, NULL, NULL,
     "A writing strength for each token and head; no: 1."},
    {"allow_neg_eigval", LMOE_OPTION_BOOL, offsetof(deltanet_options, allow_neg_eigval), "no", 0, 0,
     NULL, NULL, "Strengths up to 2 instead of 1, so that what is stored can change its sign."},
    {"short_conv", LMOE_OPTION_BOOL, offsetof(deltanet_options, short_conv), "yes", 0, 0, NULL,
     NULL, "A short causal convolution on q, k and v."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(deltanet_options, conv_kernel), "4", 2, 64, NULL,
     "tokens", "Length of the short convolution."},
    {"qk_activation", LMOE_OPTION_ENUM, offsetof(deltanet_options, qk_activation), "silu", 0, 0,
     "silu relu elu identity", NULL, "Applied to q and k; elu is elu + 1."},
    {"qk_norm", LMOE_OPTION_ENUM, offsetof(deltanet_options, qk_norm), "l2", 0, 0, "l2 sum none",
     NULL, "q and k of length 1, or of sum 1 (elu, relu)."},
    {"v_activation", LMOE_OPTION_BOOL, offsetof(deltanet_options, v_activation), "yes", 0, 0, NULL,
     NULL, "silu on v."},
    {"use_gate", LMOE_OPTION_BOOL, offsetof(deltanet_options, use_gate), "no", 0, 0, NULL, NULL,
     "Multiply the normed output by silu of a projection of the input."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(deltanet_options, norm_eps), "1e-6", 0, 1, NULL, NULL,
     "Added to the mean square in the output norm."},
    LMOE_OPTION_END};

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const deltanet_options *o = opt;
    deltanet_params *w = params;
    int64_t e = lmoe_size(t, "embed"), h = o->heads;
    int64_t k, v;
    LMOE_TRY(lmoe_head_widths(t, h, o->expand_k, o->expand_v, &k, &v));
    w->q = lmoe_cube(t, "q_proj.weight", "embed heads head_k", e, h, k, 0);
    w->k = lmoe_cube(t, "k_proj.weight", "embed heads head_k", e, h, k, 0);
    w->v = lmoe_cube(t, "v_proj.weight", "embed heads head_v", e, h, v, 0);
    if (o->use_beta) w->beta = lmoe_matrix(t, "b_proj.weight", "embed heads", e, h, 0);
    if (o->short_conv) {
        int64_t n = o->conv_kernel;
        w->q_conv = lmoe_conv_cube(t, "q_conv1d.weight", "heads head_k kernel", h, k, n);
        w->k_conv = lmoe_conv_cube(t, "k_conv1d.weight", "heads head_k kernel", h, k, n);
        w->v_conv = lmoe_conv_cube(t, "v_conv1d.weight", "heads head_v kernel", h, v, n);
    }
    if (o->use_gate) w->gate = lmoe_cube(t, "g_proj.weight", "embed heads head_v", e, h, v, 0);
    w->norm = lmoe_vector(t, "o_norm.weight", "head_v", v, 1.0);
    w->out = lmoe_output_cube(t, "o_proj.weight", h, v, e);
    return LMOE_OK;
}

/* Convolution, activation and norm of q or k: (batch seq heads head_k). */
static lmoe_tensor feature(lmoe_trace *t, const deltanet_options *o, lmoe_tensor x,
                           lmoe_tensor conv)
{
    if (o->short_conv) x = lmoe_short_conv(t, x, conv, o->qk_activation == SILU);
    if (o->qk_activation == SILU && !o->short_conv) x = lmoe_silu(t, x);
    if (o->qk_activation == RELU) x = lmoe_relu(t, x);
    if (o->qk_activation == ELU) x = lmoe_map(t, x, LMOE_MAP_ELU1);
    if (o->qk_norm == NORM_L2) return lmoe_l2norm(t, x, 1e-6);
    if (o->qk_norm != NORM_SUM) return x;
    lmoe_tensor sum = lmoe_sum(t, "b s h k -> b s h", x); /* max(sum, 1e-6): it may be 0 */
    sum = lmoe_affine(t, lmoe_relu(t, lmoe_affine(t, sum, 1.0, -1e-6)), 1.0, 1e-6);
    return lmoe_div(t, x, sum);
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const deltanet_options *o = opt;
    const deltanet_params *w = params;
    lmoe_tensor q = feature(t, o, lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->q), w->q_conv);
    lmoe_tensor k = feature(t, o, lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->k), w->k_conv);
    lmoe_tensor v = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->v), write = k;
    if (o->short_conv)
        v = lmoe_short_conv(t, v, w->v_conv, o->v_activation);
    else if (o->v_activation)
        v = lmoe_silu(t, v);
    if (o->use_beta) {
        lmoe_tensor logit = lmoe_einsum(t, "b s e, e h -> b s h", x, w->beta);
        write = lmoe_mul(t, k, lmoe_sigmoid(t, lmoe_f32(t, logit)));
    }
    if (o->allow_neg_eigval) write = lmoe_mul_scalar(t, write, 2);
    double scale = 1.0 / sqrt((double)lmoe_axis_size(t, q, "head_k"));
    lmoe_tensor y = lmoe_scan_delta(t, q, write, v, k, lmoe_absent(), lmoe_absent(), scale);
    if (o->use_gate) {
        lmoe_tensor gate = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->gate);
        y = lmoe_rmsnorm_gated(t, y, w->norm, gate, o->norm_eps);
    } else {
        y = lmoe_rmsnorm(t, y, w->norm, o->norm_eps);
    }
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/deltanet",
             "DeltaNet: replaces what the key had stored.", options, sizeof(deltanet_options), 0},
    .params_size = sizeof(deltanet_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/deltanet", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
