/* SPDX-License-Identifier: Apache-2.0
 * core/graph/rows.c: rows sorted by expert travel to the ranks that hold the experts, and back.
 *
 * Each rank sorts its own tokens. All ranks gather each other's offsets (the table) once for a sort;
 * it tells every rank what it sends, what it receives, and where its experts' rows begin.
 */
#include "core/graph/split.h"

static lmoe_status emit(lmoe_graph *p, const char *op, int64_t back, const int32_t *in, int n_in,
                        int32_t *out)
{
    lmoe_collective_attrs a = {.back = back};
    return lmoe__graph_api.emit(p, op, &a, sizeof a, in, n_in, out, 1, NULL);
}

static lmoe_status table_of(lmoe_graph *p, int32_t offsets, lmoe__row_table **out)
{
    for (int i = 0; i < p->n_tables; i++) {
        *out = &p->tables[i];
        if (p->tables[i].offsets == offsets) return LMOE_OK;
    }
    lmoe__row_table t = {.offsets = offsets};
    LMOE_TRY(lmoe__graph_api.emit(p, "all_gather/1", NULL, 0, &offsets, 1, &t.table, 1, NULL));
    LMOE_TRY(emit(p, "row_offsets/1", 0, &t.table, 1, &t.own));
    lmoe__set_place(p, t.own, lmoe__placed(LMOE_ROWS, 0));
    LMOE_PUSH(p->tables, p->n_tables, p->cap_tables, t);
    *out = &p->tables[p->n_tables - 1];
    return LMOE_OK;
}

lmoe_status lmoe__rows_to_experts(lmoe_graph *p, int32_t offsets, int32_t table, int32_t v,
                                  int32_t *out)
{
    if (!table && (!offsets || p->place[offsets].kind != LMOE_SPLIT))
        return lmoe__graph_api.fail(p, LMOE_E_UNSUPPORTED,
                                    "the experts are split over ranks, but their tokens are not; "
                                    "take a batch that the ranks can share");
    if (offsets) {
        lmoe__row_table *t;
        LMOE_TRY(table_of(p, offsets, &t));
        table = t->table;
        *out = t->own;
        if (v == offsets) return LMOE_OK;
    }
    int32_t in[2] = {v, table};
    LMOE_TRY(emit(p, "row_exchange/1", 0, in, 2, &in[0]));
    LMOE_TRY(emit(p, "row_regroup/1", 0, in, 2, out));
    lmoe__set_place(p, *out, lmoe__placed(LMOE_ROWS, 0));
    p->rows_of[*out] = table;
    return LMOE_OK;
}

lmoe_status lmoe__rows_to_tokens(lmoe_graph *p, int32_t v, int32_t *out)
{
    int32_t in[2] = {v, p->rows_of[v]};
    LMOE_TRY(emit(p, "row_regroup/1", 1, in, 2, &in[0]));
    return emit(p, "row_exchange/1", 1, in, 2, out);
}
