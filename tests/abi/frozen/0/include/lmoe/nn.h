/* SPDX-License-Identifier: Apache-2.0
 * lmoe/nn.h: compositions of ops that layers share. Inline code over lmoe/ops.h; never part of the
 * ABI.
 */
#ifndef LMOE_NN_H
#define LMOE_NN_H

#include <lmoe/ops.h>
#include <math.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A definition with up to three sizes, as many as there are names in axes: normal(0, the model's
 * deviation). */
static inline lmoe_param_def lmoe_param_of(const char *name, const char *axes, int64_t a, int64_t b,
                                           int64_t c)
{
    lmoe_param_def d;
    memset(&d, 0, sizeof d);
    d.size = sizeof d;
    d.name = name;
    d.axes = axes;
    d.dim[0] = a;
    d.dim[1] = b;
    d.dim[2] = c;
    d.init = LMOE_INIT_NORMAL;
    return d;
}

/* Declares a weight that no decay pulls to zero. a, b: what init says of them. */
static inline lmoe_tensor lmoe_param_kept(lmoe_trace *t, lmoe_param_def d, lmoe_init_kind init,
                                          double a, double b)
{
    d.init = init;
    d.a = a;
    d.b = b;
    d.flags = LMOE_PARAM_NO_DECAY;
    return lmoe_param(t, &d);
}

/* Declares a weight of three axes, normal(0, deviation; 0: the model's): projections to heads. */
static inline lmoe_tensor lmoe_cube(lmoe_trace *t, const char *name, const char *axes, int64_t a,
                                    int64_t b, int64_t c, double deviation)
{
    lmoe_param_def d = lmoe_param_of(name, axes, a, b, c);
    d.b = deviation;
    return lmoe_param(t, &d);
}

/* Declares a weight of two axes, normal(0, deviation); deviation 0: the model's. */
static inline lmoe_tensor lmoe_matrix(lmoe_trace *t, const char *name, const char *axes,
                                      int64_t rows, int64_t columns, double deviation)
{
    return lmoe_cube(t, name, axes, rows, columns, 0, deviation);
}

/* Declares a projection back to the residual stream, of up to three axes. */
static inline lmoe_tensor lmoe_output_weight(lmoe_trace *t, const char *name, const char *axes,
                                             int64_t a, int64_t b, int64_t c)
{
    lmoe_param_def d = lmoe_param_of(name, axes, a, b, c);
    d.flags = LMOE_PARAM_RESIDUAL;
    return lmoe_param(t, &d);
}

/* The one from heads: (heads head_v embed). */
static inline lmoe_tensor lmoe_output_cube(lmoe_trace *t, const char *name, int64_t heads,
                                           int64_t head_v, int64_t embed)
{
    return lmoe_output_weight(t, name, "heads head_v embed", heads, head_v, embed);
}

/* Declares a vector of one value: norm weights (1), biases (0). */
static inline lmoe_tensor lmoe_vector(lmoe_trace *t, const char *name, const char *axis, int64_t n,
                                      double value)
{
    return lmoe_param_kept(t, lmoe_param_of(name, axis, n, 0, 0), LMOE_INIT_CONST, value, 0);
}

/* Size of a named axis of x; -1 (and a recorded failure) if x lacks it. */
static inline int64_t lmoe_axis_size(lmoe_trace *t, lmoe_tensor x, const char *axis)
{
    lmoe_desc d;
    if (lmoe_describe(t, x, &d) != LMOE_OK) return -1;
    for (int i = 0; i < d.rank; i++) {
        if (strcmp(d.axis[i], axis) == 0) return d.dim[i];
    }
    lmoe_fail(t, "a tensor without axis '%s' was asked for its size", axis);
    return -1;
}

/* Declares a weight of two axes with one value and no weight decay: biases and gains of heads'
 * channels. */
static inline lmoe_tensor lmoe_head_vector(lmoe_trace *t, const char *name, const char *axes,
                                           int64_t heads, int64_t width, double value)
{
    lmoe_param_def d = lmoe_param_of(name, axes, heads, width, 0);
    return lmoe_param_kept(t, d, LMOE_INIT_CONST, value, 0);
}

/* Declares the weight of a short convolution over heads' channels: axes "heads head_k kernel". */
static inline lmoe_tensor lmoe_conv_cube(lmoe_trace *t, const char *name, const char *axes,
                                         int64_t heads, int64_t width, int64_t kernel)
{
    return lmoe_cube(t, name, axes, heads, width, kernel, 0.5 / sqrt((double)kernel));
}

