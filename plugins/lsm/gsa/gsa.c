/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/gsa/gsa.c: gated slot attention (Zhang et al. 2024, arXiv 2409.07146).
 *
 *   f_t = logsigmoid(W_f x) / gate_normalizer, a log decay for each of M slots;  s_t = 1 - exp f_t
 *   keys of slots    A_t = A_{t-1} diag(exp f_t) + k_t s_t^T       p_t = softmax(A_t^T q_t)
 *   values of slots  B_t = diag(exp f_t) B_{t-1} + s_t v_t^T       o_t = B_t^T p_t
 *   y = rmsnorm(silu(o)) W_o                        the norm is over all heads together
 */
#include <lmoe/lmoe.h>

typedef struct gsa_options {
    int64_t heads, kv_heads, slots, conv_kernel;
    double expand_k, expand_v, gate_normalizer, scale, norm_eps;
    int32_t activation, short_conv;
} gsa_options;

typedef struct gsa_params {
    lmoe_qkv_params qkv;
    lmoe_tensor f, norm, out;
} gsa_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(gsa_options, heads), "4", 1, 65536, NULL, NULL, "Heads."},
    {"kv_heads", LMOE_OPTION_INT, offsetof(gsa_options, kv_heads), "0", 0, 65536, NULL, NULL,
     "Heads of keys, values and slots; 0: as many as heads."},
    {"expand_k", LMOE_OPTION_FLOAT, offsetof(gsa_options, expand_k), "1.0", 1e-3, 64, NULL, NULL,
     "Width of all keys together, in units of embed."},
    {"expand_v", LMOE_OPTION_FLOAT, offsetof(gsa_options, expand_v), "1.0", 1e-3, 64, NULL, NULL,
     "Width of all values together, in units of embed."},
    {"slots", LMOE_OPTION_INT, offsetof(gsa_options, slots), "64", 1, 65536, NULL, NULL,
     "Slots of each head."},
    {"gate_normalizer", LMOE_OPTION_FLOAT, offsetof(gsa_options, gate_normalizer), "8", 1e-3, 1e6,
     NULL, NULL, "Divides the log decay: larger remembers longer."},
    {"scale", LMOE_OPTION_FLOAT, offsetof(gsa_options, scale), "1", 1e-6, 1e6, NULL, NULL,
     "Factor of the scores before the softmax."},
    {"activation", LMOE_OPTION_ENUM, offsetof(gsa_options, activation), "silu", 0, 0,
     LMOE_ACTIVATIONS, NULL, "Applied to q and k; v always goes through silu."},
    {"short_conv", LMOE_OPTION_BOOL, offsetof(gsa_options, short_conv), "no", 0, 0, NULL, NULL,
     "A short causal convolution with silu on q, k and v."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(gsa_options, conv_kernel), "4", 2, 64, NULL, "tokens",
     "Length of the short convolution."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(gsa_options, norm_eps), "1e-5", 0, 1, NULL, NULL,
     "Added to the mean square in the output norm."},
    LMOE_OPTION_END};

static lmoe_status widths(lmoe_trace *t, const gsa_options *o, lmoe_qkv_def *d)
{
    *d = (lmoe_qkv_def){.heads = o->heads,
                        .kv_heads = o->kv_heads,
                        .conv_kernel = o->short_conv ? o->conv_kernel : 0};
    return lmoe_head_widths(t, o->heads, o->expand_k, o->expand_v, &d->head_k, &d->head_v);
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const gsa_options *o = opt;
    gsa_params *w = params;
    lmoe_qkv_def d;
    int64_t e = lmoe_size(t, "embed"), h = o->heads, g = o->kv_heads ? o->kv_heads : h;
    LMOE_TRY(widths(t, o, &d));
    LMOE_TRY(lmoe_qkv_declare(t, &d, &w->qkv));
    w->f = lmoe_cube(t, "f_proj.weight", g == h ? "embed heads slot" : "embed kv_heads slot", e, g,
                     o->slots, 0);
    w->norm = lmoe_vector(t, "g_norm.weight", "hidden", h * d.head_v, 1.0);
    w->out = lmoe_output_cube(t, "o_proj.weight", h, d.head_v, e);
    return LMOE_OK;
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const gsa_options *o = opt;
    const gsa_params *w = params;
    lmoe_qkv_def d;
    lmoe_desc of_x;
    if (widths(t, o, &d) != LMOE_OK || lmoe_describe(t, x, &of_x) != LMOE_OK) return x;
    lmoe_qkv a = lmoe_qkv_project(t, &d, &w->qkv, x, o->activation, LMOE_THROUGH_SILU);
    lmoe_tensor f = lmoe_f32(t, lmoe_einsum(t, "b s e, e h m -> b s h m", x, w->f));
    f = lmoe_mul_scalar(t, lmoe_logsigmoid(t, f), 1.0 / o->gate_normalizer);
    if (o->kv_heads && o->kv_heads != o->heads) f = lmoe_repeat_heads(t, f, o->heads / o->kv_heads);
    lmoe_tensor s = lmoe_cast(t, lmoe_map(t, f, LMOE_MAP_ONEMEXP), of_x.dtype);
    lmoe_scan_diag_in keys = {.q = a.q, .k = a.k, .v = s, .decay_v = f};
    lmoe_tensor p = lmoe_softmax(t, lmoe_scan_diag_with(t, &keys, o->scale));
    lmoe_tensor y = lmoe_scan_diag(t, lmoe_cast(t, p, of_x.dtype), s, a.v, f, 1.0);
    y = lmoe_merge_axes(t, lmoe_silu(t, y), "heads", "hidden");
    y = lmoe_rmsnorm(t, y, w->norm, o->norm_eps);
    y = lmoe_split_axis(t, y, "hidden", "heads", d.head_v, "head_v");
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/gsa",
             "Gated slot attention: two passes with a softmax over slots between.", options,
             sizeof(gsa_options), 0},
    .params_size = sizeof(gsa_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/gsa", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
