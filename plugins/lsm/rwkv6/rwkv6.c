/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/rwkv6/rwkv6.c: RWKV-6, Finch (Peng et al. 2024, arXiv 2404.05892): the time mix.
 *
 *   S_t = diag(exp g_t) S_{t-1} + k_t v_t^T       o_t = (S_{t-1} + diag(u) k_t v_t^T)^T r_t
 *   g = -exp(w)     r, w, k, v, g of x + (x_{t-1} - x_t) * mix, five mixes that depend on the token
 *   y = (groupnorm(o) * silu(gate)) W_o            the norm is over head_v, with weight and bias
 *
 * The state before token t is that of a scan which is one token late: k, v and g go through
 * lmoe_token_before.
 */
#include <lmoe/lmoe.h>

enum { R, W, K, V, G, MIXES };
enum { NORM_GROUP, NORM_RMS, NORM_NONE };

typedef struct rwkv6_options {
    int64_t heads, proj_low_rank, gate_low_rank;
    double expand_k, expand_v, norm_eps;
    int32_t norm;
} rwkv6_options;

typedef struct rwkv6_params {
    lmoe_tensor mu, mix_down, mix_up, mix_bias;      /* the mixes */
    lmoe_tensor r, k, v, g, w_down, w_up, w_bias, u; /* projections, the bonus */
    lmoe_tensor norm, norm_bias, out;
} rwkv6_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(rwkv6_options, heads), "4", 1, 65536, NULL, NULL, "Heads."},
    {"expand_k", LMOE_OPTION_FLOAT, offsetof(rwkv6_options, expand_k), "0.5", 1e-3, 64, NULL, NULL,
     "Width of all keys together, in units of embed."},
    {"expand_v", LMOE_OPTION_FLOAT, offsetof(rwkv6_options, expand_v), "1.0", 1e-3, 64, NULL, NULL,
     "Width of all values together, in units of embed."},
    {"proj_low_rank", LMOE_OPTION_INT, offsetof(rwkv6_options, proj_low_rank), "32", 1, 65536, NULL,
     NULL, "Inner size of the projection that makes the mixes, for each."},
    {"gate_low_rank", LMOE_OPTION_INT, offsetof(rwkv6_options, gate_low_rank), "64", 1, 65536, NULL,
     NULL, "Inner size of the decay's two projections."},
    {"norm", LMOE_OPTION_ENUM, offsetof(rwkv6_options, norm), "group", 0, 0, "group rms none", NULL,
     "Norm of each head's output."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(rwkv6_options, norm_eps), "1e-5", 0, 1, NULL, NULL,
     "Added to the mean square in the output norm."},
    LMOE_OPTION_END};

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const rwkv6_options *o = opt;
    rwkv6_params *w = params;
    int64_t e = lmoe_size(t, "embed"), h = o->heads, k, v, r = o->proj_low_rank;
    const char *keys = "embed heads head_k", *values = "embed heads head_v";
    LMOE_TRY(lmoe_head_widths(t, h, o->expand_k, o->expand_v, &k, &v));
    w->mu = lmoe_vector(t, "x_proj.0.mu", "embed", e, 0.0);
    w->mix_down = lmoe_cube(t, "x_proj.0.linear.weight", "embed mix low_rank", e, MIXES, r, 0);
    w->mix_up = lmoe_cube(t, "x_proj.2.weight", "embed mix low_rank", e, MIXES, r, 0);
    w->mix_bias = lmoe_head_vector(t, "x_bias", "mix embed", MIXES, e, 0.0);
    w->r = lmoe_cube(t, "r_proj.linear.weight", keys, e, h, k, 0);
    w->k = lmoe_cube(t, "k_proj.linear.weight", keys, e, h, k, 0);
    w->v = lmoe_cube(t, "v_proj.linear.weight", values, e, h, v, 0);
    w->g = lmoe_cube(t, "g_proj.linear.weight", values, e, h, v, 0);
    w->w_down =
        lmoe_matrix(t, "w_proj.linear.lora.0.weight", "embed low_rank", e, o->gate_low_rank, 0);
    w->w_up = lmoe_cube(t, "w_proj.linear.lora.2.weight", "low_rank heads head_k", o->gate_low_rank,
                        h, k, 0);
    w->w_bias = lmoe_head_vector(t, "w_proj.linear.lora.2.bias", "heads head_k", h, k, 0.0);
    w->u = lmoe_head_vector(t, "bonus", "heads head_k", h, k, 0.0);
    if (o->norm != NORM_NONE)
        w->norm = lmoe_head_vector(t, "g_norm.weight", "heads head_v", h, v, 1);
    if (o->norm == NORM_GROUP)
        w->norm_bias = lmoe_head_vector(t, "g_norm.bias", "heads head_v", h, v, 0.0);
    w->out = lmoe_output_cube(t, "o_proj.weight", h, v, e);
    return LMOE_OK;
}

