/* SPDX-License-Identifier: Apache-2.0
 * core/graph/vjp.c: the backward pass, recorded behind the forward pass in the same graph.
 *
 * Nodes are visited from the last to the first; each op's vjp records what its operands' gradients
 * are, and gradients of a value that is used several times are added. Only what depends on the
 * wanted values is visited.
 *
 * What a node marked `recompute` made is not kept until then: where a derivative reads it, the node
 * is recorded once more, from operands that are kept or recomputed themselves.
 */
#include "core/graph/graph.h"

#include <stdlib.h>

/* needs[v]: value v depends on a wanted one along differentiable operands. */
static void find_needs(const lmoe__graph *g, bool *needs, int n_nodes)
{
    for (int i = 0; i < n_nodes; i++) {
        const lmoe__node *n = &g->nodes[i];
        bool any = false;
        for (int k = 0; k < n->n_in; k++)
            any |= needs[n->in[k]] && !(n->op->inputs[k].flags & LMOE_PORT_NO_GRAD);
        for (int k = 0; k < n->n_out; k++) {
            int32_t v = n->out[k];
            if (any && v && lmoe_dtype_is_float(g->values[v].desc.dtype)) needs[v] = true;
        }
    }
}

static void accumulate(lmoe_trace *t, int32_t *grad, int32_t v, lmoe_tensor d)
{
    if (d.id <= 0) return;
    if (grad[v] == 0) {
        grad[v] = d.id;
        return;
    }
    lmoe_tensor sum = lmoe_add(t, ((lmoe_tensor){grad[v]}), d);
    grad[v] = sum.id > 0 ? sum.id : 0;
}

/* The value that backward nodes read in place of v. again[v]: it, if v was recomputed before. */
static int32_t recomputed(lmoe_trace *t, int32_t v, int32_t *again)
{
    const lmoe__graph *g = t->graph;
    if (v <= 0 || g->values[v].node < 0 || !g->nodes[g->values[v].node].recompute) return v;
    if (again[v]) return again[v];
    lmoe__node n = g->nodes[g->values[v].node]; /* a copy: recording moves the array */
    lmoe_desc desc[LMOE_MAX_IO];
    int32_t in[LMOE_MAX_IO];
    for (int k = 0; k < n.n_in; k++) in[k] = recomputed(t, n.in[k], again);
    for (int k = 0; k < n.n_out; k++) desc[k] = g->values[n.out[k]].desc;
    lmoe__node like = n;
    like.in = in;
    like.forward = t->forward;
    like.recompute = false;
    int index = lmoe__graph_append(t->graph, &like, desc); /* may move the nodes */
    const lmoe__node *twin = &t->graph->nodes[index];
    for (int k = 0; k < n.n_out; k++) {
        if (n.out[k]) again[n.out[k]] = twin->out[k];
    }
    return again[v];
}

static lmoe_status visit(lmoe_trace *t, int index, const bool *needs, int32_t *grad, int32_t *again)
{
    lmoe__node n = t->graph->nodes[index]; /* a copy: recording moves the array */
    lmoe_tensor in[LMOE_MAX_IO], out[LMOE_MAX_IO], dout[LMOE_MAX_IO], din[LMOE_MAX_IO];
    uint8_t want[LMOE_MAX_IO];
    bool any_out = false, any_in = false;
    for (int k = 0; k < n.n_out; k++) {
        out[k].id = n.out[k];
        dout[k].id = n.out[k] ? grad[n.out[k]] : 0;
        any_out |= dout[k].id > 0;
    }
    for (int k = 0; k < n.n_in; k++) {
        in[k].id = n.in[k];
        din[k].id = 0;
        want[k] = n.in[k] && needs[n.in[k]] && !(n.op->inputs[k].flags & LMOE_PORT_NO_GRAD);
        any_in |= want[k];
    }
    if (!any_out || !any_in) return LMOE_OK;
    char where[160];
    if (!n.op->vjp) {
        return lmoe_error(
            t->ctx, LMOE_E_UNSUPPORTED,
            "%s: the op %s has no derivative, but a parameter's gradient goes through it",
            lmoe__node_where(&n, where, sizeof where), n.op->base.name);
    }
    lmoe_vjp v = {sizeof v, n.attrs, n.n_in, n.n_out, in, out, dout, want, din};
    t->forward = index;
    for (int k = 0; k < n.n_in; k++) in[k].id = recomputed(t, n.in[k], again);
    for (int k = 0; k < n.n_out; k++) out[k].id = recomputed(t, n.out[k], again);
    lmoe_status status = n.op->vjp(t, &v);
    if (status == LMOE_OK) status = lmoe__trace_status(t);
    for (int k = 0; status == LMOE_OK && k < n.n_in; k++) {
        if (want[k]) accumulate(t, grad, n.in[k], din[k]);
    }
    t->forward = -1;
    return status;
}

lmoe_status lmoe__vjp(lmoe_trace *t, lmoe_tensor loss, const lmoe_tensor *wrt, int n,
                      lmoe_tensor *d)
{
    LMOE_TRY(lmoe__trace_status(t));
    int n_nodes = t->graph->n_nodes, n_values = t->graph->n_values;
    bool *needs = calloc((size_t)n_values, sizeof *needs);
    int32_t *grad = calloc((size_t)n_values, sizeof *grad);
    int32_t *again = calloc((size_t)n_values, sizeof *again);
    bool carries = t->carries;
    int layer = t->layer;
    t->carries = false;
    for (int i = 0; i < n; i++) needs[wrt[i].id] = true;
    find_needs(t->graph, needs, n_nodes);
    lmoe_status status = LMOE_OK;
    if (needs[loss.id]) {
        lmoe_tensor seed = lmoe_fill_like(t, loss, 1.0);
        grad[loss.id] = seed.id;
        for (int i = n_nodes - 1; i >= 0 && status == LMOE_OK; i--)
            status = visit(t, i, needs, grad, again);
    }
    for (int i = 0; i < n; i++) d[i].id = grad[wrt[i].id];
    t->carries = carries;
    t->layer = layer;
    free(needs);
    free(grad);
    free(again);
    return status == LMOE_OK ? lmoe__trace_status(t) : status;
}
