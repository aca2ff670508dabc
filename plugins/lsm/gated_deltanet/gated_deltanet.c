/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/gated_deltanet/gated_deltanet.c: Gated DeltaNet (Yang et al. 2024, arXiv 2412.06464).
 *
 *   S_t  = e^{g_t} (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T      o_t = scale S_t^T q_t
 *   g    = -exp(A_log) softplus(W_a x + dt_bias) ,  beta = sigmoid(W_b x)     for each value head
 *   q, k = l2norm(silu(conv(W x))) ,  v = silu(conv(W_v x))
 *   y    = (rmsnorm(o) * silu(W_g x)) W_o                                 the norm is over head_v
 */
#include <lmoe/lmoe.h>

typedef struct gdn_options {
    int64_t heads, v_heads, head_dim, conv_kernel;
    double expand_v, norm_eps;
    int32_t allow_neg_eigval, short_conv, use_gate, output_norm;
} gdn_options;

typedef struct gdn_params {
    lmoe_tensor q, k, v, a, beta, a_log, dt_bias, q_conv, k_conv, v_conv, gate, norm, out;
} gdn_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(gdn_options, heads), "6", 1, 65536, NULL, NULL,
     "Heads of queries and keys."},
    {"v_heads", LMOE_OPTION_INT, offsetof(gdn_options, v_heads), "0", 0, 65536, NULL, NULL,
     "Heads of values, a multiple of heads: each query head serves as many; 0: as heads."},
    {"head_dim", LMOE_OPTION_INT, offsetof(gdn_options, head_dim), "256", 1, 65536, NULL, NULL,
     "Width of a head's queries and keys."},
    {"expand_v", LMOE_OPTION_FLOAT, offsetof(gdn_options, expand_v), "2.0", 1e-3, 64, NULL, NULL,
     "Width of a head's values, in units of head_dim."},
    {"allow_neg_eigval", LMOE_OPTION_BOOL, offsetof(gdn_options, allow_neg_eigval), "no", 0, 0,
     NULL, NULL, "Strengths up to 2 instead of 1, so that what is stored can change its sign."},
    {"short_conv", LMOE_OPTION_BOOL, offsetof(gdn_options, short_conv), "yes", 0, 0, NULL, NULL,
     "A short causal convolution on q, k and v."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(gdn_options, conv_kernel), "4", 2, 64, NULL, "tokens",
     "Length of the short convolution."},
    {"use_gate", LMOE_OPTION_BOOL, offsetof(gdn_options, use_gate), "yes", 0, 0, NULL, NULL,
     "Multiply the normed output by silu of a projection of the input."},
    {"output_norm", LMOE_OPTION_BOOL, offsetof(gdn_options, output_norm), "yes", 0, 0, NULL, NULL,
     "RMS norm of each head's output."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(gdn_options, norm_eps), "1e-6", 0, 1, NULL, NULL,
     "Added to the mean square in the output norm."},
    LMOE_OPTION_END};

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const gdn_options *o = opt;
    gdn_params *w = params;
    int64_t e = lmoe_size(t, "embed"), h = o->heads, k = o->head_dim;
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
    w->a = lmoe_matrix(t, "a_proj.weight", "embed heads", e, hv, 0);
    w->beta = lmoe_matrix(t, "b_proj.weight", "embed heads", e, hv, 0);
    w->a_log = lmoe_decay_rate(t, "A_log", hv, 0, 16);
    w->dt_bias = lmoe_decay_bias(t, "dt_bias", "heads", hv, 0);
    if (o->short_conv) {
        w->q_conv = lmoe_conv_cube(t, "q_conv1d.weight", conv, h, k, o->conv_kernel);
        w->k_conv = lmoe_conv_cube(t, "k_conv1d.weight", conv, h, k, o->conv_kernel);
        w->v_conv =
            lmoe_conv_cube(t, "v_conv1d.weight", "heads head_v kernel", hv, v, o->conv_kernel);
    }
    if (o->use_gate) w->gate = lmoe_cube(t, "g_proj.weight", "embed heads head_v", e, hv, v, 0);
    if (o->output_norm) w->norm = lmoe_vector(t, "o_norm.weight", "head_v", v, 1.0);
    w->out = lmoe_output_cube(t, "o_proj.weight", hv, v, e);
    return LMOE_OK;
}

/* silu of x, by its convolution if there is one */
static lmoe_tensor activate(lmoe_trace *t, const gdn_options *o, lmoe_tensor x, lmoe_tensor conv)
{
    return o->short_conv ? lmoe_short_conv(t, x, conv, 1) : lmoe_silu(t, x);
}

static lmoe_tensor output(lmoe_trace *t, const gdn_options *o, const gdn_params *w, lmoe_tensor x,
                          lmoe_tensor y)
{
    lmoe_tensor gate = lmoe_absent();
    if (o->use_gate) gate = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->gate);
    if (o->output_norm)
        y = o->use_gate ? lmoe_rmsnorm_gated(t, y, w->norm, gate, o->norm_eps)
                        : lmoe_rmsnorm(t, y, w->norm, o->norm_eps);
    else if (o->use_gate)
        y = lmoe_swiglu(t, gate, y);
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const gdn_options *o = opt;
    const gdn_params *w = params;
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
    lmoe_tensor a = lmoe_einsum(t, "b s e, e h -> b s h", x, w->a);
    lmoe_tensor decay = lmoe_softplus_decay(t, a, w->a_log, w->dt_bias);
    lmoe_tensor erase = lmoe_mul(t, k, lmoe_exp(t, decay)); /* what is left of the state after it */
    double scale = 1.0 / sqrt((double)o->head_dim);
    lmoe_tensor y =
        lmoe_scan_delta(t, q, lmoe_mul(t, k, beta), v, erase, lmoe_absent(), decay, scale);
    return output(t, o, w, x, y);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/gated_deltanet",
             "Gated DeltaNet: the delta rule with a decay for each head.", options,
             sizeof(gdn_options), 0},
    .params_size = sizeof(gdn_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/gated_deltanet", .version = "0.1.0", .licence = "Apache-2.0",
            .classes = classes)
