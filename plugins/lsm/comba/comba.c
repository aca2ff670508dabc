/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/comba/comba.c: Comba (Hu et al. 2025, arXiv 2506.02475).
 *
 *   S_t  = e^{g_t} S_{t-1} + beta_t k_t (v_t - S_{t-1}^T p_t)^T            o_t = scale S_t^T q_t
 *   k, v, q' = silu(conv(W x)) ,  p = sigmoid(decay_h) k ,  q = q' - D_h p ; q, k, p of length 1
 *   g    = -exp(A_log) softplus(W_a x + dt_bias) ,  beta = sigmoid(W_b x)      for each head
 *   y    = (rmsnorm(o) * sigmoid(W_g x)) W_o                               the norm is over head_v
 */
#include <lmoe/lmoe.h>

typedef struct comba_options {
    int64_t heads, head_dim, conv_kernel;
    double expand_v, correction_factor, norm_eps;
    int32_t inner_decay, output_correction, short_conv, use_gate;
} comba_options;

typedef struct comba_params {
    lmoe_tensor q, k, v, a, beta, a_log, dt_bias, decay, d, q_conv, k_conv, v_conv, gate, norm, out;
} comba_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(comba_options, heads), "6", 1, 65536, NULL, NULL, "Heads."},
    {"head_dim", LMOE_OPTION_INT, offsetof(comba_options, head_dim), "256", 1, 65536, NULL, NULL,
     "Width of a head's queries and keys."},
    {"expand_v", LMOE_OPTION_FLOAT, offsetof(comba_options, expand_v), "2.0", 1e-3, 64, NULL, NULL,
     "Width of a head's values, in units of head_dim."},
    {"inner_decay", LMOE_OPTION_BOOL, offsetof(comba_options, inner_decay), "yes", 0, 0, NULL, NULL,
     "p is k times a factor for each head; no: p is k."},
    {"output_correction", LMOE_OPTION_BOOL, offsetof(comba_options, output_correction), "yes", 0, 0,
     NULL, NULL, "Queries less D p."},
    {"correction_factor", LMOE_OPTION_FLOAT, offsetof(comba_options, correction_factor), "1.0", -64,
     64, NULL, NULL, "Initial value of D."},
    {"short_conv", LMOE_OPTION_BOOL, offsetof(comba_options, short_conv), "yes", 0, 0, NULL, NULL,
     "A short causal convolution on q, k and v."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(comba_options, conv_kernel), "4", 2, 64, NULL,
     "tokens", "Length of the short convolution."},
    {"use_gate", LMOE_OPTION_BOOL, offsetof(comba_options, use_gate), "yes", 0, 0, NULL, NULL,
     "Multiply the normed output by the sigmoid of a projection of the input."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(comba_options, norm_eps), "1e-6", 0, 1, NULL, NULL,
     "Added to the mean square in the output norm."},
    LMOE_OPTION_END};

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const comba_options *o = opt;
    comba_params *w = params;
    int64_t e = lmoe_size(t, "embed"), h = o->heads, k = o->head_dim, c = o->conv_kernel;
    int64_t v = (int64_t)((double)k * o->expand_v);
    if (v < 1) {
        lmoe_fail(t, "expand_v = %g of head_dim = %lld leaves no values", o->expand_v,
                  (long long)k);
        return LMOE_E_CONFIG;
    }
    w->q = lmoe_cube(t, "q_proj.weight", "embed heads head_k", e, h, k, 0);
    w->k = lmoe_cube(t, "k_proj.weight", "embed heads head_k", e, h, k, 0);
    w->v = lmoe_cube(t, "v_proj.weight", "embed heads head_v", e, h, v, 0);
    w->a = lmoe_matrix(t, "a_proj.weight", "embed heads", e, h, 0);
    w->beta = lmoe_matrix(t, "b_proj.weight", "embed heads", e, h, 0);
    w->a_log = lmoe_decay_rate(t, "A_log", h, 0, 16);
    w->dt_bias = lmoe_decay_bias(t, "dt_bias", "heads", h, 0);
    if (o->inner_decay) w->decay = lmoe_vector(t, "decay", "heads", h, 1.0);
    if (o->output_correction) w->d = lmoe_vector(t, "D", "heads", h, o->correction_factor);
    if (o->short_conv) {
        w->q_conv = lmoe_conv_cube(t, "q_conv1d.weight", "heads head_k kernel", h, k, c);
        w->k_conv = lmoe_conv_cube(t, "k_conv1d.weight", "heads head_k kernel", h, k, c);
        w->v_conv = lmoe_conv_cube(t, "v_conv1d.weight", "heads head_v kernel", h, v, c);
    }
    if (o->use_gate) w->gate = lmoe_cube(t, "g_proj.weight", "embed heads head_v", e, h, v, 0);
    w->norm = lmoe_vector(t, "o_norm.weight", "head_v", v, 1.0);
    w->out = lmoe_output_cube(t, "o_proj.weight", h, v, e);
    return LMOE_OK;
}

/* silu of x, by its convolution if there is one */
static lmoe_tensor activate(lmoe_trace *t, const comba_options *o, lmoe_tensor x, lmoe_tensor conv)
{
    return o->short_conv ? lmoe_short_conv(t, x, conv, 1) : lmoe_silu(t, x);
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const comba_options *o = opt;
    const comba_params *w = params;
    lmoe_tensor q = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->q);
    lmoe_tensor k = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->k);
    lmoe_tensor v = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->v);
    q = activate(t, o, q, w->q_conv);
    k = activate(t, o, k, w->k_conv);
    v = activate(t, o, v, w->v_conv);
    lmoe_tensor p = o->inner_decay ? lmoe_mul(t, k, lmoe_sigmoid(t, w->decay)) : k;
    if (o->output_correction) q = lmoe_add(t, q, lmoe_mul_scalar(t, lmoe_mul(t, p, w->d), -1));
    q = lmoe_l2norm(t, q, 1e-6);
    k = lmoe_l2norm(t, k, 1e-6);
    p = lmoe_l2norm(t, p, 1e-6);
    lmoe_tensor beta = lmoe_einsum(t, "b s e, e h -> b s h", x, w->beta);
    lmoe_tensor write = lmoe_mul(t, k, lmoe_sigmoid(t, lmoe_f32(t, beta)));
    lmoe_tensor a = lmoe_einsum(t, "b s e, e h -> b s h", x, w->a);
    lmoe_tensor decay = lmoe_softplus_decay(t, a, w->a_log, w->dt_bias);
    double scale = 1.0 / sqrt((double)o->head_dim);
    lmoe_tensor y = lmoe_scan_delta(t, q, write, v, p, lmoe_absent(), decay, scale);
    y = lmoe_rmsnorm(t, y, w->norm, o->norm_eps);
    if (o->use_gate) {
        lmoe_tensor gate = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->gate);
        y = lmoe_mul(t, y, lmoe_sigmoid(t, gate));
    }
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/comba",
             "Comba: the delta rule as feedback, with a decay for each head.", options,
             sizeof(comba_options), 0},
    .params_size = sizeof(comba_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/comba", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
