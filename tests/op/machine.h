/* SPDX-License-Identifier: Apache-2.0
 * tests/op/machine.h: computes a graph, or the graphs of several ranks at once, node by node by the
 * references. For tests of derivatives and of axis rules.
 */
#ifndef LMOE_TESTS_OP_MACHINE_H
#define LMOE_TESTS_OP_MACHINE_H

#include "core/graph/graph.h"

#include <check.h>

enum { MAX_RANKS = 4 };

typedef struct machine {
    lmoe_ctx ctx;
    lmoe__arena *arena;
    int ranks;
    lmoe__graph *graph[MAX_RANKS];
    lmoe_buf *value[MAX_RANKS]; /* by value of the graph */
} machine;

static inline void *memory(machine *m, const lmoe_desc *d)
{
    return lmoe__arena_alloc(m->arena, (size_t)lmoe_desc_bytes(d) + 1);
}

static inline void machine_add(machine *m, lmoe__graph *g)
{
    lmoe_buf *v = LMOE_NEW_N(m->arena, lmoe_buf, g->n_values);
    for (int i = 1; i < g->n_values; i++) {
        const lmoe_desc *d = &g->values[i].desc;
        v[i] = (lmoe_buf){.data = memory(m, d), .dtype = d->dtype, .rank = d->rank};
        memcpy(v[i].dim, d->dim, sizeof v[i].dim);
    }
    m->graph[m->ranks] = g;
    m->value[m->ranks++] = v;
}

/* The collectives of all ranks at once. Returns false for any other op. */
static inline bool collect(machine *m, int index)
{
    const lmoe__node *n = &m->graph[0]->nodes[index];
    bool sum = strcmp(n->op->base.name, "all_reduce/1") == 0;
    if (!sum && strcmp(n->op->base.name, "all_gather/1") != 0) return false;
    int64_t count = lmoe_buf_count(&m->value[0][n->in[0]]);
    for (int to = 0; to < m->ranks; to++) {
        const lmoe_buf *y = &m->value[to][n->out[0]];
        for (int64_t i = 0; i < lmoe_buf_count(y); i++) {
            double x = 0;
            for (int from = 0; from < m->ranks; from++) {
                if (sum || from == i / count) x += lmoe_get(&m->value[from][n->in[0]], i % count);
            }
            lmoe_put(y, i, x);
        }
    }
    return true;
}

static inline void compute(machine *m)
{
    for (int i = 0; i < m->graph[0]->n_nodes; i++) {
        if (collect(m, i)) continue;
        for (int r = 0; r < m->ranks; r++) {
            const lmoe__node *n = &m->graph[r]->nodes[i];
            lmoe_buf in[LMOE_MAX_IO], out[LMOE_MAX_IO];
            for (int k = 0; k < n->n_in; k++) in[k] = m->value[r][n->in[k]];
            for (int k = 0; k < n->n_out; k++) out[k] = m->value[r][n->out[k]];
            lmoe_args a = {.size = sizeof a, .attrs = n->attrs, .n_in = n->n_in, .n_out = n->n_out};
            a.in = in;
            a.out = out;
            a.ctx = &m->ctx;
            ck_assert_msg(n->op->reference(&a) == LMOE_OK, "%s", m->ctx.message);
        }
    }
}

#endif
