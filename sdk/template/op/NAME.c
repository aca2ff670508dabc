/* SPDX-License-Identifier: Apache-2.0
 * @NAME@.c: op @CLASS@/1 with a fast kernel, and class @CLASS@, a layer that uses it.
 *
 *   y = x sigmoid(g)       dx = dy sigmoid(g)       dg = dx x (1 - sigmoid(g))
 *
 * An op is mathematics: ports, shape, how a split of its operands shows in its results, derivative,
 * and a reference that is obviously right. Kernels are fast ways of doing it on one device; they are
 * held against the reference by `lmoe bench --check`, and chosen by their score when a run starts.
 */
#include <lmoe/lmoe.h>

#define OP "@CLASS@/1"

/* ---- the op ---- */

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    if (!lmoe_dtype_is_float(in[0].dtype) || in[0].dtype != in[1].dtype)
        return lmoe_shape_error(t, "x and g must be floats of the same dtype");
    if (in[0].rank != in[1].rank || memcmp(in[0].dim, in[1].dim, sizeof in[0].dim[0] * in[0].rank))
        return lmoe_shape_error(t, "x and g must have the same sizes");
    out[0] = in[0];
    return LMOE_OK;
}

/* The derivative is recorded ops, behind the forward pass. */
static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_tensor x = v->in[0], s = lmoe_sigmoid(t, v->in[1]), dx = lmoe_mul(t, v->dout[0], s);
    v->din[0] = dx;
    v->din[1] = lmoe_mul(t, lmoe_mul(t, dx, x), lmoe_affine(t, s, -1, 1));
    return LMOE_OK;
}

/* Any float dtype, double arithmetic, no cleverness. */
static lmoe_status reference(const lmoe_args *a)
{
    for (int64_t i = 0; i < lmoe_buf_count(&a->in[0]); i++)
        lmoe_put(&a->out[0], i, lmoe_get(&a->in[0], i) / (1 + exp(-lmoe_get(&a->in[1], i))));
    return LMOE_OK;
}

/* Legal calls, for tests and timing: odd sizes, extreme values, one to be differentiated. */
static int sample(int index, lmoe_case *c)
{
    static const int64_t dim[][3] = {{1, 1, 1}, {2, 63, 5}, {3, 65, 31}, {2, 3, 5}, {8, 512, 512}};
    if (index >= (int)(sizeof dim / sizeof *dim)) return 0;
    if (index == 3) c->flags = LMOE_CASE_GRADCHECK;
    if (index == 4) c->flags = LMOE_CASE_BENCH;
    c->n_in = 2;
    for (int i = 0; i < 2; i++) {
        c->in[i] = (lmoe_desc){LMOE_F32, 3, {0}, {"batch", "seq", "embed"}};
        memcpy(c->in[i].dim, dim[index], sizeof dim[index]);
        c->fill[i] = (lmoe_fill){LMOE_FILL_NORMAL, 0, i == 1 && index == 2 ? 30 : 1};
    }
    return 1;
}

static const lmoe_port inputs[] = {{.name = "x"}, {.name = "g"}, {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y"}, {.name = NULL}};
static const signed char inplace[] = {1}; /* y may be written over x */

static const lmoe_op op = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, OP, "x sigmoid(g), element by element.", NULL, 0, 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule = "..., ... -> ... | linear 0", /* any axis may be split; linear in x */
    .vjp = vjp,
    .reference = reference,
    .sample = sample,
    .inplace = inplace};

/* ---- its kernel: f32 on the CPU ---- */

static void range(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    const float *x = a->in[0].data, *g = a->in[1].data;
    float *y = a->out[0].data;
    for (int64_t i = begin; i < end; i++) y[i] = x[i] / (1 + expf(-g[i]));
}

static lmoe_status launch(const lmoe_args *a)
{
    return lmoe_parallel(a->ctx, lmoe_buf_count(&a->in[0]), 4096, range, (void *)a);
}

static int score(const lmoe_args *a)
{
    return a->in[0].dtype == LMOE_F32 ? 10 : 0; /* 0: not for these; the reference counts as 1 */
}

static const lmoe_kernel kernel = {.base = {sizeof(lmoe_kernel), LMOE_KIND_KERNEL,
                                            "@VENDOR@/cpu/@NAME@", "f32, all cores.", NULL, 0, 0},
                                   .op = OP,
                                   .device = "cpu",
                                   .score = score,
                                   .launch = launch};

/* ---- a layer that uses it: linear attention whose output is gated ---- */

typedef struct options {
    int64_t heads;
} options;

static const lmoe_option table[] = {
    {"heads", LMOE_OPTION_INT, offsetof(options, heads), "4", 1, 1024, NULL, NULL, "Heads."},
    LMOE_OPTION_END};

typedef struct weights {
    lmoe_tensor q, k, v, gate, decay, norm, out;
} weights;

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
    w->gate = lmoe_cube(t, "gate.weight", "embed heads head_v", e, h, e / h, 0);
    w->decay = lmoe_vector(t, "decay", "heads", h, 3.0);
    w->norm = lmoe_vector(t, "norm.weight", "head_v", e / h, 1.0);
    w->out = lmoe_output_cube(t, "o_proj.weight", h, e / h, e);
    return LMOE_OK;
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const weights *w = params;
    lmoe_tensor q = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->q);
    lmoe_tensor k = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->k);
    lmoe_tensor v = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->v);
    lmoe_tensor g = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->gate);
    lmoe_tensor log_decay = lmoe_logsigmoid(t, lmoe_f32(t, w->decay));
    double scale = 1.0 / sqrt((double)lmoe_axis_size(t, q, "head_k"));
    lmoe_tensor y = lmoe_scan_diag(t, q, k, v, log_decay, scale);
    lmoe_tensor in[2] = {lmoe_rmsnorm(t, y, w->norm, 1e-6), g};
    y = lmoe_apply_at(t, LMOE_HERE, OP, in, 2, NULL, 0, NULL, 0);
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static const lmoe_layer layer = {.base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "@CLASS@",
                                          "Linear attention with a gated output.", table,
                                          sizeof(options), 0},
                                 .params_size = sizeof(weights),
                                 .params = declare,
                                 .forward = forward};

static const lmoe_class *const classes[] = {&layer.base, &op.base, &kernel.base, NULL};

LMOE_PLUGIN(.id = "@CLASS@", .version = "0.1", .licence = "Apache-2.0", .classes = classes)
