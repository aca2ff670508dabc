/* SPDX-License-Identifier: Apache-2.0
 * core/graph/split.c: applies one strategy: from a graph to the graph of one rank on one mesh axis.
 *
 * The old graph is walked in order and a new one is built with local shapes. Each new value has a
 * placement: whole, split on a dimension, partial, or rows of this rank's experts. A node's rule
 * says which letter is split and hence how its results lie (align.c).
 */
#include "core/graph/split.h"

#include "core/op/op.h"

#include <stdlib.h>

static lmoe_placement whole(void)
{
    return lmoe__placed(LMOE_WHOLE, 0);
}

void lmoe__set_place(lmoe_graph *p, int32_t v, lmoe_placement place)
{
    if (v >= p->cap_place) {
        int old = p->cap_place, cap = old ? old : 256;
        while (cap <= v) cap *= 2;
        p->place = lmoe__realloc(p->place, sizeof *p->place * (size_t)cap);
        p->rows_of = lmoe__realloc(p->rows_of, sizeof *p->rows_of * (size_t)cap);
        memset(p->place + old, 0, sizeof *p->place * (size_t)(cap - old));
        memset(p->rows_of + old, 0, sizeof *p->rows_of * (size_t)(cap - old));
        p->cap_place = cap;
    }
    p->place[v] = place;
}

/* ---- the functions that strategies call ---- */

static int32_t api_mesh_rank(lmoe_graph *p)
{
    return p->axis->rank;
}

static int32_t api_mesh_size(lmoe_graph *p)
{
    return p->axis->ranks;
}

static lmoe_status api_describe(lmoe_graph *p, lmoe_value v, lmoe_desc *out)
{
    if (v < 0 || v >= p->g->n_values) return LMOE_E_USAGE;
    *out = p->g->values[v].desc;
    return LMOE_OK;
}

static lmoe_value_kind api_kind(lmoe_graph *p, lmoe_value v)
{
    return p->g->values[v].kind;
}

static const char *api_name(lmoe_graph *p, lmoe_value v)
{
    return p->g->values[v].name ? p->g->values[v].name : "";
}

static void api_placement(lmoe_graph *p, lmoe_value v, lmoe_placement *out)
{
    *out = p->place[v];
}

static lmoe_status api_fail(lmoe_graph *p, lmoe_status status, const char *format, ...)
{
    char message[600], where[160] = "";
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    if (p->at) lmoe__node_where(p->at, where, sizeof where);
    return lmoe_error(p->ctx, status, "mesh axis '%s' (%s)%s%s: %s", p->axis->name,
                      p->axis->strategy->base.name, *where ? ", " : "", where, message);
}

static lmoe_status append(lmoe_graph *p, const lmoe_op *op, const void *attrs, const int32_t *in,
                          int n_in, int32_t *out)
{
    lmoe_desc desc[LMOE_MAX_IO], out_desc[LMOE_MAX_IO];
    int32_t operands[LMOE_MAX_IO] = {0};
    int ports = lmoe__ports(op->inputs);
    if (n_in > ports)
        return api_fail(p, LMOE_E_USAGE, "%s takes at most %d operands", op->base.name, ports);
    memcpy(operands, in, sizeof *in * (size_t)n_in);
    for (int i = 0; i < ports; i++) desc[i] = p->g->values[operands[i]].desc;
    memset(out_desc, 0, sizeof out_desc);
    p->ctx->message[0] = 0;
    lmoe_status status = op->shape(NULL, attrs, desc, ports, out_desc);
    if (status != LMOE_OK)
        return api_fail(p, LMOE_E_UNSUPPORTED, "%s does not accept this rank's shapes",
                        op->base.name);
    lmoe__node like = p->at ? *p->at : (lmoe__node){.layer = -1, .forward = -1};
    like.op = op;
    like.attrs = (void *)(uintptr_t)attrs;
    like.in = operands;
    like.n_in = ports;
    like.n_out = lmoe__ports(op->outputs);
    if (like.forward >= 0) like.forward = p->node_map[like.forward];
    int index = lmoe__graph_append(p->g, &like, out_desc);
    for (int i = 0; i < like.n_out; i++) {
        out[i] = p->g->nodes[index].out[i];
        if (out[i]) lmoe__set_place(p, out[i], whole());
    }
    return LMOE_OK;
}

