/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/log_linear/log_linear.c: log-linear attention in its Mamba-2 form (Guo et al. 2025, arXiv
 * 2506.04761).
 *
 *   z, x B C, dt, dl = W_in u; x, B, C, dt as in Mamba-2;  g = -exp(A_log) dt
 *   y_t = sum over levels l of lambda_tl S_tl^T C_t + D x_t ,   lambda = softplus(L * dl)
 *   S_t0 = B_t (dt_t x_t)^T, the token itself;  S_tl sums exp(g_{j+1} + ... + g_t) B_j (dt_j x_j)^T over
 *   the tokens j of one block of 2^(l - 1) tokens, so that the levels cover all tokens up to t (a
 *   Fenwick tree). Each level is a scan of its own, which starts anew with each pair of blocks.
 */
#include <lmoe/lmoe.h>

typedef struct log_linear_options {
    int64_t head_dim, state, conv_kernel, levels;
    double expand, norm_eps;
    int32_t conv_bias;
} log_linear_options;

typedef struct log_linear_params {
    lmoe_tensor in, conv, conv_bias, dt_bias, a_log, level, d, norm, out;
} log_linear_params;

static const lmoe_option options[] = {
    {"head_dim", LMOE_OPTION_INT, offsetof(log_linear_options, head_dim), "64", 1, 65536, NULL,
     NULL, "Channels of a head."},
    {"state", LMOE_OPTION_INT, offsetof(log_linear_options, state), "128", 1, 65536, NULL, NULL,
     "Width of B and C, the keys and queries, shared by all heads."},
    {"levels", LMOE_OPTION_INT, offsetof(log_linear_options, levels), "15", 1, 31, NULL, NULL,
     "Levels; tokens more than 2^(levels - 1) back are not seen."},
    {"expand", LMOE_OPTION_FLOAT, offsetof(log_linear_options, expand), "2", 1e-3, 64, NULL, NULL,
     "Width of all heads' channels together, in units of embed."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(log_linear_options, conv_kernel), "4", 2, 64, NULL,
     "tokens", "Length of the short convolution."},
    {"conv_bias", LMOE_OPTION_BOOL, offsetof(log_linear_options, conv_bias), "yes", 0, 0, NULL,
     NULL, "A bias of the short convolution."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(log_linear_options, norm_eps), "1e-5", 0, 1, NULL,
     NULL, "Added to the mean square in the output norm."},
    LMOE_OPTION_END};

/* Channels of x and their heads. */
static lmoe_status sizes_of(lmoe_trace *t, const log_linear_options *o, int64_t *inner,
                            int64_t *heads)
{
    *inner = (int64_t)((double)lmoe_size(t, "embed") * o->expand);
    *heads = *inner / o->head_dim;
    if (*heads > 0 && *heads * o->head_dim == *inner) return LMOE_OK;
    lmoe_fail(t, "%lld channels must be a multiple of head_dim = %lld", (long long)*inner,
              (long long)o->head_dim);
    return LMOE_E_CONFIG;
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const log_linear_options *o = opt;
    log_linear_params *w = params;
    int64_t e = lmoe_size(t, "embed"), inner, heads;
    LMOE_TRY(sizes_of(t, o, &inner, &heads));
    int64_t mixed = inner + 2 * o->state;
    w->in = lmoe_matrix(t, "in_proj.weight", "embed channel", e,
                        inner + mixed + heads * (1 + o->levels), 0);
    w->conv = lmoe_matrix(t, "conv1d.weight", "channel kernel", mixed, o->conv_kernel,
                          0.5 / sqrt((double)o->conv_kernel));
    if (o->conv_bias) w->conv_bias = lmoe_vector(t, "conv1d.bias", "channel", mixed, 0.0);
    w->dt_bias = lmoe_decay_bias(t, "dt_bias", "heads", heads, 0);
    w->a_log = lmoe_decay_rate(t, "A_log", heads, 1.0, 16.0);
    w->level = lmoe_head_vector(t, "L", "heads level", heads, o->levels, 1.0);
    w->d = lmoe_vector(t, "D", "heads", heads, 1.0);
    w->norm = lmoe_vector(t, "norm.weight", "channel", inner, 1.0);
    w->out = lmoe_output_weight(t, "out_proj.weight", "channel embed", inner, e, 0);
    return LMOE_OK;
}

