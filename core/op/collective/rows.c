/* SPDX-License-Identifier: Apache-2.0
 * core/op/collective/rows.c: rows sorted by expert travel to the ranks that hold the experts, and
 * back: row_exchange/1, row_regroup/1, row_offsets/1.
 *
 * There are E experts, of which each of n ranks holds E / n, in order. table (rank bound) holds
 * every rank's offsets: rank i's rows of expert x are table[i][x] ... table[i][x+1]-1 of its own.
 *
 *   row_exchange  rows (row ...) -> the rows of this rank's experts, those of rank 0 first, each
 *                 rank's sorted by expert. There is room for all rows of all ranks, so none is ever
 *                 dropped.
 *   row_regroup   -> the same rows, sorted by expert, and by rank within an expert
 *   row_offsets   -> where each of this rank's experts begins among them
 *
 * With `back`, row_regroup and row_exchange undo themselves. Rows past the last are zero.
 */
#include "core/op/collective/collective.h"

lmoe_status lmoe__row_exchange_reference(const lmoe_args *args);
lmoe_status lmoe__row_regroup_reference(const lmoe_args *args);
lmoe_status lmoe__row_offsets_reference(const lmoe_args *args);

static lmoe_status need_table(lmoe_trace *t, const lmoe_collective_attrs *o, const lmoe_desc *table)
{
    char text[256];
    LMOE_TRY(lmoe__need_dtype(t, table, "table", LMOE_I32));
    LMOE_TRY(lmoe__need_rank(t, table, "table", 2, "rank bound"));
    if (table->dim[0] != o->ranks || o->rank < 0 || o->rank >= o->ranks)
        return lmoe_shape_error(t, "'table' is %s, which is not for rank %lld of %lld",
                                lmoe__desc_text(text, sizeof text, table), (long long)o->rank,
                                (long long)o->ranks);
    if (table->dim[1] < 2 || (table->dim[1] - 1) % o->ranks != 0)
        return lmoe_shape_error(t,
                                "%lld experts cannot be shared equally by %lld ranks; take a "
                                "number of experts that is a multiple",
                                (long long)table->dim[1] - 1, (long long)o->ranks);
    return LMOE_OK;
}

static lmoe_status rows_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                              lmoe_desc *out)
{
    if (in[0].dtype == LMOE_NONE || in[0].rank < 1) return lmoe_shape_error(t, "'rows' is absent");
    LMOE_TRY(need_table(t, attrs, &in[1]));
    out[0] = in[0];
    return LMOE_OK;
}

static lmoe_status exchange_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                  lmoe_desc *out)
{
    const lmoe_collective_attrs *o = attrs;
    LMOE_TRY(rows_shape(t, attrs, in, n_in, out));
    if (!o->back) {
        out[0].dim[0] *= o->ranks;
        return LMOE_OK;
    }
    if (in[0].dim[0] % o->ranks != 0)
        return lmoe_shape_error(t, "%lld rows did not come from %lld ranks",
                                (long long)in[0].dim[0], (long long)o->ranks);
    out[0].dim[0] /= o->ranks;
    return LMOE_OK;
}

static lmoe_status offsets_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                 lmoe_desc *out)
{
    const lmoe_collective_attrs *o = attrs;
    LMOE_TRY(need_table(t, o, &in[0]));
    out[0] = (lmoe_desc){.dtype = LMOE_I32, .rank = 1};
    out[0].dim[0] = (in[0].dim[1] - 1) / o->ranks + 1;
    out[0].axis[0] = in[0].axis[1];
    return LMOE_OK;
}

/* ---- cases: offsets that rise along the experts of each rank ---- */

static const struct rows_case {
    int64_t ranks, experts, rows, embed;
    uint32_t flags;
} rows_cases[] = {
    {1, 1, 1, 1, 0},
    {1, 4, 7, 5, 0},
    {2, 2, 9, 3, 0},
    {2, 8, 63, 17, 0},
    {4, 4, 5, 64, 0},
    {3, 48, 65, 2, 0},
    {4, 64, 2048, 256, LMOE_CASE_BENCH},
};

static int sample_rows(int index, lmoe_case *c, bool exchange)
{
    const int n = (int)(sizeof rows_cases / sizeof *rows_cases);
    if (index >= (exchange ? 2 : 2 * n)) return 0;
    const struct rows_case *k = &rows_cases[index / 2];
    lmoe_collective_attrs o = {.rank = k->ranks - 1, .ranks = k->ranks, .back = index % 2};
    const int64_t room[2] = {exchange ? k->rows : k->rows * k->ranks, k->embed},
                  table[2] = {k->ranks, k->experts + 1};
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = k->flags;
    lmoe__case_input(c, 0, LMOE_F32, "row embed", room, LMOE_FILL_NORMAL, 0, 1);
    lmoe__case_input(c, 1, LMOE_I32, "rank bound", table, LMOE_FILL_SORTED, 0, (double)k->rows);
    return 1;
}

static int sample_exchange(int index, lmoe_case *c)
{
    return sample_rows(index, c, true);
}

static int sample_regroup(int index, lmoe_case *c)
{
    return sample_rows(index, c, false);
}

static int sample_offsets(int index, lmoe_case *c)
{
    if (index >= (int)(sizeof rows_cases / sizeof *rows_cases)) return 0;
    const struct rows_case *k = &rows_cases[index];
    lmoe_collective_attrs o = {.rank = k->ranks / 2, .ranks = k->ranks};
    const int64_t table[2] = {k->ranks, k->experts + 1};
    memcpy(c->attrs.bytes, &o, sizeof o);
    lmoe__case_input(c, 0, LMOE_I32, "rank bound", table, LMOE_FILL_SORTED, 0, (double)k->rows);
    return 1;
}

/* ---- the ops ---- */

static const lmoe_port inputs[] = {{.name = "rows"}, {.name = "table"}, {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y"}, {.name = NULL}};
static const lmoe_port table[] = {{.name = "table"}, {.name = NULL}};
static const lmoe_port offsets[] = {{.name = "offsets"}, {.name = NULL}};

#define CLASS(name, summary)                                                         \
    {                                                                                \
        sizeof(lmoe_op), LMOE_KIND_OP, name "/1", summary, lmoe__collective_options, \
            sizeof(lmoe_collective_attrs), 0                                         \
    }

const lmoe_op lmoe__op_row_exchange = {
    .base = CLASS("row_exchange", "rows to the ranks that hold their experts, or back"),
    .inputs = inputs,
    .outputs = outputs,
    .shape = exchange_shape,
    .rule = "r ..., n o -> q ... | ragged r, ragged o, ragged q, whole n, linear 0",
    .reference = lmoe__row_exchange_reference,
    .sample = sample_exchange,
};

const lmoe_op lmoe__op_row_regroup = {
    .base = CLASS("row_regroup", "rows that came from several ranks, sorted by expert"),
    .inputs = inputs,
    .outputs = outputs,
    .shape = rows_shape,
    .rule = "r ..., n o -> r ... | ragged r, ragged o, whole n, linear 0",
    .reference = lmoe__row_regroup_reference,
    .sample = sample_regroup,
};

const lmoe_op lmoe__op_row_offsets = {
    .base = CLASS("row_offsets", "where each of this rank's experts begins among its rows"),
    .inputs = table,
    .outputs = offsets,
    .shape = offsets_shape,
    .rule = "n o -> p | ragged o, ragged p, whole n",
    .reference = lmoe__row_offsets_reference,
    .sample = sample_offsets,
};
