/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/kda/kda.c: Kimi Delta Attention (Kimi Team 2025, arXiv 2510.26692).
 *
 *   S_t  = (I - beta_t k_t k_t^T) diag(e^{g_t}) S_{t-1} + beta_t k_t v_t^T    o_t = scale S_t^T q_t
 *   g    = -exp(A_log_h) softplus(F_1 F_0 x + dt_bias)         a decay for each key channel
 *          lower_bound < 0: g = lower_bound sigmoid(exp(A_log_h) (F_1 F_0 x + dt_bias))
 *   beta = sigmoid(W_b x) ;  q, k = l2norm(silu(conv(W x))) ,  v = silu(conv(W_v x))
 *   y    = (rmsnorm(o) * sigmoid(G_1 G_0 x + b)) W_o                      the norm is over head_v
 */
#include <lmoe/lmoe.h>

typedef struct kda_options {
    int64_t heads, v_heads, head_dim, conv_kernel;
    double expand_v, lower_bound, norm_eps;
    int32_t allow_neg_eigval, short_conv;
} kda_options;

typedef struct kda_params {
    lmoe_tensor q, k, v, beta, f_down, f_up, a_log, dt_bias, q_conv, k_conv, v_conv;
    lmoe_tensor g_down, g_up, g_bias, norm, out;
} kda_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(kda_options, heads), "16", 1, 65536, NULL, NULL,
     "Heads of queries and keys."},
    {"v_heads", LMOE_OPTION_INT, offsetof(kda_options, v_heads), "0", 0, 65536, NULL, NULL,
     "Heads of values, a multiple of heads: each query head serves as many; 0: as heads."},
    {"head_dim", LMOE_OPTION_INT, offsetof(kda_options, head_dim), "128", 1, 65536, NULL, NULL,
     "Width of a head's queries and keys."},
    {"expand_v", LMOE_OPTION_FLOAT, offsetof(kda_options, expand_v), "1.0", 1e-3, 64, NULL, NULL,
     "Width of a head's values, in units of head_dim."},
    {"lower_bound", LMOE_OPTION_FLOAT, offsetof(kda_options, lower_bound), "0", -1e3, 0, NULL, NULL,
     "Log decays lie between this and 0, by a sigmoid; 0: by softplus, without a bound."},
    {"allow_neg_eigval", LMOE_OPTION_BOOL, offsetof(kda_options, allow_neg_eigval), "no", 0, 0,
     NULL, NULL, "Strengths up to 2 instead of 1, so that what is stored can change its sign."},
    {"short_conv", LMOE_OPTION_BOOL, offsetof(kda_options, short_conv), "yes", 0, 0, NULL, NULL,
     "A short causal convolution on q, k and v."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(kda_options, conv_kernel), "4", 2, 64, NULL, "tokens",
     "Length of the short convolution."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(kda_options, norm_eps), "1e-6", 0, 1, NULL, NULL,
     "Added to the mean square in the output norm."},
    LMOE_OPTION_END};

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const kda_options *o = opt;
    kda_params *w = params;
    int64_t e = lmoe_size(t, "embed"), h = o->heads, k = o->head_dim, c = o->conv_kernel;
    int64_t hv = o->v_heads ? o->v_heads : h, v = (int64_t)((double)k * o->expand_v);
    if (hv % h != 0 || v < 1) {
        lmoe_fail(t, "v_heads = %lld must be a multiple of heads = %lld, and expand_v leave values",
                  (long long)hv, (long long)h);
        return LMOE_E_CONFIG;
    }
    const char *keys = hv == h ? "embed heads head_k" : "embed kv_heads head_k";
    const char *conv = hv == h ? "heads head_k kernel" : "kv_heads head_k kernel";
    w->q = lmoe_cube(t, "q_proj.weight", keys, e, h, k, 0);
    w->k = lmoe_cube(t, "k_proj.weight", keys, e, h, k, 0);
    w->v = lmoe_cube(t, "v_proj.weight", "embed heads head_v", e, hv, v, 0);
    if (o->short_conv) {
        w->q_conv = lmoe_conv_cube(t, "q_conv1d.weight", conv, h, k, c);
        w->k_conv = lmoe_conv_cube(t, "k_conv1d.weight", conv, h, k, c);
        w->v_conv = lmoe_conv_cube(t, "v_conv1d.weight", "heads head_v kernel", hv, v, c);
    }
    w->f_down = lmoe_matrix(t, "f_proj.0.weight", "embed low_rank", e, v, 0);
    w->f_up = lmoe_cube(t, "f_proj.1.weight", "low_rank heads head_k", v, hv, k, 0);
    w->a_log = o->lower_bound < 0 ? lmoe_vector(t, "A_log", "heads", hv, 0)
                                  : lmoe_decay_rate(t, "A_log", hv, 1, 16);
    w->dt_bias = lmoe_decay_bias(t, "dt_bias", "heads head_k", hv, k);
    w->beta = lmoe_matrix(t, "b_proj.weight", "embed heads", e, hv, 0);
    w->g_down = lmoe_matrix(t, "g_proj.0.weight", "embed low_rank", e, v, 0);
    w->g_up = lmoe_cube(t, "g_proj.1.weight", "low_rank heads head_v", v, hv, v, 0);
    w->g_bias = lmoe_head_vector(t, "g_proj.1.bias", "heads head_v", hv, v, 0);
    w->norm = lmoe_vector(t, "o_norm.weight", "head_v", v, 1.0);
    w->out = lmoe_output_cube(t, "o_proj.weight", hv, v, e);
    return LMOE_OK;
}

