/* SPDX-License-Identifier: Apache-2.0
 * core/op/slice/slice.c: slice/1 and pad/1 along one axis; each is the other's derivative.
 */
#include "core/op/shape.h"

lmoe_status lmoe__slice_reference(const lmoe_args *args);
lmoe_status lmoe__pad_reference(const lmoe_args *args);

static lmoe_status slice_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                               lmoe_desc *out)
{
    const lmoe_slice_attrs *o = attrs;
    if (o->axis < 0 || o->axis >= in->rank)
        return lmoe_shape_error(t, "the tensor has no axis number %d", (int)o->axis);
    int64_t size = in->dim[o->axis];
    if (o->start < 0 || o->length < 1 || o->start > size || o->length > size - o->start) {
        return lmoe_shape_error(t,
                                "axis '%s' has %lld elements; %lld from number %lld on are not "
                                "there",
                                in->axis[o->axis], (long long)size, (long long)o->length,
                                (long long)o->start);
    }
    *out = *in;
    out->dim[o->axis] = o->length;
    return LMOE_OK;
}

static lmoe_status pad_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                             lmoe_desc *out)
{
    const lmoe_pad_attrs *o = attrs;
    if (o->axis < 0 || o->axis >= in->rank)
        return lmoe_shape_error(t, "the tensor has no axis number %d", (int)o->axis);
    if (o->before < 0 || o->after < 0) {
        return lmoe_shape_error(t, "axis '%s' cannot be padded by %lld before and %lld after",
                                in->axis[o->axis], (long long)o->before, (long long)o->after);
    }
    *out = *in;
    out->dim[o->axis] += o->before + o->after;
    return LMOE_OK;
}

/* "a b c -> a b c | whole b": the axis that is cut or padded is needed whole. */
static void write_rule(int rank, int64_t axis, bool linear, char *text, size_t n)
{
    char letters[2 * LMOE_MAX_DIMS + 1], *p = letters;
    for (int i = 0; i < rank; i++) {
        *p++ = (char)('a' + i);
        *p++ = ' ';
    }
    *p = 0;
    snprintf(text, n, "%s-> %s| whole %c%s", letters, letters, (char)('a' + axis),
             linear ? ", linear 0" : "");
}

static lmoe_status slice_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text,
                              size_t n)
{
    write_rule(in->rank, ((const lmoe_slice_attrs *)attrs)->axis, true, text, n);
    return LMOE_OK;
}

static lmoe_status pad_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text, size_t n)
{
    const lmoe_pad_attrs *o = attrs;
    write_rule(in->rank, o->axis, o->value == 0, text, n);
    return LMOE_OK;
}

static lmoe_status slice_vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    const lmoe_slice_attrs *o = v->attrs;
    lmoe_desc x;
    LMOE_TRY(lmoe_describe(t, v->in[0], &x));
    int64_t after = x.dim[o->axis] - o->start - o->length;
    v->din[0] = lmoe_pad(t, v->dout[0], o->axis, o->start, after, 0.0);
    return LMOE_OK;
}

static lmoe_status pad_vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    const lmoe_pad_attrs *o = v->attrs;
    lmoe_desc x;
    LMOE_TRY(lmoe_describe(t, v->in[0], &x));
    v->din[0] = lmoe_slice(t, v->dout[0], o->axis, o->before, x.dim[o->axis]);
    return LMOE_OK;
}

/* ---- cases ---- */

static int sample_slice(int index, lmoe_case *c)
{
    static const struct {
        int64_t dim[3];
        lmoe_slice_attrs attrs;
        uint32_t flags;
    } cases[] = {
        {{1, 1, 1}, {0, 0, 1}, 0},
        {{2, 63, 5}, {1, 0, 1}, 0},
        {{2, 65, 31}, {2, 13, 17}, 0},
        {{7, 64, 2}, {0, 2, 5}, 0},
        {{2, 129, 3}, {1, 2, 127}, 0},
        {{2, 127, 8}, {2, 0, 8}, 0},
        {{2, 3, 5}, {2, 1, 3}, LMOE_CASE_GRADCHECK},
        {{3, 5, 2}, {1, 0, 2}, LMOE_CASE_GRADCHECK},
        {{16, 256, 256}, {2, 64, 128}, LMOE_CASE_BENCH},
    };
    if (index >= (int)(sizeof cases / sizeof *cases)) return 0;
    memcpy(c->attrs.bytes, &cases[index].attrs, sizeof cases[index].attrs);
    c->flags = cases[index].flags;
    lmoe__case_input(c, 0, LMOE_F32, "batch seq embed", cases[index].dim, LMOE_FILL_NORMAL, 0, 1);
    return 1;
}