/* Widths of one head, when all heads' keys (values) together are expand_k (expand_v) times as wide
 * as the model. */
static inline lmoe_status lmoe_head_widths_at(lmoe_trace *t, const char *file, int line,
                                              int64_t heads, double expand_k, double expand_v,
                                              int64_t *head_k, int64_t *head_v)
{
    double e = (double)lmoe_size(t, "embed");
    int64_t k = (int64_t)(e * expand_k), v = (int64_t)(e * expand_v);
    if (k < heads || v < heads || k % heads != 0 || v % heads != 0) {
        lmoe_fail_at(t, file, line,
                     "heads = %lld must divide the keys' width %lld and the values' width %lld",
                     (long long)heads, (long long)k, (long long)v);
        return LMOE_E_CONFIG;
    }
    *head_k = k / heads;
    *head_v = v / heads;
    return LMOE_OK;
}
#define lmoe_head_widths(t, heads, expand_k, expand_v, head_k, head_v) \
    lmoe_head_widths_at((t), LMOE_HERE, (heads), (expand_k), (expand_v), (head_k), (head_v))

/* Index of a named axis of x, and x's description; -1 (and a recorded failure) if x lacks it. */
static inline int lmoe_axis_index(lmoe_trace *t, lmoe_tensor x, const char *axis, lmoe_desc *d)
{
    if (lmoe_describe(t, x, d) != LMOE_OK) return -1;
    for (int i = 0; i < d->rank; i++) {
        if (strcmp(d->axis[i], axis) == 0) return i;
    }
    lmoe_fail(t, "a tensor without axis '%s' was to be changed along it", axis);
    return -1;
}

/* x with axis `from` under the name `to`: a view. */
static inline lmoe_tensor lmoe_rename_axis(lmoe_trace *t, lmoe_tensor x, const char *from,
                                           const char *to)
{
    return lmoe_merge_axes(t, lmoe_split_axis(t, x, from, "rename", 1, "unit"), "rename", to);
}

/* A constant vector (axis) of n ones in x's dtype. */
static inline lmoe_tensor lmoe_ones(lmoe_trace *t, lmoe_tensor x, const char *axis, int64_t n)
{
    lmoe_desc d;
    if (lmoe_describe(t, x, &d) != LMOE_OK) return x;
    return lmoe_cast(t, lmoe_iota(t, axis, n, 1, 0), d.dtype);
}

/* (batch seq kv_heads d) -> (batch seq heads d): each head `times` times in a row. */
static inline lmoe_tensor lmoe_repeat_heads(lmoe_trace *t, lmoe_tensor x, int64_t times)
{
    if (times == 1) return lmoe_rename_axis(t, x, "kv_heads", "heads");
    lmoe_tensor ones = lmoe_ones(t, x, "group", times);
    return lmoe_merge_axes(t, lmoe_einsum(t, "b s g d, r -> b s g r d", x, ones), "kv_heads",
                           "heads");
}

/* a and b side by side along a named axis; their other axes agree. */
static inline lmoe_tensor lmoe_concat(lmoe_trace *t, lmoe_tensor a, lmoe_tensor b, const char *axis)
{
    lmoe_desc da, db;
    int at = lmoe_axis_index(t, a, axis, &da);
    if (at < 0 || lmoe_axis_index(t, b, axis, &db) != at) return a;
    return lmoe_add(t, lmoe_pad(t, a, at, 0, db.dim[at], 0.0),
                    lmoe_pad(t, b, at, da.dim[at], 0, 0.0));
}

/* All products of two features: (batch seq heads head_k) -> the same with head_k squared. */
static inline lmoe_tensor lmoe_products(lmoe_trace *t, lmoe_tensor x)
{
    lmoe_tensor y = lmoe_rename_axis(t, x, "head_k", "other");
    return lmoe_merge_axes(t, lmoe_einsum(t, "b s h i, b s h j -> b s h i j", x, y), "head_k",
                           "head_k");
}

/* y[i] = x[i - shift], around the ends of a named axis; 0 < shift < its size. */
static inline lmoe_tensor lmoe_roll(lmoe_trace *t, lmoe_tensor x, const char *axis, int64_t shift)
{
    lmoe_desc d;
    int at = lmoe_axis_index(t, x, axis, &d);
    if (at < 0) return x;
    return lmoe_concat(t, lmoe_slice(t, x, at, d.dim[at] - shift, shift),
                       lmoe_slice(t, x, at, 0, d.dim[at] - shift), axis);
}

