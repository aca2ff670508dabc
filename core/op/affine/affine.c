/* SPDX-License-Identifier: Apache-2.0
 * core/op/affine/affine.c: affine/1: y = scale * x + shift, of any dtype (ids too).
 */
#include "core/op/shape.h"

lmoe_status lmoe__affine_reference(const lmoe_args *args);

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    *out = in[0];
    return LMOE_OK;
}

static lmoe_status rule_of(const void *attrs, const lmoe_desc *in, int n_in, char *text, size_t n)
{
    const lmoe_affine_attrs *o = attrs;
    snprintf(text, n, "... -> ...%s", o->shift == 0 ? " | linear 0" : "");
    return LMOE_OK;
}

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    const lmoe_affine_attrs *o = v->attrs;
    v->din[0] = lmoe_mul_scalar(t, v->dout[0], o->scale);
    return LMOE_OK;
}

static int sample(int index, lmoe_case *c)
{
    static const struct {
        lmoe_dtype dtype;
        int64_t dim[3];
        lmoe_affine_attrs attrs;
        uint32_t flags;
    } cases[] = {
        {LMOE_F32, {1, 1, 1}, {-1, 0}, 0},
        {LMOE_F32, {2, 63, 5}, {0.125, 0}, 0},
        {LMOE_F32, {3, 65, 129}, {-3.7, 1}, 0},
        {LMOE_F32, {2, 127, 2}, {0, 2}, 0},
        {LMOE_F32, {2, 64, 31}, {1e15, -1e15}, 0},
        {LMOE_I32, {2, 129, 1}, {1, -17}, 0},
        {LMOE_F32, {2, 3, 5}, {-1.7, 0.3}, LMOE_CASE_GRADCHECK},
        {LMOE_F32, {16, 256, 256}, {0.5, 0}, LMOE_CASE_BENCH},
    };
    if (index >= (int)(sizeof cases / sizeof *cases)) return 0;
    bool ids = cases[index].dtype == LMOE_I32;
    memcpy(c->attrs.bytes, &cases[index].attrs, sizeof cases[index].attrs);
    c->flags = cases[index].flags;
    lmoe__case_input(c, 0, cases[index].dtype, "batch seq embed", cases[index].dim,
                     ids ? LMOE_FILL_INT : LMOE_FILL_NORMAL, 0, ids ? 1000 : 1);
    return 1;
}

static const lmoe_option options[] = {
    {"scale", LMOE_OPTION_FLOAT, offsetof(lmoe_affine_attrs, scale), "1", 0, 0, NULL, NULL,
     "Factor of every element."},
    {"shift", LMOE_OPTION_FLOAT, offsetof(lmoe_affine_attrs, shift), "0", 0, 0, NULL, NULL,
     "Added to every element after scaling."},
    LMOE_OPTION_END};

static const lmoe_port inputs[] = {{.name = "x"}, {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y"}, {.name = NULL}};
static const signed char inplace[] = {1};

const lmoe_op lmoe__op_affine = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "affine/1", "scale * x + shift", options,
             sizeof(lmoe_affine_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule_of = rule_of,
    .vjp = vjp,
    .reference = lmoe__affine_reference,
    .sample = sample,
    .inplace = inplace,
};
