/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/delta_product/delta_product.c: (Gated) DeltaProduct (Siems et al. 2025, arXiv
 * 2502.10297).
 *
 *   S_t  = (I - beta_n k_n k_n^T) ... (I - beta_1 k_1 k_1^T) e^{g_t} S_{t-1} + ...
 *          n steps a token, each S <- S + beta_i k_i (v_i - S^T k_i)^T       o_t = scale S_t^T q_t
 *   g    = -exp(A_log) softplus(W_a x + dt_bias), or none ,  beta = sigmoid(W_b x) (times 2)
 *   q, k = l2norm(silu(conv(W x))) ,  v = silu(conv(W_v x)) ; k, v and beta for each step
 *   y    = (rmsnorm(o) * silu(W_g x)) W_o                                  the norm is over head_v
 */
#include <lmoe/lmoe.h>

typedef struct product_options {
    int64_t heads, head_dim, num_householder, conv_kernel;
    double expand_v, norm_eps;
    int32_t forget_gate, allow_neg_eigval, short_conv, use_gate;
} product_options;

typedef struct product_params {
    lmoe_tensor q, k, v, a, beta, a_log, dt_bias, q_conv, k_conv, v_conv, gate, norm, out;
} product_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(product_options, heads), "6", 1, 65536, NULL, NULL,
     "Heads."},
    {"head_dim", LMOE_OPTION_INT, offsetof(product_options, head_dim), "256", 1, 65536, NULL, NULL,
     "Width of a head's queries and keys."},
    {"expand_v", LMOE_OPTION_FLOAT, offsetof(product_options, expand_v), "2.0", 1e-3, 64, NULL,
     NULL, "Width of a head's values, in units of head_dim."},
    {"num_householder", LMOE_OPTION_INT, offsetof(product_options, num_householder), "2", 1, 64,
     NULL, "steps", "Steps that a token makes."},
    {"forget_gate", LMOE_OPTION_BOOL, offsetof(product_options, forget_gate), "yes", 0, 0, NULL,
     NULL, "A decay for each token and head, before its steps."},
    {"allow_neg_eigval", LMOE_OPTION_BOOL, offsetof(product_options, allow_neg_eigval), "yes", 0, 0,
     NULL, NULL, "Strengths up to 2 instead of 1, so that what is stored can change its sign."},
    {"short_conv", LMOE_OPTION_BOOL, offsetof(product_options, short_conv), "yes", 0, 0, NULL, NULL,
     "A short causal convolution on q, k and v."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(product_options, conv_kernel), "4", 2, 64, NULL,
     "tokens", "Length of the short convolution."},
    {"use_gate", LMOE_OPTION_BOOL, offsetof(product_options, use_gate), "yes", 0, 0, NULL, NULL,
     "Multiply the normed output by silu of a projection of the input."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(product_options, norm_eps), "1e-6", 0, 1, NULL, NULL,
     "Added to the mean square in the output norm."},
    LMOE_OPTION_END};

