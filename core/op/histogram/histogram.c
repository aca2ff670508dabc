/* SPDX-License-Identifier: Apache-2.0
 * core/op/histogram/histogram.c: histogram/1: index (...) -> y (expert), y_x = how many elements of
 * index are x. Others than 0 ... n-1 are not counted.
 */
#include "core/op/shape.h"

lmoe_status lmoe__histogram_reference(const lmoe_args *args);

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    const lmoe_histogram_attrs *o = attrs;
    LMOE_TRY(lmoe__need_dtype(t, &in[0], "index", LMOE_I32));
    if (o->n < 1) return lmoe_shape_error(t, "n is %lld; at least 1 is needed", (long long)o->n);
    if (o->dtype != LMOE_F32 && o->dtype != LMOE_F64)
        return lmoe_shape_error(t, "counts must have dtype f32 or f64, not %s",
                                lmoe__dtype_name((lmoe_dtype)o->dtype));
    out[0].dtype = (lmoe_dtype)o->dtype;
    out[0].rank = 1;
    out[0].dim[0] = o->n;
    out[0].axis[0] = "expert";
    return LMOE_OK;
}

static int sample(int index, lmoe_case *c)
{
    static const struct {
        int64_t dim[3], n;
        double a, b; /* indices drawn from [a, b) */
        uint32_t flags;
    } cases[] = {
        {{1, 1, 1}, 1, 0, 1, 0},
        {{2, 63, 2}, 5, 0, 5, 0},
        {{1, 65, 8}, 64, 2, 5, 0}, /* none to most */
        {{3, 7, 2}, 8, 7, 8, 0},   /* all to one */
        {{2, 9, 3}, 4, -3, 9, 0},  /* some outside */
        {{8, 256, 8}, 64, 0, 64, LMOE_CASE_BENCH},
    };
    if (index >= (int)(sizeof cases / sizeof *cases)) return 0;
    lmoe_histogram_attrs o = {cases[index].n, LMOE_F32};
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = cases[index].flags;
    lmoe__case_input(c, 0, LMOE_I32, "batch seq choice", cases[index].dim, LMOE_FILL_INT,
                     cases[index].a, cases[index].b);
    return 1;
}

static const lmoe_option options[] = {
    {"n", LMOE_OPTION_INT, offsetof(lmoe_histogram_attrs, n), NULL, 1, INT32_MAX, NULL, NULL,
     "How many values are counted."},
    {"dtype", LMOE_OPTION_ENUM, offsetof(lmoe_histogram_attrs, dtype), "f32", 0, 0,
     "none f32 f64 bf16 f16 i32 i64 u8", NULL, "Dtype of the counts: f32 or f64."},
    LMOE_OPTION_END};

static const lmoe_port inputs[] = {{.name = "index", .flags = LMOE_PORT_NO_GRAD}, {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y"}, {.name = NULL}};

const lmoe_op lmoe__op_histogram = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "histogram/1", "how often each index occurs", options,
             sizeof(lmoe_histogram_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule = "... -> x", /* all axes are summed: counts of a rank's part are partial */
    .reference = lmoe__histogram_reference,
    .sample = sample,
};
