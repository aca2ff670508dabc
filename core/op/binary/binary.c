/* SPDX-License-Identifier: Apache-2.0
 * core/op/binary/binary.c: add/1, multiply/1, divide/1: element-wise, b broadcast over a.
 *
 * b's axes are a run of a's axes that begins at a's axis `start`, or none. The gradient of b is
 * summed over the axes of a that b lacks.
 */
#include "core/op/shape.h"

lmoe_status lmoe__add_reference(const lmoe_args *args);
lmoe_status lmoe__multiply_reference(const lmoe_args *args);
lmoe_status lmoe__divide_reference(const lmoe_args *args);

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    const lmoe_binary_attrs *o = attrs;
    const lmoe_desc *a = &in[0], *b = &in[1];
    char a_text[256], b_text[256];
    LMOE_TRY(lmoe__need_float(t, a, "a"));
    LMOE_TRY(lmoe__need_float(t, b, "b"));
    bool run = o->start >= 0 && o->start + b->rank <= a->rank;
    for (int i = 0; run && i < b->rank; i++) run = strcmp(b->axis[i], a->axis[o->start + i]) == 0;
    if (!run) {
        return lmoe_shape_error(t,
                                "the axes of 'b', %s, are not a run of the axes of 'a', %s; "
                                "permute one of them with lmoe_einsum",
                                lmoe__desc_text(b_text, sizeof b_text, b),
                                lmoe__desc_text(a_text, sizeof a_text, a));
    }
    for (int i = 0; i < b->rank; i++)
        LMOE_TRY(lmoe__need_axis(t, a, "a", (int)o->start + i, b, "b", i));
    *out = *a;
    out->dtype = lmoe__widest(a->dtype, b->dtype);
    return LMOE_OK;
}

/* ---- axis rules: "a b c, b c -> a b c" ---- */

static void letters(char *text, int first, int n)
{
    for (int i = 0; i < n; i++) {
        *text++ = (char)('a' + first + i);
        *text++ = ' ';
    }
    *text = 0;
}

static lmoe_status write_rule(const void *attrs, const lmoe_desc *in, const char *clauses,
                              char *text, size_t n)
{
    const lmoe_binary_attrs *o = attrs;
    char a[2 * LMOE_MAX_DIMS + 1], b[2 * LMOE_MAX_DIMS + 1];
    letters(a, 0, in[0].rank);
    letters(b, (int)o->start, in[1].rank);
    snprintf(text, n, "%s, %s -> %s | %s", a, b, a, clauses);
    return LMOE_OK;
}

/* A sum of partial values: only if both are partial. */
static lmoe_status add_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text, size_t n)
{
    return write_rule(attrs, in, "linear all", text, n);
}

static lmoe_status multiply_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text,
                                 size_t n)
{
    return write_rule(attrs, in, "linear 0, linear 1", text, n);
}

static lmoe_status divide_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text,
                               size_t n)
{
    return write_rule(attrs, in, "linear 0", text, n);
}

/* ---- derivatives ---- */

/* x has a's axes: sums it over those that b lacks. */
static lmoe_tensor sum_to_b(lmoe_trace *t, const lmoe_vjp *v, lmoe_tensor x)
{
    const lmoe_binary_attrs *o = v->attrs;
    lmoe_desc a, b;
    char from[2 * LMOE_MAX_DIMS + 1], to[2 * LMOE_MAX_DIMS + 1], text[64];
    if (lmoe_describe(t, v->in[0], &a) != LMOE_OK) return x;
    if (lmoe_describe(t, v->in[1], &b) != LMOE_OK) return x;
    if (a.rank == b.rank) return x;
    letters(from, 0, a.rank);
    letters(to, (int)o->start, b.rank);
    snprintf(text, sizeof text, "%s-> %s", from, to);
    return lmoe_sum(t, text, x);
}

static lmoe_status add_vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_tensor dy = v->dout[0];
    if (v->want[0]) v->din[0] = lmoe__cast_like(t, dy, v->in[0]);
    if (v->want[1]) v->din[1] = lmoe__cast_like(t, sum_to_b(t, v, dy), v->in[1]);
    return LMOE_OK;
}

static lmoe_status multiply_vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_tensor dy = v->dout[0], a = v->in[0], b = v->in[1];
    if (v->want[0]) v->din[0] = lmoe__cast_like(t, lmoe_mul(t, dy, b), a);
    if (v->want[1]) v->din[1] = lmoe__cast_like(t, sum_to_b(t, v, lmoe_mul(t, dy, a)), b);
    return LMOE_OK;
}