/* A weight of every step: a, step, b, c. */
static lmoe_tensor of_steps(lmoe_trace *t, const char *name, const char *axes, const int64_t dim[4],
                            double deviation)
{
    lmoe_param_def d = {.size = sizeof d, .name = name, .axes = axes, .b = deviation};
    memcpy(d.dim, dim, 4 * sizeof *dim);
    return lmoe_param(t, &d);
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const product_options *o = opt;
    product_params *w = params;
    int64_t e = lmoe_size(t, "embed"), h = o->heads, k = o->head_dim, n = o->num_householder;
    int64_t v = (int64_t)((double)k * o->expand_v), c = o->conv_kernel;
    if (v < 1) {
        lmoe_fail(t, "expand_v = %g of head_dim = %lld leaves no values", o->expand_v,
                  (long long)k);
        return LMOE_E_CONFIG;
    }
    w->q = lmoe_cube(t, "q_proj.weight", "embed heads head_k", e, h, k, 0);
    w->k = of_steps(t, "k_proj.weight", "embed step heads head_k", (int64_t[]){e, n, h, k}, 0);
    w->v = of_steps(t, "v_proj.weight", "embed step heads head_v", (int64_t[]){e, n, h, v}, 0);
    w->beta = lmoe_cube(t, "b_proj.weight", "embed step heads", e, n, h, 0);
    if (o->forget_gate) {
        w->a = lmoe_matrix(t, "a_proj.weight", "embed heads", e, h, 0);
        w->a_log = lmoe_decay_rate(t, "A_log", h, 0, 16);
        w->dt_bias = lmoe_decay_bias(t, "dt_bias", "heads", h, 0);
    }
    if (o->short_conv) {
        double deviation = 0.5 / sqrt((double)c);
        w->q_conv = lmoe_conv_cube(t, "q_conv1d.weight", "heads head_k kernel", h, k, c);
        w->k_conv = of_steps(t, "k_conv1d.weight", "step heads head_k kernel",
                             (int64_t[]){n, h, k, c}, deviation);
        w->v_conv = of_steps(t, "v_conv1d.weight", "step heads head_v kernel",
                             (int64_t[]){n, h, v, c}, deviation);
    }
    if (o->use_gate) w->gate = lmoe_cube(t, "g_proj.weight", "embed heads head_v", e, h, v, 0);
    w->norm = lmoe_vector(t, "o_norm.weight", "head_v", v, 1.0);
    w->out = lmoe_output_cube(t, "o_proj.weight", h, v, e);
    return LMOE_OK;
}

/* silu of x, by its convolution if there is one */
static lmoe_tensor activate(lmoe_trace *t, const product_options *o, lmoe_tensor x,
                            lmoe_tensor conv)
{
    return o->short_conv ? lmoe_short_conv(t, x, conv, 1) : lmoe_silu(t, x);
}

/* What the first step reads of the state is what the decay leaves of it, the others read all:
 * decay (batch seq heads) -> factors (batch seq step heads) */
static lmoe_tensor left(lmoe_trace *t, lmoe_tensor decay, int64_t steps)
{
    lmoe_tensor first = lmoe_split_axis(t, lmoe_exp(t, decay), "seq", "seq", 1, "step");
    return lmoe_pad(t, first, 2, 0, steps - 1, 1);
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const product_options *o = opt;
    const product_params *w = params;
    lmoe_tensor q = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->q);
    lmoe_tensor k = lmoe_einsum(t, "b s e, e n h k -> b s n h k", x, w->k);
    lmoe_tensor v = lmoe_einsum(t, "b s e, e n h v -> b s n h v", x, w->v);
    q = lmoe_l2norm(t, activate(t, o, q, w->q_conv), 1e-6);
    k = lmoe_l2norm(t, activate(t, o, k, w->k_conv), 1e-6);
    v = activate(t, o, v, w->v_conv);
    lmoe_tensor beta = lmoe_einsum(t, "b s e, e n h -> b s n h", x, w->beta);
    beta = lmoe_sigmoid(t, lmoe_f32(t, beta));
    if (o->allow_neg_eigval) beta = lmoe_mul_scalar(t, beta, 2);
    lmoe_tensor decay = lmoe_absent(), erase = k;
    if (o->forget_gate) {
        lmoe_tensor a = lmoe_einsum(t, "b s e, e h -> b s h", x, w->a);
        decay = lmoe_softplus_decay(t, a, w->a_log, w->dt_bias);
        erase = lmoe_mul(t, k, left(t, decay, o->num_householder));
    }
    double scale = 1.0 / sqrt((double)o->head_dim);
    lmoe_tensor y =
        lmoe_scan_delta(t, q, lmoe_mul(t, k, beta), v, erase, lmoe_absent(), decay, scale);
    if (o->use_gate) {
        lmoe_tensor gate = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->gate);
        y = lmoe_rmsnorm_gated(t, y, w->norm, gate, o->norm_eps);
    } else {
        y = lmoe_rmsnorm(t, y, w->norm, o->norm_eps);
    }
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/delta_product",
             "DeltaProduct: several delta-rule steps a token.", options, sizeof(product_options),
             0},
    .params_size = sizeof(product_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/delta_product", .version = "0.1.0", .licence = "Apache-2.0",
            .classes = classes)
