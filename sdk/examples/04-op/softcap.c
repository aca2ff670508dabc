/* SPDX-License-Identifier: Apache-2.0
 * sdk/examples/04-op/softcap.c: op vendor.example/softcap/1 with reference, derivative and a fast
 * kernel, and class vendor.example/softcap, a layer that uses it.
 *
 *   y = cap tanh(x / cap)      dx = dy (1 - (y / cap)^2)
 */
#include <lmoe/lmoe.h>

#define OP "vendor.example/softcap/1"

/* ---- the op: mathematics ---- */

typedef struct softcap_attrs {
    double cap;
} softcap_attrs;

static const lmoe_option attributes[] = {{"cap", LMOE_OPTION_FLOAT, offsetof(softcap_attrs, cap),
                                          "8", 1e-3, 1e3, NULL, NULL, "The bound of |y|."},
                                         LMOE_OPTION_END};

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    if (!lmoe_dtype_is_float(in[0].dtype)) return lmoe_shape_error(t, "x must be of a float dtype");
    out[0] = in[0];
    return LMOE_OK;
}

/* Recorded behind the forward pass, of ops that have derivatives and kernels already. */
static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    double cap = ((const softcap_attrs *)v->attrs)->cap;
    lmoe_tensor square = lmoe_map(t, v->out[0], LMOE_MAP_SQUARE);
    v->din[0] = lmoe_mul(t, v->dout[0], lmoe_affine(t, square, -1 / (cap * cap), 1));
    return LMOE_OK;
}

static lmoe_status reference(const lmoe_args *a)
{
    double cap = ((const softcap_attrs *)a->attrs)->cap;
    for (int64_t i = 0; i < lmoe_buf_count(&a->in[0]); i++)
        lmoe_put(&a->out[0], i, cap * tanh(lmoe_get(&a->in[0], i) / cap));
    return LMOE_OK;
}

/* Legal calls: odd sizes, caps that bite and caps that do not, one to differentiate, one to time. */
static int sample(int index, lmoe_case *c)
{
    static const int64_t dim[][3] = {{1, 1, 1}, {2, 63, 5}, {3, 65, 31}, {2, 3, 5}, {8, 512, 512}};
    const softcap_attrs o = {index == 1 ? 0.1 : index == 3 ? 2 : 8};
    if (index >= (int)(sizeof dim / sizeof *dim)) return 0;
    if (index == 3) c->flags = LMOE_CASE_GRADCHECK;
    if (index == 4) c->flags = LMOE_CASE_BENCH;
    c->n_in = 1;
    c->in[0] = (lmoe_desc){LMOE_F32, 3, {0}, {"batch", "seq", "embed"}};
    memcpy(c->in[0].dim, dim[index], sizeof dim[index]);
    c->fill[0] = (lmoe_fill){LMOE_FILL_NORMAL, 0, index == 2 ? 100 : 2};
    memcpy(c->attrs.bytes, &o, sizeof o);
    return 1;
}

static const lmoe_port inputs[] = {{.name = "x"}, {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y"}, {.name = NULL}};
static const signed char inplace[] = {1}; /* y may be written over x */

static const lmoe_op op = {.base = {sizeof(lmoe_op), LMOE_KIND_OP, OP, "cap tanh(x / cap)",
                                    attributes, sizeof(softcap_attrs), 0},
                           .inputs = inputs,
                           .outputs = outputs,
                           .shape = shape,
                           .rule = "... -> ...", /* every axis may be split */
                           .vjp = vjp,
                           .reference = reference,
                           .sample = sample,
                           .inplace = inplace};

/* ---- its kernel: f32 on the CPU ---- */

/* tanh(u) = -e / (2 + e), e = expm1(-2 |u|), with the sign of u */
static void range(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    const float cap = (float)((const softcap_attrs *)a->attrs)->cap, *x = a->in[0].data;
    float *y = a->out[0].data;
    for (int64_t i = begin; i < end; i++) {
        float u = x[i] / cap, e = expm1f(-2 * fabsf(u));
        y[i] = copysignf(cap * -e / (2 + e), u);
    }
}

static lmoe_status launch(const lmoe_args *a)
{
    return lmoe_parallel(a->ctx, lmoe_buf_count(&a->in[0]), 4096, range, (void *)a);
}

static int score(const lmoe_args *a)
{
    return a->in[0].dtype == LMOE_F32 ? 10 : 0; /* 0: cannot; the reference counts as 1 */
}

static const lmoe_kernel kernel = {.base = {sizeof(lmoe_kernel), LMOE_KIND_KERNEL,
                                            "vendor.example/cpu/softcap", "f32, all cores.", NULL,
                                            0, 0},
                                   .op = OP,
                                   .device = "cpu",
                                   .score = score,
                                   .launch = launch};

/* ---- a layer that uses it: y = W_o softcap(conv(W x)), a convolution of four tokens ---- */

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
    const softcap_attrs cap = {4};
    h = lmoe_apply_at(t, LMOE_HERE, OP, &h, 1, &cap, sizeof cap, NULL, 0);
    return lmoe_einsum(t, "b s c, c e -> b s e", h, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "vendor.example/softcap",
             "A short convolution whose output is bounded.", NULL, 0, 0},
    .params_size = sizeof(weights),
    .params = declare,
    .forward = forward};
static const lmoe_class *const classes[] = {&layer.base, &op.base, &kernel.base, NULL};

LMOE_PLUGIN(.id = "vendor.example/softcap", .version = "0.1", .licence = "Apache-2.0",
            .classes = classes)
