/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/rwkv7/rwkv7.c: RWKV-7's time mix (Peng et al. 2025, arXiv 2503.14456).
 *
 *   x_c = x + mu_c * (x_{t-1} - x_t)                      for each of r, w, k, v, a, g
 *   w   = -e^{-1/2} sigmoid(lora(x_w)) ,  a = sigmoid(lora(x_a)) ,  g = lora(x_g) ;  k' = W_k x_k
 *   kk  = l2norm(k' * k_k) ,  k = k' * (1 + (a - 1) * k_a)
 *   v   = W_v x_v ; later layers: v + (v of layer 0 - v) * sigmoid(lora(x_v))
 *   S_t = diag(e^{w_t}) S_{t-1} - (kk_t * a_t) (kk_t^T S_{t-1}) + k_t v_t^T       o_t = S_t^T r_t
 *   y   = ((groupnorm(o) + (sum over head_k of r * k * r_k) v) * g) W_o
 */
#include <lmoe/lmoe.h>

#include <stdio.h>

enum { R, W, K, V, A, G, MIXES };

typedef struct rwkv7_options {
    int64_t head_dim, decay_rank, gate_rank, a_rank, v_rank;
    double norm_eps;
    int32_t value_residual;
} rwkv7_options;

typedef struct lora {
    lmoe_tensor down, up, bias;
} lora;

typedef struct rwkv7_params {
    lmoe_tensor mix[MIXES], k_k, k_a, r_k, r, k, v, out, norm, norm_bias;
    lora w, a, v_lora, g;
} rwkv7_params;

static const lmoe_option options[] = {
    {"head_dim", LMOE_OPTION_INT, offsetof(rwkv7_options, head_dim), "64", 1, 65536, NULL, NULL,
     "Width of a head; as many heads as fill embed."},
    {"decay_low_rank", LMOE_OPTION_INT, offsetof(rwkv7_options, decay_rank), "64", 1, 65536, NULL,
     NULL, "Inner size of the decay's two projections."},
    {"gate_low_rank", LMOE_OPTION_INT, offsetof(rwkv7_options, gate_rank), "128", 1, 65536, NULL,
     NULL, "Inner size of the output gate's."},
    {"a_low_rank", LMOE_OPTION_INT, offsetof(rwkv7_options, a_rank), "64", 1, 65536, NULL, NULL,
     "Inner size of the learning rate's."},
    {"v_low_rank", LMOE_OPTION_INT, offsetof(rwkv7_options, v_rank), "16", 1, 65536, NULL, NULL,
     "Inner size of the value residual's."},
    {"value_residual", LMOE_OPTION_BOOL, offsetof(rwkv7_options, value_residual), "yes", 0, 0, NULL,
     NULL, "Values of later layers are mixed with those of the first."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(rwkv7_options, norm_eps), "1e-5", 0, 1, NULL, NULL,
     "Times head_dim: added to the variance in the output norm."},
    LMOE_OPTION_END};

/* A vector over `axes` that starts as a + b (i / n)^c. */
static lmoe_tensor ramp(lmoe_trace *t, const char *name, const char *axes, int64_t d0, int64_t d1,
                        double a, double b, double c)
{
    lmoe_param_def d = {.size = sizeof d,
                        .name = name,
                        .axes = axes,
                        .dim = {d0, d1},
                        .init = LMOE_INIT_POWER,
                        .a = a,
                        .b = b,
                        .c = c,
                        .flags = LMOE_PARAM_NO_DECAY};
    return lmoe_param(t, &d);
}

static lora low_rank(lmoe_trace *t, const char *what, int64_t e, int64_t rank, int64_t h, int64_t k)
{
    char name[64];
    lora l;
    snprintf(name, sizeof name, "%s_lora.lora.0.weight", what);
    l.down = lmoe_matrix(t, name, "embed low_rank", e, rank, 0);
    snprintf(name, sizeof name, "%s_lora.lora.2.weight", what);
    l.up = lmoe_cube(t, name, "low_rank heads head_k", rank, h, k, 0);
    l.bias = lmoe_absent();
    return l;
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const rwkv7_options *o = opt;
    rwkv7_params *p = params;
    static const char *const mixes[MIXES] = {"x_r", "x_w", "x_k", "x_v", "x_a", "x_g"};
    static const double power[MIXES] = {0.2, 0.9, 0.7, 0.7, 0.9, 0.2};
    int64_t e = lmoe_size(t, "embed"), k = o->head_dim, h = e / k, layer = lmoe_size(t, "layer");
    double depth = (double)layer / (double)lmoe_size(t, "layers");
    const char *channels = "heads head_k";
    if (e % k != 0) {
        lmoe_fail(t, "head_dim = %lld must divide embed = %lld", (long long)k, (long long)e);
        return LMOE_E_CONFIG;
    }
    for (int i = 0; i < MIXES; i++)
        p->mix[i] = ramp(t, mixes[i], "embed", e, 0, 1, -1, power[i] * (1 - depth));
    p->k_k = ramp(t, "k_k", channels, h, k, 0.76, -0.1, 1);
    p->k_a = lmoe_head_vector(t, "k_a", channels, h, k, 1.02);
    p->r_k = lmoe_head_vector(t, "r_k", channels, h, k, -0.04);
    p->r = lmoe_cube(t, "r_proj.weight", "embed heads head_k", e, h, k, 0);
    p->k = lmoe_cube(t, "k_proj.weight", "embed heads head_k", e, h, k, 0);
    p->v = lmoe_cube(t, "v_proj.weight", "embed heads head_v", e, h, k, 0);
    p->out = lmoe_output_cube(t, "o_proj.weight", h, k, e);
    p->w = low_rank(t, "w", e, o->decay_rank, h, k);
    p->w.bias = ramp(t, "w_lora.lora.2.bias", channels, h, k, -5.5, 6, 1 + pow(depth, 0.3));
    p->a = low_rank(t, "a", e, o->a_rank, h, k);
    p->a.bias = ramp(t, "a_lora.lora.2.bias", channels, h, k, -0.39, 0.4, 1);
    if (layer > 0 && o->value_residual) {
        p->v_lora = low_rank(t, "v", e, o->v_rank, h, k);
        p->v_lora.bias = ramp(t, "v_lora.lora.2.bias", channels, h, k, 0.93, -0.4, 1);
    }
    p->g = low_rank(t, "g", e, o->gate_rank, h, k);
    double start = pow((double)(layer + 1) / (double)lmoe_size(t, "layers"), 0.7);
    p->norm = lmoe_head_vector(t, "g_norm.weight", "heads head_v", h, k, start);
    p->norm_bias = lmoe_head_vector(t, "g_norm.bias", "heads head_v", h, k, 0);
    return LMOE_OK;
}

/* up(act(down x)) + bias: (batch seq heads head_k) */
static lmoe_tensor through(lmoe_trace *t, const lora *l, lmoe_tensor x, int act)
{
    x = lmoe_einsum(t, "b s e, e r -> b s r", x, l->down);
    if (act >= 0) x = lmoe_map(t, x, (lmoe_map_fn)act);
    x = lmoe_einsum(t, "b s r, r h k -> b s h k", x, l->up);
    return lmoe_is_absent(l->bias) ? x : lmoe_add(t, x, l->bias);
}

/* The same values, whose last axis is head_v. */
static lmoe_tensor as_values(lmoe_trace *t, lmoe_tensor x, int64_t head_dim)
{
    x = lmoe_merge_axes(t, x, "heads", "embed");
    return lmoe_split_axis(t, x, "embed", "heads", head_dim, "head_v");
}

static lmoe_tensor mix_values(lmoe_trace *t, const rwkv7_options *o, const rwkv7_params *p,
                              lmoe_tensor v, lmoe_tensor x)
{
    lmoe_tensor first = lmoe_recall(t, "v_first");
    if (!o->value_residual) return v;
    if (lmoe_is_absent(p->v_lora.down)) {
        lmoe_publish(t, "v_first", v);
        return v;
    }
    if (lmoe_is_absent(first))
        return lmoe_fail(t, "the values of layer 0 are wanted, which is not of class lsm/rwkv7; "
                            "set value_residual = no");
    lmoe_tensor share = lmoe_sigmoid(t, through(t, &p->v_lora, x, -1));
    lmoe_tensor other = lmoe_add(t, first, lmoe_mul_scalar(t, v, -1));
    return lmoe_add(t, v, lmoe_mul(t, other, as_values(t, share, o->head_dim)));
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const rwkv7_options *o = opt;
    const rwkv7_params *p = params;
    lmoe_tensor m[MIXES], delta = lmoe_add(t, lmoe_token_before(t, x), lmoe_mul_scalar(t, x, -1));
    for (int i = 0; i < MIXES; i++) m[i] = lmoe_add(t, x, lmoe_mul(t, delta, p->mix[i]));
    lmoe_tensor r = lmoe_einsum(t, "b s e, e h k -> b s h k", m[R], p->r);
    lmoe_tensor k = lmoe_einsum(t, "b s e, e h k -> b s h k", m[K], p->k);
    lmoe_tensor v = lmoe_einsum(t, "b s e, e h v -> b s h v", m[V], p->v);
    v = mix_values(t, o, p, v, m[V]);
    lmoe_tensor w = lmoe_sigmoid(t, lmoe_f32(t, through(t, &p->w, m[W], LMOE_MAP_TANH)));
    lmoe_tensor a = lmoe_sigmoid(t, through(t, &p->a, m[A], -1));
    lmoe_tensor kk = lmoe_l2norm(t, lmoe_mul(t, k, p->k_k), 1e-6);
    k = lmoe_add(t, k, lmoe_mul(t, lmoe_mul(t, k, lmoe_affine(t, a, 1, -1)), p->k_a));
    lmoe_tensor decay = lmoe_mul_scalar(t, w, -exp(-0.5));
    lmoe_tensor y = lmoe_scan_delta(t, r, k, v, kk, lmoe_mul(t, kk, a), decay, 1);
    y = lmoe_layernorm(t, y, p->norm, p->norm_bias, (double)o->head_dim * o->norm_eps);
    lmoe_tensor own = lmoe_mul(t, lmoe_mul(t, r, k), p->r_k); /* what the token gives to itself */
    y = lmoe_add(t, y, lmoe_mul(t, v, lmoe_sum(t, "b s h k -> b s h", own)));
    lmoe_tensor gate = through(t, &p->g, m[G], LMOE_MAP_SIGMOID);
    y = lmoe_mul(t, y, as_values(t, gate, o->head_dim));
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, p->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/rwkv7",
             "RWKV-7: a decay for each key channel, learning rates for what is replaced.", options,
             sizeof(rwkv7_options), 0},
    .params_size = sizeof(rwkv7_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/rwkv7", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
