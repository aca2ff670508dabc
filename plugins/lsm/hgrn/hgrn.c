/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/hgrn/hgrn.c: HGRN, a gated linear RNN (Qin, Yang, Zhong 2023, arXiv 2311.04823).
 *
 *   f   = lb + (1 - lb) sigmoid(W_f x)          for each channel; lb grows from layer to layer
 *   h_t = f_t h_{t-1} + (1 - f_t) silu(W_i x_t)
 *   y   = (rmsnorm(h) * silu(W_g x)) W_o        the norm is over all channels
 */
#include <lmoe/lmoe.h>

typedef struct hgrn_options {
    int64_t conv_kernel;
    double expand, norm_eps;
    int32_t lower_bound, short_conv;
} hgrn_options;

typedef struct hgrn_params {
    lmoe_tensor i, f, gate, i_conv, f_conv, bounds, norm, out;
} hgrn_params;

static const lmoe_option options[] = {
    {"expand", LMOE_OPTION_FLOAT, offsetof(hgrn_options, expand), "1", 1e-3, 64, NULL, NULL,
     "Channels, in units of embed."},
    {"lower_bound", LMOE_OPTION_BOOL, offsetof(hgrn_options, lower_bound), "yes", 0, 0, NULL, NULL,
     "Learned lower bounds of the decay, one row for each layer of the model."},
    {"short_conv", LMOE_OPTION_BOOL, offsetof(hgrn_options, short_conv), "no", 0, 0, NULL, NULL,
     "A short causal convolution, without activation, on i and f."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(hgrn_options, conv_kernel), "4", 2, 64, NULL,
     "tokens", "Length of the short convolution."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(hgrn_options, norm_eps), "1e-5", 0, 1, NULL, NULL,
     "Added to the mean square in the output norm."},
    LMOE_OPTION_END};

static lmoe_tensor conv_weight(lmoe_trace *t, const char *name, int64_t channels, int64_t kernel)
{
    return lmoe_matrix(t, name, "channel kernel", channels, kernel, 0.5 / sqrt((double)kernel));
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const hgrn_options *o = opt;
    hgrn_params *w = params;
    int64_t e = lmoe_size(t, "embed"), c = (int64_t)((double)e * o->expand);
    if (c < 1) {
        lmoe_fail(t, "expand = %g leaves no channel of embed = %lld", o->expand, (long long)e);
        return LMOE_E_CONFIG;
    }
    w->i = lmoe_matrix(t, "i_proj.weight", "embed channel", e, c, 0);
    w->f = lmoe_matrix(t, "f_proj.weight", "embed channel", e, c, 0);
    w->gate = lmoe_matrix(t, "g_proj.weight", "embed channel", e, c, 0);
    if (o->short_conv) {
        w->i_conv = conv_weight(t, "i_conv1d.weight", c, o->conv_kernel);
        w->f_conv = conv_weight(t, "f_conv1d.weight", c, o->conv_kernel);
    }
    if (o->lower_bound) {
        lmoe_param_def d = {.size = sizeof d,
                            .name = "lower_bounds",
                            .axes = "layer channel",
                            .dim = {lmoe_size(t, "layers"), c},
                            .init = LMOE_INIT_CONST,
                            .flags = LMOE_PARAM_MODEL | LMOE_PARAM_NO_DECAY};
        w->bounds = lmoe_param(t, &d);
    }
    w->norm = lmoe_vector(t, "g_norm.weight", "channel", c, 1.0);
    w->out = lmoe_output_weight(t, "o_proj.weight", "channel embed", c, e, 0);
    return LMOE_OK;
}

/* log(1 - f) = log(1 - lb) + log sigmoid(-W_f x): neither it nor f loses digits where it is small.
 * f: the projection, (batch seq channel). The first layer has no bound. */
static lmoe_tensor log_input(lmoe_trace *t, const hgrn_params *w, lmoe_tensor f)
{
    int64_t l = lmoe_size(t, "layer");
    lmoe_tensor log = lmoe_logsigmoid(t, lmoe_mul_scalar(t, lmoe_f32(t, f), -1.0));
    if (lmoe_is_absent(w->bounds) || l == 0) return log;
    lmoe_tensor p = lmoe_softmax(t, lmoe_sum(t, "l c -> c l", w->bounds));
    lmoe_tensor lb = lmoe_sum(t, "c l -> c", lmoe_slice(t, p, 1, 1, l));
    return lmoe_add(t, log, lmoe_map(t, lmoe_affine(t, lb, -1.0, 1.0), LMOE_MAP_LOG));
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const hgrn_options *o = opt;
    const hgrn_params *w = params;
    lmoe_desc d;
    lmoe_tensor i = lmoe_einsum(t, "b s e, e c -> b s c", x, w->i);
    lmoe_tensor f = lmoe_einsum(t, "b s e, e c -> b s c", x, w->f);
    if (o->short_conv) {
        i = lmoe_short_conv(t, i, w->i_conv, 0);
        f = lmoe_short_conv(t, f, w->f_conv, 0);
    }
    if (lmoe_describe(t, i, &d) != LMOE_OK) return x;
    lmoe_tensor log = log_input(t, w, f);
    lmoe_tensor in = lmoe_swiglu(t, i, lmoe_cast(t, lmoe_exp(t, log), d.dtype));
    lmoe_tensor h = lmoe_scan_elem(t, .x = in, .step = lmoe_map(t, log, LMOE_MAP_LOG1MEXP));
    lmoe_tensor gate = lmoe_einsum(t, "b s e, e c -> b s c", x, w->gate);
    h = lmoe_rmsnorm_gated(t, h, w->norm, gate, o->norm_eps);
    return lmoe_einsum(t, "b s c, c e -> b s e", h, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/hgrn",
             "HGRN: a gated linear RNN, one number for each channel.", options,
             sizeof(hgrn_options), 0},
    .params_size = sizeof(hgrn_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/hgrn", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
