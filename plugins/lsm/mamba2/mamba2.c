/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/mamba2/mamba2.c: Mamba-2 (Dao and Gu 2024, arXiv 2405.21060).
 *
 *   z, x B C, dt = W_in u      x, B, C: a short convolution with bias, then silu
 *   dt = softplus(dt + dt_bias)        g = -exp(A_log) dt, a decay for each head
 *   S_t = exp(g_t) S_{t-1} + B_t (dt_t x_t)^T        y_t = S_t^T C_t + D x_t
 *   out = rmsnorm(y * silu(z)) W_out, the norm is over a group's channels; B and C belong to groups
 */
#include <lmoe/lmoe.h>

typedef struct mamba2_options {
    int64_t head_dim, state, groups, conv_kernel;
    double expand, norm_eps;
    int32_t norm_before_gate;
} mamba2_options;

typedef struct mamba2_params {
    lmoe_tensor in, conv, conv_bias, dt_bias, a_log, d, norm, out;
} mamba2_params;

typedef struct sizes {
    int64_t inner, heads, group_states; /* channels of x; heads; channels of B */
} sizes;

static const lmoe_option options[] = {
    {"head_dim", LMOE_OPTION_INT, offsetof(mamba2_options, head_dim), "64", 1, 65536, NULL, NULL,
     "Channels of a head."},
    {"state", LMOE_OPTION_INT, offsetof(mamba2_options, state), "128", 1, 65536, NULL, NULL,
     "Width of B and C, a head's keys and queries."},
    {"groups", LMOE_OPTION_INT, offsetof(mamba2_options, groups), "1", 1, 65536, NULL, NULL,
     "Groups of heads that share B and C."},
    {"expand", LMOE_OPTION_FLOAT, offsetof(mamba2_options, expand), "2", 1e-3, 64, NULL, NULL,
     "Width of all heads' channels together, in units of embed."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(mamba2_options, conv_kernel), "4", 2, 64, NULL,
     "tokens", "Length of the short convolution."},
    {"norm_before_gate", LMOE_OPTION_BOOL, offsetof(mamba2_options, norm_before_gate), "no", 0, 0,
     NULL, NULL, "Norm first, then the gate."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(mamba2_options, norm_eps), "1e-5", 0, 1, NULL, NULL,
     "Added to the mean square in the output norm."},
    LMOE_OPTION_END};

static lmoe_status sizes_of(lmoe_trace *t, const mamba2_options *o, sizes *n)
{
    n->inner = (int64_t)((double)lmoe_size(t, "embed") * o->expand);
    n->heads = n->inner / o->head_dim;
    n->group_states = o->groups * o->state;
    if (n->heads > 0 && n->heads * o->head_dim == n->inner && n->heads % o->groups == 0)
        return LMOE_OK;
    lmoe_fail(t,
              "%lld channels must be a multiple of head_dim = %lld, and the heads that this gives "
              "a multiple of groups = %lld",
              (long long)n->inner, (long long)o->head_dim, (long long)o->groups);
    return LMOE_E_CONFIG;
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const mamba2_options *o = opt;
    mamba2_params *w = params;
    sizes n;
    int64_t e = lmoe_size(t, "embed");
    LMOE_TRY(sizes_of(t, o, &n));
    int64_t mixed = n.inner + 2 * n.group_states;
    w->in = lmoe_matrix(t, "in_proj.weight", "embed channel", e, n.inner + mixed + n.heads, 0);
    w->conv = lmoe_matrix(t, "conv1d.weight", "channel kernel", mixed, o->conv_kernel,
                          0.5 / sqrt((double)o->conv_kernel));
    w->conv_bias = lmoe_vector(t, "conv1d.bias", "channel", mixed, 0.0);
    w->dt_bias = lmoe_decay_bias(t, "dt_bias", "heads", n.heads, 0);
    w->a_log = lmoe_decay_rate(t, "A_log", n.heads, 1.0, 16.0);
    w->d = lmoe_vector(t, "D", "heads", n.heads, 1.0);
    w->norm = lmoe_vector(t, "norm.weight", "channel", n.inner, 1.0);
    w->out = lmoe_output_weight(t, "out_proj.weight", "channel embed", n.inner, e, 0);
    return LMOE_OK;
}

