/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/bla/bla.c: basic linear attention (Katharopoulos et al. 2020, arXiv 2006.16236).
 *
 *   S_t = S_{t-1} + phi(k_t) v_t^T        o_t = scale S_t^T phi(q_t)
 *   normalize: o_t is divided by scale z_t . phi(q_t) + 1e-10 with z_t the sum of phi(k); a column
 * of ones beside v carries z in the same state. y = rmsnorm(o) W_o, the norm is over head_v
 */
#include <lmoe/lmoe.h>

#include <stdbool.h>
#include <stdio.h>

enum { MAP_IDENTITY, MAP_RELU, MAP_SILU, MAP_ELU, MAP_PRODUCT };

typedef struct bla_options {
    int64_t heads;
    double expand_k, expand_v, norm_eps;
    int32_t feature_map, tie_feature_map, normalize, output_norm;
} bla_options;

typedef struct product_map { /* (W1 x + b1) * (W2 x + b2) */
    lmoe_tensor w1, b1, w2, b2;
} product_map;

typedef struct bla_params {
    lmoe_tensor q, k, v, norm, out;
    product_map q_map, k_map;
} bla_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(bla_options, heads), "4", 1, 65536, NULL, NULL, "Heads."},
    {"expand_k", LMOE_OPTION_FLOAT, offsetof(bla_options, expand_k), "1.0", 1e-3, 64, NULL, NULL,
     "Width of all keys together, in units of embed."},
    {"expand_v", LMOE_OPTION_FLOAT, offsetof(bla_options, expand_v), "1.0", 1e-3, 64, NULL, NULL,
     "Width of all values together, in units of embed."},
    {"feature_map", LMOE_OPTION_ENUM, offsetof(bla_options, feature_map), "elementwise_product", 0,
     0, "identity relu silu elu elementwise_product", NULL,
     "phi, applied to q and k of each head."},
    {"tie_feature_map", LMOE_OPTION_BOOL, offsetof(bla_options, tie_feature_map), "no", 0, 0, NULL,
     NULL, "One learned map for both q and k."},
    {"normalize", LMOE_OPTION_BOOL, offsetof(bla_options, normalize), "no", 0, 0, NULL, NULL,
     "Divide by the weights' sum, as softmax attention does."},
    {"output_norm", LMOE_OPTION_BOOL, offsetof(bla_options, output_norm), "yes", 0, 0, NULL, NULL,
     "RMS norm of each head's output."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(bla_options, norm_eps), "1e-6", 0, 1, NULL, NULL,
     "Added to the mean square in the output norm."},
    LMOE_OPTION_END};

static lmoe_tensor bias(lmoe_trace *t, const char *name, int64_t width, double value)
{
    return lmoe_vector(t, name, "head_k", width, value);
}

/* Weights of deviation 1 / sqrt(width), so that features begin at the size of their inputs. */
static product_map declare_map(lmoe_trace *t, const char *which, int64_t width)
{
    char name[64];
    product_map m;
    double deviation = 1.0 / sqrt((double)width);
    snprintf(name, sizeof name, "feature_map_%s.layer1.weight", which);
    m.w1 = lmoe_matrix(t, name, "head_in head_k", width, width, deviation);
    snprintf(name, sizeof name, "feature_map_%s.layer1.bias", which);
    m.b1 = bias(t, name, width, 0.0);
    snprintf(name, sizeof name, "feature_map_%s.layer2.weight", which);
    m.w2 = lmoe_matrix(t, name, "head_in head_k", width, width, deviation);
    snprintf(name, sizeof name, "feature_map_%s.layer2.bias", which);
    m.b2 = bias(t, name, width, 0.0);
    return m;
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const bla_options *o = opt;
    bla_params *w = params;
    int64_t e = lmoe_size(t, "embed"), h = o->heads;
    int64_t k = (int64_t)((double)e * o->expand_k), v = (int64_t)((double)e * o->expand_v);
    if (k < h || v < h || k % h != 0 || v % h != 0) {
        lmoe_fail(t, "heads = %lld must divide the keys' width %lld and the values' width %lld",
                  (long long)h, (long long)k, (long long)v);
        return LMOE_E_CONFIG;
    }
    bool product = o->feature_map == MAP_PRODUCT;
    const char *key_axes = product ? "embed heads head_in" : "embed heads head_k";
    w->q = lmoe_cube(t, "q_proj.weight", key_axes, e, h, k / h, 0);
    w->k = lmoe_cube(t, "k_proj.weight", key_axes, e, h, k / h, 0);
    w->v = lmoe_cube(t, "v_proj.weight", "embed heads head_v", e, h, v / h, 0);
    if (product) {
        w->q_map = declare_map(t, "q", k / h);
        w->k_map = o->tie_feature_map ? w->q_map : declare_map(t, "k", k / h);
    }
    if (o->output_norm) w->norm = lmoe_vector(t, "norm.weight", "head_v", v / h, 1.0);
    w->out = lmoe_output_cube(t, "o_proj.weight", h, v / h, e);
    return LMOE_OK;
}

static lmoe_tensor feature_map(lmoe_trace *t, const bla_options *o, const product_map *m,
                               lmoe_tensor x)
{
    switch (o->feature_map) {
    case MAP_RELU: return lmoe_relu(t, x);
    case MAP_SILU: return lmoe_silu(t, x);
    case MAP_ELU: return lmoe_map(t, x, LMOE_MAP_ELU1);
    case MAP_PRODUCT: {
        lmoe_tensor a = lmoe_add(t, lmoe_einsum(t, "b s h i, i k -> b s h k", x, m->w1), m->b1);
        lmoe_tensor b = lmoe_add(t, lmoe_einsum(t, "b s h i, i k -> b s h k", x, m->w2), m->b2);
        return lmoe_mul(t, a, b);
    }
    default: return x;
    }
}

/* y: (batch seq heads head_v + 1), the last column holds scale z . phi(q) */
static lmoe_tensor divide_by_weights(lmoe_trace *t, lmoe_tensor y)
{
    int64_t v = lmoe_axis_size(t, y, "head_v") - 1;
    lmoe_tensor sum = lmoe_sum(t, "b s h v -> b s h", lmoe_slice(t, y, 3, v, 1));
    return lmoe_div(t, lmoe_slice(t, y, 3, 0, v), lmoe_affine(t, sum, 1.0, 1e-10));
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const bla_options *o = opt;
    const bla_params *w = params;
    lmoe_tensor q = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->q);
    lmoe_tensor k = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->k);
    lmoe_tensor v = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->v);
    q = feature_map(t, o, &w->q_map, q);
    k = feature_map(t, o, &w->k_map, k);
    double scale = 1.0 / sqrt((double)lmoe_axis_size(t, q, "head_k"));
    if (o->normalize) v = lmoe_pad(t, v, 3, 0, 1, 1.0);
    lmoe_tensor y = lmoe_scan_diag(t, q, k, v, lmoe_absent(), scale);
    if (o->normalize) y = divide_by_weights(t, y);
    if (o->output_norm) y = lmoe_rmsnorm(t, y, w->norm, o->norm_eps);
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