static lmoe_status api_emit(lmoe_graph *p, const char *name, const void *attrs, size_t attrs_size,
                            const lmoe_value *in, int32_t n_in, lmoe_value *out, int32_t n_out,
                            const lmoe_placement *placed)
{
    int32_t made[LMOE_MAX_IO] = {0};
    lmoe_collective_attrs c = {0};
    const lmoe_op *op = lmoe__op_find(p->ops, name);
    if (!op) return api_fail(p, LMOE_E_UNSUPPORTED, "the op '%s' is not known", name);
    const bool collective = op->base.options == lmoe__collective_options;
    if ((attrs || !collective) && !lmoe__attrs_grown(p->g, op, attrs_size, &attrs))
        return api_fail(p, LMOE_E_USAGE, "%s: wrong size of attributes", name);
    if (collective) {
        if (attrs) c = *(const lmoe_collective_attrs *)attrs;
        c.mesh = p->axis->index;
        c.rank = p->axis->rank;
        c.ranks = p->axis->ranks;
        attrs = &c;
    }
    LMOE_TRY(append(p, op, attrs, in, n_in, made));
    for (int i = 0; i < n_out; i++) {
        out[i] = made[i];
        if (placed && made[i]) lmoe__set_place(p, made[i], placed[i]);
    }
    return LMOE_OK;
}

static const void *api_options(lmoe_graph *p)
{
    return p->axis->options;
}

static void *api_memory(lmoe_graph *p, size_t bytes)
{
    if (!p->memory) p->memory = lmoe__arena_alloc(p->g->arena, bytes);
    return p->memory;
}

const lmoe_graph_api lmoe__graph_api = {
    sizeof(lmoe_graph_api), api_mesh_rank, api_mesh_size, api_describe, api_kind,  api_name,
    api_placement,          api_emit,      api_fail,      api_options,  api_memory};

/* ---- values that enter ---- */

static lmoe_status localise(lmoe_graph *p, const char *name, lmoe_desc *d, const lmoe_placement *at)
{
    if (at->kind == LMOE_PARTIAL || at->kind == LMOE_ROWS ||
        (at->kind == LMOE_SPLIT && (at->dim < 0 || at->dim >= d->rank)))
        return api_fail(p, LMOE_E_USAGE, "an impossible placement was given to '%s'", name);
    if (at->kind == LMOE_WHOLE) return LMOE_OK;
    if (d->dim[at->dim] % p->axis->ranks != 0) {
        return api_fail(p, LMOE_E_CONFIG,
                        "%s %lld of '%s' is not a multiple of the %d ranks; choose a size "
                        "that is, or fewer ranks",
                        d->axis[at->dim], (long long)d->dim[at->dim], name, p->axis->ranks);
    }
    d->dim[at->dim] /= p->axis->ranks;
    return LMOE_OK;
}

static lmoe_status enter_values(lmoe_graph *p, lmoe__layout **layouts, int *n_layouts)
{
    int cap = 0;
    *layouts = NULL;
    *n_layouts = 0;
    for (int v = 1; v < p->old->n_values; v++) {
        const lmoe__value *old = &p->old->values[v];
        if (!old->name) continue;
        lmoe_placement at = whole();
        LMOE_TRY(
            p->axis->strategy->place(&lmoe__graph_api, p, old->kind, old->name, &old->desc, &at));
        lmoe_desc d = old->desc;
        LMOE_TRY(localise(p, old->name, &d, &at));
        p->map[v] = lmoe__graph_enter(p->g, old->kind, old->name, &d);
        lmoe__set_place(p, p->map[v], at);
        lmoe__layout l = {p->g->values[p->map[v]].name, at};
        LMOE_PUSH(*layouts, *n_layouts, cap, l);
    }
    return LMOE_OK;
}

/* ---- one node ---- */

