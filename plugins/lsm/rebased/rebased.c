/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/rebased/rebased.c: ReBased (Aksenov et al. 2024, arXiv 2402.10644): linear attention on
 * squares of learned affine maps of normed q and k.
 *
 *   x^ = layernorm(x) * gamma + beta, over a head's d features; phi(x) = x^ (x) x^ / sqrt(d)
 *   phi(q) . phi(k) = (q^ . k^)^2 / d
 *   o_t = S_t^T phi(q_t) / (z_t . phi(q_t) + eps)       S, z: sums of phi(k) v^T, phi(k)
 *   y   = o W_o; with output_gate (o * silu(W_g x)) W_o
 */
#include <lmoe/lmoe.h>

typedef struct rebased_options {
    int64_t heads, feature_dim, conv_kernel;
    double eps, norm_eps;
    int32_t output_gate, short_conv;
} rebased_options;

typedef struct rebased_params {
    lmoe_qkv_params qkv;
    lmoe_tensor gamma, beta, gate, out;
} rebased_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(rebased_options, heads), "16", 1, 65536, NULL, NULL,
     "Heads."},
    {"feature_dim", LMOE_OPTION_INT, offsetof(rebased_options, feature_dim), "16", 1, 256, NULL,
     NULL, "Width d of a head's q and k; features are d^2."},
    {"eps", LMOE_OPTION_FLOAT, offsetof(rebased_options, eps), "1e-5", 0, 1, NULL, NULL,
     "Added to the sum that divides the output."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(rebased_options, norm_eps), "1e-5", 0, 1, NULL, NULL,
     "Added to the variance in the norm of q and k."},
    {"output_gate", LMOE_OPTION_BOOL, offsetof(rebased_options, output_gate), "no", 0, 0, NULL,
     NULL, "Multiply the output by silu of a projection of the input."},
    {"short_conv", LMOE_OPTION_BOOL, offsetof(rebased_options, short_conv), "no", 0, 0, NULL, NULL,
     "A short causal convolution with silu on q, k and v."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(rebased_options, conv_kernel), "4", 2, 64, NULL,
     "tokens", "Length of the short convolution."},
    LMOE_OPTION_END};

static lmoe_status widths(lmoe_trace *t, const rebased_options *o, lmoe_qkv_def *d)
{
    int64_t k;
    *d = (lmoe_qkv_def){.heads = o->heads,
                        .head_k = o->feature_dim,
                        .conv_kernel = o->short_conv ? o->conv_kernel : 0};
    return lmoe_head_widths(t, o->heads, 1.0, 1.0, &k, &d->head_v);
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const rebased_options *o = opt;
    rebased_params *w = params;
    lmoe_qkv_def d;
    int64_t e = lmoe_size(t, "embed"), h = o->heads;
    LMOE_TRY(widths(t, o, &d));
    LMOE_TRY(lmoe_qkv_declare(t, &d, &w->qkv));
    w->gamma = lmoe_vector(t, "feature_map.gamma", "head_k", d.head_k, 1.0);
    w->beta = lmoe_vector(t, "feature_map.beta", "head_k", d.head_k, 0.0);
    if (o->output_gate)
        w->gate = lmoe_cube(t, "g_proj.weight", "embed heads head_v", e, h, d.head_v, 0);
    w->out = lmoe_output_cube(t, "o_proj.weight", h, d.head_v, e);
    return LMOE_OK;
}

/* x: (batch seq heads head_k) -> phi(x) with d^2 features */
static lmoe_tensor squares(lmoe_trace *t, const rebased_options *o, const rebased_params *w,
                           lmoe_tensor x)
{
    x = lmoe_layernorm(t, x, w->gamma, w->beta, o->norm_eps);
    return lmoe_products(t, lmoe_mul_scalar(t, x, pow((double)o->feature_dim, -0.25)));
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const rebased_options *o = opt;
    const rebased_params *w = params;
    lmoe_qkv_def d;
    if (widths(t, o, &d) != LMOE_OK) return x;
    lmoe_qkv a = lmoe_qkv_project(t, &d, &w->qkv, x, LMOE_THROUGH_NONE, LMOE_THROUGH_NONE);
    a.q = squares(t, o, w, a.q);
    a.k = squares(t, o, w, a.k);
    lmoe_tensor y = lmoe_scan_diag_normalized(t, a.q, a.k, a.v, lmoe_absent(), 1.0, o->eps);
    if (o->output_gate)
        y = lmoe_mul(t, y, lmoe_silu(t, lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->gate)));
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/rebased",
             "ReBased: linear attention on squares of normed q and k.", options,
             sizeof(rebased_options), 0},
    .params_size = sizeof(rebased_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/rebased", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
