/* SPDX-License-Identifier: Apache-2.0
 * sdk/examples/05-cuda/squash.c: op vendor.example/squash/1, whose derivative is an op of its own,
 * so that both have a CUDA kernel; and class vendor.example/squash, a layer that uses it.
 *
 *   y = x / sqrt(1 + x^2)      dx = dy / (1 + x^2)^(3/2)
 */
#include "squash.h"

#define OP      "vendor.example/squash/1"
#define OP_GRAD "vendor.example/squash_grad/1"

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    for (int i = 0; i < n_in; i++) {
        if (!lmoe_dtype_is_float(in[i].dtype) || in[i].dtype != in[0].dtype ||
            lmoe_desc_count(&in[i]) != lmoe_desc_count(&in[0]))
            return lmoe_shape_error(t,
                                    "operands must be floats, of one dtype and of the same sizes");
    }
    out[0] = in[0];
    return LMOE_OK;
}

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_tensor in[2] = {v->in[0], v->dout[0]};
    v->din[0] = lmoe_apply_at(t, LMOE_HERE, OP_GRAD, in, 2, NULL, 0, NULL, 0);
    return LMOE_OK;
}

static lmoe_status reference(const lmoe_args *a)
{
    for (int64_t i = 0; i < lmoe_buf_count(&a->in[0]); i++)
        lmoe_put(&a->out[0], i, lmoe_get(&a->in[0], i) / hypot(1, lmoe_get(&a->in[0], i)));
    return LMOE_OK;
}

static lmoe_status reference_grad(const lmoe_args *a)
{
    for (int64_t i = 0; i < lmoe_buf_count(&a->in[0]); i++)
        lmoe_put(&a->out[0], i, lmoe_get(&a->in[1], i) / pow(hypot(1, lmoe_get(&a->in[0], i)), 3));
    return LMOE_OK;
}

static int sample_of(int index, lmoe_case *c, int operands)
{
    static const int64_t dim[][3] = {{1, 1, 1}, {2, 63, 5}, {3, 65, 31}, {2, 3, 5}, {8, 512, 512}};
    if (index >= (int)(sizeof dim / sizeof *dim)) return 0;
    c->flags = index == 4 ? LMOE_CASE_BENCH : index == 3 && operands == 1 ? LMOE_CASE_GRADCHECK : 0;
    c->n_in = operands;
    for (int i = 0; i < operands; i++) {
        c->in[i] = (lmoe_desc){LMOE_F32, 3, {0}, {"batch", "seq", "embed"}};
        memcpy(c->in[i].dim, dim[index], sizeof dim[index]);
        c->fill[i] = (lmoe_fill){LMOE_FILL_NORMAL, 0, index == 2 ? 100 : 2};
    }
    return 1;
}

static int sample(int index, lmoe_case *c)
{
    return sample_of(index, c, 1);
}

static int sample_grad(int index, lmoe_case *c)
{
    return sample_of(index, c, 2);
}

static const lmoe_port x_in[] = {{.name = "x"}, {.name = NULL}};
static const lmoe_port y_out[] = {{.name = "y"}, {.name = NULL}};
static const lmoe_port x_dy_in[] = {{.name = "x"}, {.name = "dy"}, {.name = NULL}};
static const lmoe_port dx_out[] = {{.name = "dx"}, {.name = NULL}};

static const lmoe_op op = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, OP, "x / sqrt(1 + x^2)", NULL, 0, 0},
    .inputs = x_in,
    .outputs = y_out,
    .shape = shape,
    .rule = "... -> ...",
    .vjp = vjp,
    .reference = reference,
    .sample = sample};
static const lmoe_op op_grad = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, OP_GRAD, "derivative of squash/1", NULL, 0, 0},
    .inputs = x_dy_in,
    .outputs = dx_out,
    .shape = shape,
    .rule = "..., ... -> ... | linear 1", /* in dy: a partial sum of it may pass through */
    .reference = reference_grad,
    .sample = sample_grad};

#ifdef WITH_CUDA /* without nvcc the same plugin runs by its references */
static int score(const lmoe_args *a)
{
    return a->in[0].dtype == LMOE_F32 ? 10 : 0;
}

#define KERNEL(name, of, run)                                                                   \
    static const lmoe_kernel name = {.base = {sizeof(lmoe_kernel), LMOE_KIND_KERNEL,            \
                                              "vendor.example/cuda/" #name, "f32", NULL, 0, 0}, \
                                     .op = of,                                                  \
                                     .device = "cuda",                                          \
                                     .score = score,                                            \
                                     .launch = run}
KERNEL(squash, OP, squash_launch);
KERNEL(squash_grad, OP_GRAD, squash_grad_launch);
#endif

/* ---- a layer that uses it: y = W_o squash(conv(W x)), a convolution of four tokens ---- */

typedef struct weights {
    lmoe_tensor in, conv, out;
} weights;

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    int64_t e = lmoe_size(t, "embed");
    weights *w = params;
    w->in = lmoe_matrix(t, "in.weight", "embed channel", e, e, 0);
    w->conv = lmoe_matrix(t, "conv.weight", "channel kernel", e, 4, 0.25);
    w->out = lmoe_matrix(t, "out.weight", "channel embed", e, e, 0);
    return LMOE_OK;
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const weights *w = params;
    lmoe_tensor h = lmoe_einsum(t, "b s e, e c -> b s c", x, w->in);
    h = lmoe_short_conv(t, h, w->conv, 0);
    h = lmoe_apply_at(t, LMOE_HERE, OP, &h, 1, NULL, 0, NULL, 0);
    return lmoe_einsum(t, "b s c, c e -> b s e", h, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "vendor.example/squash",
             "A short convolution whose output is squashed.", NULL, 0, 0},
    .params_size = sizeof(weights),
    .params = declare,
    .forward = forward};
static const lmoe_class *const classes[] = {&layer.base,  &op.base,          &op_grad.base,
#ifdef WITH_CUDA
                                            &squash.base, &squash_grad.base,
#endif
                                            NULL};

LMOE_PLUGIN(.id = "vendor.example/squash", .version = "0.1", .licence = "Apache-2.0",
            .classes = classes)
