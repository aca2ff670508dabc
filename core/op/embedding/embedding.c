/* SPDX-License-Identifier: Apache-2.0
 * core/op/embedding/embedding.c: embedding/1: rows of a table by id, and embedding_grad/1.
 *
 * table (vocab embed), ids (batch seq) i32 -> (batch seq embed). An id outside the table gives
 * zeros (ids of another rank's shard, padding).
 */
#include "core/op/shape.h"

lmoe_status lmoe__embedding_reference(const lmoe_args *args);
lmoe_status lmoe__embedding_grad_reference(const lmoe_args *args);

static lmoe_status check_ids(lmoe_trace *t, const lmoe_desc *ids)
{
    LMOE_TRY(lmoe__need_dtype(t, ids, "ids", LMOE_I32));
    return lmoe__need_rank(t, ids, "ids", 2, "batch seq");
}

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    const lmoe_desc *table = &in[0], *ids = &in[1];
    LMOE_TRY(lmoe__need_float(t, table, "table"));
    LMOE_TRY(lmoe__need_rank(t, table, "table", 2, "vocab embed"));
    LMOE_TRY(check_ids(t, ids));
    if (strcmp(table->axis[0], "vocab") != 0) { /* its gradient is made with this name */
        return lmoe_shape_error(t, "the first axis of 'table' must be named 'vocab', not '%s'",
                                table->axis[0]);
    }
    *out = *ids;
    out->dtype = table->dtype;
    out->rank = 3;
    out->dim[2] = table->dim[1];
    out->axis[2] = table->axis[1];
    return lmoe__need_unique_axes(t, out);
}

static lmoe_status grad_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                              lmoe_desc *out)
{
    const lmoe_embedding_attrs *o = attrs;
    const lmoe_desc *ids = &in[0], *dy = &in[1];
    LMOE_TRY(check_ids(t, ids));
    LMOE_TRY(lmoe__need_float(t, dy, "dy"));
    LMOE_TRY(lmoe__need_rank(t, dy, "dy", 3, "batch seq embed"));
    for (int i = 0; i < 2; i++) LMOE_TRY(lmoe__need_axis(t, ids, "ids", i, dy, "dy", i));
    if (o->rows < 1) {
        return lmoe_shape_error(t, "a table of %lld rows has no gradient; 'rows' is missing",
                                (long long)o->rows);
    }
    out->dtype = dy->dtype;
    out->rank = 2;
    out->dim[0] = o->rows;
    out->axis[0] = "vocab";
    out->dim[1] = dy->dim[2];
    out->axis[1] = dy->axis[2];
    return LMOE_OK;
}

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_desc table;
    LMOE_TRY(lmoe_describe(t, v->in[0], &table));
    lmoe_embedding_attrs o = {table.dim[0]};
    lmoe_tensor in[2] = {v->in[1], v->dout[0]};
    v->din[0] = lmoe_apply_at(t, LMOE_HERE, "embedding_grad/1", in, 2, &o, sizeof o, NULL, 0);
    return LMOE_OK;
}

/* ---- cases: ids from `low` on, up to `beyond` past the end ---- */

typedef struct example {
    int64_t batch, seq, vocab, embed;
    int low, beyond;
    uint32_t flags;
} example;

static const example examples[] = {
    {1, 1, 1, 1, 0, 0, 0},
    {2, 63, 13, 5, 0, 0, 0},
    {3, 65, 129, 31, 0, 0, 0},
    {2, 127, 3, 64, -1, 1, 0}, /* many tokens a row; foreign ids */
    {2, 64, 1000, 2, -5, 0, 0},
    {2, 3, 7, 5, -1, 1, LMOE_CASE_GRADCHECK},
    {16, 256, 8192, 256, 0, 0, LMOE_CASE_BENCH},
};
enum { EXAMPLES = sizeof examples / sizeof *examples };

static void put_ids(lmoe_case *c, int i, const example *e)
{
    int64_t dim[2] = {e->batch, e->seq};
    lmoe_embedding_attrs o = {e->vocab};
    memcpy(c->attrs.bytes, &o, sizeof o);
    lmoe__case_input(c, i, LMOE_I32, "batch seq", dim, LMOE_FILL_INT, e->low,
                     (double)e->vocab + e->beyond);
}

static int sample(int index, lmoe_case *c)
{
    if (index >= EXAMPLES) return 0;
    const example *e = &examples[index];
    int64_t dim[2] = {e->vocab, e->embed};
    c->flags = e->flags;
    lmoe__case_input(c, 0, LMOE_F32, "vocab embed", dim, LMOE_FILL_NORMAL, 0, 1);
    put_ids(c, 1, e);
    return 1;
}

static int sample_grad(int index, lmoe_case *c)
{
    if (index >= EXAMPLES) return 0;
    const example *e = &examples[index];
    int64_t dim[3] = {e->batch, e->seq, e->embed};
    c->flags = e->flags & ~(uint32_t)LMOE_CASE_GRADCHECK; /* it has no derivative itself */
    put_ids(c, 0, e);
    lmoe__case_input(c, 1, LMOE_F32, "batch seq embed", dim, LMOE_FILL_NORMAL, 0, 1);
    return 1;
}

/* Rows are copied. */
static double flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                    int n_out)
{
    return 0;
}

static double grad_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                         int n_out)
{
    return (double)lmoe_desc_count(&in[1]);
}

static const lmoe_option options[] = {{"rows", LMOE_OPTION_INT,
                                       offsetof(lmoe_embedding_attrs, rows), NULL, 0, 1e15, NULL,
                                       NULL, "Rows of the table; the gradient has as many."},
                                      LMOE_OPTION_END};

static const lmoe_port inputs[] = {
    {.name = "table"}, {.name = "ids", .flags = LMOE_PORT_NO_GRAD}, {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y"}, {.name = NULL}};

const lmoe_op lmoe__op_embedding = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "embedding/1", "rows of a table by id", options,
             sizeof(lmoe_embedding_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule = "v e, b s -> b s e | offset v",
    .vjp = vjp,
    .reference = lmoe__embedding_reference,
    .sample = sample,
    .flops = flops,
};

static const lmoe_port grad_inputs[] = {
    {.name = "ids", .flags = LMOE_PORT_NO_GRAD}, {.name = "dy"}, {.name = NULL}};
static const lmoe_port grad_outputs[] = {{.name = "dtable"}, {.name = NULL}};

const lmoe_op lmoe__op_embedding_grad = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "embedding_grad/1", "derivative of embedding/1",
             options, sizeof(lmoe_embedding_attrs), 0},
    .inputs = grad_inputs,
    .outputs = grad_outputs,
    .shape = grad_shape,
    .rule = "b s, b s e -> v e | linear 1",
    .reference = lmoe__embedding_grad_reference,
    .sample = sample_grad,
    .flops = grad_flops,
    .tolerance = 32,
};
