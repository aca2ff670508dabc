/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/bla/bla.c: basic linear attention (Katharopoulos et al. 2020, arXiv 2006.16236).
 *
 *   S_t = S_{t-1} + phi(k_t) v_t^T        o_t = scale S_t^T phi(q_t)
 *   normalize: o_t is divided by scale z_t . phi(q_t) + 1e-10 with z_t the sum of phi(k)
 *   y = rmsnorm(o) W_o, the norm is over head_v; with output_gate times silu(W_g x) before W_o
 */
#include <lmoe/lmoe.h>

#include <stdbool.h>

enum { IDENTITY, RELU, SILU, ELU, PRODUCT, HEDGEHOG, T2R, DPFP, DPFP_RELEASE };

typedef struct bla_options {
    int64_t heads, kv_heads, conv_kernel;
    double expand_k, expand_v, norm_eps;
    int32_t feature_map, tie_feature_map, normalize, sum_norm, output_norm, output_gate, short_conv;
} bla_options;

typedef struct bla_map { /* phi's weights; the second pair is the product's */
    lmoe_tensor w1, b1, w2, b2;
} bla_map;

typedef struct bla_params {
    lmoe_qkv_params qkv;
    bla_map q_map, k_map;
    lmoe_tensor gate, norm, out;
} bla_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(bla_options, heads), "4", 1, 65536, NULL, NULL, "Heads."},
    {"kv_heads", LMOE_OPTION_INT, offsetof(bla_options, kv_heads), "0", 0, 65536, NULL, NULL,
     "Heads of keys and values; 0: as many as heads."},
    {"expand_k", LMOE_OPTION_FLOAT, offsetof(bla_options, expand_k), "1.0", 1e-3, 64, NULL, NULL,
     "Width of all keys together, in units of embed."},
    {"expand_v", LMOE_OPTION_FLOAT, offsetof(bla_options, expand_v), "1.0", 1e-3, 64, NULL, NULL,
     "Width of all values together, in units of embed."},
    {"feature_map", LMOE_OPTION_ENUM, offsetof(bla_options, feature_map), "elementwise_product", 0,
     0, "identity relu silu elu elementwise_product hedgehog t2r dpfp dpfp_release", NULL,
     "phi, applied to q and k of each head."},
    {"tie_feature_map", LMOE_OPTION_BOOL, offsetof(bla_options, tie_feature_map), "no", 0, 0, NULL,
     NULL, "One learned map for both q and k."},
    {"normalize", LMOE_OPTION_BOOL, offsetof(bla_options, normalize), "no", 0, 0, NULL, NULL,
     "Divide by the weights' sum, as softmax attention does."},
    {"sum_norm", LMOE_OPTION_ENUM, offsetof(bla_options, sum_norm), "none", 0, 0, "none q k qk",
     NULL, "Which of phi(q), phi(k) are divided by the sum of their features (+ 1e-4)."},
    {"output_norm", LMOE_OPTION_BOOL, offsetof(bla_options, output_norm), "yes", 0, 0, NULL, NULL,
     "RMS norm of each head's output."},
    {"output_gate", LMOE_OPTION_BOOL, offsetof(bla_options, output_gate), "no", 0, 0, NULL, NULL,
     "Multiply the output by silu of a projection of the input."},
    {"short_conv", LMOE_OPTION_BOOL, offsetof(bla_options, short_conv), "no", 0, 0, NULL, NULL,
     "A short causal convolution with silu on q, k and v."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(bla_options, conv_kernel), "4", 2, 64, NULL, "tokens",
     "Length of the short convolution."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(bla_options, norm_eps), "1e-6", 0, 1, NULL, NULL,
     "Added to the mean square in the output norm."},
    LMOE_OPTION_END};

/* Of deviation 1 / sqrt(width), so that features begin at the size of their inputs; the hedgehog
 * starts with the identity. */
static lmoe_tensor map_weight(lmoe_trace *t, const char *which, const char *layer, int64_t width,
                              bool eye)
{
    char name[64];
    snprintf(name, sizeof name, "feature_map_%s.%s.weight", which, layer);
    lmoe_param_def d = {.size = sizeof d,
                        .name = name,
                        .axes = "head_in head_k",
                        .dim = {width, width},
                        .init = eye ? LMOE_INIT_EYE : LMOE_INIT_NORMAL,
                        .b = 1.0 / sqrt((double)width)};
    return lmoe_param(t, &d);
}

static lmoe_tensor map_bias(lmoe_trace *t, const char *which, const char *layer, int64_t width)
{
    char name[64];
    snprintf(name, sizeof name, "feature_map_%s.%s.bias", which, layer);
    return lmoe_vector(t, name, "head_k", width, 0.0);
}

static bla_map declare_map(lmoe_trace *t, int kind, const char *which, int64_t width)
{
    bla_map m = {{0}, {0}, {0}, {0}};
    const char *first = kind == PRODUCT ? "layer1" : "layer";
    m.w1 = map_weight(t, which, first, width, kind == HEDGEHOG);
    if (kind != T2R) m.b1 = map_bias(t, which, first, width);
    if (kind != PRODUCT) return m;
    m.w2 = map_weight(t, which, "layer2", width, false);
    m.b2 = map_bias(t, which, "layer2", width);
    return m;
}

static bool learned(int map)
{
    return map == PRODUCT || map == HEDGEHOG || map == T2R;
}

