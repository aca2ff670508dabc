/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/mamba/mamba.c: Mamba, the selective state space (Gu and Dao 2023, arXiv 2312.00752).
 *
 *   x, z = W_in u        x: a short convolution with bias, then silu
 *   r, B, C = W_x x      dt = softplus(W_dt r + bias)        A = -exp(A_log)
 *   h_t[c,n] = exp(dt_t[c] A[c,n]) h_{t-1}[c,n] + dt_t[c] x_t[c] B_t[n]
 *   y_t[c]   = sum_n C_t[n] h_t[c,n] + D[c] x_t[c]           out = (y * silu(z)) W_out
 */
#include <lmoe/lmoe.h>

typedef struct mamba_options {
    int64_t state, dt_rank, conv_kernel;
    double expand, dt_scale;
    int32_t bias, conv_bias;
} mamba_options;

typedef struct mamba_params {
    lmoe_tensor in, in_bias, conv, conv_bias, x, dt, dt_bias, a_log, d, out, out_bias;
} mamba_params;

typedef struct sizes {
    int64_t embed, inner, rank;
} sizes;

static const lmoe_option options[] = {
    {"state", LMOE_OPTION_INT, offsetof(mamba_options, state), "16", 1, 65536, NULL, NULL,
     "States of each channel."},
    {"expand", LMOE_OPTION_FLOAT, offsetof(mamba_options, expand), "2", 1e-3, 64, NULL, NULL,
     "Channels, in units of embed."},
    {"dt_rank", LMOE_OPTION_INT, offsetof(mamba_options, dt_rank), "0", 0, 65536, NULL, NULL,
     "Inner size of the two projections of dt; 0: embed / 16, rounded up."},
    {"dt_scale", LMOE_OPTION_FLOAT, offsetof(mamba_options, dt_scale), "1", 1e-6, 1e6, NULL, NULL,
     "The second one starts uniform in +-dt_scale / sqrt(dt_rank)."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(mamba_options, conv_kernel), "4", 2, 64, NULL,
     "tokens", "Length of the short convolution."},
    {"conv_bias", LMOE_OPTION_BOOL, offsetof(mamba_options, conv_bias), "yes", 0, 0, NULL, NULL,
     "A bias in the short convolution."},
    {"bias", LMOE_OPTION_BOOL, offsetof(mamba_options, bias), "no", 0, 0, NULL, NULL,
     "Biases in the projections in and out."},
    LMOE_OPTION_END};

static lmoe_status sizes_of(lmoe_trace *t, const mamba_options *o, sizes *n)
{
    n->embed = lmoe_size(t, "embed");
    n->inner = (int64_t)((double)n->embed * o->expand);
    n->rank = o->dt_rank ? o->dt_rank : (n->embed + 15) / 16;
    if (n->inner >= 1) return LMOE_OK;
    lmoe_fail(t, "expand = %g leaves no channel of embed = %lld", o->expand, (long long)n->embed);
    return LMOE_E_CONFIG;
}

