/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/zoo/through.h: an op with nothing wrong that gives its input back, (batch seq embed), for
 * layers and routers whose fault lies below the ops of lmoe.
 *
 *   ZOO_THROUGH(.reference = reference)    the op zoo.x/NAME_op/1; later fields win
 *   through(t, x)                          records it
 */
#ifndef LMOE_ZOO_THROUGH_H
#define LMOE_ZOO_THROUGH_H

#include <lmoe/lmoe.h>

static const lmoe_port through_inputs[] = {{.name = "x"}, {.name = NULL}};
static const lmoe_port through_outputs[] = {{.name = "y"}, {.name = NULL}};

static lmoe_status through_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                 lmoe_desc *out)
{
    if (n_in < 1 || in[0].rank != 3 || !lmoe_dtype_is_float(in[0].dtype))
        return lmoe_shape_error(t, "x must have three axes and be of a float dtype");
    out[0] = in[0];
    return LMOE_OK;
}

static lmoe_status through_reference(const lmoe_args *a)
{
    for (int64_t i = 0; i < lmoe_buf_count(&a->in[0]); i++)
        lmoe_put(&a->out[0], i, lmoe_get(&a->in[0], i));
    return LMOE_OK;
}

static lmoe_status through_vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    v->din[0] = v->dout[0];
    return LMOE_OK;
}

static int through_sample(int index, lmoe_case *c)
{
    static const int64_t dim[][3] = {{1, 1, 1}, {2, 4, 6}, {4, 8, 2}};
    if (index >= 3) return 0;
    c->in[0] = (lmoe_desc){.dtype = LMOE_F32, .rank = 3, .axis = {"batch", "seq", "embed"}};
    for (int k = 0; k < 3; k++) c->in[0].dim[k] = dim[index][k];
    c->fill[0] = (lmoe_fill){LMOE_FILL_NORMAL, 0, 1};
    c->n_in = 1;
    c->flags = LMOE_CASE_GRADCHECK;
    return 1;
}

#define through(t, x)                                                                         \
    ({                                                                                        \
        lmoe_tensor through_x = (x);                                                          \
        lmoe_apply_at((t), LMOE_HERE, "zoo.x/" ZOO "_op/1", &through_x, 1, NULL, 0, NULL, 0); \
    })

#define ZOO_THROUGH(...)                                                              \
    static const lmoe_op zoo_through = {.base = {.size = sizeof(lmoe_op),             \
                                                 .kind = LMOE_KIND_OP,                \
                                                 .name = "zoo.x/" ZOO "_op/1",        \
                                                 .summary = "Gives its input back."}, \
                                        .inputs = through_inputs,                     \
                                        .outputs = through_outputs,                   \
                                        .shape = through_shape,                       \
                                        .rule = "a b c -> a b c | linear 0",          \
                                        .vjp = through_vjp,                           \
                                        .reference = through_reference,               \
                                        .sample = through_sample,                     \
                                        ##__VA_ARGS__};

/* A plugin of a layer and the op; forward is the layer's. */
#define ZOO_LAYER_THROUGH(forward_)                                                            \
    static const lmoe_layer zoo_layer = {.base = {.size = sizeof(lmoe_layer),                  \
                                                  .kind = LMOE_KIND_LAYER,                     \
                                                  .name = "zoo.x/" ZOO,                        \
                                                  .summary = "One thing is wrong.",            \
                                                  .options = good_table,                       \
                                                  .options_size = sizeof(good_options)},       \
                                         .params_size = sizeof(good_params),                   \
                                         .params = good_declare,                               \
                                         .forward = forward_};                                 \
    static const lmoe_class *const zoo_classes[] = {&zoo_layer.base, &zoo_through.base, NULL}; \
    LMOE_PLUGIN(.id = "zoo.x/" ZOO, .version = "1.0", .licence = "Apache-2.0",                 \
                .classes = zoo_classes)

#endif
