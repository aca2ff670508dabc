/* SPDX-License-Identifier: Apache-2.0
 * core/op/moe/grouped.c: matrix products of rows grouped by expert.
 *
 * Expert x owns the rows offsets[x] ... offsets[x+1]-1.
 *
 *   grouped_linear       rows (row e), weight (expert e f) -> y (row f): y_r = rows_r weight_x
 *                        transpose: weight is (expert f e): y_r = rows_r weight_x^T
 *   grouped_weight_grad  rows (row e), drows (row f) -> (expert e f):
 *                        y_x = sum over the rows r of x of rows_r^T drows_r
 *
 * Rows past the last offset belong to nobody: their results are zero, and they add nothing.
 */
#include "core/op/shape.h"

lmoe_status lmoe__grouped_linear_reference(const lmoe_args *args);
lmoe_status lmoe__grouped_weight_grad_reference(const lmoe_args *args);

static lmoe_status need_offsets(lmoe_trace *t, const lmoe_desc *offsets)
{
    LMOE_TRY(lmoe__need_dtype(t, offsets, "offsets", LMOE_I32));
    LMOE_TRY(lmoe__need_rank(t, offsets, "offsets", 1, "bound"));
    if (offsets->dim[0] >= 2) return LMOE_OK;
    return lmoe_shape_error(t, "'offsets' must have one element more than there are experts, so at "
                               "least 2");
}

/* ---- cases ---- */

static const struct grouped_case {
    int64_t rows, e, f, experts;
    uint32_t flags;
} grouped_cases[] = {
    {1, 1, 1, 1, 0},
    {127, 5, 31, 4, 0},
    {65, 64, 17, 1, 0}, /* all rows to the only expert */
    {3, 33, 64, 16, 0}, /* most experts have no row */
    {129, 16, 2, 64, 0},
    {64, 128, 96, 8, 0},
    {517, 136, 232, 7, 0}, /* more than a tile of the matrix units either way, and no multiple */
    {333, 72, 448, 3, 0},
    {270, 264, 256, 2, 0},
    {7, 4, 3, 3, LMOE_CASE_GRADCHECK},
    {4096, 256, 224, 32, LMOE_CASE_BENCH},
};

static const struct grouped_case *case_at(int index)
{
    return index < (int)(sizeof grouped_cases / sizeof *grouped_cases) ? &grouped_cases[index]
                                                                       : NULL;
}

static void sample_rows(const struct grouped_case *k, lmoe_case *c, int i, const char *axes,
                        int64_t size)
{
    const int64_t dim[2] = {k->rows, size};
    lmoe__case_input(c, i, LMOE_F32, axes, dim, LMOE_FILL_NORMAL, 0, 1);
}

static void sample_offsets(const struct grouped_case *k, lmoe_case *c)
{
    const int64_t dim = k->experts + 1;
    lmoe__case_input(c, 2, LMOE_I32, "bound", &dim, LMOE_FILL_SORTED, 0, (double)k->rows);
}

/* ---- grouped_linear ---- */

static lmoe_status linear_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                lmoe_desc *out)
{
    const lmoe_grouped_attrs *o = attrs;
    const lmoe_desc *rows = &in[0], *weight = &in[1], *offsets = &in[2];
    const int e = o->transpose ? 2 : 1, f = o->transpose ? 1 : 2;
    char text[256];
    LMOE_TRY(lmoe__need_float(t, rows, "rows"));
    LMOE_TRY(lmoe__need_float(t, weight, "weight"));
    LMOE_TRY(lmoe__need_rank(t, rows, "rows", 2, "row embed"));
    LMOE_TRY(lmoe__need_rank(t, weight, "weight", 3,
                             o->transpose ? "expert hidden embed" : "expert embed hidden"));
    LMOE_TRY(need_offsets(t, offsets));
    if (strcmp(weight->axis[0], "expert") != 0)
        return lmoe_shape_error(t, "the first axis of 'weight' must be 'expert', but it is %s",
                                lmoe__desc_text(text, sizeof text, weight));
    if (weight->dim[0] + 1 != offsets->dim[0])
        return lmoe_shape_error(t,
                                "'offsets' has %lld elements, but 'weight' is %s: %lld are "
                                "needed, one more than experts",
                                (long long)offsets->dim[0],
                                lmoe__desc_text(text, sizeof text, weight),
                                (long long)weight->dim[0] + 1);
    LMOE_TRY(lmoe__need_axis(t, rows, "rows", 1, weight, "weight", e));
    out[0] = (lmoe_desc){.dtype = lmoe__widest(rows->dtype, weight->dtype),
                         .rank = 2,
                         .dim = {rows->dim[0], weight->dim[f]},
                         .axis = {rows->axis[0], weight->axis[f]}};
    return lmoe__need_unique_axes(t, &out[0]);
}

static lmoe_status linear_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text,
                               size_t n)
{
    const lmoe_grouped_attrs *o = attrs;
    snprintf(text, n, "r e, x %s, o -> r f | ragged r, ragged o, expert x, linear 0",
             o->transpose ? "f e" : "e f");
    return LMOE_OK;
}

