/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/hgrn2/hgrn2.c: HGRN2, gated linear recurrence with an expanded state (Qin et al. 2024,
 * arXiv 2404.07904).
 *
 *   f_t = lb + (1 - lb) sigmoid(W_f x)        a decay for each channel; the key is what it lets in
 *   S_t = diag(f_t) S_{t-1} + (1 - f_t) i_t^T        o_t = scale S_t^T silu(W_q x)        i = W_i x
 *   lb of layer l: sum over layers 1 ... l of softmax over all layers of lower_bounds; 0 in layer 0
 *   y = rmsnorm(o) W_o                               the norm is over all heads together
 */
#include <lmoe/lmoe.h>

enum { NORM_ALL, NORM_HEAD };

typedef struct hgrn2_options {
    int64_t heads, expand_ratio, conv_kernel;
    double norm_eps;
    int32_t lower_bound, short_conv, norm;
} hgrn2_options;

typedef struct hgrn2_params {
    lmoe_tensor q, f, i, q_conv, f_conv, i_conv, bounds, norm, out;
} hgrn2_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(hgrn2_options, heads), "0", 0, 65536, NULL, NULL,
     "Heads; 0: embed / expand_ratio."},
    {"expand_ratio", LMOE_OPTION_INT, offsetof(hgrn2_options, expand_ratio), "128", 1, 65536, NULL,
     NULL, "Width of a head's keys, unless heads is set."},
    {"lower_bound", LMOE_OPTION_BOOL, offsetof(hgrn2_options, lower_bound), "yes", 0, 0, NULL, NULL,
     "Learned lower bounds of the decay, one row for each layer of the model."},
    {"short_conv", LMOE_OPTION_BOOL, offsetof(hgrn2_options, short_conv), "no", 0, 0, NULL, NULL,
     "A short causal convolution, without activation, on q, f and i."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(hgrn2_options, conv_kernel), "4", 2, 64, NULL,
     "tokens", "Length of the short convolution."},
    {"norm", LMOE_OPTION_ENUM, offsetof(hgrn2_options, norm), "all", 0, 0, "all head", NULL,
     "Whether the output norm is over all heads together or over each."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(hgrn2_options, norm_eps), "1e-5", 0, 1, NULL, NULL,
     "Added to the mean square in the output norm."},
    LMOE_OPTION_END};

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const hgrn2_options *o = opt;
    hgrn2_params *w = params;
    int64_t e = lmoe_size(t, "embed"), h = o->heads ? o->heads : e / o->expand_ratio, k, v;
    if (h < 1) {
        lmoe_fail(t, "expand_ratio = %lld is wider than embed = %lld; set heads or expand_ratio",
                  (long long)o->expand_ratio, (long long)e);
        return LMOE_E_CONFIG;
    }
    LMOE_TRY(lmoe_head_widths(t, h, 1.0, 1.0, &k, &v));
    w->q = lmoe_cube(t, "q_proj.weight", "embed heads head_k", e, h, k, 0);
    w->f = lmoe_cube(t, "f_proj.weight", "embed heads head_k", e, h, k, 0);
    w->i = lmoe_cube(t, "i_proj.weight", "embed heads head_v", e, h, v, 0);
    if (o->short_conv) {
        int64_t n = o->conv_kernel;
        w->q_conv = lmoe_conv_cube(t, "q_conv1d.weight", "heads head_k kernel", h, k, n);
        w->f_conv = lmoe_conv_cube(t, "f_conv1d.weight", "heads head_k kernel", h, k, n);
        w->i_conv = lmoe_conv_cube(t, "i_conv1d.weight", "heads head_v kernel", h, v, n);
    }
    if (o->lower_bound) {
        lmoe_param_def d = {.size = sizeof d,
                            .name = "lower_bounds",
                            .axes = "layer heads head_k",
                            .dim = {lmoe_size(t, "layers"), h, k},
                            .init = LMOE_INIT_CONST,
                            .flags = LMOE_PARAM_MODEL | LMOE_PARAM_NO_DECAY};
        w->bounds = lmoe_param(t, &d);
    }
    if (o->norm == NORM_ALL)
        w->norm = lmoe_vector(t, "g_norm.weight", "hidden", h * v, 1.0);
    else
        w->norm = lmoe_vector(t, "g_norm.weight", "head_v", v, 1.0);
    w->out = lmoe_output_cube(t, "o_proj.weight", h, v, e);
    return LMOE_OK;
}

/* Logs of the key, 1 - f = (1 - lb) sigmoid(-W_f x), so that neither it nor f loses digits where it
 * is small. f: the projection, (batch seq heads head_k). */
static lmoe_tensor log_key(lmoe_trace *t, const hgrn2_params *w, lmoe_tensor f)
{
    int64_t l = lmoe_size(t, "layer");
    lmoe_tensor log = lmoe_logsigmoid(t, lmoe_mul_scalar(t, lmoe_f32(t, f), -1.0));
    if (lmoe_is_absent(w->bounds) || l == 0) return log;
    lmoe_tensor p = lmoe_softmax(t, lmoe_sum(t, "l h k -> h k l", w->bounds));
    lmoe_tensor lb = lmoe_sum(t, "h k l -> h k", lmoe_slice(t, p, 2, 1, l));
    return lmoe_add(t, log, lmoe_map(t, lmoe_affine(t, lb, -1.0, 1.0), LMOE_MAP_LOG));
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const hgrn2_options *o = opt;
    const hgrn2_params *w = params;
    lmoe_desc d;
    lmoe_tensor q = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->q);
    lmoe_tensor f = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->f);
    lmoe_tensor i = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->i);
    if (o->short_conv) {
        q = lmoe_short_conv(t, q, w->q_conv, 0);
        f = lmoe_short_conv(t, f, w->f_conv, 0);
        i = lmoe_short_conv(t, i, w->i_conv, 0);
    }
    if (lmoe_describe(t, q, &d) != LMOE_OK) return x;
    lmoe_tensor log = log_key(t, w, f);
    lmoe_tensor k = lmoe_cast(t, lmoe_exp(t, log), d.dtype);
    lmoe_tensor g = lmoe_map(t, log, LMOE_MAP_LOG1MEXP);
    lmoe_tensor y = lmoe_scan_diag(t, lmoe_silu(t, q), k, i, g, lmoe_key_scale(t, q));
    if (o->norm == NORM_HEAD) {
        y = lmoe_rmsnorm(t, y, w->norm, o->norm_eps);
    } else {
        y = lmoe_rmsnorm(t, lmoe_merge_axes(t, y, "heads", "hidden"), w->norm, o->norm_eps);
        y = lmoe_split_axis(t, y, "hidden", "heads", d.dim[3], "head_v");
    }
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/hgrn2",
             "HGRN2: decays with learned lower bounds, keys tied to them.", options,
             sizeof(hgrn2_options), 0},
    .params_size = sizeof(hgrn2_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/hgrn2", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
