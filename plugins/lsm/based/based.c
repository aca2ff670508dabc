/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/based/based.c: Based (Arora et al. 2024, arXiv 2402.18668): linear attention whose
 * feature map is the second-order Taylor series of exp.
 *
 *   phi(x) = [1, x / d^(1/4), x (x) x / sqrt(2 d)],  phi(q) . phi(k) = 1 + s / sqrt(d) + s^2 / (2 d)
 *   o_t = S_t^T phi(q_t) / (z_t . phi(q_t) + eps)       S, z: sums of phi(k) v^T, phi(k)
 *   y   = o W_o; with output_gate (o * silu(W_g x)) W_o
 */
#include <lmoe/lmoe.h>

typedef struct based_options {
    int64_t heads, feature_dim, conv_kernel;
    double eps;
    int32_t output_gate, short_conv;
} based_options;

typedef struct based_params {
    lmoe_qkv_params qkv;
    lmoe_tensor gate, out;
} based_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(based_options, heads), "12", 1, 65536, NULL, NULL,
     "Heads."},
    {"feature_dim", LMOE_OPTION_INT, offsetof(based_options, feature_dim), "16", 1, 256, NULL, NULL,
     "Width d of a head's q and k; features are 1 + d + d^2."},
    {"eps", LMOE_OPTION_FLOAT, offsetof(based_options, eps), "1e-10", 0, 1, NULL, NULL,
     "Added to the sum that divides the output."},
    {"output_gate", LMOE_OPTION_BOOL, offsetof(based_options, output_gate), "no", 0, 0, NULL, NULL,
     "Multiply the output by silu of a projection of the input."},
    {"short_conv", LMOE_OPTION_BOOL, offsetof(based_options, short_conv), "no", 0, 0, NULL, NULL,
     "A short causal convolution with silu on q, k and v."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(based_options, conv_kernel), "4", 2, 64, NULL,
     "tokens", "Length of the short convolution."},
    LMOE_OPTION_END};

static lmoe_status widths(lmoe_trace *t, const based_options *o, lmoe_qkv_def *d)
{
    int64_t k;
    *d = (lmoe_qkv_def){.heads = o->heads,
                        .head_k = o->feature_dim,
                        .conv_kernel = o->short_conv ? o->conv_kernel : 0};
    return lmoe_head_widths(t, o->heads, 1.0, 1.0, &k, &d->head_v);
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const based_options *o = opt;
    based_params *w = params;
    lmoe_qkv_def d;
    int64_t e = lmoe_size(t, "embed"), h = o->heads;
    LMOE_TRY(widths(t, o, &d));
    LMOE_TRY(lmoe_qkv_declare(t, &d, &w->qkv));
    if (o->output_gate)
        w->gate = lmoe_cube(t, "g_proj.weight", "embed heads head_v", e, h, d.head_v, 0);
    w->out = lmoe_output_cube(t, "o_proj.weight", h, d.head_v, e);
    return LMOE_OK;
}

/* x: (batch seq heads head_k) -> phi(x) with 1 + d + d^2 features */
static lmoe_tensor taylor(lmoe_trace *t, lmoe_tensor x, int64_t d)
{
    double root = sqrt((double)d);
    lmoe_tensor first = lmoe_pad(t, lmoe_mul_scalar(t, x, 1.0 / sqrt(root)), 3, 1, 0, 1.0);
    lmoe_tensor second = lmoe_products(t, lmoe_mul_scalar(t, x, 1.0 / sqrt(sqrt(2.0) * root)));
    return lmoe_concat(t, first, second, "head_k");
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const based_options *o = opt;
    const based_params *w = params;
    lmoe_qkv_def d;
    if (widths(t, o, &d) != LMOE_OK) return x;
    lmoe_qkv a = lmoe_qkv_project(t, &d, &w->qkv, x, LMOE_THROUGH_NONE, LMOE_THROUGH_NONE);
    a.q = taylor(t, a.q, o->feature_dim);
    a.k = taylor(t, a.k, o->feature_dim);
    lmoe_tensor y = lmoe_scan_diag_normalized(t, a.q, a.k, a.v, lmoe_absent(), 1.0, o->eps);
    if (o->output_gate)
        y = lmoe_mul(t, y, lmoe_silu(t, lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->gate)));
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/based",
             "Based: linear attention on a Taylor series of exp.", options, sizeof(based_options),
             0},
    .params_size = sizeof(based_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/based", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
