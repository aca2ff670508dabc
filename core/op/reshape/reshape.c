/* SPDX-License-Identifier: Apache-2.0
 * core/op/reshape/reshape.c: split_axis/1 and merge_axes/1: the same elements under other axes.
 *
 *   split_axis   (... n ...) -> (... outer inner ...)     n = outer * inner
 *   merge_axes   (... m n ...) -> (... m*n ...)
 * Each is the other's derivative. Of a merged axis only whole inner blocks can be split over ranks.
 */
#include "core/op/shape.h"

lmoe_status lmoe__reshape_reference(const lmoe_args *args);

static lmoe_status split_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                               lmoe_desc *out)
{
    const lmoe_reshape_attrs *o = attrs;
    int axis = (int)o->axis;
    if (o->axis < 0 || o->axis >= in->rank)
        return lmoe_shape_error(t, "the tensor has no axis number %d", axis);
    if (in->rank == LMOE_MAX_DIMS)
        return lmoe_shape_error(t, "the result would have more than %d axes", LMOE_MAX_DIMS);
    if (!o->outer_name[0] || !o->inner_name[0])
        return lmoe_shape_error(t, "the two new axes need names");
    if (o->inner < 1 || in->dim[axis] % o->inner != 0) {
        return lmoe_shape_error(t, "axis '%s' of %lld elements cannot be split into '%s' of %lld",
                                in->axis[axis], (long long)in->dim[axis], o->inner_name,
                                (long long)o->inner);
    }
    out->dtype = in->dtype;
    out->rank = in->rank + 1;
    for (int i = 0; i < out->rank; i++) {
        int from = i <= axis ? i : i - 1;
        out->dim[i] = in->dim[from];
        out->axis[i] = in->axis[from];
    }
    out->dim[axis] = in->dim[axis] / o->inner;
    out->dim[axis + 1] = o->inner;
    out->axis[axis] = o->outer_name;
    out->axis[axis + 1] = o->inner_name;
    return lmoe__need_unique_axes(t, out);
}

static lmoe_status merge_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                               lmoe_desc *out)
{
    const lmoe_reshape_attrs *o = attrs;
    int axis = (int)o->axis;
    if (o->axis < 0 || o->axis >= in->rank)
        return lmoe_shape_error(t, "the tensor has no axis number %d", axis);
    if (axis + 1 == in->rank)
        return lmoe_shape_error(t, "axis '%s' is the last one: none follows to be merged with it",
                                in->axis[axis]);
    if (!o->outer_name[0]) return lmoe_shape_error(t, "the merged axis needs a name");
    out->dtype = in->dtype;
    out->rank = in->rank - 1;
    for (int i = 0; i < out->rank; i++) {
        int from = i <= axis ? i : i + 1;
        out->dim[i] = in->dim[from];
        out->axis[i] = in->axis[from];
    }
    out->dim[axis] = in->dim[axis] * in->dim[axis + 1];
    out->axis[axis] = o->outer_name;
    return lmoe__need_unique_axes(t, out);
}

/* ---- axis rules: "a (b c) d -> a b c d" and its reverse ---- */

/* Letters of `rank` axes, in brackets those numbered axis and axis + 1 (none if axis is -1). */
static void letters(char *text, int rank, int axis)
{
    for (int i = 0; i < rank; i++) {
        if (i == axis) *text++ = '(';
        *text++ = (char)('a' + i);
        if (axis >= 0 && i == axis + 1) *text++ = ')';
        *text++ = ' ';
    }
    *text = 0;
}

static lmoe_status split_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text,
                              size_t n)
{
    const lmoe_reshape_attrs *o = attrs;
    char from[32], to[32];
    letters(from, in->rank + 1, (int)o->axis);
    letters(to, in->rank + 1, -1);
    snprintf(text, n, "%s-> %s| linear 0", from, to);
    return LMOE_OK;
}

static lmoe_status merge_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text,
                              size_t n)
{
    const lmoe_reshape_attrs *o = attrs;
    char from[32], to[32];
    letters(from, in->rank, -1);
    letters(to, in->rank, (int)o->axis);
    snprintf(text, n, "%s-> %s| linear 0", from, to);
    return LMOE_OK;
}

/* ---- derivatives ---- */

static lmoe_status split_vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    const lmoe_reshape_attrs *o = v->attrs;
    lmoe_desc x;
    LMOE_TRY(lmoe_describe(t, v->in[0], &x));
    v->din[0] = lmoe_merge_axes(t, v->dout[0], o->outer_name, x.axis[o->axis]);
    return LMOE_OK;
}