/* (x - mean) / sqrt(variance + eps) over the last axis, times weight, plus bias (either may be
 * absent; their axes are the last ones of x). x: rank 3 or 4. */
static inline lmoe_tensor lmoe_layernorm(lmoe_trace *t, lmoe_tensor x, lmoe_tensor weight,
                                         lmoe_tensor bias, double eps)
{
    lmoe_desc d;
    if (lmoe_describe(t, x, &d) != LMOE_OK) return x;
    lmoe_tensor sum = lmoe_sum(t, d.rank == 3 ? "b s e -> b s" : "b s h e -> b s h", x);
    lmoe_tensor less = lmoe_mul_scalar(t, sum, -1.0 / (double)d.dim[d.rank - 1]);
    lmoe_tensor y = lmoe_rmsnorm(t, lmoe_add(t, x, less), lmoe_absent(), eps);
    if (!lmoe_is_absent(weight)) y = lmoe_mul(t, y, weight);
    return lmoe_is_absent(bias) ? y : lmoe_add(t, y, bias);
}

/* The token before: y_s = x_{s-1}, zeros before the first of a document. x: (batch seq d) or
 * (batch seq d e). A short convolution of two tokens whose weights are 1 and 0. */
static inline lmoe_tensor lmoe_token_before(lmoe_trace *t, lmoe_tensor x)
{
    lmoe_desc d;
    if (lmoe_describe(t, x, &d) != LMOE_OK) return x;
    lmoe_tensor w = lmoe_ones(t, x, d.axis[2], d.dim[2]);
    lmoe_tensor taps = lmoe_cast(t, lmoe_iota(t, "kernel", 2, 1, -1), d.dtype);
    if (d.rank == 4) w = lmoe_einsum(t, "d, e -> d e", w, lmoe_ones(t, x, d.axis[3], d.dim[3]));
    w = lmoe_einsum(t, d.rank == 4 ? "d e, j -> d e j" : "d, j -> d j", w, taps);
    return lmoe_short_conv(t, x, w, 0);
}

/* scan_diag whose result is divided by what a value of 1 would give, plus eps. A column of ones
 * beside v carries that sum in the same state. */
static inline lmoe_tensor lmoe_scan_diag_normalized(lmoe_trace *t, lmoe_tensor q, lmoe_tensor k,
                                                    lmoe_tensor v, lmoe_tensor decay, double scale,
                                                    double eps)
{
    int64_t n = lmoe_axis_size(t, v, "head_v");
    lmoe_tensor y = lmoe_scan_diag(t, q, k, lmoe_pad(t, v, 3, 0, 1, 1.0), decay, scale);
    lmoe_tensor sum = lmoe_sum(t, "b s h v -> b s h", lmoe_slice(t, y, 3, n, 1));
    return lmoe_div(t, lmoe_slice(t, y, 3, 0, n), lmoe_affine(t, sum, 1.0, eps));
}

/* Declares A_log, the logs of numbers uniform in [low, high), and dt_bias, whose softplus is
 * log-uniform in [0.001, 0.1): what lmoe_softplus_decay wants. */
static inline lmoe_tensor lmoe_decay_rate(lmoe_trace *t, const char *name, int64_t heads,
                                          double low, double high)
{
    return lmoe_param_kept(t, lmoe_param_of(name, "heads", heads, 0, 0), LMOE_INIT_LOG, low, high);
}

static inline lmoe_tensor lmoe_decay_bias(lmoe_trace *t, const char *name, const char *axes,
                                          int64_t heads, int64_t width)
{
    lmoe_param_def d = lmoe_param_of(name, axes, heads, width, 0);
    return lmoe_param_kept(t, d, LMOE_INIT_SOFTPLUS, 0.001, 0.1);
}

/* The log decay -exp(a_log) softplus(x + bias), in the state dtype. a_log: (heads), bias: (heads) or
 * (heads n), x: (... heads) or (... heads n). */