/* y = a / b: da = dy / b, db = - sum(dy a / b^2) = - sum(dy y) / b, as b is constant in the sum. */
static lmoe_status divide_vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_tensor dy = v->dout[0], a = v->in[0], b = v->in[1], y = v->out[0];
    if (v->want[0]) v->din[0] = lmoe__cast_like(t, lmoe_div(t, dy, b), a);
    if (v->want[1]) {
        lmoe_tensor sum = sum_to_b(t, v, lmoe_mul(t, dy, y));
        v->din[1] = lmoe__cast_like(t, lmoe_mul_scalar(t, lmoe_div(t, sum, b), -1.0), b);
    }
    return LMOE_OK;
}

/* ---- cases: one list for the three; b's values lie in [0.5, 2), fit to divide by ---- */

static int sample(int index, lmoe_case *c)
{
    static const struct {
        const char *a_axes, *b_axes;
        int64_t a[5], start;
        double deviation; /* of a */
        uint32_t flags;
    } cases[] = {
        {"batch seq embed", "batch seq embed", {1, 1, 1}, 0, 1, 0},
        {"batch seq embed", "batch seq embed", {2, 65, 17}, 0, 1, 0},
        {"batch seq embed", "batch seq embed", {3, 63, 129}, 0, 1e15, 0},
        {"batch seq embed", "embed", {2, 64, 127}, 2, 1, 0},
        {"batch seq embed", "embed", {1, 2, 3}, 2, 1e-15, 0},
        {"batch seq embed", "seq embed", {3, 31, 65}, 1, 1, 0},
        {"batch seq embed", "seq", {3, 127, 5}, 1, 1, 0},
        {"batch seq embed", "batch", {5, 13, 7}, 0, 1, 0},
        {"batch seq heads head_k", "batch seq heads", {2, 129, 3, 2}, 0, 1, 0},
        {"batch seq heads head_k", "heads head_k", {2, 63, 3, 5}, 2, 1, 0},
        {"batch seq heads head_k", "seq heads", {2, 33, 3, 7}, 1, 1, 0},
        {"batch seq embed", "", {2, 19, 23}, 0, 1, 0},
        {"", "", {0}, 0, 1, 0},
        {"seq", "", {129}, 0, 1, 0},
        {"batch seq embed", "batch seq embed", {2, 3, 5}, 0, 1, LMOE_CASE_GRADCHECK},
        {"batch seq embed", "embed", {2, 3, 5}, 2, 1, LMOE_CASE_GRADCHECK},
        {"batch seq embed", "seq", {2, 3, 5}, 1, 1, LMOE_CASE_GRADCHECK},
        {"batch seq embed", "batch seq", {2, 3, 5}, 0, 1, LMOE_CASE_GRADCHECK},
        {"batch seq embed", "", {2, 3, 5}, 0, 1, LMOE_CASE_GRADCHECK},
        {"batch seq embed", "batch seq embed", {16, 256, 256}, 0, 1, LMOE_CASE_BENCH},
        {"batch seq embed", "embed", {16, 256, 256}, 2, 1, LMOE_CASE_BENCH},
        {"batch seq embed", "batch seq", {16, 256, 256}, 0, 1, LMOE_CASE_BENCH},
    };
    if (index >= (int)(sizeof cases / sizeof *cases)) return 0;
    lmoe_binary_attrs o = {cases[index].start};
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = cases[index].flags;
    lmoe__case_input(c, 0, LMOE_F32, cases[index].a_axes, cases[index].a, LMOE_FILL_NORMAL, 0,
                     cases[index].deviation);
    lmoe__case_input(c, 1, LMOE_F32, cases[index].b_axes, cases[index].a + o.start,
                     LMOE_FILL_UNIFORM, 0.5, 2);
    return 1;
}

static const lmoe_option options[] = {{"start", LMOE_OPTION_INT, offsetof(lmoe_binary_attrs, start),
                                       "0", 0, LMOE_MAX_DIMS, NULL, NULL,
                                       "Index in a of b's first axis."},
                                      LMOE_OPTION_END};

static const lmoe_port inputs[] = {{.name = "a"}, {.name = "b"}, {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y"}, {.name = NULL}};
static const signed char inplace[] = {1};

const lmoe_op lmoe__op_add = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "add/1", "a + b, b broadcast over a", options,
             sizeof(lmoe_binary_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule_of = add_rule,
    .vjp = add_vjp,
    .reference = lmoe__add_reference,
    .sample = sample,
    .inplace = inplace,
};

const lmoe_op lmoe__op_multiply = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "multiply/1", "a * b, b broadcast over a", options,
             sizeof(lmoe_binary_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule_of = multiply_rule,
    .vjp = multiply_vjp,
    .reference = lmoe__multiply_reference,
    .sample = sample,
    .inplace = inplace,
};

const lmoe_op lmoe__op_divide = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "divide/1", "a / b, b broadcast over a", options,
             sizeof(lmoe_binary_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule_of = divide_rule,
    .vjp = divide_vjp,
    .reference = lmoe__divide_reference,
    .sample = sample,
    .inplace = inplace,
};
