/* SPDX-License-Identifier: Apache-2.0
 * core/op/iota/iota.c: iota/1, an arithmetic sequence along one axis.
 *
 * no operand -> y (axis): y_i = start + step * i. Constants such as retention's decay per head come
 * from it.
 */
#include "core/op/op.h"

static const lmoe_option attrs[] = {
    {"n", LMOE_OPTION_INT, offsetof(lmoe_iota_attrs, n), "8", 1, 1 << 30, NULL, NULL, "Elements."},
    {"start", LMOE_OPTION_FLOAT, offsetof(lmoe_iota_attrs, start), "0", 0, 0, NULL, NULL, "First."},
    {"step", LMOE_OPTION_FLOAT, offsetof(lmoe_iota_attrs, step), "1", 0, 0, NULL, NULL,
     "Difference."},
    {"dtype", LMOE_OPTION_ENUM, offsetof(lmoe_iota_attrs, dtype), "f32", 0, 0, "none f32 f64", NULL,
     "Of the result."},
    {"axis", LMOE_OPTION_CHARS, offsetof(lmoe_iota_attrs, axis), "heads", 0, 15, NULL, NULL,
     "Name of the axis."},
    LMOE_OPTION_END};

static const lmoe_port inputs[] = {{NULL, 0, LMOE_AMBIENT_NONE}};
static const lmoe_port outputs[] = {{"y", 0, LMOE_AMBIENT_NONE}, {NULL, 0, LMOE_AMBIENT_NONE}};

static lmoe_status shape(lmoe_trace *t, const void *a, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    const lmoe_iota_attrs *o = a;
    if (o->n < 1 || !o->axis[0])
        return lmoe_shape_error(t, "it needs an axis name and a size of at least 1");
    if (!lmoe_dtype_is_float((lmoe_dtype)o->dtype))
        return lmoe_shape_error(t, "its dtype must be a float one");
    out[0].dtype = (lmoe_dtype)o->dtype;
    out[0].rank = 1;
    out[0].dim[0] = o->n;
    out[0].axis[0] = o->axis; /* the attributes live as long as the graph */
    return LMOE_OK;
}

static lmoe_status reference(const lmoe_args *a)
{
    const lmoe_iota_attrs *o = a->attrs;
    for (int64_t i = 0; i < o->n; i++) lmoe_put(&a->out[0], i, o->start + o->step * (double)i);
    return LMOE_OK;
}

static int sample(int index, lmoe_case *c)
{
    static const int64_t sizes[] = {1, 7, 64};
    if (index >= 3) return 0;
    lmoe_iota_attrs *o = (lmoe_iota_attrs *)c->attrs.bytes;
    *o = (lmoe_iota_attrs){sizes[index], -0.5, 0.25, LMOE_F32, "heads"};
    return 1;
}

const lmoe_op lmoe__op_iota = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "iota/1", "Arithmetic sequence along one axis.", attrs,
             sizeof(lmoe_iota_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule = ". -> .",
    .reference = reference,
    .sample = sample,
};