static lmoe_status widths(lmoe_trace *t, const bla_options *o, lmoe_qkv_def *d)
{
    *d = (lmoe_qkv_def){.heads = o->heads,
                        .kv_heads = o->kv_heads,
                        .conv_kernel = o->short_conv ? o->conv_kernel : 0,
                        .key_axis = learned(o->feature_map) ? "head_in" : "head_k"};
    return lmoe_head_widths(t, o->heads, o->expand_k, o->expand_v, &d->head_k, &d->head_v);
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const bla_options *o = opt;
    bla_params *w = params;
    lmoe_qkv_def d;
    int64_t e = lmoe_size(t, "embed"), h = o->heads;
    LMOE_TRY(widths(t, o, &d));
    LMOE_TRY(lmoe_qkv_declare(t, &d, &w->qkv));
    if (learned(o->feature_map)) {
        w->q_map = declare_map(t, o->feature_map, "q", d.head_k);
        w->k_map = o->tie_feature_map ? w->q_map : declare_map(t, o->feature_map, "k", d.head_k);
    }
    if (o->output_norm) w->norm = lmoe_vector(t, "norm.weight", "head_v", d.head_v, 1.0);
    if (o->output_gate)
        w->gate = lmoe_cube(t, "g_proj.weight", "embed heads head_v", e, h, d.head_v, 0);
    w->out = lmoe_output_cube(t, "o_proj.weight", h, d.head_v, e);
    return LMOE_OK;
}

static lmoe_tensor linear(lmoe_trace *t, lmoe_tensor x, lmoe_tensor w, lmoe_tensor b)
{
    lmoe_tensor y = lmoe_einsum(t, "b s h i, i k -> b s h k", x, w);
    return lmoe_is_absent(b) ? y : lmoe_add(t, y, b);
}

/* softmax of 2 (W x + b) beside its negative */
static lmoe_tensor hedgehog(lmoe_trace *t, const bla_map *m, lmoe_tensor x)
{
    lmoe_desc d;
    lmoe_tensor y = lmoe_mul_scalar(t, linear(t, x, m->w1, m->b1), 2.0);
    lmoe_tensor both = lmoe_concat(t, y, lmoe_mul_scalar(t, y, -1.0), "head_k");
    if (lmoe_describe(t, x, &d) != LMOE_OK) return x;
    return lmoe_cast(t, lmoe_softmax(t, both), d.dtype);
}

/* y = relu(x) beside relu(-x), or -relu(x); then y * (y rolled by j) side by side, j = 1 ... 4 */
static lmoe_tensor dpfp(lmoe_trace *t, lmoe_tensor x, bool release)
{
    lmoe_tensor y = lmoe_relu(t, x), all = lmoe_absent();
    lmoe_tensor other = lmoe_mul_scalar(t, release ? y : x, -1.0);
    y = lmoe_concat(t, y, release ? other : lmoe_relu(t, other), "head_k");
    for (int j = 1; j <= 4; j++) {
        lmoe_tensor part = lmoe_mul(t, y, lmoe_roll(t, y, "head_k", j));
        all = j == 1 ? part : lmoe_concat(t, all, part, "head_k");
    }
    return all;
}

static lmoe_tensor feature_map(lmoe_trace *t, const bla_options *o, const bla_map *m, lmoe_tensor x)
{
    switch (o->feature_map) {
    case RELU: return lmoe_relu(t, x);
    case SILU: return lmoe_silu(t, x);
    case ELU: return lmoe_map(t, x, LMOE_MAP_ELU1);
    case PRODUCT: return lmoe_mul(t, linear(t, x, m->w1, m->b1), linear(t, x, m->w2, m->b2));
    case HEDGEHOG: return hedgehog(t, m, x);
    case T2R: return lmoe_relu(t, linear(t, x, m->w1, lmoe_absent()));
    case DPFP: return dpfp(t, x, false);
    case DPFP_RELEASE: return dpfp(t, x, true);
    default: return x;
    }
}

static lmoe_tensor by_sum(lmoe_trace *t, lmoe_tensor x)
{
    return lmoe_div(t, x, lmoe_affine(t, lmoe_sum(t, "b s h k -> b s h", x), 1.0, 1e-4));
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const bla_options *o = opt;
    const bla_params *w = params;
    lmoe_qkv_def d;
    if (widths(t, o, &d) != LMOE_OK) return x;
    lmoe_qkv a = lmoe_qkv_project(t, &d, &w->qkv, x, LMOE_THROUGH_NONE, LMOE_THROUGH_NONE);
    lmoe_tensor none = lmoe_absent(), y;
    a.q = feature_map(t, o, &w->q_map, a.q);
    a.k = feature_map(t, o, &w->k_map, a.k);
    if (o->sum_norm & 1) a.q = by_sum(t, a.q);
    if (o->sum_norm & 2) a.k = by_sum(t, a.k);
    double scale = lmoe_key_scale(t, a.q);
    if (o->normalize)
        y = lmoe_scan_diag_normalized(t, a.q, a.k, a.v, none, scale, 1e-10);
    else
        y = lmoe_scan_diag(t, a.q, a.k, a.v, none, scale);
    if (o->output_norm) y = lmoe_rmsnorm(t, y, w->norm, o->norm_eps);
    if (o->output_gate)
        y = lmoe_mul(t, y, lmoe_silu(t, lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->gate)));
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/bla",
             "Basic linear attention: no decay, a feature map on q and k.", options,
             sizeof(bla_options), 0},
    .params_size = sizeof(bla_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/bla", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
