/* SPDX-License-Identifier: Apache-2.0
 * core/op/einsum/einsum.c: einsum/1: products, sums and transpositions over named letters.
 *
 * y[out] = sum over the letters that are missing in `out` of a[...] * b[...]. The axis rule is the
 * text itself. A product is linear in each operand, so either may be partial while the other is
 * whole; of two partial ones the product of the sums is not the sum of the products.
 */
#include "core/op/shape.h"

#include <lmoe/einsum.h>

lmoe_status lmoe__einsum_reference(const lmoe_args *args);

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    const lmoe_einsum_attrs *o = attrs;
    const lmoe_desc *a = &in[0], *b = &in[1];
    lmoe_einsum_form f;
    int given = n_in > 1 && b->dtype != LMOE_NONE ? 2 : 1;
    const char *wrong = lmoe_einsum_parse(o->text, &f);
    if (wrong) return lmoe_shape_error(t, "'%s': %s", o->text, wrong);
    if (f.operands != given) {
        return lmoe_shape_error(t, "'%s' names %d operands, but %d are given", o->text, f.operands,
                                given);
    }
    for (int i = 0; i < given; i++) {
        int letters = (int)strlen(i ? f.b : f.a);
        LMOE_TRY(lmoe__need_float(t, &in[i], i ? "b" : "a"));
        if (letters == in[i].rank) continue;
        char text[256];
        return lmoe_shape_error(t, "'%s' has %d letters for '%s', which is %s", o->text, letters,
                                i ? "b" : "a", lmoe__desc_text(text, sizeof text, &in[i]));
    }
    out->dtype = given == 2 ? lmoe__widest(a->dtype, b->dtype) : a->dtype;
    out->rank = (int32_t)strlen(f.out);
    for (int i = 0; i < f.letters; i++) {
        const lmoe_einsum_letter *l = &f.letter[i];
        if (l->a >= 0 && l->b >= 0) LMOE_TRY(lmoe__need_axis(t, a, "a", l->a, b, "b", l->b));
        if (l->out < 0) continue;
        out->dim[l->out] = l->a >= 0 ? a->dim[l->a] : b->dim[l->b];
        out->axis[l->out] = l->a >= 0 ? a->axis[l->a] : b->axis[l->b];
    }
    return lmoe__need_unique_axes(t, out);
}

static lmoe_status rule_of(const void *attrs, const lmoe_desc *in, int n_in, char *text, size_t n)
{
    const lmoe_einsum_attrs *o = attrs;
    bool two = n_in > 1 && in[1].dtype != LMOE_NONE;
    snprintf(text, n, "%s | linear 0%s", o->text, two ? ", linear 1" : "");
    return LMOE_OK;
}

/* ---- derivative ---- */

/* Appends a term, "b s e", to a text. */
static void add_term(lmoe_einsum_attrs *text, const char *before, const char *term)
{
    char *p = text->text + strlen(text->text);
    p += sprintf(p, "%s", before);
    for (const char *l = term; *l; l++) p += sprintf(p, l[1] ? "%c " : "%c", *l);
}

/* einsum "x, y -> out" with terms given as letters; y absent: "x -> out". */
static lmoe_tensor contract(lmoe_trace *t, lmoe_tensor x, const char *x_letters, lmoe_tensor y,
                            const char *y_letters, const char *out_letters)
{
    lmoe_einsum_attrs text = {""};
    add_term(&text, "", x_letters);
    if (!lmoe_is_absent(y)) add_term(&text, ", ", y_letters);
    add_term(&text, " -> ", out_letters);
    return lmoe_einsum(t, text.text, x, y);
}

/* Gradient of the operand `x`: dy times the other operand, summed over the letters that x lacks;
 * spread over the letters that only x has (einsum summed them, so each element has the same
 * gradient along them). */