static lmoe_status linear_vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    const lmoe_grouped_attrs *o = v->attrs;
    lmoe_tensor rows = v->in[0], weight = v->in[1], offsets = v->in[2], dy = v->dout[0];
    if (v->want[0]) {
        lmoe_grouped_attrs back = {!o->transpose};
        lmoe_tensor in[3] = {dy, weight, offsets};
        lmoe_tensor drows =
            lmoe_apply_at(t, LMOE_HERE, "grouped_linear/1", in, 3, &back, sizeof back, NULL, 0);
        v->din[0] = lmoe__cast_like(t, drows, rows);
    }
    if (v->want[1]) {
        lmoe_tensor in[3] = {o->transpose ? dy : rows, o->transpose ? rows : dy, offsets};
        lmoe_tensor dweight =
            lmoe_apply_at(t, LMOE_HERE, "grouped_weight_grad/1", in, 3, NULL, 0, NULL, 0);
        v->din[1] = lmoe__cast_like(t, dweight, weight);
    }
    return LMOE_OK;
}

static int linear_sample(int index, lmoe_case *c)
{
    const struct grouped_case *k = case_at(index / 2);
    if (!k) return 0;
    lmoe_grouped_attrs o = {index % 2};
    const int64_t plain[3] = {k->experts, k->e, k->f}, turned[3] = {k->experts, k->f, k->e};
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = k->flags;
    sample_rows(k, c, 0, "row embed", k->e);
    lmoe__case_input(c, 1, LMOE_F32, o.transpose ? "expert hidden embed" : "expert embed hidden",
                     o.transpose ? turned : plain, LMOE_FILL_NORMAL, 0, 1);
    sample_offsets(k, c);
    return 1;
}

static double linear_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                           int n_out)
{
    return 2.0 * (double)lmoe_desc_count(&in[0]) * (double)out[0].dim[1];
}

static const lmoe_option linear_options[] = {{"transpose", LMOE_OPTION_BOOL,
                                              offsetof(lmoe_grouped_attrs, transpose), "no", 0, 0,
                                              NULL, NULL, "The weight is (expert f e)."},
                                             LMOE_OPTION_END};

static const lmoe_port linear_inputs[] = {{.name = "rows"},
                                          {.name = "weight"},
                                          {.name = "offsets", .flags = LMOE_PORT_NO_GRAD},
                                          {.name = NULL}};
static const lmoe_port linear_outputs[] = {{.name = "y"}, {.name = NULL}};

const lmoe_op lmoe__op_grouped_linear = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "grouped_linear/1",
             "each row times the matrix of its expert", linear_options, sizeof(lmoe_grouped_attrs),
             0},
    .inputs = linear_inputs,
    .outputs = linear_outputs,
    .shape = linear_shape,
    .rule_of = linear_rule,
    .vjp = linear_vjp,
    .reference = lmoe__grouped_linear_reference,
    .sample = linear_sample,
    .flops = linear_flops,
    .tolerance = 32,
};

/* ---- grouped_weight_grad ---- */

static lmoe_status weight_grad_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in,
                                     int n_in, lmoe_desc *out)
{
    const lmoe_desc *rows = &in[0], *drows = &in[1], *offsets = &in[2];
    LMOE_TRY(lmoe__need_float(t, rows, "rows"));
    LMOE_TRY(lmoe__need_float(t, drows, "drows"));
    LMOE_TRY(lmoe__need_rank(t, rows, "rows", 2, "row embed"));
    LMOE_TRY(lmoe__need_rank(t, drows, "drows", 2, "row hidden"));
    LMOE_TRY(lmoe__need_axis(t, rows, "rows", 0, drows, "drows", 0));
    LMOE_TRY(need_offsets(t, offsets));
    out[0] = (lmoe_desc){.dtype = lmoe__widest(rows->dtype, drows->dtype),
                         .rank = 3,
                         .dim = {offsets->dim[0] - 1, rows->dim[1], drows->dim[1]},
                         .axis = {"expert", rows->axis[1], drows->axis[1]}};
    return lmoe__need_unique_axes(t, &out[0]);
}

static int weight_grad_sample(int index, lmoe_case *c)
{
    const struct grouped_case *k = case_at(index);
    if (!k) return 0;
    c->flags = k->flags & ~(uint32_t)LMOE_CASE_GRADCHECK;
    sample_rows(k, c, 0, "row embed", k->e);
    sample_rows(k, c, 1, "row hidden", k->f);
    sample_offsets(k, c);
    return 1;
}

static double weight_grad_flops(const void *attrs, const lmoe_desc *in, int n_in,
                                const lmoe_desc *out, int n_out)
{
    return 2.0 * (double)lmoe_desc_count(&in[0]) * (double)in[1].dim[1];
}

static const lmoe_port weight_grad_inputs[] = {
    {.name = "rows"}, {.name = "drows"}, {.name = "offsets"}, {.name = NULL}};
static const lmoe_port weight_grad_outputs[] = {{.name = "dweight"}, {.name = NULL}};

const lmoe_op lmoe__op_grouped_weight_grad = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "grouped_weight_grad/1",
             "derivative of grouped_linear/1 by its weight", NULL, 0, 0},
    .inputs = weight_grad_inputs,
    .outputs = weight_grad_outputs,
    .shape = weight_grad_shape,
    .rule = "r e, r f, o -> x e f | ragged r, ragged o, expert x, linear 0, linear 1",
    .reference = lmoe__grouped_weight_grad_reference,
    .sample = weight_grad_sample,
    .flops = weight_grad_flops,
    .tolerance = 32,
};