/* silu of x, by its convolution if there is one */
static lmoe_tensor activate(lmoe_trace *t, const kda_options *o, lmoe_tensor x, lmoe_tensor conv)
{
    return o->short_conv ? lmoe_short_conv(t, x, conv, 1) : lmoe_silu(t, x);
}

/* x: (batch seq embed) -> log decay (batch seq heads head_k) */
static lmoe_tensor log_decay(lmoe_trace *t, const kda_options *o, const kda_params *w,
                             lmoe_tensor x)
{
    lmoe_tensor low = lmoe_einsum(t, "b s e, e r -> b s r", x, w->f_down);
    lmoe_tensor f = lmoe_einsum(t, "b s r, r h k -> b s h k", low, w->f_up);
    if (o->lower_bound == 0) return lmoe_softplus_decay(t, f, w->a_log, w->dt_bias);
    f = lmoe_add(t, lmoe_f32(t, f), lmoe_f32(t, w->dt_bias));
    f = lmoe_mul(t, f, lmoe_exp(t, lmoe_f32(t, w->a_log)));
    return lmoe_mul_scalar(t, lmoe_sigmoid(t, f), o->lower_bound);
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const kda_options *o = opt;
    const kda_params *w = params;
    int64_t each = o->v_heads ? o->v_heads / o->heads : 1;
    lmoe_tensor q = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->q);
    lmoe_tensor k = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->k);
    lmoe_tensor v = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->v);
    q = lmoe_l2norm(t, activate(t, o, q, w->q_conv), 1e-6);
    k = lmoe_l2norm(t, activate(t, o, k, w->k_conv), 1e-6);
    v = activate(t, o, v, w->v_conv);
    if (each > 1) {
        q = lmoe_repeat_heads(t, q, each);
        k = lmoe_repeat_heads(t, k, each);
    }
    lmoe_tensor beta = lmoe_einsum(t, "b s e, e h -> b s h", x, w->beta);
    beta = lmoe_sigmoid(t, lmoe_f32(t, beta));
    if (o->allow_neg_eigval) beta = lmoe_mul_scalar(t, beta, 2);
    lmoe_tensor decay = log_decay(t, o, w, x);
    lmoe_tensor erase = lmoe_mul(t, k, lmoe_exp(t, decay)); /* what is left of the state after it */
    double scale = 1.0 / sqrt((double)o->head_dim);
    lmoe_tensor y =
        lmoe_scan_delta(t, q, lmoe_mul(t, k, beta), v, erase, lmoe_absent(), decay, scale);
    lmoe_tensor low = lmoe_einsum(t, "b s e, e r -> b s r", x, w->g_down);
    lmoe_tensor gate = lmoe_einsum(t, "b s r, r h v -> b s h v", low, w->g_up);
    gate = lmoe_sigmoid(t, lmoe_add(t, gate, w->g_bias));
    y = lmoe_mul(t, lmoe_rmsnorm(t, y, w->norm, o->norm_eps), gate);
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/kda",
             "Kimi Delta Attention: the delta rule with a decay for each key channel.", options,
             sizeof(kda_options), 0},
    .params_size = sizeof(kda_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/kda", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