static lmoe_status merge_vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    const lmoe_reshape_attrs *o = v->attrs;
    lmoe_desc x;
    LMOE_TRY(lmoe_describe(t, v->in[0], &x));
    v->din[0] = lmoe_split_axis(t, v->dout[0], o->outer_name, x.axis[o->axis], x.dim[o->axis + 1],
                                x.axis[o->axis + 1]);
    return LMOE_OK;
}

/* ---- cases ---- */

static int sample_split(int index, lmoe_case *c)
{
    static const struct {
        const char *axes;
        int64_t dim[3];
        lmoe_reshape_attrs attrs;
        uint32_t flags;
    } cases[] = {
        {"embed", {1}, {0, 1, "heads", "head_k"}, 0},
        {"batch seq embed", {2, 63, 60}, {2, 5, "heads", "head_k"}, 0},
        {"batch seq embed", {2, 65, 7}, {2, 7, "heads", "head_k"}, 0},
        {"batch seq embed", {6, 127, 3}, {0, 2, "rank", "batch"}, 0},
        {"batch seq embed", {2, 128, 3}, {1, 64, "a", "b"}, 0},
        {"batch seq embed", {2, 3, 6}, {2, 3, "heads", "head_k"}, LMOE_CASE_GRADCHECK},
        {"batch seq embed", {16, 256, 256}, {2, 64, "heads", "head_k"}, LMOE_CASE_BENCH},
    };
    if (index >= (int)(sizeof cases / sizeof *cases)) return 0;
    memcpy(c->attrs.bytes, &cases[index].attrs, sizeof cases[index].attrs);
    c->flags = cases[index].flags;
    lmoe__case_input(c, 0, LMOE_F32, cases[index].axes, cases[index].dim, LMOE_FILL_NORMAL, 0, 1);
    return 1;
}

static int sample_merge(int index, lmoe_case *c)
{
    static const struct {
        int64_t dim[4];
        lmoe_reshape_attrs attrs;
        uint32_t flags;
    } cases[] = {
        {{1, 1, 1, 1}, {2, 0, "embed", ""}, 0},
        {{2, 63, 3, 5}, {2, 0, "embed", ""}, 0},
        {{2, 65, 7, 2}, {0, 0, "row", ""}, 0},
        {{2, 127, 3, 2}, {1, 0, "seq", ""}, 0},
        {{2, 3, 2, 3}, {2, 0, "embed", ""}, LMOE_CASE_GRADCHECK},
        {{16, 256, 4, 64}, {2, 0, "embed", ""}, LMOE_CASE_BENCH},
    };
    if (index >= (int)(sizeof cases / sizeof *cases)) return 0;
    memcpy(c->attrs.bytes, &cases[index].attrs, sizeof cases[index].attrs);
    c->flags = cases[index].flags;
    lmoe__case_input(c, 0, LMOE_F32, "batch seq heads head_k", cases[index].dim, LMOE_FILL_NORMAL,
                     0, 1);
    return 1;
}

/* Nothing is computed. */
static double flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                    int n_out)
{
    return 0;
}

static const lmoe_option options[] = {
    {"axis", LMOE_OPTION_INT, offsetof(lmoe_reshape_attrs, axis), NULL, 0, LMOE_MAX_DIMS - 1, NULL,
     NULL, "Index of the axis to split, or of the first one to merge."},
    {"inner", LMOE_OPTION_INT, offsetof(lmoe_reshape_attrs, inner), "0", 0, 1e15, NULL, "elements",
     "split_axis: size of the inner axis."},
    {"outer_name", LMOE_OPTION_CHARS, offsetof(lmoe_reshape_attrs, outer_name), NULL, 0, 15, NULL,
     NULL, "Name of the outer axis, or of the merged one."},
    {"inner_name", LMOE_OPTION_CHARS, offsetof(lmoe_reshape_attrs, inner_name), "", 0, 15, NULL,
     NULL, "split_axis: name of the inner axis."},
    LMOE_OPTION_END};

static const lmoe_port inputs[] = {{.name = "x"}, {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y"}, {.name = NULL}};

const lmoe_op lmoe__op_split_axis = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "split_axis/1", "one axis becomes two", options,
             sizeof(lmoe_reshape_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = split_shape,
    .rule_of = split_rule,
    .vjp = split_vjp,
    .reference = lmoe__reshape_reference,
    .sample = sample_split,
    .flops = flops,
    .view = 1,
};

const lmoe_op lmoe__op_merge_axes = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "merge_axes/1", "two neighbouring axes become one",
             options, sizeof(lmoe_reshape_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = merge_shape,
    .rule_of = merge_rule,
    .vjp = merge_vjp,
    .reference = lmoe__reshape_reference,
    .sample = sample_merge,
    .flops = flops,
    .view = 1,
};
