/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/zoo/op.h: an op with nothing wrong: y = scale x w.
 *   x: (batch seq embed)   w: (embed)   y: as x
 *
 *   #define REFERENCE reference, SHAPE, SAMPLE, ... or   ZOO_OP(.reference = reference)
 */
#ifndef LMOE_ZOO_OP_H
#define LMOE_ZOO_OP_H

#include <lmoe/lmoe.h>

typedef struct good_attrs {
    double scale;
} good_attrs;

static const lmoe_option good_attr_table[] = {{"scale", LMOE_OPTION_FLOAT,
                                               offsetof(good_attrs, scale), NULL, 0, 0, NULL, NULL,
                                               "Multiplies the result."},
                                              LMOE_OPTION_END};

static const lmoe_port good_inputs[] = {
    {"x", 0, LMOE_AMBIENT_NONE}, {"w", 0, LMOE_AMBIENT_NONE}, {NULL, 0, LMOE_AMBIENT_NONE}};
static const lmoe_port good_outputs[] = {{"y", 0, LMOE_AMBIENT_NONE}, {NULL, 0, LMOE_AMBIENT_NONE}};

static lmoe_status good_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                              lmoe_desc *out)
{
    if (n_in < 2 || in[0].rank != 3 || in[1].rank != 1)
        return lmoe_shape_error(t, "x must be (batch seq embed), w (embed)");
    if (!lmoe_dtype_is_float(in[0].dtype) || !lmoe_dtype_is_float(in[1].dtype))
        return lmoe_shape_error(t, "x and w must be of a float dtype");
    if (in[1].dim[0] != in[0].dim[2])
        return lmoe_shape_error(t, "w has %d elements where x has %d", (int)in[1].dim[0],
                                (int)in[0].dim[2]);
    out[0] = in[0];
    return LMOE_OK;
}

static lmoe_status good_reference(const lmoe_args *a)
{
    const good_attrs *o = a->attrs;
    const lmoe_buf *x = &a->in[0], *w = &a->in[1], *y = &a->out[0];
    for (int64_t i = 0, e = w->dim[0]; i < lmoe_buf_count(y); i++)
        lmoe_put(y, i, o->scale * lmoe_get(x, i) * lmoe_get(w, i % e));
    return LMOE_OK;
}

static lmoe_status good_vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    const good_attrs *o = v->attrs;
    lmoe_tensor dy = lmoe_mul_scalar(t, v->dout[0], o->scale);
    if (v->want[0]) v->din[0] = lmoe_mul(t, dy, v->in[1]);
    if (v->want[1]) v->din[1] = lmoe_sum(t, "b s e -> e", lmoe_mul(t, dy, v->in[0]));
    return LMOE_OK;
}

static void good_input(lmoe_case *c, int i, int rank, const int64_t *dim, const char *const *axis)
{
    c->in[i] = (lmoe_desc){.dtype = LMOE_F32, .rank = rank};
    for (int k = 0; k < rank; k++) {
        c->in[i].dim[k] = dim[k];
        c->in[i].axis[k] = axis[k];
    }
    c->fill[i] = (lmoe_fill){LMOE_FILL_NORMAL, 0, 1};
    c->n_in = i + 1;
}

static int good_sample(int index, lmoe_case *c)
{
    static const int64_t dim[][3] = {{1, 1, 1}, {2, 3, 5}, {2, 17, 6}, {4, 64, 256}};
    static const char *const axis[] = {"batch", "seq", "embed"};
    if (index >= 4) return 0;
    good_input(c, 0, 3, dim[index], axis);
    good_input(c, 1, 1, dim[index] + 2, axis + 2);
    c->flags = index < 2 ? LMOE_CASE_GRADCHECK : index == 3 ? LMOE_CASE_BENCH : 0;
    ((good_attrs *)c->attrs.bytes)->scale = 0.7;
    return 1;
}

static double good_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                         int n_out)
{
    return 2.0 * (double)lmoe_desc_count(&out[0]);
}

static const signed char good_inplace[] = {1};

#define ZOO_OP_CLASS(...)                                                        \
    static const lmoe_op zoo_op = {.base = {.size = sizeof(lmoe_op),             \
                                            .kind = LMOE_KIND_OP,                \
                                            .name = "zoo.x/" ZOO "/1",           \
                                            .summary = "One thing is wrong.",    \
                                            .options = good_attr_table,          \
                                            .options_size = sizeof(good_attrs)}, \
                                   .inputs = good_inputs,                        \
                                   .outputs = good_outputs,                      \
                                   .shape = good_shape,                          \
                                   .rule = "b s e, e -> b s e | linear 0",       \
                                   .vjp = good_vjp,                              \
                                   .reference = good_reference,                  \
                                   .sample = good_sample,                        \
                                   .flops = good_flops,                          \
                                   .inplace = good_inplace,                      \
                                   ##__VA_ARGS__};

#define ZOO_OP(...)                                                            \
    ZOO_OP_CLASS(__VA_ARGS__)                                                  \
    static const lmoe_class *const zoo_classes[] = {&zoo_op.base, NULL};       \
    LMOE_PLUGIN(.id = "zoo.x/" ZOO, .version = "1.0", .licence = "Apache-2.0", \
                .classes = zoo_classes)

#endif