static lmoe_tensor operand_gradient(lmoe_trace *t, lmoe_tensor dy, const char *out_letters,
                                    lmoe_tensor x, const char *x_letters, lmoe_tensor other,
                                    const char *other_letters)
{
    char shared[LMOE_MAX_DIMS + 1] = "";
    for (const char *l = x_letters; *l; l++) {
        if (strchr(out_letters, *l) || strchr(other_letters, *l)) strncat(shared, l, 1);
    }
    lmoe_tensor dx = dy;
    if (!lmoe_is_absent(other) || strcmp(out_letters, shared) != 0)
        dx = contract(t, dy, out_letters, other, other_letters, shared);
    if (strcmp(shared, x_letters) != 0) {
        lmoe_tensor ones = lmoe_fill_like(t, x, 1.0);
        if (strstr(x_letters, shared)) /* a run of x's axes: multiply/1 broadcasts it */
            dx = lmoe_mul(t, ones, dx);
        else
            dx = contract(t, ones, x_letters, dx, shared, x_letters);
    }
    return lmoe__cast_like(t, dx, x);
}

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    const lmoe_einsum_attrs *o = v->attrs;
    lmoe_einsum_form f;
    lmoe_einsum_parse(o->text, &f); /* checked by shape() */
    if (v->want[0])
        v->din[0] = operand_gradient(t, v->dout[0], f.out, v->in[0], f.a, v->in[1], f.b);
    if (v->want[1])
        v->din[1] = operand_gradient(t, v->dout[0], f.out, v->in[1], f.b, v->in[0], f.a);
    return LMOE_OK;
}

/* ---- cases and cost ---- */

