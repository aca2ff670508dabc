/* SPDX-License-Identifier: Apache-2.0
 * core/graph/split.h: the split pass at work; shared by its three files.
 *
 *   split.c   walks the old graph, builds the new one
 *   align.c   brings the operands of one node to placements that its rule allows
 *   rows.c    rows sorted by expert travel to the experts' ranks and back
 */
#ifndef LMOE_CORE_SPLIT_H
#define LMOE_CORE_SPLIT_H

#include "core/graph/graph.h"

enum { LMOE__MAX_CARRY = 4 };

/* A value that was resolved, for other readers in the same layer and direction. */
typedef struct lmoe__resolved {
    int32_t value, result;
    lmoe_placement want;
} lmoe__resolved;

/* The offsets of a sort, and what was made of them. */
typedef struct lmoe__row_table {
    int32_t offsets, table, own;
} lmoe__row_table;

struct lmoe_graph { /* what strategies hold */
    lmoe_ctx *ctx;
    const lmoe__op_set *ops;
    const lmoe__mesh_axis *axis;
    const lmoe__graph *old;
    lmoe__graph *g;        /* being built */
    lmoe_placement *place; /* of the new graph's values */
    int32_t *rows_of;      /* of the new graph's values placed as rows: their table */
    int cap_place;
    int32_t *map;                      /* old value -> new value */
    int32_t (*carry)[LMOE__MAX_CARRY]; /* old node -> carry that its new node was given */
    int32_t *node_map;                 /* old node -> new node */
    const lmoe__node *at;              /* old node being placed: origin of what is emitted */
    lmoe__resolved *resolved;          /* since the layer or direction last changed */
    int n_resolved, cap_resolved;
    lmoe__row_table *tables;
    int n_tables, cap_tables;
    void *memory; /* of the strategy */
};

extern const lmoe_graph_api lmoe__graph_api;

static inline lmoe_placement lmoe__placed(lmoe_place_kind kind, int dim)
{
    return (lmoe_placement){kind, dim};
}

static inline bool lmoe__lies_as(lmoe_placement a, lmoe_placement b)
{
    bool has_dim = a.kind == LMOE_SPLIT || a.kind == LMOE_ROWS;
    return a.kind == b.kind && (!has_dim || a.dim == b.dim);
}

void lmoe__set_place(lmoe_graph *p, int32_t v, lmoe_placement place);

/* What a node's operands were brought to, and hence how its results lie. */
typedef struct lmoe__alignment {
    bool partial; /* results are partial */
    int split;    /* letter, -1: none */
    bool ragged;  /* rows are this rank's own, as its tokens are */
    bool rows;    /* rows are those of this rank's experts */
} lmoe__alignment;

/* in: the node's operands in the new graph, replaced by aligned ones. */
lmoe_status lmoe__align(lmoe_graph *p, const lmoe_site *site, const lmoe__rule *r, int32_t *in,
                        lmoe__alignment *a);
/* Brings *v to `want`: a local cut, a collective of the strategy, or rows that travel. */
lmoe_status lmoe__resolve(lmoe_graph *p, const lmoe_site *site, int32_t *v, lmoe_placement want);
lmoe_placement lmoe__result_place(const lmoe__rule *r, int i, const lmoe__alignment *a);

/* Rows (or offsets) of this rank's tokens -> of its experts. `offsets`: by which they are sorted; 0
 * if the table of these rows is known. */
lmoe_status lmoe__rows_to_experts(lmoe_graph *p, int32_t offsets, int32_t table, int32_t v,
                                  int32_t *out);
lmoe_status lmoe__rows_to_tokens(lmoe_graph *p, int32_t v, int32_t *out);

#endif
