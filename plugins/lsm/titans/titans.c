/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/titans/titans.c: the neural memory of Titans (Behrouz, Zhong, Mirrokni 2025, arXiv
 * 2501.00663) with a linear memory: gradient steps with momentum and forgetting.
 *
 *   S_s = eta_s S_{s-1} - theta_s d|k_s M - v_s|^2 / dM     the gradient is that at the start of the
 *   M_s = (1 - alpha_s) M_{s-1} + S_s                       token's mini-batch
 *   o_s = q_s M_s                                           y = (rmsnorm(o) * silu(W_g x)) W_o
 *   q, k = l2norm(silu(conv(W x))) ,  v = silu(conv(W_v x))
 *   theta = max_lr sigmoid(W x + b) ,  eta, alpha = sigmoid(W x + b)      for each head
 */
#include <lmoe/lmoe.h>

typedef struct titans_options {
    int64_t heads, mini_batch, conv_kernel;
    double max_lr, norm_eps;
    int32_t inner_norm, momentum, short_conv;
} titans_options;

typedef struct titans_params {
    lmoe_tensor q, k, v, q_conv, k_conv, v_conv, memory, gamma, beta, gate, norm, out;
    lmoe_tensor lr, lr_bias, momentum, momentum_bias, decay, decay_bias;
} titans_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(titans_options, heads), "4", 1, 65536, NULL, NULL,
     "Heads, each with a memory of its own."},
    {"mini_batch", LMOE_OPTION_INT, offsetof(titans_options, mini_batch), "16", 1, 65536, NULL,
     "tokens", "Tokens whose gradients are taken at the same memory."},
    {"max_lr", LMOE_OPTION_FLOAT, offsetof(titans_options, max_lr), "1", 0, 1e6, NULL, NULL,
     "Largest learning rate of the memory."},
    {"momentum", LMOE_OPTION_BOOL, offsetof(titans_options, momentum), "yes", 0, 0, NULL, NULL,
     "Past surprise goes on to act."},
    {"inner_norm", LMOE_OPTION_BOOL, offsetof(titans_options, inner_norm), "no", 0, 0, NULL, NULL,
     "A layer norm and a residual around the memory, in its loss and when it is read."},
    {"short_conv", LMOE_OPTION_BOOL, offsetof(titans_options, short_conv), "yes", 0, 0, NULL, NULL,
     "A short causal convolution on q, k and v."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(titans_options, conv_kernel), "4", 2, 64, NULL,
     "tokens", "Length of the short convolution."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(titans_options, norm_eps), "1e-6", 0, 1, NULL, NULL,
     "Added to the mean square in the norms."},
    LMOE_OPTION_END};

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const titans_options *o = opt;
    titans_params *w = params;
    int64_t e = lmoe_size(t, "embed"), h = o->heads, d, same, n = o->conv_kernel;
    const char *axes = "embed heads head_k", *taps = "heads head_k kernel", *head = "heads head_k";
    LMOE_TRY(lmoe_head_widths(t, h, 1, 1, &d, &same));
    w->q = lmoe_cube(t, "q_proj.weight", axes, e, h, d, 0);
    w->k = lmoe_cube(t, "k_proj.weight", axes, e, h, d, 0);
    w->v = lmoe_cube(t, "v_proj.weight", axes, e, h, d, 0);
    if (o->short_conv) {
        w->q_conv = lmoe_conv_cube(t, "q_conv1d.weight", taps, h, d, n);
        w->k_conv = lmoe_conv_cube(t, "k_conv1d.weight", taps, h, d, n);
        w->v_conv = lmoe_conv_cube(t, "v_conv1d.weight", taps, h, d, n);
    }
    w->lr = lmoe_matrix(t, "lr_proj.weight", "embed heads", e, h, 0);
    w->lr_bias = lmoe_vector(t, "lr_proj.bias", "heads", h, -2);
    if (o->momentum) {
        w->momentum = lmoe_matrix(t, "momentum_proj.weight", "embed heads", e, h, 0);
        w->momentum_bias = lmoe_vector(t, "momentum_proj.bias", "heads", h, 0);
    }
    w->decay = lmoe_matrix(t, "decay_proj.weight", "embed heads", e, h, 0);
    w->decay_bias = lmoe_vector(t, "decay_proj.bias", "heads", h, -4);
    w->memory = lmoe_cube(t, "memory.weight", "heads head_k head_v", h, d, d, 0.02);
    if (o->inner_norm) {
        w->gamma = lmoe_head_vector(t, "memory_norm.weight", head, h, d, 1);
        w->beta = lmoe_head_vector(t, "memory_norm.bias", head, h, d, 0);
    }
    w->gate = lmoe_cube(t, "g_proj.weight", axes, e, h, d, 0);
    w->norm = lmoe_vector(t, "o_norm.weight", "head_k", d, 1);
    w->out = lmoe_output_weight(t, "o_proj.weight", "heads head_k embed", h, d, e);
    return LMOE_OK;
}

/* silu of a projection, by its convolution if there is one */
static lmoe_tensor project(lmoe_trace *t, const titans_options *o, lmoe_tensor x,
                           lmoe_tensor weight, lmoe_tensor conv)
{
    lmoe_tensor y = lmoe_einsum(t, "b s e, e h k -> b s h k", x, weight);
    return o->short_conv ? lmoe_short_conv(t, y, conv, 1) : lmoe_silu(t, y);
}

/* W x + b, (batch seq heads), in the state dtype */
static lmoe_tensor logit(lmoe_trace *t, lmoe_tensor x, lmoe_tensor weight, lmoe_tensor bias)
{
    return lmoe_f32(t, lmoe_add(t, lmoe_einsum(t, "b s e, e h -> b s h", x, weight), bias));
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const titans_options *o = opt;
    const titans_params *w = params;
    lmoe_tensor q = lmoe_l2norm(t, project(t, o, x, w->q, w->q_conv), 1e-6);
    lmoe_tensor k = lmoe_l2norm(t, project(t, o, x, w->k, w->k_conv), 1e-6);
    lmoe_tensor v = project(t, o, x, w->v, w->v_conv);
    lmoe_scan_learn_in in = {.q = q,
                             .k = k,
                             .target = v,
                             .phase = lmoe_phase(t, o->mini_batch),
                             .initial = lmoe_f32(t, w->memory)};
    in.lr = lmoe_mul_scalar(t, lmoe_sigmoid(t, logit(t, x, w->lr, w->lr_bias)),
                            2 * o->max_lr); /* the op's loss is half the square */
    if (o->momentum) in.momentum = lmoe_logsigmoid(t, logit(t, x, w->momentum, w->momentum_bias));
    in.decay = lmoe_logsigmoid(t, lmoe_mul_scalar(t, logit(t, x, w->decay, w->decay_bias), -1));
    if (o->inner_norm) {
        in.target = lmoe_add(t, v, lmoe_mul_scalar(t, k, -1));
        in.gamma = lmoe_f32(t, w->gamma);
        in.beta = lmoe_f32(t, w->beta);
    }
    lmoe_tensor y = lmoe_scan_learn_at(t, LMOE_HERE, o->norm_eps, &in);
    if (o->inner_norm) y = lmoe_add(t, y, lmoe_layernorm(t, y, w->gamma, w->beta, o->norm_eps));
    lmoe_tensor gate = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->gate);
    y = lmoe_rmsnorm_gated(t, y, w->norm, gate, o->norm_eps);
    return lmoe_einsum(t, "b s h k, h k e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/titans",
             "Titans: a linear memory that learns with momentum and forgets.", options,
             sizeof(titans_options), 0},
    .params_size = sizeof(titans_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/titans", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
