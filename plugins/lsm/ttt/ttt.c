/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/ttt/ttt.c: TTT-Linear (Sun et al. 2024, arXiv 2407.04620): the state is a linear model
 * that takes gradient steps on the tokens that it sees.
 *
 *   loss_s(W, b) = |LN(k_s W + b) + k_s - v_s|^2 / 2, LN with weight and bias of each head
 *   W_s = W - position_i sum_{j <= i} lr_j dloss_j / dW at the mini-batch's start; the same for b
 *   o_s = q_s + LN(q_s W_s + b_s)      y = (gelu(W_g x) *) postnorm(o) W_o
 */
#include <lmoe/lmoe.h>

typedef struct ttt_options {
    int64_t heads, mini_batch, conv_kernel;
    double base_lr, rope_base;
    int32_t use_gate, share_qk;
} ttt_options;

typedef struct ttt_params {
    lmoe_tensor q, k, v, q_conv, k_conv, q_bias, k_bias, lr, lr_bias, position, gamma, beta, w, b;
    lmoe_tensor gate, norm, norm_bias, out;
} ttt_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(ttt_options, heads), "4", 1, 65536, NULL, NULL, "Heads."},
    {"mini_batch", LMOE_OPTION_INT, offsetof(ttt_options, mini_batch), "16", 1, 65536, NULL,
     "tokens", "Tokens whose gradients are taken at the same state."},
    {"base_lr", LMOE_OPTION_FLOAT, offsetof(ttt_options, base_lr), "1", 0, 1e6, NULL, NULL,
     "Largest learning rate of the inner loop, divided by the head's width."},
    {"rope_base", LMOE_OPTION_FLOAT, offsetof(ttt_options, rope_base), "10000", 1, 1e9, NULL, NULL,
     "Base of the rotary positions, which count within a mini-batch."},
    {"use_gate", LMOE_OPTION_BOOL, offsetof(ttt_options, use_gate), "no", 0, 0, NULL, NULL,
     "Multiply the normed output by gelu of a projection of the input."},
    {"share_qk", LMOE_OPTION_BOOL, offsetof(ttt_options, share_qk), "no", 0, 0, NULL, NULL,
     "One projection for queries and keys, and a short convolution for each."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(ttt_options, conv_kernel), "4", 2, 64, NULL, "tokens",
     "Length of these convolutions."},
    LMOE_OPTION_END};

static const double eps = 1e-6; /* of all norms */

static lmoe_tensor start(lmoe_trace *t, const char *name, int64_t h, int64_t rows, int64_t d,
                         double deviation)
{
    return lmoe_cube(t, name, "heads head_k head_v", h, rows, d, deviation);
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const ttt_options *o = opt;
    ttt_params *w = params;
    int64_t e = lmoe_size(t, "embed"), h = o->heads, d, same;
    const char *axes = "embed heads head_k";
    LMOE_TRY(lmoe_head_widths(t, h, 1, 1, &d, &same));
    w->q = lmoe_cube(t, "q_proj.weight", axes, e, h, d, 0);
    if (!o->share_qk) w->k = lmoe_cube(t, "k_proj.weight", axes, e, h, d, 0);
    w->v = lmoe_cube(t, "v_proj.weight", axes, e, h, d, 0);
    if (o->share_qk) {
        const char *taps = "heads head_k kernel";
        w->q_conv = lmoe_conv_cube(t, "conv_q.weight", taps, h, d, o->conv_kernel);
        w->k_conv = lmoe_conv_cube(t, "conv_k.weight", taps, h, d, o->conv_kernel);
        w->q_bias = lmoe_head_vector(t, "conv_q.bias", "heads head_k", h, d, 0);
        w->k_bias = lmoe_head_vector(t, "conv_k.bias", "heads head_k", h, d, 0);
    }
    w->lr = lmoe_matrix(t, "learnable_ttt_lr_weight", "embed heads", e, h, 0.02);
    w->lr_bias = lmoe_vector(t, "learnable_ttt_lr_bias", "heads", h, 0);
    w->position = lmoe_vector(t, "learnable_token_idx", "place", o->mini_batch, 0);
    w->gamma = lmoe_head_vector(t, "ttt_norm_weight", "heads head_k", h, d, 1);
    w->beta = lmoe_head_vector(t, "ttt_norm_bias", "heads head_k", h, d, 0);
    w->w = start(t, "W1", h, d, d, 0.02);
    lmoe_param_def b = {.size = sizeof b,
                        .name = "b1",
                        .axes = "heads head_k head_v",
                        .dim = {h, 1, d},
                        .init = LMOE_INIT_CONST,
                        .flags = LMOE_PARAM_NO_DECAY};
    w->b = lmoe_param(t, &b);
    if (o->use_gate) w->gate = lmoe_matrix(t, "g_proj.weight", "embed channel", e, e, 0);
    w->norm = lmoe_vector(t, "post_norm.weight", "channel", e, 1);
    w->norm_bias = lmoe_vector(t, "post_norm.bias", "channel", e, 0);
    w->out = lmoe_output_weight(t, "o_proj.weight", "channel embed", e, e, 0);
    return LMOE_OK;
}