/* input[c] = x + delta * mix c, (batch seq embed) */
static void mix(lmoe_trace *t, const rwkv6_params *w, lmoe_tensor x, lmoe_tensor *input)
{
    lmoe_tensor less = lmoe_mul_scalar(t, x, -1.0);
    lmoe_tensor delta = lmoe_add(t, lmoe_token_before(t, x), less);
    lmoe_tensor low = lmoe_add(t, x, lmoe_mul(t, delta, w->mu));
    low = lmoe_map(t, lmoe_einsum(t, "b s e, e n r -> b s n r", low, w->mix_down), LMOE_MAP_TANH);
    lmoe_tensor all = lmoe_einsum(t, "b s n r, e n r -> b s n e", low, w->mix_up);
    all = lmoe_add(t, all, w->mix_bias);
    for (int c = 0; c < MIXES; c++) {
        lmoe_tensor one = lmoe_sum(t, "b s n e -> b s e", lmoe_slice(t, all, 2, c, 1));
        input[c] = lmoe_add(t, x, lmoe_mul(t, delta, one));
    }
}

static lmoe_tensor log_decay(lmoe_trace *t, const rwkv6_params *w, lmoe_tensor x)
{
    lmoe_tensor low = lmoe_einsum(t, "b s e, e r -> b s r", x, w->w_down);
    low = lmoe_map(t, low, LMOE_MAP_TANH);
    lmoe_tensor up = lmoe_einsum(t, "b s r, r h k -> b s h k", low, w->w_up);
    return lmoe_mul_scalar(t, lmoe_exp(t, lmoe_f32(t, lmoe_add(t, up, w->w_bias))), -1.0);
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const rwkv6_options *o = opt;
    const rwkv6_params *w = params;
    lmoe_tensor in[MIXES];
    mix(t, w, x, in);
    lmoe_tensor r = lmoe_einsum(t, "b s e, e h k -> b s h k", in[R], w->r);
    lmoe_tensor k = lmoe_einsum(t, "b s e, e h k -> b s h k", in[K], w->k);
    lmoe_tensor v = lmoe_einsum(t, "b s e, e h v -> b s h v", in[V], w->v);
    lmoe_tensor gate = lmoe_einsum(t, "b s e, e h v -> b s h v", in[G], w->g);
    lmoe_tensor g = log_decay(t, w, in[W]);
    lmoe_tensor y = lmoe_scan_diag(t, r, lmoe_token_before(t, k), lmoe_token_before(t, v),
                                   lmoe_token_before(t, g), 1.0);
    lmoe_tensor own = lmoe_einsum(t, "b s h k, b s h k -> b s h", lmoe_mul(t, r, w->u), k);
    y = lmoe_add(t, y, lmoe_mul(t, v, own));
    if (o->norm == NORM_GROUP) y = lmoe_layernorm(t, y, w->norm, w->norm_bias, o->norm_eps);
    if (o->norm == NORM_RMS)
        y = lmoe_mul(t, lmoe_rmsnorm(t, y, lmoe_absent(), o->norm_eps), w->norm);
    return lmoe_einsum(t, "b s h v, h v e -> b s e", lmoe_mul(t, y, lmoe_silu(t, gate)), w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/rwkv6",
             "RWKV-6: decays of key channels, a bonus for the token itself, token shifts.", options,
             sizeof(rwkv6_options), 0},
    .params_size = sizeof(rwkv6_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/rwkv6", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
