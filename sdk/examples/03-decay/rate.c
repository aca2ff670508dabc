/* SPDX-License-Identifier: Apache-2.0
 * sdk/examples/03-decay/rate.c: class vendor.example/rate: a decay of one's own, made of ops. A head
 * has a rate of forgetting; a token says how much of it applies, from none to all.
 *
 *   g_t = -softplus(r) sigmoid(x_t W_g)                the log decay of a head at token t, at most 0
 *   S_t = exp(g_t) S_{t-1} + (1 - exp(g_t)) k_t v_t^T  what is forgotten makes room for what is new
 *   o_t = S_t^T q_t                                    y = norm(o) W_o
 */
#include <lmoe/lmoe.h>

typedef struct options {
    int64_t heads;
} options;

typedef struct weights {
    lmoe_qkv_params qkv;
    lmoe_tensor rate, amount, norm, out;
} weights;

static const lmoe_option table[] = {
    {"heads", LMOE_OPTION_INT, offsetof(options, heads), "4", 1, 1024, NULL, NULL, "Heads."},
    LMOE_OPTION_END};

static lmoe_qkv_def sizes(lmoe_trace *t, const options *o)
{
    int64_t width = lmoe_size(t, "embed") / o->heads;
    return (lmoe_qkv_def){.heads = o->heads, .head_k = width, .head_v = width};
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const options *o = opt;
    weights *w = params;
    int64_t e = lmoe_size(t, "embed");
    if (e % o->heads != 0) {
        lmoe_fail(t, "heads = %d does not divide embed = %d", (int)o->heads, (int)e);
        return LMOE_E_CONFIG;
    }
    lmoe_qkv_def d = sizes(t, o);
    LMOE_TRY(lmoe_qkv_declare(t, &d, &w->qkv));
    /* What the helpers of nn.h do not offer is a definition with names instead of positions: rates
     * from fast to slow heads, which weight decay leaves alone. */
    const lmoe_param_def rate = {.size = sizeof rate,
                                 .name = "rate",
                                 .axes = "heads",
                                 .dim = {d.heads},
                                 .init = LMOE_INIT_SOFTPLUS, /* softplus(r) in 0.01 ... 1 */
                                 .a = 0.01,
                                 .b = 1,
                                 .flags = LMOE_PARAM_NO_DECAY};
    w->rate = lmoe_param(t, &rate);
    w->amount = lmoe_matrix(t, "g_proj.weight", "embed heads", e, d.heads, 0);
    w->norm = lmoe_vector(t, "norm.weight", "head_v", d.head_v, 1.0);
    w->out = lmoe_output_cube(t, "o_proj.weight", d.heads, d.head_v, e);
    return LMOE_OK;
}

/* (batch seq heads) in the state's dtype: a decay that is rounded to 16 bits forgets at another rate,
 * which a long sequence shows. As a log it may come as near to 1 as it likes, and sums do not
 * cancel. */
static lmoe_tensor log_decay(lmoe_trace *t, const weights *w, lmoe_tensor x)
{
    lmoe_tensor amount =
        lmoe_sigmoid(t, lmoe_f32(t, lmoe_einsum(t, "b s e, e h -> b s h", x, w->amount)));
    lmoe_tensor rate = lmoe_map(t, lmoe_f32(t, w->rate), LMOE_MAP_SOFTPLUS);
    return lmoe_mul_scalar(t, lmoe_mul(t, amount, rate), -1); /* rate finds its place by "heads" */
}

/* x: (batch seq embed) */
static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const weights *w = params;
    lmoe_qkv_def d = sizes(t, opt);
    lmoe_qkv p = lmoe_qkv_project(t, &d, &w->qkv, x, LMOE_THROUGH_NONE, LMOE_THROUGH_NONE);
    lmoe_tensor g = log_decay(t, w, x);
    lmoe_desc of_k;
    if (lmoe_describe(t, p.k, &of_k) != LMOE_OK) return p.k;
    /* 1 - exp(g) by expm1, exact where g is near 0; then in the dtype of the keys */
    lmoe_tensor room = lmoe_cast(t, lmoe_map(t, g, LMOE_MAP_ONEMEXP), of_k.dtype);
    lmoe_tensor y = lmoe_scan_diag(t, p.q, lmoe_mul(t, p.k, room), p.v, g, 1.0);
    y = lmoe_rmsnorm(t, y, w->norm, 1e-6);
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "vendor.example/rate",
             "Linear attention whose tokens say how much a head forgets.", table, sizeof(options),
             0},
    .params_size = sizeof(weights),
    .params = declare,
    .forward = forward};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "vendor.example/rate", .version = "0.1", .licence = "Apache-2.0",
            .classes = classes)
