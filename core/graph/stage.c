/* SPDX-License-Identifier: Apache-2.0
 * core/graph/stage.c: where each node of a graph belongs in a pipeline, and each unit's graph.
 *
 *   a layer's node          in the layer's stage
 *   before, after layers    as late as what it reads demands; if it reads no more than weights
 *                           (embedding), where its result is needed first
 *   reads inputs only       anywhere: repeated in each unit that needs it
 *   backward node           in the backward unit of its forward node's stage
 *
 * A view costs nothing, so its operand is saved or transferred instead, and the view is repeated.
 */
#include "core/graph/stage.h"

#include <stdlib.h>

enum { OPEN = -1 }; /* reads no more than weights; not placed yet */

int lmoe__unit_stage(int stages, int unit)
{
    return unit < stages ? unit : 2 * stages - 1 - unit;
}

int lmoe__unit_of(int stages, int stage, bool backward)
{
    return backward ? 2 * stages - 1 - stage : stage;
}

size_t lmoe__stage_name(const char *name)
{
    const char *at = strrchr(name, '@');
    return at && at[1] && strspn(at + 1, "0123456789") == strlen(at + 1) ? (size_t)(at - name)
                                                                         : strlen(name);
}

const char *lmoe__cut_name(char *buf, size_t n, const lmoe__cut *c, int stage, int slot,
                           int32_t value)
{
    snprintf(buf, n, "save/%s/%d/%d/%d", c->pass, stage, slot, value);
    return buf;
}

/* Operands of which only the shape is read hold nothing up. */
static int32_t operand(const lmoe__node *n, int k)
{
    return n->op->inputs[k].flags & LMOE_PORT_SHAPE ? 0 : n->in[k];
}

/* ---- where nodes belong ---- */

typedef struct placing {
    lmoe_ctx *ctx;
    const lmoe__graph *g;
    const lmoe__stages *s;
    int32_t *unit;  /* of each node */
    bool *backward; /* node belongs to the backward pass */
    int32_t *after; /* [node * LMOE_MAX_IO + operand]: the node that made the operand, or changed it
                       last; -1: none, it enters */
} placing;

/* Who reads what another node has changed in place reads it after that. */
static void find_makers(placing *p)
{
    int32_t *last = lmoe__malloc(sizeof *last * (size_t)p->g->n_values);
    for (int v = 0; v < p->g->n_values; v++) last[v] = p->g->values[v].node;
    for (int i = 0; i < p->g->n_nodes; i++) {
        const lmoe__node *n = &p->g->nodes[i];
        int32_t *after = &p->after[i * LMOE_MAX_IO];
        for (int k = 0; k < n->n_in; k++) after[k] = last[operand(n, k)];
        for (int k = 0; k < n->n_in; k++) {
            if (n->in[k] && (n->op->inputs[k].flags & LMOE_PORT_MUTATES)) last[n->in[k]] = i;
        }
    }
    free(last);
}

static lmoe_status misplaced(const placing *p, const lmoe__node *n)
{
    char where[160];
    return lmoe_error(p->ctx, LMOE_E_UNSUPPORTED,
                      "%s: %s reads a value that a later stage of the pipeline makes; layers of a "
                      "pipeline may read what earlier layers have made, not later ones",
                      lmoe__node_where(n, where, sizeof where), n->op->base.name);
}

static int32_t unit_of_operand(const placing *p, int node, int k)
{
    int32_t v = operand(&p->g->nodes[node], k), after = p->after[node * LMOE_MAX_IO + k];
    if (after >= 0) return p->unit[after];
    return v == 0 || p->g->values[v].kind == LMOE_VALUE_INPUT ? LMOE__ANYWHERE : OPEN;
}

static lmoe_status place_forward(placing *p)
{
    for (int i = 0; i < p->g->n_nodes; i++) {
        const lmoe__node *n = &p->g->nodes[i];
        int32_t most = lmoe__exchange_kind(n->op) ? OPEN : LMOE__ANYWHERE; /* ranks meet once */
        p->backward[i] = n->forward >= 0;
        for (int k = 0; k < n->n_in; k++) {
            int32_t unit = unit_of_operand(p, i, k), after = p->after[i * LMOE_MAX_IO + k];
            p->backward[i] |= after >= 0 && p->backward[after];
            if (unit > most) most = unit;
        }
        if (p->backward[i]) continue;
        p->unit[i] = most;
        if (most == LMOE__ANYWHERE || n->layer < 0) continue;
        p->unit[i] = p->s->of_layer[n->layer];
        if (most > p->unit[i]) return misplaced(p, n);
    }
    return LMOE_OK;
}

/* What reads no more than weights and states goes where it is needed first. Called for the forward
 * pass, before the backward pass is placed, and then for what only the latter needs; to the first
 * stage if nobody does. */
