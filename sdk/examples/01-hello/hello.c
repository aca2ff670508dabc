/* SPDX-License-Identifier: Apache-2.0
 * sdk/examples/01-hello/hello.c: a first layer: linear attention in which every head learns how fast it
 * forgets. It knows nothing of batches, ranks, decoding or packed documents.
 *
 *   S_t = d S_{t-1} + k_t v_t^T      o_t = S_t^T q_t / sqrt(head_k)      y = norm(o) W_o
 */
#include <lmoe/lmoe.h>

typedef struct options {
    int64_t heads;
} options;

typedef struct weights {
    lmoe_tensor q, k, v, decay, norm, out;
} weights;

static const lmoe_option table[] = {
    {"heads", LMOE_OPTION_INT, offsetof(options, heads), "4", 1, 1024, NULL, NULL, "Heads."},
    LMOE_OPTION_END};

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    int64_t e = lmoe_size(t, "embed"), h = ((const options *)opt)->heads;
    weights *w = params;
    if (e % h != 0) {
        lmoe_fail(t, "heads = %d does not divide embed = %d", (int)h, (int)e);
        return LMOE_E_CONFIG;
    }
    w->q = lmoe_cube(t, "q_proj.weight", "embed heads head_k", e, h, e / h, 0);
    w->k = lmoe_cube(t, "k_proj.weight", "embed heads head_k", e, h, e / h, 0);
    w->v = lmoe_cube(t, "v_proj.weight", "embed heads head_v", e, h, e / h, 0);
    w->decay = lmoe_vector(t, "decay", "heads", h, 3.0); /* d = sigmoid(3) = 0.95 at first */
    w->norm = lmoe_vector(t, "norm.weight", "head_v", e / h, 1.0);
    w->out = lmoe_output_cube(t, "o_proj.weight", h, e / h, e);
    return LMOE_OK;
}

/* x: (batch seq embed) */
static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const weights *w = params;
    lmoe_tensor q = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->q);
    lmoe_tensor k = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->k);
    lmoe_tensor v = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->v);
    lmoe_tensor log_decay = lmoe_logsigmoid(t, lmoe_f32(t, w->decay));
    double scale = 1.0 / sqrt((double)lmoe_axis_size(t, q, "head_k"));
    lmoe_tensor y = lmoe_scan_diag(t, q, k, v, log_decay, scale);
    y = lmoe_rmsnorm(t, y, w->norm, 1e-6);
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "vendor.example/decay",
             "Linear attention with a learned decay for each head.", table, sizeof(options), 0},
    .params_size = sizeof(weights),
    .params = declare,
    .forward = forward};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "vendor.example/decay", .version = "0.1", .licence = "Apache-2.0",
            .classes = classes)
