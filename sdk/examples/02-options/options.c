/* SPDX-License-Identifier: Apache-2.0
 * sdk/examples/02-options/options.c: class vendor.example/options: what a run file may say, and what
 * a layer does with it: one option of each type.
 *
 *   S_t = S_{t-1} + f(k_t) v_t^T      o_t = S_t^T f(q_t) / sqrt(head_k)      y = norm(o) silu(gate) W_o
 *
 * q, k and v may go through a short convolution first.
 */
#include <lmoe/lmoe.h>

/* Filled by the host: from the section [layer L], or by the defaults of the table. */
typedef struct options {
    int64_t heads, conv_kernel;
    double eps;
    int32_t activation; /* ENUM: the index of the word */
    int32_t gate;       /* BOOL */
} options;

/* name, type, place in the struct, default as a user would write it, least, most, words, unit, doc.
 * Ranges and words are checked, and a wrong value is reported with file and line, before any of the
 * code below runs. `lmoe plugin info` prints the table. */
static const lmoe_option table[] = {
    {"heads", LMOE_OPTION_INT, offsetof(options, heads), "4", 1, 1024, NULL, NULL, "Heads."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(options, conv_kernel), "0", 0, 16, NULL, "tokens",
     "Length of a short convolution before queries, keys and values; 0: none."},
    {"eps", LMOE_OPTION_FLOAT, offsetof(options, eps), "1e-6", 1e-12, 1, NULL, NULL,
     "Added to the mean square in the output's norm."},
    {"activation", LMOE_OPTION_ENUM, offsetof(options, activation), "silu", 0, 0, LMOE_ACTIVATIONS,
     NULL, "Of queries and keys."},
    {"gate", LMOE_OPTION_BOOL, offsetof(options, gate), "yes", 0, 0, NULL, NULL,
     "Multiply the output by silu of a projection of the input."},
    LMOE_OPTION_END};

typedef struct weights {
    lmoe_qkv_params qkv;
    lmoe_tensor gate, norm, out; /* gate: absent without the option */
} weights;

/* Sizes of heads, from the options and the model's width. */
static lmoe_qkv_def sizes(lmoe_trace *t, const options *o)
{
    int64_t width = lmoe_size(t, "embed") / o->heads;
    return (lmoe_qkv_def){
        .heads = o->heads, .head_k = width, .head_v = width, .conv_kernel = o->conv_kernel};
}

/* What only the trace knows is checked here: a sentence, with both values and what would do. */
static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const options *o = opt;
    weights *w = params;
    int64_t e = lmoe_size(t, "embed");
    if (e % o->heads != 0) {
        lmoe_fail(t, "heads = %d does not divide embed = %d; choose a divisor", (int)o->heads,
                  (int)e);
        return LMOE_E_CONFIG;
    }
    lmoe_qkv_def d = sizes(t, o);
    LMOE_TRY(lmoe_qkv_declare(t, &d, &w->qkv));
    if (o->gate)
        w->gate = lmoe_cube(t, "g_proj.weight", "embed heads head_v", e, d.heads, d.head_v, 0);
    w->norm = lmoe_vector(t, "norm.weight", "head_v", d.head_v, 1.0);
    w->out = lmoe_output_cube(t, "o_proj.weight", d.heads, d.head_v, e);
    return LMOE_OK;
}

/* x: (batch seq embed). Branches on options are plain C: they are taken once, when the model is
 * traced. */
static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const options *o = opt;
    const weights *w = params;
    lmoe_qkv_def d = sizes(t, o);
    lmoe_qkv p = lmoe_qkv_project(t, &d, &w->qkv, x, o->activation, LMOE_THROUGH_NONE);
    lmoe_tensor y = lmoe_scan_diag(t, p.q, p.k, p.v, lmoe_absent(), lmoe_key_scale(t, p.q));
    if (o->gate) {
        lmoe_tensor gate = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->gate);
        y = lmoe_rmsnorm_gated(t, y, w->norm, gate, o->eps);
    } else {
        y = lmoe_rmsnorm(t, y, w->norm, o->eps);
    }
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "vendor.example/options",
             "Linear attention with an option of each type.", table, sizeof(options), 0},
    .params_size = sizeof(weights),
    .params = declare,
    .forward = forward};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "vendor.example/options", .version = "0.1", .licence = "Apache-2.0",
            .classes = classes)