static lmoe_status fill_carries(lmoe_graph *p, const lmoe__node *n, lmoe_site *site, int32_t *in,
                                int split, const lmoe__rule *r)
{
    const lmoe_op *op = n->op;
    int index = (int)(n - p->old->nodes), k = 0;
    for (int i = 0; n->forward >= 0 && i < site->n_in; i++) {
        if (!(op->inputs[i].flags & LMOE_PORT_FORWARD_CARRY) || k >= LMOE__MAX_CARRY) continue;
        if (p->carry[n->forward][k]) in[i] = p->carry[n->forward][k];
        k++;
    }
    if (split < 0 || !(r->order >> split & 1)) return LMOE_OK;
    const lmoe_carry *c = op->carry;
    if (c->count > LMOE__MAX_CARRY)
        return api_fail(p, LMOE_E_UNSUPPORTED, "%s has too many carries", op->base.name);
    if (in[c->in])
        return api_fail(p, LMOE_E_UNSUPPORTED,
                        "%s is given a carry already; carried state and a split of seq "
                        "cannot be combined yet",
                        op->base.name);
    int32_t carry[LMOE_MAX_IO] = {0};
    site->in = in;
    LMOE_TRY(p->axis->strategy->carry(&lmoe__graph_api, p, site, carry));
    for (int i = 0; i < c->count; i++) {
        in[c->in + i] = carry[i];
        p->carry[index][i] = carry[i];
    }
    return LMOE_OK;
}

/* An operand that the op changes in place was cut for it: what it became goes back. */
static lmoe_status write_back(lmoe_graph *p, const lmoe_site *site, const lmoe__node *n,
                              const int32_t *in)
{
    for (int i = 0; i < n->n_in; i++) {
        int32_t to = p->map[n->in[i]], pair[2] = {to, in[i]};
        if (!(n->op->inputs[i].flags & LMOE_PORT_MUTATES) || !to || in[i] == to) continue;
        if (p->place[to].kind != LMOE_WHOLE)
            return api_fail(p, LMOE_E_UNSUPPORTED,
                            "'%s' is changed in place by %s and cannot lie as this strategy has it",
                            p->g->values[to].name, n->op->base.name);
        p->n_resolved = 0; /* what was made of it is of before the change */
        LMOE_TRY(lmoe__resolve(p, site, &pair[1], whole()));
        LMOE_TRY(api_emit(p, "assign/1", NULL, 0, pair, 2, NULL, 0, NULL));
        p->n_resolved = 0;
    }
    return LMOE_OK;
}

static void place_results(lmoe_graph *p, const lmoe__node *n, const lmoe__rule *r,
                          const lmoe__alignment *a, const int32_t *in, const int32_t *out)
{
    int32_t table = 0;
    for (int i = 0; i < n->n_in; i++) {
        if (in[i] && p->place[in[i]].kind == LMOE_ROWS && p->rows_of[in[i]])
            table = p->rows_of[in[i]];
    }
    for (int i = 0; i < n->n_out; i++) {
        if (!n->out[i]) continue;
        p->map[n->out[i]] = out[i];
        p->g->values[out[i]].one = p->old->values[n->out[i]].one;
        if (n->op->outputs[i].flags & LMOE_PORT_CARRY && !a->partial) continue;
        lmoe__set_place(p, out[i], lmoe__result_place(r, i, a));
        if (p->place[out[i]].kind == LMOE_ROWS) p->rows_of[out[i]] = table;
    }
}