static int sample_pad(int index, lmoe_case *c)
{
    static const struct {
        int64_t dim[3];
        lmoe_pad_attrs attrs;
        uint32_t flags;
    } cases[] = {
        {{1, 1, 1}, {0, 0, 1, 0}, 0},
        {{2, 63, 5}, {1, 1, 0, 0}, 0},
        {{2, 65, 31}, {2, 3, 4, -2.5}, 0},
        {{3, 64, 2}, {0, 2, 2, 1}, 0},
        {{2, 127, 3}, {1, 0, 2, 0}, 0},
        {{2, 129, 3}, {2, 0, 0, 0}, 0},
        {{2, 3, 5}, {2, 1, 3, 1}, LMOE_CASE_GRADCHECK},
        {{3, 5, 2}, {1, 2, 0, 0}, LMOE_CASE_GRADCHECK},
        {{16, 256, 256}, {2, 0, 1, 1}, LMOE_CASE_BENCH},
    };
    if (index >= (int)(sizeof cases / sizeof *cases)) return 0;
    memcpy(c->attrs.bytes, &cases[index].attrs, sizeof cases[index].attrs);
    c->flags = cases[index].flags;
    lmoe__case_input(c, 0, LMOE_F32, "batch seq embed", cases[index].dim, LMOE_FILL_NORMAL, 0, 1);
    return 1;
}

/* Nothing is computed. */
static double flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                    int n_out)
{
    return 0;
}

static const lmoe_option slice_options[] = {
    {"axis", LMOE_OPTION_INT, offsetof(lmoe_slice_attrs, axis), NULL, 0, LMOE_MAX_DIMS - 1, NULL,
     NULL, "Index of the axis."},
    {"start", LMOE_OPTION_INT, offsetof(lmoe_slice_attrs, start), "0", 0, 1e15, NULL, "elements",
     "First element that is kept."},
    {"length", LMOE_OPTION_INT, offsetof(lmoe_slice_attrs, length), NULL, 1, 1e15, NULL, "elements",
     "How many are kept."},
    LMOE_OPTION_END};

static const lmoe_option pad_options[] = {
    {"axis", LMOE_OPTION_INT, offsetof(lmoe_pad_attrs, axis), NULL, 0, LMOE_MAX_DIMS - 1, NULL,
     NULL, "Index of the axis."},
    {"before", LMOE_OPTION_INT, offsetof(lmoe_pad_attrs, before), "0", 0, 1e15, NULL, "elements",
     "How many are put before the first."},
    {"after", LMOE_OPTION_INT, offsetof(lmoe_pad_attrs, after), "0", 0, 1e15, NULL, "elements",
     "How many are put after the last."},
    {"value", LMOE_OPTION_FLOAT, offsetof(lmoe_pad_attrs, value), "0", 0, 0, NULL, NULL,
     "Value of the new elements."},
    LMOE_OPTION_END};

static const lmoe_port inputs[] = {{.name = "x"}, {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y"}, {.name = NULL}};

const lmoe_op lmoe__op_slice = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "slice/1", "a run of elements along one axis",
             slice_options, sizeof(lmoe_slice_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = slice_shape,
    .rule_of = slice_rule,
    .vjp = slice_vjp,
    .reference = lmoe__slice_reference,
    .sample = sample_slice,
    .flops = flops,
};

const lmoe_op lmoe__op_pad = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "pad/1",
             "more elements before and after along one axis", pad_options, sizeof(lmoe_pad_attrs),
             0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = pad_shape,
    .rule_of = pad_rule,
    .vjp = pad_vjp,
    .reference = lmoe__pad_reference,
    .sample = sample_pad,
    .flops = flops,
};