/* Turns the pairs (2i, 2i + 1) of x, (batch seq heads head_k), by positions within a mini-batch. */
static lmoe_tensor turned(lmoe_trace *t, const ttt_options *o, lmoe_tensor x, lmoe_tensor phase)
{
    lmoe_rope_attrs rope = {o->rope_base, 0};
    int64_t half = lmoe_axis_size(t, x, "head_k") / 2;
    x = lmoe_split_axis(t, x, "head_k", "pair", 2, "part");
    x = lmoe_merge_axes(t, lmoe_sum(t, "b s h i p -> b s h p i", x), "part", "head_k");
    lmoe_tensor in[2] = {x, phase};
    x = lmoe_apply_at(t, LMOE_HERE, "rope/1", in, 2, &rope, sizeof rope, NULL, 0);
    x = lmoe_split_axis(t, x, "head_k", "part", half, "pair");
    return lmoe_merge_axes(t, lmoe_sum(t, "b s h p i -> b s h i p", x), "pair", "head_k");
}

/* max(1 / (i + 1) + learned, 0) for place i of a mini-batch */
static lmoe_tensor positions(lmoe_trace *t, const ttt_options *o, const ttt_params *w)
{
    lmoe_tensor one = lmoe_iota(t, "place", o->mini_batch, 1, 0);
    lmoe_tensor count = lmoe_iota(t, "place", o->mini_batch, 1, 1);
    return lmoe_relu(t, lmoe_add(t, lmoe_div(t, one, count), lmoe_f32(t, w->position)));
}

static lmoe_tensor with_one(lmoe_trace *t, lmoe_tensor x)
{
    return lmoe_pad(t, x, 3, 0, 1, 1.0); /* the bias is one more row of the memory */
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const ttt_options *o = opt;
    const ttt_params *w = params;
    lmoe_tensor q = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->q), k = q;
    lmoe_tensor v = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->v);
    if (o->share_qk) {
        k = lmoe_add(t, lmoe_short_conv(t, q, w->k_conv, 0), w->k_bias);
        q = lmoe_add(t, lmoe_short_conv(t, q, w->q_conv, 0), w->q_bias);
    } else {
        k = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->k);
    }
    lmoe_tensor phase = lmoe_phase(t, o->mini_batch);
    q = turned(t, o, q, phase);
    k = turned(t, o, k, phase);
    lmoe_tensor lr = lmoe_add(t, lmoe_einsum(t, "b s e, e h -> b s h", x, w->lr), w->lr_bias);
    lr = lmoe_mul_scalar(t, lmoe_sigmoid(t, lmoe_f32(t, lr)),
                         o->base_lr / (double)lmoe_axis_size(t, q, "head_k"));
    lmoe_tensor target = lmoe_add(t, v, lmoe_mul_scalar(t, k, -1));
    lmoe_tensor y = lmoe_scan_learn(
        t, eps, .q = with_one(t, q), .k = with_one(t, k), .target = target, .lr = lr,
        .phase = phase, .position = positions(t, o, w), .gamma = lmoe_f32(t, w->gamma),
        .beta = lmoe_f32(t, w->beta), .initial = lmoe_f32(t, lmoe_concat(t, w->w, w->b, "head_k")));
    y = lmoe_add(t, q, lmoe_layernorm(t, y, w->gamma, w->beta, eps));
    y = lmoe_layernorm(t, lmoe_merge_axes(t, y, "heads", "channel"), w->norm, w->norm_bias, eps);
    if (o->use_gate) {
        lmoe_tensor gate = lmoe_einsum(t, "b s e, e c -> b s c", x, w->gate);
        y = lmoe_mul(t, y, lmoe_map(t, gate, LMOE_MAP_GELU));
    }
    return lmoe_einsum(t, "b s c, c e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/ttt",
             "TTT-Linear: the state is a linear model that learns from the tokens.", options,
             sizeof(ttt_options), 0},
    .params_size = sizeof(ttt_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/ttt", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