static lmoe_status place_node(lmoe_graph *p, const lmoe__node *n)
{
    lmoe_desc desc[LMOE_MAX_IO];
    int32_t in[LMOE_MAX_IO] = {0}, out[LMOE_MAX_IO] = {0};
    char where[160];
    lmoe__rule r;
    lmoe__alignment a = {.split = -1};
    for (int i = 0; i < n->n_in; i++) {
        in[i] = p->map[n->in[i]];
        desc[i] = p->old->values[n->in[i]].desc;
    }
    if (p->at && (p->at->layer != n->layer || (p->at->forward < 0) != (n->forward < 0)))
        p->n_resolved = 0; /* gathered values are not kept from layer to layer */
    p->at = n;
    lmoe_site site = {
        sizeof site, n->op,           n->attrs, in,
        n->n_in,     n->forward >= 0, n->layer, lmoe__node_where(n, where, sizeof where)};
    lmoe_status has_rule = lmoe__rule_of(p->ctx, n->op, n->attrs, desc, n->n_in, &r);
    if (has_rule != LMOE_OK && has_rule != LMOE_E_UNSUPPORTED) return has_rule;
    if (has_rule == LMOE_E_UNSUPPORTED) { /* no rule: whole operands */
        memset(&r, 0, sizeof r);
        for (int i = 0; i < n->n_in; i++) {
            if (in[i]) LMOE_TRY(lmoe__resolve(p, &site, &in[i], whole()));
        }
    } else {
        LMOE_TRY(lmoe__align(p, &site, &r, in, &a));
    }
    int32_t done = 0;
    bool in_order = a.split >= 0 && (r.order >> a.split & 1);
    if (in_order && p->axis->strategy->replace)
        LMOE_TRY(p->axis->strategy->replace(&lmoe__graph_api, p, &site, out, &done));
    if (!done) {
        LMOE_TRY(fill_carries(p, n, &site, in, a.split, &r));
        LMOE_TRY(append(p, n->op, n->attrs, in, n->n_in, out));
    }
    p->node_map[n - p->old->nodes] = p->g->n_nodes - 1;
    place_results(p, n, &r, &a, in, out);
    if (in_order && !done && p->axis->strategy->carried)
        LMOE_TRY(p->axis->strategy->carried(&lmoe__graph_api, p, &site, out + n->op->carry->out));
    return write_back(p, &site, n, in);
}

/* Gradients lie as the strategy has them; everything else that leaves is whole. */
static lmoe_status leave_values(lmoe_graph *p)
{
    p->n_resolved = 0;
    for (int i = 0; i < p->old->n_results; i++) {
        const lmoe__result *res = &p->old->results[i];
        const lmoe__value *old = &p->old->values[res->value];
        int32_t v = p->map[res->value];
        lmoe_placement want = whole();
        if (strncmp(res->name, "grad:", 5) == 0)
            LMOE_TRY(p->axis->strategy->place(&lmoe__graph_api, p, LMOE_VALUE_STATE, res->name,
                                              &old->desc, &want));
        p->at = old->node >= 0 ? &p->old->nodes[old->node] : NULL;
        lmoe_site site = {.size = sizeof site, .op = p->at ? p->at->op : NULL, .layer = -1};
        if (p->at || p->place[v].kind != LMOE_WHOLE) LMOE_TRY(lmoe__resolve(p, &site, &v, want));
        lmoe__graph_result(p->g, v, res->name);
    }
    return LMOE_OK;
}

lmoe_status lmoe__split(lmoe_ctx *ctx, const lmoe__op_set *ops, const lmoe__graph *g,
                        const lmoe__mesh_axis *axis, lmoe__graph **out, lmoe__layout **layouts,
                        int *n_layouts)
{
    lmoe_graph p = {.ctx = ctx, .ops = ops, .axis = axis, .old = g, .g = lmoe__graph_new()};
    p.map = calloc((size_t)g->n_values, sizeof *p.map);
    p.carry = calloc((size_t)g->n_nodes + 1, sizeof *p.carry);
    p.node_map = calloc((size_t)g->n_nodes + 1, sizeof *p.node_map);
    lmoe__set_place(&p, 0, whole());
    lmoe_status status = enter_values(&p, layouts, n_layouts);
    for (int i = 0; status == LMOE_OK && i < g->n_nodes; i++) {
        status = place_node(&p, &g->nodes[i]);
        p.at = NULL;
    }
    if (status == LMOE_OK) status = leave_values(&p);
    free(p.map);
    free(p.carry);
    free(p.node_map);
    free(p.place);
    free(p.rows_of);
    free(p.resolved);
    free(p.tables);
    if (status != LMOE_OK) {
        lmoe__graph_free(p.g);
        free(*layouts);
        *layouts = NULL;
        return status;
    }
    *out = p.g;
    return LMOE_OK;
}