/* Channels first ... of B or C, (batch seq channel) -> (batch seq heads head_k) */
static lmoe_tensor of_groups(lmoe_trace *t, const mamba2_options *o, const sizes *n, lmoe_tensor x,
                             int64_t first)
{
    x = lmoe_split_axis(t, lmoe_slice(t, x, 2, first, n->group_states), "channel", "kv_heads",
                        o->state, "head_k");
    return lmoe_repeat_heads(t, x, n->heads / o->groups);
}

/* y, z: (batch seq channel) */
static lmoe_tensor norm(lmoe_trace *t, const mamba2_options *o, const mamba2_params *w,
                        lmoe_tensor y, lmoe_tensor z)
{
    int64_t width = lmoe_axis_size(t, y, "channel") / o->groups;
    lmoe_tensor gate = lmoe_silu(t, z);
    if (!o->norm_before_gate) y = lmoe_mul(t, y, gate);
    y = lmoe_split_axis(t, y, "channel", "group", width, "width");
    y = lmoe_rmsnorm(t, y, lmoe_absent(), o->norm_eps);
    y = lmoe_mul(t, lmoe_merge_axes(t, y, "group", "channel"), w->norm);
    return o->norm_before_gate ? lmoe_mul(t, y, gate) : y;
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor u)
{
    const mamba2_options *o = opt;
    const mamba2_params *w = params;
    sizes n;
    lmoe_desc d;
    if (sizes_of(t, o, &n) != LMOE_OK || lmoe_describe(t, u, &d) != LMOE_OK) return u;
    int64_t mixed = n.inner + 2 * n.group_states;
    lmoe_tensor all = lmoe_einsum(t, "b s e, e c -> b s c", u, w->in);
    lmoe_tensor z = lmoe_slice(t, all, 2, 0, n.inner);
    lmoe_tensor xbc = lmoe_short_conv(t, lmoe_slice(t, all, 2, n.inner, mixed), w->conv, 0);
    lmoe_tensor dt = lmoe_slice(t, all, 2, n.inner + mixed, n.heads);
    xbc = lmoe_silu(t, lmoe_add(t, xbc, w->conv_bias));
    dt = lmoe_add(t, lmoe_rename_axis(t, dt, "channel", "heads"), w->dt_bias);
    dt = lmoe_map(t, lmoe_f32(t, dt), LMOE_MAP_SOFTPLUS);
    lmoe_tensor a = lmoe_mul_scalar(t, lmoe_exp(t, lmoe_f32(t, w->a_log)), -1.0);
    lmoe_tensor x = lmoe_split_axis(t, lmoe_slice(t, xbc, 2, 0, n.inner), "channel", "heads",
                                    o->head_dim, "head_v");
    lmoe_tensor k = of_groups(t, o, &n, xbc, n.inner);
    lmoe_tensor q = of_groups(t, o, &n, xbc, n.inner + n.group_states);
    lmoe_tensor v = lmoe_mul(t, x, lmoe_cast(t, dt, d.dtype));
    lmoe_tensor y = lmoe_scan_diag(t, q, k, v, lmoe_mul(t, dt, a), 1.0);
    y = lmoe_add(t, y, lmoe_mul(t, x, w->d));
    y = norm(t, o, w, lmoe_merge_axes(t, y, "heads", "channel"), z);
    return lmoe_einsum(t, "b s c, c e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/mamba2",
             "Mamba-2: a decay for each head from a step size, B and C as key and query.", options,
             sizeof(mamba2_options), 0},
    .params_size = sizeof(mamba2_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/mamba2", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
