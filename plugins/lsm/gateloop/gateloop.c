/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/gateloop/gateloop.c: GateLoop (Katsch 2023, arXiv 2311.01927), linear attention whose
 * state turns and fades by a complex number of each head and token.
 *
 *   z   = W_a x + bias, complex        a = sigmoid(|z|) z / |z|
 *   S_t = a_t S_{t-1} + k_t v_t^T      o_t = Re(S_t)^T q_t
 *   y   = (o * silu(W_g x)) W_o
 */
#include <lmoe/lmoe.h>

typedef struct gateloop_options {
    int64_t heads;
    double expand, norm_eps;
    int32_t sub_norm;
} gateloop_options;

typedef struct gateloop_params {
    lmoe_tensor qkv, a, a_bias, norm, norm_bias, gate, out;
} gateloop_params;

typedef struct sizes {
    int64_t inner, heads, width; /* channels; heads; channels of a head */
} sizes;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(gateloop_options, heads), "0", 0, 1 << 20, NULL, NULL,
     "Heads; 0: as many as there are channels."},
    {"expand", LMOE_OPTION_FLOAT, offsetof(gateloop_options, expand), "1", 1e-3, 64, NULL, NULL,
     "Channels, in units of embed."},
    {"sub_norm", LMOE_OPTION_BOOL, offsetof(gateloop_options, sub_norm), "no", 0, 0, NULL, NULL,
     "Layer norm over all channels before the gate."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(gateloop_options, norm_eps), "1e-5", 0, 1, NULL, NULL,
     "Added to the variance in that norm."},
    LMOE_OPTION_END};

static lmoe_status sizes_of(lmoe_trace *t, const gateloop_options *o, sizes *n)
{
    n->inner = (int64_t)((double)lmoe_size(t, "embed") * o->expand);
    n->heads = o->heads ? o->heads : n->inner;
    n->width = n->heads > 0 ? n->inner / n->heads : 0;
    if (n->width > 0 && n->width * n->heads == n->inner) return LMOE_OK;
    lmoe_fail(t, "heads = %lld must divide the %lld channels", (long long)n->heads,
              (long long)n->inner);
    return LMOE_E_CONFIG;
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const gateloop_options *o = opt;
    gateloop_params *w = params;
    sizes n;
    LMOE_TRY(sizes_of(t, o, &n));
    int64_t e = lmoe_size(t, "embed");
    w->qkv = lmoe_matrix(t, "to_qkv.weight", "embed channel", e, 3 * n.inner, 0);
    w->a = lmoe_cube(t, "to_a.0.weight", "embed heads part", e, n.heads, 2, 0);
    lmoe_param_def bias = {.size = sizeof bias,
                           .name = "to_a.0.bias",
                           .axes = "heads part",
                           .dim = {n.heads, 2},
                           .flags = LMOE_PARAM_NO_DECAY};
    w->a_bias = lmoe_param(t, &bias);
    if (o->sub_norm) {
        w->norm = lmoe_vector(t, "maybe_sub_ln.weight", "channel", n.inner, 1.0);
        w->norm_bias = lmoe_vector(t, "maybe_sub_ln.bias", "channel", n.inner, 0.0);
    }
    w->gate = lmoe_matrix(t, "to_gates.0.weight", "embed channel", e, n.inner, 0);
    w->out = lmoe_output_weight(t, "to_out.weight", "channel embed", n.inner, e, 0);
    return LMOE_OK;
}

/* What turns a state: all (batch seq heads), in the state dtype. */
typedef struct turn {
    lmoe_tensor log, cos, sin;
} turn;

static turn turn_of(lmoe_trace *t, const gateloop_params *w, lmoe_tensor x)
{
    lmoe_tensor z = lmoe_einsum(t, "b s e, e h p -> b s h p", x, w->a);
    z = lmoe_f32(t, lmoe_add(t, z, w->a_bias));
    lmoe_tensor square = lmoe_sum(t, "b s h p -> b s h", lmoe_map(t, z, LMOE_MAP_SQUARE));
    lmoe_tensor size = lmoe_map(t, lmoe_affine(t, square, 1, 1e-14), LMOE_MAP_SQRT); /* not at 0 */
    turn a = {.log = lmoe_logsigmoid(t, size)};
    a.cos = lmoe_div(t, lmoe_sum(t, "b s h p -> b s h", lmoe_slice(t, z, 3, 0, 1)), size);
    a.sin = lmoe_div(t, lmoe_sum(t, "b s h p -> b s h", lmoe_slice(t, z, 3, 1, 1)), size);
    return a;
}

/* (batch seq heads) -> (batch seq heads head_v), the same for all channels of a head */
static lmoe_tensor widened(lmoe_trace *t, const sizes *n, lmoe_tensor x)
{
    return lmoe_einsum(t, "b s h, v -> b s h v", x, lmoe_ones(t, x, "head_v", n->width));
}

/* q, k, v: (batch seq channel) -> o like them */
static lmoe_tensor attend(lmoe_trace *t, const sizes *n, turn a, lmoe_tensor q, lmoe_tensor k,
                          lmoe_tensor v)
{
    if (n->width == 1) { /* a state is one number: what it is read with may wait */
        lmoe_tensor s =
            lmoe_scan_elem(t, .x = lmoe_mul(t, k, v), .step = a.log, .cos = a.cos, .sin = a.sin);
        return lmoe_mul(t, s, q);
    }
    lmoe_tensor y = lmoe_scan_elem(
        t, .x = lmoe_split_axis(t, v, "channel", "heads", n->width, "head_v"),
        .step = widened(t, n, a.log), .cos = widened(t, n, a.cos), .sin = widened(t, n, a.sin),
        .b = lmoe_split_axis(t, k, "channel", "heads", n->width, "head_k"),
        .c = lmoe_split_axis(t, q, "channel", "heads", n->width, "head_k"));
    return lmoe_merge_axes(t, y, "heads", "channel");
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const gateloop_options *o = opt;
    const gateloop_params *w = params;
    sizes n;
    if (sizes_of(t, o, &n) != LMOE_OK) return x;
    lmoe_tensor qkv = lmoe_einsum(t, "b s e, e c -> b s c", x, w->qkv);
    lmoe_tensor y = attend(t, &n, turn_of(t, w, x), lmoe_slice(t, qkv, 2, 0, n.inner),
                           lmoe_slice(t, qkv, 2, n.inner, n.inner),
                           lmoe_slice(t, qkv, 2, 2 * n.inner, n.inner));
    if (o->sub_norm) y = lmoe_layernorm(t, y, w->norm, w->norm_bias, o->norm_eps);
    y = lmoe_swiglu(t, lmoe_einsum(t, "b s e, e c -> b s c", x, w->gate), y);
    return lmoe_einsum(t, "b s c, c e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/gateloop",
             "GateLoop: linear attention with complex decays that depend on the token.", options,
             sizeof(gateloop_options), 0},
    .params_size = sizeof(gateloop_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/gateloop", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