/* B or C for every head: (batch seq heads head_k) */
static lmoe_tensor for_heads(lmoe_trace *t, lmoe_tensor x, int64_t first, int64_t state,
                             int64_t heads)
{
    x = lmoe_split_axis(t, lmoe_slice(t, x, 2, first, state), "channel", "kv_heads", state,
                        "head_k");
    return lmoe_repeat_heads(t, x, heads);
}

/* The sum over levels; q, k, v, g as scan_diag takes them, lambda: (batch seq heads level). */
static lmoe_tensor levels(lmoe_trace *t, lmoe_tensor q, lmoe_tensor k, lmoe_tensor v, lmoe_tensor g,
                          lmoe_tensor lambda)
{
    lmoe_desc d;
    int64_t n = lmoe_axis_size(t, lambda, "level");
    if (lmoe_describe(t, v, &d) != LMOE_OK) return v;
    lmoe_tensor y = lmoe_mul(t, v, lmoe_einsum(t, "b s h k, b s h k -> b s h", q, k));
    for (int64_t l = 0; l < n; l++) {
        lmoe_tensor of_l = lmoe_sum(t, "b s h l -> b s h", lmoe_slice(t, lambda, 3, l, 1)), reset;
        if (l == 0) {
            y = lmoe_mul(t, y, of_l);
            continue;
        }
        lmoe_tensor write = lmoe_fenwick(t, l, d.dtype, &reset);
        lmoe_tensor read = lmoe_affine(t, write, -1.0, 1.0);
        lmoe_scan_diag_in in = {.q = q, .k = k, .decay = g, .reset = reset};
        in.v = lmoe_mul(t, v, write);
        lmoe_tensor part = lmoe_scan_diag_with(t, &in, 1.0);
        y = lmoe_add(t, y, lmoe_mul(t, part, lmoe_mul(t, of_l, read)));
    }
    return y;
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor u)
{
    const log_linear_options *o = opt;
    const log_linear_params *w = params;
    lmoe_desc d;
    int64_t inner, heads;
    if (sizes_of(t, o, &inner, &heads) != LMOE_OK || lmoe_describe(t, u, &d) != LMOE_OK) return u;
    int64_t mixed = inner + 2 * o->state;
    lmoe_tensor all = lmoe_einsum(t, "b s e, e c -> b s c", u, w->in);
    lmoe_tensor z = lmoe_slice(t, all, 2, 0, inner);
    lmoe_tensor xbc = lmoe_short_conv(t, lmoe_slice(t, all, 2, inner, mixed), w->conv, 0);
    if (o->conv_bias) xbc = lmoe_add(t, xbc, w->conv_bias);
    xbc = lmoe_silu(t, xbc);
    lmoe_tensor dt = lmoe_slice(t, all, 2, inner + mixed, heads);
    dt = lmoe_add(t, lmoe_rename_axis(t, dt, "channel", "heads"), w->dt_bias);
    dt = lmoe_map(t, lmoe_f32(t, dt), LMOE_MAP_SOFTPLUS);
    lmoe_tensor dl = lmoe_slice(t, all, 2, inner + mixed + heads, heads * o->levels);
    dl = lmoe_mul(t, lmoe_split_axis(t, dl, "channel", "heads", o->levels, "level"), w->level);
    lmoe_tensor lambda = lmoe_map(t, dl, LMOE_MAP_SOFTPLUS);
    lmoe_tensor a = lmoe_mul_scalar(t, lmoe_exp(t, lmoe_f32(t, w->a_log)), -1.0);
    lmoe_tensor x = lmoe_split_axis(t, lmoe_slice(t, xbc, 2, 0, inner), "channel", "heads",
                                    o->head_dim, "head_v");
    lmoe_tensor k = for_heads(t, xbc, inner, o->state, heads);
    lmoe_tensor q = for_heads(t, xbc, inner + o->state, o->state, heads);
    lmoe_tensor v = lmoe_mul(t, x, lmoe_cast(t, dt, d.dtype));
    lmoe_tensor y = levels(t, q, k, v, lmoe_mul(t, dt, a), lambda);
    y = lmoe_merge_axes(t, lmoe_add(t, y, lmoe_mul(t, x, w->d)), "heads", "channel");
    y = lmoe_rmsnorm(t, lmoe_mul(t, y, lmoe_silu(t, z)), w->norm, o->norm_eps);
    return lmoe_einsum(t, "b s c, c e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/log_linear",
             "Log-linear attention: Mamba-2 with a state for each level of a Fenwick tree.",
             options, sizeof(log_linear_options), 0},
    .params_size = sizeof(log_linear_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/log_linear", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
