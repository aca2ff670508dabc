/* SPDX-License-Identifier: Apache-2.0
 * core/op/linear_cross_entropy/linear_cross_entropy.c: linear_cross_entropy/1: head and loss in
 * one.
 *
 * x (batch seq embed), table (vocab embed), labels (batch seq), factor
 *   logits = x table^T
 *   loss   = factor * sum over tokens of (logsumexp(logits) - logits[label])
 *   dx, dtable: derivatives of loss, made together with it, as they need the same logits
 *
 * A token whose label lies outside the table (-1 by custom) does not count.
 */
#include "core/op/shape.h"

lmoe_status lmoe__linear_cross_entropy_reference(const lmoe_args *args);

enum { X, TABLE, LABELS, FACTOR };

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    const lmoe_desc *x = &in[X], *table = &in[TABLE], *labels = &in[LABELS];
    LMOE_TRY(lmoe__need_float(t, x, "x"));
    LMOE_TRY(lmoe__need_rank(t, x, "x", 3, "batch seq embed"));
    LMOE_TRY(lmoe__need_float(t, table, "table"));
    LMOE_TRY(lmoe__need_rank(t, table, "table", 2, "vocab embed"));
    LMOE_TRY(lmoe__need_axis(t, x, "x", 2, table, "table", 1));
    LMOE_TRY(lmoe__need_dtype(t, labels, "labels", LMOE_I32));
    LMOE_TRY(lmoe__need_rank(t, labels, "labels", 2, "batch seq"));
    for (int i = 0; i < 2; i++) LMOE_TRY(lmoe__need_axis(t, x, "x", i, labels, "labels", i));
    LMOE_TRY(lmoe__need_float(t, &in[FACTOR], "factor"));
    if (in[FACTOR].rank != 0) return lmoe_shape_error(t, "'factor' must be a scalar");
    out[0].dtype = lmoe__state_of(x->dtype);
    out[0].rank = 0;
    out[1] = *x;
    out[2] = *table;
    return LMOE_OK;
}

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    if (!lmoe_is_absent(v->dout[1]) || !lmoe_is_absent(v->dout[2])) {
        lmoe_fail(t, "the derivatives that linear_cross_entropy returns have none themselves; "
                     "use its loss only");
        return LMOE_E_UNSUPPORTED;
    }
    for (int i = 0; i < 2; i++) {
        if (v->want[i])
            v->din[i] = lmoe__cast_like(t, lmoe_mul(t, v->out[1 + i], v->dout[0]), v->in[i]);
    }
    return LMOE_OK;
}

static int sample(int index, lmoe_case *c)
{
    static const struct {
        int64_t batch, seq, embed, vocab;
        double deviation; /* of x; logits have deviation * sqrt(embed) */
        int low;          /* -1: some tokens do not count */
        uint32_t flags;
    } cases[] = {
        {1, 1, 1, 1, 1, 0, 0},
        {2, 1, 13, 7, 1, 0, 0},
        {1, 2, 64, 129, 1, -1, 0},
        {2, 63, 31, 65, 1, -1, 0},
        {1, 65, 64, 1000, 0.1, -1, 0},
        {1, 127, 17, 64, 100, -1, 0}, /* logits that overflow exp */
        {2, 64, 2, 3, 1, -4, 0},
        {1, 5, 7, 11, 1, -1, LMOE_CASE_GRADCHECK},
        {2, 3, 4, 5, 1, -2, LMOE_CASE_GRADCHECK},
        {4, 256, 256, 4096, 0.3, 0, LMOE_CASE_BENCH},
    };
    if (index >= (int)(sizeof cases / sizeof *cases)) return 0;
    int64_t x[3] = {cases[index].batch, cases[index].seq, cases[index].embed};
    int64_t table[2] = {cases[index].vocab, cases[index].embed};
    c->flags = cases[index].flags;
    lmoe__case_input(c, X, LMOE_F32, "batch seq embed", x, LMOE_FILL_NORMAL, 0,
                     cases[index].deviation);
    lmoe__case_input(c, TABLE, LMOE_F32, "vocab embed", table, LMOE_FILL_NORMAL, 0, 1);
    lmoe__case_input(c, LABELS, LMOE_I32, "batch seq", x, LMOE_FILL_INT, cases[index].low,
                     (double)cases[index].vocab);
    lmoe__case_input(c, FACTOR, LMOE_F32, "", x, LMOE_FILL_CONST, 1.0 / (double)(x[0] * x[1]), 0);
    return 1;
}

/* One matrix product for the logits, one for each derivative. */
static double flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                    int n_out)
{
    int products = 1;
    for (int i = 1; i < n_out; i++) products += out[i].dtype != LMOE_NONE;
    return 2.0 * products * (double)lmoe_desc_count(&in[X]) * (double)in[TABLE].dim[0];
}

static const lmoe_port inputs[] = {{.name = "x"},
                                   {.name = "table"},
                                   {.name = "labels", .flags = LMOE_PORT_NO_GRAD},
                                   {.name = "factor", .flags = LMOE_PORT_NO_GRAD | LMOE_PORT_STATE},
                                   {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "loss"},
                                    {.name = "dx", .flags = LMOE_PORT_NO_GRAD},
                                    {.name = "dtable", .flags = LMOE_PORT_NO_GRAD},
                                    {.name = NULL}};

const lmoe_op lmoe__op_linear_cross_entropy = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "linear_cross_entropy/1",
             "output head and cross-entropy in one", NULL, 0, 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule = "b s e, v e, b s, -> , b s e, v e | whole e, whole v",
    .vjp = vjp,
    .reference = lmoe__linear_cross_entropy_reference,
    .sample = sample,
    .flops = flops,
    .tolerance = 64,
};