static void place_open(placing *p, bool backward)
{
    int none = 2 * p->s->count;
    int32_t *first = lmoe__malloc(sizeof *first * ((size_t)p->g->n_nodes + 1));
    for (int i = 0; i < p->g->n_nodes; i++) first[i] = none;
    for (int i = p->g->n_nodes - 1; i >= 0; i--) {
        const lmoe__node *n = &p->g->nodes[i];
        if (p->backward[i] && !backward) continue;
        if (p->unit[i] == OPEN && (backward || first[i] < none))
            p->unit[i] = first[i] < none ? first[i] : 0;
        for (int k = 0; k < n->n_in; k++) {
            int32_t after = p->after[i * LMOE_MAX_IO + k];
            if (p->unit[i] >= 0 && after >= 0 && p->unit[i] < first[after])
                first[after] = p->unit[i];
        }
    }
    free(first);
}

static lmoe_status place_backward(placing *p)
{
    for (int i = 0; i < p->g->n_nodes; i++) {
        const lmoe__node *n = &p->g->nodes[i];
        int32_t last = LMOE__ANYWHERE;
        for (int k = 0; k < n->n_in; k++) {
            int32_t after = p->after[i * LMOE_MAX_IO + k];
            if (after >= 0 && p->unit[after] > last) last = p->unit[after];
        }
        if (p->backward[i]) {
            int32_t of = n->forward >= 0 ? p->unit[n->forward] : LMOE__ANYWHERE;
            p->unit[i] = of >= 0 && of < p->s->count ? lmoe__unit_of(p->s->count, of, true) : last;
        }
        if (last > p->unit[i]) return misplaced(p, n);
    }
    return LMOE_OK;
}

/* unit: room for an entry for each node. */
static lmoe_status place_nodes(lmoe_ctx *ctx, const lmoe__graph *g, const lmoe__stages *s,
                               int32_t *unit)
{
    size_t n = (size_t)g->n_nodes + 1;
    placing p = {.ctx = ctx, .g = g, .s = s, .unit = unit};
    p.backward = calloc(n, sizeof *p.backward);
    p.after = calloc(n * LMOE_MAX_IO, sizeof *p.after);
    find_makers(&p);
    lmoe_status status = place_forward(&p);
    if (status == LMOE_OK) {
        place_open(&p, false);
        status = place_backward(&p);
        place_open(&p, true);
    }
    free(p.backward);
    free(p.after);
    return status;
}

/* ---- weights of several stages ---- */

static int32_t own_name(lmoe_trace *t, int weight, int stage)
{
    lmoe__weight w = t->weights[weight];
    char name[320];
    snprintf(name, sizeof name, "%s@%d", w.name, stage);
    int32_t known = lmoe__graph_find(t->graph, name);
    if (known) return known;
    w.value = lmoe__graph_enter(t->graph, LMOE_VALUE_PARAM, name, &w.desc);
    w.name = t->graph->values[w.value].name;
    LMOE_PUSH(t->weights, t->n_weights, t->cap_weights, w);
    return w.value;
}

lmoe_status lmoe__stages_own_weights(lmoe_trace *t, const lmoe__stages *s)
{
    lmoe__graph *g = t->graph;
    int n = t->n_weights;
    int32_t *unit = lmoe__malloc(sizeof *unit * ((size_t)g->n_nodes + 1));
    int32_t *home = lmoe__malloc(sizeof *home * (size_t)g->n_values);
    int *weight = calloc((size_t)g->n_values, sizeof *weight); /* value -> its weight + 1 */
    lmoe_status status = place_nodes(t->ctx, g, s, unit);
    for (int v = 0; v < g->n_values; v++) home[v] = s->count;
    for (int i = 0; i < n; i++) weight[t->weights[i].value] = i + 1;
    for (int i = 0; status == LMOE_OK && i < g->n_nodes; i++) {
        for (int k = 0; k < g->nodes[i].n_in; k++) {
            int32_t v = g->nodes[i].in[k];
            if (weight[v] && unit[i] < home[v]) home[v] = unit[i];
        }
    }
    for (int i = 0; status == LMOE_OK && i < g->n_nodes; i++) {
        for (int k = 0; k < g->nodes[i].n_in; k++) {
            int32_t v = g->nodes[i].in[k];
            if (weight[v] && unit[i] != home[v])
                g->nodes[i].in[k] = own_name(t, weight[v] - 1, unit[i]);
        }
    }
    free(unit);
    free(home);
    free(weight);
    return status;
}

/* ---- what each unit needs of others ---- */