static lmoe_tensor declare_one(lmoe_trace *t, const char *name, const char *axes, int64_t rows,
                               int64_t columns, lmoe_init_kind init, double a, double b,
                               uint32_t flags)
{
    lmoe_param_def d = {.size = sizeof d,
                        .name = name,
                        .axes = axes,
                        .dim = {rows, columns},
                        .init = init,
                        .a = a,
                        .b = b,
                        .flags = flags};
    return lmoe_param(t, &d);
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const mamba_options *o = opt;
    mamba_params *w = params;
    sizes n;
    LMOE_TRY(sizes_of(t, o, &n));
    double dt = o->dt_scale / sqrt((double)n.rank);
    w->in = lmoe_matrix(t, "in_proj.weight", "embed channel", n.embed, 2 * n.inner, 0);
    w->conv = lmoe_matrix(t, "conv1d.weight", "channel kernel", n.inner, o->conv_kernel,
                          0.5 / sqrt((double)o->conv_kernel));
    if (o->conv_bias) w->conv_bias = lmoe_vector(t, "conv1d.bias", "channel", n.inner, 0.0);
    w->x = lmoe_matrix(t, "x_proj.weight", "channel state", n.inner, n.rank + 2 * o->state, 0);
    w->dt = declare_one(t, "dt_proj.weight", "low_rank channel", n.rank, n.inner, LMOE_INIT_UNIFORM,
                        -dt, dt, 0);
    w->dt_bias = declare_one(t, "dt_proj.bias", "channel", n.inner, 0, LMOE_INIT_SOFTPLUS, 0.001,
                             0.1, LMOE_PARAM_NO_DECAY);
    w->a_log = declare_one(t, "A_log", "channel state", n.inner, o->state, LMOE_INIT_LOG_RAMP, 1, 1,
                           LMOE_PARAM_NO_DECAY);
    w->d = lmoe_vector(t, "D", "channel", n.inner, 1.0);
    w->out = declare_one(t, "out_proj.weight", "channel embed", n.inner, n.embed, LMOE_INIT_NORMAL,
                         0, 0, LMOE_PARAM_RESIDUAL);
    if (o->bias) {
        w->in_bias = lmoe_vector(t, "in_proj.bias", "channel", 2 * n.inner, 0.0);
        w->out_bias = lmoe_vector(t, "out_proj.bias", "embed", n.embed, 0.0);
    }
    return LMOE_OK;
}

static lmoe_tensor add_if(lmoe_trace *t, lmoe_tensor x, lmoe_tensor bias)
{
    return lmoe_is_absent(bias) ? x : lmoe_add(t, x, bias);
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor u)
{
    const mamba_options *o = opt;
    const mamba_params *w = params;
    sizes n;
    lmoe_desc d;
    if (sizes_of(t, o, &n) != LMOE_OK || lmoe_describe(t, u, &d) != LMOE_OK) return u;
    lmoe_tensor xz = add_if(t, lmoe_einsum(t, "b s e, e c -> b s c", u, w->in), w->in_bias);
    lmoe_tensor x = lmoe_short_conv(t, lmoe_slice(t, xz, 2, 0, n.inner), w->conv, !o->conv_bias);
    if (o->conv_bias) x = lmoe_silu(t, lmoe_add(t, x, w->conv_bias));
    lmoe_tensor low = lmoe_einsum(t, "b s c, c n -> b s n", x, w->x);
    lmoe_tensor r = lmoe_rename_axis(t, lmoe_slice(t, low, 2, 0, n.rank), "state", "low_rank");
    lmoe_tensor dt = lmoe_einsum(t, "b s r, r c -> b s c", r, w->dt);
    dt = lmoe_map(t, lmoe_f32(t, lmoe_add(t, dt, w->dt_bias)), LMOE_MAP_SOFTPLUS);
    lmoe_tensor a = lmoe_mul_scalar(t, lmoe_exp(t, lmoe_f32(t, w->a_log)), -1.0);
    lmoe_tensor y = lmoe_scan_elem(t, .x = lmoe_mul(t, x, lmoe_cast(t, dt, d.dtype)), .step = dt,
                                   .rate = a, .b = lmoe_slice(t, low, 2, n.rank, o->state),
                                   .c = lmoe_slice(t, low, 2, n.rank + o->state, o->state));
    y = lmoe_add(t, y, lmoe_mul(t, x, w->d));
    y = lmoe_swiglu(t, lmoe_slice(t, xz, 2, n.inner, n.inner), y);
    return add_if(t, lmoe_einsum(t, "b s c, c e -> b s e", y, w->out), w->out_bias);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/mamba",
             "Mamba: a state space with steps, inputs and outputs that depend on the token.",
             options, sizeof(mamba_options), 0},
    .params_size = sizeof(mamba_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/mamba", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
