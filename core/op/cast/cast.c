/* SPDX-License-Identifier: Apache-2.0
 * core/op/cast/cast.c: cast/1: the same values in another dtype. Floats are rounded to nearest
 * even; integers made of floats are cut towards zero.
 */
#include "core/op/shape.h"

lmoe_status lmoe__cast_reference(const lmoe_args *args);

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    const lmoe_cast_attrs *o = attrs;
    if (o->dtype <= LMOE_NONE || o->dtype > LMOE_U8)
        return lmoe_shape_error(t, "there is no dtype number %d", (int)o->dtype);
    *out = in[0];
    out->dtype = (lmoe_dtype)o->dtype;
    return LMOE_OK;
}

/* Linear (up to rounding) unless it cuts to integers. */
static lmoe_status rule_of(const void *attrs, const lmoe_desc *in, int n_in, char *text, size_t n)
{
    const lmoe_cast_attrs *o = attrs;
    bool linear = lmoe_dtype_is_float((lmoe_dtype)o->dtype);
    snprintf(text, n, "... -> ...%s", linear ? " | linear 0" : "");
    return LMOE_OK;
}

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    v->din[0] = lmoe__cast_like(t, v->dout[0], v->in[0]);
    return LMOE_OK;
}

static int sample(int index, lmoe_case *c)
{
    static const struct {
        lmoe_dtype from, to;
        int64_t dim[3];
        double size; /* deviation of floats, limit of integers */
        uint32_t flags;
    } cases[] = {
        {LMOE_F32, LMOE_F32, {1, 1, 1}, 1, 0},
        {LMOE_F32, LMOE_BF16, {2, 63, 5}, 1, 0},
        {LMOE_F32, LMOE_BF16, {3, 65, 31}, 1e30, 0},
        {LMOE_F32, LMOE_F64, {2, 127, 2}, 1e-30, 0},
        {LMOE_F32, LMOE_F32, {2, 64, 129}, 1, 0},
        {LMOE_F32, LMOE_I32, {2, 13, 7}, 100, 0},
        {LMOE_I32, LMOE_F32, {2, 129, 1}, 100000, 0},
        {LMOE_U8, LMOE_F32, {2, 65, 3}, 256, 0},
        {LMOE_F32, LMOE_F64, {2, 3, 5}, 1, LMOE_CASE_GRADCHECK},
        {LMOE_F32, LMOE_BF16, {16, 256, 256}, 1, LMOE_CASE_BENCH},
        {LMOE_F32, LMOE_F32, {16, 256, 256}, 1, LMOE_CASE_BENCH},
    };
    if (index >= (int)(sizeof cases / sizeof *cases)) return 0;
    bool real = lmoe_dtype_is_float(cases[index].from);
    lmoe_cast_attrs o = {cases[index].to};
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = cases[index].flags;
    lmoe__case_input(c, 0, cases[index].from, "batch seq embed", cases[index].dim,
                     real ? LMOE_FILL_NORMAL : LMOE_FILL_INT, 0, cases[index].size);
    return 1;
}

static const lmoe_option options[] = {{"dtype", LMOE_OPTION_ENUM, offsetof(lmoe_cast_attrs, dtype),
                                       NULL, 0, 0, "none f32 f64 bf16 f16 i32 i64 u8", NULL,
                                       "Dtype of the result."},
                                      LMOE_OPTION_END};

static const lmoe_port inputs[] = {{.name = "x"}, {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y"}, {.name = NULL}};
static const signed char inplace[] = {1};

const lmoe_op lmoe__op_cast = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "cast/1", "the same values in another dtype", options,
             sizeof(lmoe_cast_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule_of = rule_of,
    .vjp = vjp,
    .reference = lmoe__cast_reference,
    .sample = sample,
    .inplace = inplace,
};
