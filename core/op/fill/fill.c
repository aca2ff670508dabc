/* SPDX-License-Identifier: Apache-2.0
 * core/op/fill/fill.c: fill/1: a tensor like x (shape, dtype) with one value. x's elements are not
 * read.
 */
#include "core/op/shape.h"

lmoe_status lmoe__fill_reference(const lmoe_args *args);

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    *out = in[0];
    return LMOE_OK;
}

static int sample(int index, lmoe_case *c)
{
    static const struct {
        lmoe_dtype dtype;
        int64_t dim[3];
        double value;
        uint32_t flags;
    } cases[] = {
        {LMOE_F32, {1, 1, 1}, 1, 0},        {LMOE_F32, {2, 63, 5}, 0, 0},
        {LMOE_F32, {3, 65, 129}, -1e30, 0}, {LMOE_F32, {2, 127, 2}, 0.1, 0},
        {LMOE_I32, {2, 64, 3}, -1, 0},      {LMOE_F32, {16, 256, 256}, 1, LMOE_CASE_BENCH},
    };
    if (index >= (int)(sizeof cases / sizeof *cases)) return 0;
    lmoe_fill_attrs o = {cases[index].value};
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = cases[index].flags;
    lmoe__case_input(c, 0, cases[index].dtype, "batch seq embed", cases[index].dim, LMOE_FILL_CONST,
                     7, 0);
    return 1;
}

static const lmoe_option options[] = {{"value", LMOE_OPTION_FLOAT, offsetof(lmoe_fill_attrs, value),
                                       "0", 0, 0, NULL, NULL, "Value of every element."},
                                      LMOE_OPTION_END};

static const lmoe_port inputs[] = {{.name = "x", .flags = LMOE_PORT_NO_GRAD | LMOE_PORT_SHAPE},
                                   {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y"}, {.name = NULL}};
static const signed char inplace[] = {1};

const lmoe_op lmoe__op_fill = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "fill/1", "a tensor like x with one value", options,
             sizeof(lmoe_fill_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule = "... -> ... | shape 0",
    .reference = lmoe__fill_reference,
    .sample = sample,
    .inplace = inplace,
};