static inline lmoe_tensor lmoe_softplus_decay_at(lmoe_trace *t, const char *file, int line,
                                                 lmoe_tensor x, lmoe_tensor a_log, lmoe_tensor bias)
{
    lmoe_dtype state = lmoe_state_dtype(t);
    x = lmoe_cast_at(t, file, line, x, state);
    x = lmoe_binary_at(t, file, line, "add/1", x, lmoe_cast_at(t, file, line, bias, state));
    x = lmoe_map_at(t, file, line, x, LMOE_MAP_SOFTPLUS);
    a_log = lmoe_map_at(t, file, line, lmoe_cast_at(t, file, line, a_log, state), LMOE_MAP_EXP);
    x = lmoe_binary_at(t, file, line, "multiply/1", x, a_log);
    return lmoe_affine_at(t, file, line, x, -1, 0);
}
#define lmoe_softplus_decay(t, x, a_log, bias) \
    lmoe_softplus_decay_at((t), LMOE_HERE, (x), (a_log), (bias))

/* x / sqrt(sum of squares + eps) over the last axis */
static inline lmoe_tensor lmoe_l2norm_at(lmoe_trace *t, const char *file, int line, lmoe_tensor x,
                                         double eps)
{
    lmoe_desc d;
    if (lmoe_describe(t, x, &d) != LMOE_OK) return x;
    double n = (double)d.dim[d.rank - 1];
    x = lmoe_rmsnorm_at(t, file, line, x, lmoe_absent(), lmoe_absent(), eps / n);
    return lmoe_affine_at(t, file, line, x, 1 / sqrt(n), 0);
}
#define lmoe_l2norm(t, x, eps) lmoe_l2norm_at((t), LMOE_HERE, (x), (eps))

/* ---- activations that layers offer as an option ---- */

#define LMOE_ACTIVATIONS "none silu relu elu gelu sigmoid" /* elu: elu(x) + 1 */
enum {
    LMOE_THROUGH_NONE,
    LMOE_THROUGH_SILU,
    LMOE_THROUGH_RELU,
    LMOE_THROUGH_ELU,
    LMOE_THROUGH_GELU,
    LMOE_THROUGH_SIGMOID
};

static inline lmoe_tensor lmoe_activate(lmoe_trace *t, lmoe_tensor x, int which)
{
    static const lmoe_map_fn fn[] = {LMOE_MAP_SILU, LMOE_MAP_SILU, LMOE_MAP_RELU,
                                     LMOE_MAP_ELU1, LMOE_MAP_GELU, LMOE_MAP_SIGMOID};
    return which == LMOE_THROUGH_NONE ? x : lmoe_map(t, x, fn[which]);
}

/* ---- queries, keys and values of heads, as most layers start ---- */

typedef struct lmoe_qkv_def {
    int64_t heads, kv_heads; /* kv_heads: 0, or a divisor of heads: each serves heads in a row */
    int64_t head_k, head_v;
    int64_t conv_kernel;  /* 0: no short convolution; else its length, with silu */
    const char *key_axis; /* NULL: "head_k" */
} lmoe_qkv_def;

typedef struct lmoe_qkv_params {
    lmoe_tensor q, k, v, q_conv, k_conv, v_conv;
} lmoe_qkv_params;

typedef struct lmoe_qkv {
    lmoe_tensor q, k, v; /* (batch seq heads key_axis), the same, (batch seq heads head_v) */
} lmoe_qkv;

/* Declares q_proj.weight, k_proj.weight, v_proj.weight and {q,k,v}_conv1d.weight. */
static inline lmoe_status lmoe_qkv_declare(lmoe_trace *t, const lmoe_qkv_def *d, lmoe_qkv_params *w)
{
    const char *key = d->key_axis ? d->key_axis : "head_k";
    int64_t e = lmoe_size(t, "embed"), h = d->heads, g = d->kv_heads ? d->kv_heads : h;
    const char *of_kv = g == h ? "heads" : "kv_heads";
    char q_axes[64], k_axes[64], v_axes[64];
    if (h % g != 0) {
        lmoe_fail(t, "heads = %lld is not a multiple of kv_heads = %lld", (long long)h,
                  (long long)g);
        return LMOE_E_CONFIG;
    }
    snprintf(q_axes, sizeof q_axes, "embed heads %s kernel", key);
    snprintf(k_axes, sizeof k_axes, "embed %s %s kernel", of_kv, key);
    snprintf(v_axes, sizeof v_axes, "embed %s head_v kernel", of_kv);
    if (d->conv_kernel) {
        w->q_conv = lmoe_conv_cube(t, "q_conv1d.weight", q_axes + 6, h, d->head_k, d->conv_kernel);
        w->k_conv = lmoe_conv_cube(t, "k_conv1d.weight", k_axes + 6, g, d->head_k, d->conv_kernel);
        w->v_conv = lmoe_conv_cube(t, "v_conv1d.weight", v_axes + 6, g, d->head_v, d->conv_kernel);
    }
    *strrchr(q_axes, ' ') = *strrchr(k_axes, ' ') = *strrchr(v_axes, ' ') = 0;
    w->q = lmoe_cube(t, "q_proj.weight", q_axes, e, h, d->head_k, 0);
    w->k = lmoe_cube(t, "k_proj.weight", k_axes, e, g, d->head_k, 0);
    w->v = lmoe_cube(t, "v_proj.weight", v_axes, e, g, d->head_v, 0);
    return LMOE_OK;
}

