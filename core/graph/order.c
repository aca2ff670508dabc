/* SPDX-License-Identifier: Apache-2.0
 * core/graph/order.c: the order of nodes around exchanges: what does not wait for an exchange runs
 * while it is under way.
 *
 * Nodes keep their recorded order, but a node that reads the result of an exchange lets up to WINDOW
 * of the next ones go before it. Exchanges of one mesh axis keep their order, or ranks would not
 * agree on it; and nothing passes a node that changes what it reads in place.
 */
#include "core/graph/graph.h"

#include <stdlib.h>

enum { WINDOW = 24 };

typedef struct ordering {
    lmoe__graph *g;
    bool *done;       /* node has its place */
    int *place;       /* old node -> new node */
    int32_t *root;    /* value -> value that it is a view of */
    int32_t *changer; /* root -> node that changes it in place, -1 */
    int32_t *over;    /* node -> root of the value whose buffer its result takes, 0 */
} ordering;

static int mesh_of(const lmoe__node *n)
{
    return lmoe__exchange_kind(n->op) ? (int)((const lmoe_collective_attrs *)n->attrs)->mesh : -1;
}

static bool changes(const lmoe__node *n, int k)
{
    return n->in[k] && n->op->inputs[k].flags & LMOE_PORT_MUTATES;
}

/* Node `before` reads what node n is to change, or to write its result over. */
static bool read_first(const ordering *o, int n, const lmoe__node *before)
{
    const lmoe__node *x = &o->g->nodes[n];
    for (int b = 0; b < before->n_in; b++) {
        int32_t root = o->root[before->in[b]];
        if (!before->in[b]) continue;
        if (root == o->over[n]) return true;
        for (int k = 0; k < x->n_in; k++) {
            if (changes(x, k) && root == o->root[x->in[k]]) return true;
        }
    }
    return false;
}

/* What node i reads is there, and what must run before it has run. first: lowest node not done. */
static bool ready(const ordering *o, int first, int i)
{
    const lmoe__graph *g = o->g;
    const lmoe__node *n = &g->nodes[i];
    int mesh = mesh_of(n);
    for (int k = 0; k < n->n_in; k++) {
        if (!n->in[k]) continue;
        int maker = g->values[n->in[k]].node, changer = o->changer[o->root[n->in[k]]];
        if (maker >= 0 && !o->done[maker]) return false;
        if (changer >= 0 && changer < i && !o->done[changer]) return false;
    }
    for (int j = first; j < i; j++) {
        const lmoe__node *before = &g->nodes[j];
        if (o->done[j]) continue;
        if (mesh >= 0 && mesh_of(before) == mesh) return false;
        if (read_first(o, i, before)) return false;
    }
    return true;
}

/* Node i reads an exchange that began not long before place `now`. */
static bool would_wait(const ordering *o, int i, int now)
{
    const lmoe__graph *g = o->g;
    const lmoe__node *n = &g->nodes[i];
    for (int k = 0; k < n->n_in; k++) {
        int maker = n->in[k] ? g->values[o->root[n->in[k]]].node : -1;
        if (maker >= 0 && mesh_of(&g->nodes[maker]) >= 0 && now - o->place[maker] <= WINDOW)
            return true;
    }
    return false;
}

/* The next node: the first that is ready and need not wait, else the first. */
static int next(const ordering *o, int first, int now)
{
    int end = first + WINDOW < o->g->n_nodes ? first + WINDOW : o->g->n_nodes;
    for (int i = first; i < end; i++) {
        if (!o->done[i] && !would_wait(o, i, now) && ready(o, first, i)) return i;
    }
    return first;
}

static void find_aliases(ordering *o)
{
    lmoe__graph *g = o->g;
    for (int v = 0; v < g->n_values; v++) {
        const lmoe__value *x = &g->values[v];
        bool view = x->node >= 0 && x->port == 0 && g->nodes[x->node].op->view;
        o->root[v] = view ? o->root[g->nodes[x->node].in[0]] : v;
        o->changer[v] = -1;
    }
    for (int i = 0; i < g->n_nodes; i++) {
        for (int k = 0; k < g->nodes[i].n_in; k++) {
            if (changes(&g->nodes[i], k)) o->changer[o->root[g->nodes[i].in[k]]] = i;
        }
    }
    for (int i = 0; i < g->n_results; i++) { /* the result's name, or a carry's without its mark */
        char name[320];
        int32_t v = g->results[i].value;
        snprintf(name, sizeof name, "%s", g->results[i].name);
        size_t n = strlen(name);
        if (n > 0 && name[n - 1] == '\'') name[n - 1] = 0;
        int32_t entered = lmoe__graph_find(g, name);
        if (!entered || g->values[v].node < 0) continue;
        o->over[g->values[v].node] = entered;
        o->changer[entered] = g->values[v].node;
    }
}

void lmoe__graph_order(lmoe__graph *g)
{
    bool any = false;
    for (int i = 0; i < g->n_nodes; i++) any |= mesh_of(&g->nodes[i]) >= 0;
    if (!any) return;
    size_t nodes = (size_t)g->n_nodes + 1, values = (size_t)g->n_values + 1;
    ordering o = {g,
                  calloc(nodes, sizeof(bool)),
                  calloc(nodes, sizeof(int)),
                  calloc(values, sizeof(int32_t)),
                  calloc(values, sizeof(int32_t)),
                  calloc(nodes, sizeof(int32_t))};
    lmoe__node *sorted = calloc(nodes, sizeof *sorted);
    find_aliases(&o);
    for (int now = 0, first = 0; now < g->n_nodes; now++) {
        while (o.done[first]) first++;
        int i = next(&o, first, now);
        o.done[i] = true;
        o.place[i] = now;
        sorted[now] = g->nodes[i];
    }
    /* `forward` stays: in the graph of a stage it counts another graph's nodes, and from here on it
     * only tells backward nodes */
    for (int i = 0; i < g->n_nodes; i++) g->nodes[i] = sorted[i];
    for (int v = 1; v < g->n_values; v++) {
        if (g->values[v].node >= 0) g->values[v].node = o.place[g->values[v].node];
    }
    free(o.done);
    free(o.place);
    free(o.root);
    free(o.changer);
    free(o.over);
    free(sorted);
}