static void find_live(lmoe__cut *c)
{
    const lmoe__graph *g = c->graph;
    bool *read = calloc((size_t)g->n_values, sizeof *read);
    for (int i = 0; i < g->n_results; i++) read[g->results[i].value] = true;
    for (int i = g->n_nodes - 1; i >= 0; i--) {
        const lmoe__node *n = &g->nodes[i];
        c->live[i] = n->n_out == 0;
        for (int k = 0; k < n->n_out; k++) c->live[i] |= n->out[k] && read[n->out[k]];
        for (int k = 0; k < n->n_in; k++)
            c->live[i] |= n->in[k] && (n->op->inputs[k].flags & LMOE_PORT_MUTATES);
        for (int k = 0; c->live[i] && k < n->n_in; k++) read[operand(n, k)] = true;
    }
    free(read);
}

/* Whether a stage repeats this node instead of being given its result. */
static bool repeats(const lmoe__cut *c, int node, int stage)
{
    const lmoe__graph *g = c->graph;
    int root = node;
    if (c->unit[node] == LMOE__ANYWHERE) return true;
    if (!g->nodes[node].op->view) return false;
    while (root >= 0 && g->nodes[root].op->view) root = g->values[g->nodes[root].in[0]].node;
    /* a view of a weight stays where the weight has its gradient */
    return root >= 0 || lmoe__unit_stage(c->stages, c->unit[node]) == stage;
}

static void need_value(lmoe__cut *c, int unit, int32_t v)
{
    const lmoe__graph *g = c->graph;
    int node = g->values[v].node, stage = lmoe__unit_stage(c->stages, unit);
    if (v == 0 || node < 0) return;
    if (repeats(c, node, stage)) {
        const lmoe__node *n = &g->nodes[node];
        for (int k = 0; k < n->n_in; k++) need_value(c, unit, operand(n, k));
    } else if (c->unit[node] != unit) {
        size_t at = (size_t)stage * (size_t)g->n_values + (size_t)v;
        c->need[at] |= unit < c->stages ? 1 : 2;
    }
}

int lmoe__cut_result(const lmoe__cut *c, int result)
{
    int node = c->graph->values[c->graph->results[result].value].node;
    return node >= 0 && c->unit[node] >= 0 ? c->unit[node] : 0;
}

static uint8_t need_of(const lmoe__cut *c, int stage, int32_t v)
{
    return c->need[(size_t)stage * (size_t)c->graph->n_values + (size_t)v];
}

static void find_needs(lmoe__cut *c)
{
    const lmoe__graph *g = c->graph;
    for (int i = 0; i < g->n_nodes; i++) {
        if (!c->live[i] || c->unit[i] == LMOE__ANYWHERE) continue;
        if (repeats(c, i, lmoe__unit_stage(c->stages, c->unit[i]))) continue; /* if needed */
        for (int k = 0; k < g->nodes[i].n_in; k++)
            need_value(c, c->unit[i], operand(&g->nodes[i], k));
    }
    for (int i = 0; i < g->n_results; i++)
        need_value(c, lmoe__cut_result(c, i), g->results[i].value);
    for (int i = 0; i < g->n_nodes; i++) {
        for (int k = 0; k < g->nodes[i].n_out; k++) {
            int32_t v = g->nodes[i].out[k];
            for (int s = 0; v && s < c->stages; s++) {
                int need = need_of(c, s, v);
                if (!need || s == lmoe__unit_stage(c->stages, c->unit[i])) continue;
                lmoe__transfer x = {v, c->unit[i], lmoe__unit_of(c->stages, s, !(need & 1))};
                LMOE_PUSH(c->transfers, c->n_transfers, c->cap_transfers, x);
            }
        }
    }
}

lmoe_status lmoe__cut_new(lmoe_ctx *ctx, const lmoe__graph *g, const lmoe__stages *s,
                          const char *pass, lmoe__cut **out)
{
    lmoe__arena *arena = lmoe__arena_new();
    lmoe__cut *c = LMOE_NEW(arena, lmoe__cut);
    c->ctx = ctx;
    c->graph = g;
    c->arena = arena;
    c->pass = pass;
    c->stages = s->count;
    c->unit = LMOE_NEW_N(arena, int32_t, g->n_nodes + 1);
    c->live = LMOE_NEW_N(arena, bool, g->n_nodes + 1);
    c->need = LMOE_NEW_N(arena, uint8_t, (size_t)g->n_values * (size_t)s->count);
    lmoe_status status = place_nodes(ctx, g, s, c->unit);
    if (status != LMOE_OK) {
        lmoe__cut_free(c);
        return status;
    }
    find_live(c);
    find_needs(c);
    *out = c;
    return LMOE_OK;
}

void lmoe__cut_free(lmoe__cut *c)
{
    if (!c) return;
    free(c->transfers);
    lmoe__arena_free(c->arena);
}