/* x: (batch seq embed). qk, v: activations of queries and keys, and of values. */
static inline lmoe_qkv lmoe_qkv_project(lmoe_trace *t, const lmoe_qkv_def *d,
                                        const lmoe_qkv_params *w, lmoe_tensor x, int qk, int v)
{
    lmoe_qkv y;
    y.q = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->q);
    y.k = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->k);
    y.v = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->v);
    if (d->conv_kernel) {
        y.q = lmoe_short_conv(t, y.q, w->q_conv, 1);
        y.k = lmoe_short_conv(t, y.k, w->k_conv, 1);
        y.v = lmoe_short_conv(t, y.v, w->v_conv, 1);
    }
    y.q = lmoe_activate(t, y.q, qk);
    y.k = lmoe_activate(t, y.k, qk);
    y.v = lmoe_activate(t, y.v, v);
    if (d->kv_heads && d->kv_heads != d->heads) {
        y.k = lmoe_repeat_heads(t, y.k, d->heads / d->kv_heads);
        y.v = lmoe_repeat_heads(t, y.v, d->heads / d->kv_heads);
    }
    return y;
}

/* K^(-1/2) for the width K of one head's keys. */
static inline double lmoe_key_scale(lmoe_trace *t, lmoe_tensor q)
{
    lmoe_desc d;
    if (lmoe_describe(t, q, &d) != LMOE_OK || d.rank != 4) return 1;
    return 1.0 / sqrt((double)d.dim[3]);
}

/* ---- log decays of channels through a narrow waist: logsigmoid(W_2 W_1 x + b) / normalizer ---- */

typedef struct lmoe_low_rank_params {
    lmoe_tensor down, up, bias;
} lmoe_low_rank_params;

/* Declares NAME.0.weight, NAME.1.weight and NAME.1.bias; channels: "head_k". */
static inline lmoe_low_rank_params lmoe_low_rank(lmoe_trace *t, const char *name,
                                                 const char *heads_axis, const char *channels,
                                                 int64_t rank, int64_t heads, int64_t width)
{
    lmoe_low_rank_params w;
    char text[64], axes[64];
    snprintf(text, sizeof text, "%s.0.weight", name);
    w.down = lmoe_matrix(t, text, "embed low_rank", lmoe_size(t, "embed"), rank, 0);
    snprintf(text, sizeof text, "%s.1.weight", name);
    snprintf(axes, sizeof axes, "low_rank %s %s", heads_axis, channels);
    w.up = lmoe_cube(t, text, axes, rank, heads, width, 0);
    snprintf(text, sizeof text, "%s.1.bias", name);
    w.bias = lmoe_head_vector(t, text, axes + strlen("low_rank "), heads, width, 0);
    return w;
}

/* x: (batch seq embed) -> (batch seq heads channels), at most 0, in the state dtype */
static inline lmoe_tensor lmoe_low_rank_decay(lmoe_trace *t, const lmoe_low_rank_params *w,
                                              lmoe_tensor x, double normalizer)
{
    lmoe_tensor low = lmoe_einsum(t, "b s e, e r -> b s r", x, w->down);
    lmoe_tensor up = lmoe_einsum(t, "b s r, r h k -> b s h k", low, w->up);
    lmoe_tensor logit = lmoe_f32(t, lmoe_add(t, up, w->bias));
    return lmoe_mul_scalar(t, lmoe_logsigmoid(t, logit), 1.0 / normalizer);
}

#ifdef __cplusplus
}
#endif
#endif
