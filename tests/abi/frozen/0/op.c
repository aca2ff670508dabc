/* SPDX-License-Identifier: Apache-2.0
 * tests/abi/frozen/0/op.c: an op with a derivative, a fast CPU kernel for each, and a layer over it, as
 * an author wrote them with the headers of API 1.0.
 *
 *   y = x / (1 + |x|)    dx = dy / (1 + |x|)^2
 */
#include <lmoe/lmoe.h>

#define SOFT      "vendor.v0/soft/1"
#define SOFT_GRAD "vendor.v0/soft_grad/1"

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    if (!lmoe_dtype_is_float(in[0].dtype)) return lmoe_shape_error(t, "x must be floating point");
    out[0] = in[0];
    return LMOE_OK;
}

static lmoe_status reference(const lmoe_args *a)
{
    for (int64_t i = 0; i < lmoe_buf_count(&a->in[0]); i++) {
        double x = lmoe_get(&a->in[0], i);
        lmoe_put(&a->out[0], i, x / (1 + fabs(x)));
    }
    return LMOE_OK;
}

static lmoe_status reference_grad(const lmoe_args *a)
{
    for (int64_t i = 0; i < lmoe_buf_count(&a->in[0]); i++) {
        double x = 1 + fabs(lmoe_get(&a->in[0], i));
        lmoe_put(&a->out[0], i, lmoe_get(&a->in[1], i) / (x * x));
    }
    return LMOE_OK;
}

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_tensor in[2] = {v->in[0], v->dout[0]};
    v->din[0] = lmoe_apply_at(t, LMOE_HERE, SOFT_GRAD, in, 2, NULL, 0, NULL, 0);
    return LMOE_OK;
}

static int sample_case(int index, lmoe_case *c, int operands)
{
    static const int64_t sizes[] = {1, 7, 65, 200};
    if (index >= 4) return 0;
    c->n_in = operands;
    if (index == 1 && operands == 1) c->flags = LMOE_CASE_GRADCHECK;
    for (int i = 0; i < operands; i++) {
        c->in[i] = (lmoe_desc){LMOE_F32, 2, {3, sizes[index]}, {"batch", "embed"}};
        c->fill[i] = (lmoe_fill){LMOE_FILL_NORMAL, 0, 2};
    }
    return 1;
}

static int sample(int index, lmoe_case *c)
{
    return sample_case(index, c, 1);
}

static int sample_grad(int index, lmoe_case *c)
{
    return sample_case(index, c, 2);
}

static const lmoe_port inputs[] = {{"x", 0, LMOE_AMBIENT_NONE}, {NULL, 0, LMOE_AMBIENT_NONE}};
static const lmoe_port grad_inputs[] = {
    {"x", 0, LMOE_AMBIENT_NONE}, {"dy", 0, LMOE_AMBIENT_NONE}, {NULL, 0, LMOE_AMBIENT_NONE}};
static const lmoe_port outputs[] = {{"y", 0, LMOE_AMBIENT_NONE}, {NULL, 0, LMOE_AMBIENT_NONE}};

static const lmoe_op soft = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, SOFT, "x / (1 + |x|)", NULL, 0, 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule = "... -> ...",
    .vjp = vjp,
    .reference = reference,
    .sample = sample};

static const lmoe_op soft_grad = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, SOFT_GRAD, "Derivative of soft.", NULL, 0, 0},
    .inputs = grad_inputs,
    .outputs = outputs,
    .shape = shape,
    .rule = "..., ... -> ... | linear 1",
    .reference = reference_grad,
    .sample = sample_grad};

/* ---- kernels ---- */

static int score(const lmoe_args *a)
{
    return a->in[0].dtype == LMOE_F32 ? 20 : 0;
}

static void run(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    const float *x = a->in[0].data;
    float *y = a->out[0].data;
    for (int64_t i = begin; i < end; i++) y[i] = x[i] / (1 + fabsf(x[i]));
}

static lmoe_status launch(const lmoe_args *a)
{
    return lmoe_parallel(a->ctx, lmoe_buf_count(&a->in[0]), 1024, run, (void *)(uintptr_t)a);
}

static void run_grad(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    const float *x = a->in[0].data, *dy = a->in[1].data;
    float *dx = a->out[0].data;
    for (int64_t i = begin; i < end; i++) {
        float d = 1 + fabsf(x[i]);
        dx[i] = dy[i] / (d * d);
    }
}

static lmoe_status launch_grad(const lmoe_args *a)
{
    return lmoe_parallel(a->ctx, lmoe_buf_count(&a->in[0]), 1024, run_grad, (void *)(uintptr_t)a);
}

static const lmoe_kernel fast = {
    .base = {sizeof(lmoe_kernel), LMOE_KIND_KERNEL, "v0/soft", "soft in f32.", NULL, 0, 0},
    .op = SOFT,
    .device = "cpu",
    .score = score,
    .launch = launch};
static const lmoe_kernel fast_grad = {
    .base = {sizeof(lmoe_kernel), LMOE_KIND_KERNEL, "v0/soft_grad", "In f32.", NULL, 0, 0},
    .op = SOFT_GRAD,
    .device = "cpu",
    .score = score,
    .launch = launch_grad};

/* ---- a layer over it: y = soft(x A) B, token by token ---- */

typedef struct weights {
    lmoe_tensor in, out;
} weights;

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    int64_t e = lmoe_size(t, "embed");
    weights *w = params;
    w->in = lmoe_matrix(t, "in.weight", "embed hidden", e, e, 0);
    w->out = lmoe_matrix(t, "out.weight", "hidden embed", e, e, 0);
    return LMOE_OK;
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const weights *w = params;
    lmoe_tensor h = lmoe_einsum(t, "b s e, e h -> b s h", x, w->in);
    h = lmoe_apply_at(t, LMOE_HERE, SOFT, &h, 1, NULL, 0, NULL, 0);
    return lmoe_einsum(t, "b s h, h e -> b s e", h, w->out);
}

static const lmoe_layer layer = {.base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "vendor.v0/op",
                                          "soft between two matrices.", NULL, 0, 0},
                                 .params_size = sizeof(weights),
                                 .params = declare,
                                 .forward = forward};
static const lmoe_class *const classes[] = {&layer.base, &soft.base,      &soft_grad.base,
                                            &fast.base,  &fast_grad.base, NULL};

LMOE_PLUGIN(.id = "vendor.v0/op", .version = "1", .licence = "Apache-2.0", .classes = classes)