void lmoe__cut_readers(const lmoe__cut *c, const char *weight, bool *used)
{
    const lmoe__graph *g = c->graph;
    size_t length = strlen(weight);
    memset(used, 0, sizeof *used * (size_t)c->stages);
    for (int i = 0; i < g->n_nodes; i++) {
        for (int k = 0; c->live[i] && k < g->nodes[i].n_in; k++) {
            const lmoe__value *v = &g->values[g->nodes[i].in[k]];
            if (!v->name || v->kind != LMOE_VALUE_PARAM || lmoe__stage_name(v->name) != length ||
                strncmp(v->name, weight, length) != 0)
                continue;
            used[lmoe__unit_stage(c->stages, c->unit[i])] = true;
        }
    }
}

/* ---- a unit's graph ---- */

typedef struct taking {
    const lmoe__cut *c;
    int unit, stage, slot;
    lmoe__graph *g;
    int32_t *map; /* value of the whole graph -> of this one */
} taking;

static int32_t take_value(taking *t, int32_t v);

/* A value of the same shape, which nobody reads. */
static int32_t take_shape(taking *t, int32_t v)
{
    const lmoe__value *x = &t->c->graph->values[v];
    if (v == 0 || t->map[v]) return t->map[v];
    return lmoe__graph_enter(t->g, LMOE_VALUE_STATE, "shape", &x->desc);
}

static void take_node(taking *t, int node)
{
    const lmoe__graph *from = t->c->graph;
    const lmoe__node *n = &from->nodes[node];
    int32_t in[LMOE_MAX_IO] = {0};
    lmoe_desc out[LMOE_MAX_IO];
    memset(out, 0, sizeof out);
    for (int k = 0; k < n->n_in; k++)
        in[k] = operand(n, k) ? take_value(t, n->in[k]) : take_shape(t, n->in[k]);
    for (int k = 0; k < n->n_out; k++) out[k] = from->values[n->out[k]].desc;
    lmoe__node like = *n; /* `forward` still tells that it is a backward node */
    like.in = in;
    int made = lmoe__graph_append(t->g, &like, out);
    for (int k = 0; k < n->n_out; k++) {
        if (n->out[k]) t->map[n->out[k]] = t->g->nodes[made].out[k];
    }
}

static int32_t take_value(taking *t, int32_t v)
{
    const lmoe__value *x = &t->c->graph->values[v];
    char name[320];
    if (v == 0 || t->map[v]) return t->map[v];
    if (x->node < 0) {
        snprintf(name, sizeof name, "%.*s", (int)lmoe__stage_name(x->name), x->name);
        t->map[v] = lmoe__graph_enter(t->g, x->kind, name, &x->desc);
    } else if (repeats(t->c, x->node, t->stage)) {
        take_node(t, x->node);
    } else { /* made by another unit; what this one makes is in the map */
        lmoe__cut_name(name, sizeof name, t->c, t->stage, t->slot, v);
        t->map[v] = lmoe__graph_enter(t->g, LMOE_VALUE_STATE, name, &x->desc);
    }
    return t->map[v];
}

/* Does a unit after this one need the value, in this stage or in another? */
static bool needed_later(const lmoe__cut *c, int32_t v)
{
    bool any = false;
    for (int s = 0; s < c->stages; s++) any |= need_of(c, s, v) != 0;
    return any;
}

lmoe_status lmoe__cut_graph(const lmoe__cut *c, int unit, int slot, lmoe__graph **out)
{
    const lmoe__graph *from = c->graph;
    taking t = {c, unit, lmoe__unit_stage(c->stages, unit), slot, lmoe__graph_new(), NULL};
    t.map = calloc((size_t)from->n_values, sizeof *t.map);
    for (int i = 0; i < from->n_nodes; i++) {
        const lmoe__node *n = &from->nodes[i];
        char name[64];
        if (!c->live[i] || c->unit[i] != unit || repeats(c, i, t.stage)) continue;
        take_node(&t, i);
        for (int k = 0; k < n->n_out; k++) {
            if (n->out[k] && needed_later(c, n->out[k]))
                lmoe__graph_result(t.g, t.map[n->out[k]],
                                   lmoe__cut_name(name, sizeof name, c, t.stage, slot, n->out[k]));
        }
    }
    for (int i = 0; i < from->n_results; i++) {
        const lmoe__result *r = &from->results[i];
        char name[320];
        if (lmoe__cut_result(c, i) != unit) continue;
        snprintf(name, sizeof name, "%.*s", (int)lmoe__stage_name(r->name), r->name);
        lmoe__graph_result(t.g, take_value(&t, r->value), name);
    }
    free(t.map);
    *out = t.g;
    return LMOE_OK;
}