static int sample(int index, lmoe_case *c)
{
    static const struct {
        const char *text, *a_axes, *b_axes; /* b_axes NULL: one operand */
        int64_t a[5], b[5];
        uint32_t flags;
    } cases[] = {
        {"b s e, e h -> b s h", "batch seq embed", "embed hidden", {1, 1, 1}, {1, 1}, 0},
        {"b s e, e h -> b s h", "batch seq embed", "embed hidden", {2, 63, 31}, {31, 17}, 0},
        {"b s e, e h k -> b s h k",
         "batch seq embed",
         "embed heads head_k",
         {2, 65, 64},
         {64, 3, 5},
         0},
        {"b s h v, h v e -> b s e",
         "batch seq heads head_v",
         "heads head_v embed",
         {3, 7, 2, 64},
         {2, 64, 129},
         0},
        {"b s e, b s h -> e h",
         "batch seq embed",
         "batch seq hidden",
         {3, 127, 9},
         {3, 127, 64},
         0},
        {"b s h, e h -> b s e", "batch seq hidden", "embed hidden", {2, 64, 128}, {33, 128}, 0},
        {"x r e, x e f -> x r f",
         "expert row embed",
         "expert embed hidden",
         {3, 65, 16},
         {3, 16, 9},
         0},
        {"b s h k, b t h k -> b h s t",
         "batch seq heads head_k",
         "batch context heads head_k",
         {2, 33, 2, 16},
         {2, 65, 2, 16},
         0},
        {"s, t -> t s", "seq", "context", {129}, {2}, 0},
        {"b s e, b s e -> b s", "batch seq embed", "batch seq embed", {2, 13, 67}, {2, 13, 67}, 0},
        {"b s e, e -> b s e", "batch seq embed", "embed", {2, 13, 67}, {67}, 0},
        {"b s e, h c -> s h", "batch seq embed", "hidden c", {2, 13, 7}, {5, 3}, 0},
        {", s e -> e s", "", "seq embed", {0}, {5, 3}, 0},
        {"b s e -> e", "batch seq embed", NULL, {2, 127, 33}, {0}, 0},
        {"b s e -> e", "batch seq embed", NULL, {2, 1000, 129}, {0}, 0}, /* long sums, few results
                                                                          */
        {"b s e -> b", "batch seq embed", NULL, {2, 513, 129}, {0}, 0},
        {"b s e, b s e -> ", "batch seq embed", "batch seq embed", {2, 257, 131}, {2, 257, 131}, 0},
        {"b s h k -> b h s k", "batch seq heads head_k", NULL, {2, 65, 3, 33}, {0}, 0},
        {"b s e -> b", "batch seq embed", NULL, {5, 63, 2}, {0}, 0},
        {"b s e -> b e", "batch seq embed", NULL, {2, 65, 19}, {0}, 0},
        {"b s e -> ", "batch seq embed", NULL, {2, 65, 19}, {0}, 0},
        {"b s h k -> b h k s", "batch seq heads head_k", NULL, {2, 31, 3, 5}, {0}, 0},
        {"b s e, e h k -> b s h k",
         "batch seq embed",
         "embed heads head_k",
         {2, 3, 5},
         {5, 2, 3},
         LMOE_CASE_GRADCHECK},
        {"b s e, b h c -> h b s",
         "batch seq embed",
         "batch hidden c",
         {2, 3, 4},
         {2, 5, 3},
         LMOE_CASE_GRADCHECK},
        {"s e b, b -> e", "seq embed batch", "batch", {3, 4, 2}, {2}, LMOE_CASE_GRADCHECK},
        {"b s e -> s b", "batch seq embed", NULL, {2, 3, 4}, {0}, LMOE_CASE_GRADCHECK},
        {"b s e -> b e", "batch seq embed", NULL, {2, 3, 4}, {0}, LMOE_CASE_GRADCHECK},
        {"b s e -> ", "batch seq embed", NULL, {2, 3, 4}, {0}, LMOE_CASE_GRADCHECK},
        {"b s e, e h -> b s h",
         "batch seq embed",
         "embed hidden",
         {16, 256, 256},
         {256, 256},
         LMOE_CASE_BENCH},
        {"b s e, b s h -> e h",
         "batch seq embed",
         "batch seq hidden",
         {16, 256, 256},
         {16, 256, 256},
         LMOE_CASE_BENCH},
        {"b s e -> e", "batch seq embed", NULL, {16, 256, 256}, {0}, LMOE_CASE_BENCH},
        {"b s h k -> b h k s",
         "batch seq heads head_k",
         NULL,
         {16, 256, 4, 64},
         {0},
         LMOE_CASE_BENCH},
    };
    if (index >= (int)(sizeof cases / sizeof *cases)) return 0;
    lmoe_einsum_attrs o = {""};
    strcpy(o.text, cases[index].text);
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = cases[index].flags;
    lmoe__case_input(c, 0, LMOE_F32, cases[index].a_axes, cases[index].a, LMOE_FILL_NORMAL, 0, 1);
    if (cases[index].b_axes)
        lmoe__case_input(c, 1, LMOE_F32, cases[index].b_axes, cases[index].b, LMOE_FILL_NORMAL, 0,
                         1);
    return 1;
}

/* A multiplication and an addition for each combination of letters; one operand: an addition for
 * each element. */
static double flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                    int n_out)
{
    const lmoe_einsum_attrs *o = attrs;
    lmoe_einsum_form f;
    if (lmoe_einsum_parse(o->text, &f)) return 0;
    double n = f.operands;
    for (int i = 0; i < f.letters; i++)
        n *= (double)lmoe_einsum_size(&f.letter[i], in[0].dim, in[f.operands - 1].dim);
    return n;
}

static const lmoe_option options[] = {
    {"text", LMOE_OPTION_CHARS, offsetof(lmoe_einsum_attrs, text), NULL, 0,
     sizeof((lmoe_einsum_attrs *)0)->text - 1, NULL, NULL,
     "Letters of each operand and of the result, as in \"b s e, e h -> b s h\"."},
    LMOE_OPTION_END};

static const lmoe_port inputs[] = {
    {.name = "a"}, {.name = "b", .flags = LMOE_PORT_OPTIONAL}, {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y"}, {.name = NULL}};

const lmoe_op lmoe__op_einsum = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "einsum/1",
             "products, sums and transpositions over named letters", options,
             sizeof(lmoe_einsum_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule_of = rule_of,
    .vjp = vjp,
    .reference = lmoe__einsum_reference,
    .sample = sample,
    .flops = flops,
    .tolerance = 32,
};
