/* SPDX-License-Identifier: Apache-2.0
 * core/graph/split.c: applies one strategy: from a graph to the graph of one rank on one mesh axis.
 *
 * The old graph is walked in order and a new one is built with local shapes. Each new value has a
 * placement: whole, split on a dimension, or partial. A node's rule says which letter is split and
 * hence how its results lie; an operand that lies otherwise is resolved by the strategy (a
 * collective) or cut locally (shard/1, free of communication).
 */
#include "core/graph/graph.h"

#include <stdlib.h>

struct lmoe_graph { /* what strategies hold: the pass at work */
    lmoe_ctx *ctx;
    const lmoe__op_set *ops;
    const lmoe__mesh_axis *axis;
    const lmoe__graph *old;
    lmoe__graph *g;        /* being built */
    lmoe_placement *place; /* of the new graph's values */
    int cap_place;
    int32_t *map;         /* old value -> new value */
    int32_t (*carry)[4];  /* old node -> carry that its new node was given */
    int32_t *node_map;    /* old node -> new node */
    const lmoe__node *at; /* old node being placed: origin of what is emitted */
};

enum { MAX_CARRY = 4 };

static lmoe_placement whole(void)
{
    return (lmoe_placement){LMOE_WHOLE, 0};
}

static void set_place(lmoe_graph *p, int32_t v, lmoe_placement place)
{
    if (v >= p->cap_place) {
        int cap = p->cap_place ? p->cap_place : 256;
        while (cap <= v) cap *= 2;
        p->place = lmoe__realloc(p->place, sizeof *p->place * (size_t)cap);
        memset(p->place + p->cap_place, 0, sizeof *p->place * (size_t)(cap - p->cap_place));
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
        if (out[i]) set_place(p, out[i], whole());
    }
    return LMOE_OK;
}

static lmoe_status api_emit(lmoe_graph *p, const char *name, const void *attrs, size_t attrs_size,
                            const lmoe_value *in, int32_t n_in, lmoe_value *out, int32_t n_out,
                            const lmoe_placement *placed)
{
    int32_t made[LMOE_MAX_IO] = {0};
    lmoe_collective_attrs c = {p->axis->index, p->axis->rank, p->axis->ranks, 0};
    const lmoe_op *op = lmoe__op_find(p->ops, name);
    if (!op) return api_fail(p, LMOE_E_UNSUPPORTED, "the op '%s' is not known", name);
    if (!attrs &&
        strncmp(name, "all_", 4) == 0) { /* collectives know their mesh axis by themselves */
        attrs = &c;
        attrs_size = sizeof c;
    }
    if (attrs_size != op->base.options_size)
        return api_fail(p, LMOE_E_USAGE, "%s: wrong size of attributes", name);
    LMOE_TRY(append(p, op, attrs, in, n_in, made));
    for (int i = 0; i < n_out; i++) {
        out[i] = made[i];
        if (placed && made[i]) set_place(p, made[i], placed[i]);
    }
    return LMOE_OK;
}

static const lmoe_graph_api graph_api = {sizeof(lmoe_graph_api), api_mesh_rank, api_mesh_size,
                                         api_describe,           api_kind,      api_name,
                                         api_placement,          api_emit,      api_fail};

/* ---- values that enter ---- */

static lmoe_status localise(lmoe_graph *p, const char *name, lmoe_desc *d, const lmoe_placement *at)
{
    if (at->kind == LMOE_PARTIAL || (at->kind == LMOE_SPLIT && (at->dim < 0 || at->dim >= d->rank)))
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
        LMOE_TRY(p->axis->strategy->place(&graph_api, p, old->kind, old->name, &old->desc, &at));
        lmoe_desc d = old->desc;
        LMOE_TRY(localise(p, old->name, &d, &at));
        p->map[v] = lmoe__graph_enter(p->g, old->kind, old->name, &d);
        set_place(p, p->map[v], at);
        lmoe__layout l = {p->g->values[p->map[v]].name, at};
        LMOE_PUSH(*layouts, *n_layouts, cap, l);
    }
    return LMOE_OK;
}

/* ---- one node ---- */

static lmoe_status resolve(lmoe_graph *p, const lmoe_site *site, int32_t *v, lmoe_placement want)
{
    lmoe_placement have = p->place[*v];
    if (have.kind == want.kind && (have.kind != LMOE_SPLIT || have.dim == want.dim)) return LMOE_OK;
    if (have.kind == LMOE_WHOLE && want.kind == LMOE_SPLIT) {
        lmoe_collective_attrs c = {p->axis->index, p->axis->rank, p->axis->ranks, want.dim};
        return api_emit(p, "shard/1", &c, sizeof c, v, 1, v, 1, &want);
    }
    if (!p->axis->strategy->resolve)
        return api_fail(p, LMOE_E_UNSUPPORTED, "this strategy cannot gather operands of %s",
                        site->op->base.name);
    int32_t out = 0;
    LMOE_TRY(p->axis->strategy->resolve(&graph_api, p, site, *v, &have, &want, &out));
    set_place(p, out, want);
    *v = out;
    return LMOE_OK;
}

/* The letter of the operand's split dimension, -1 if it may not stay split. */
static int split_letter(const lmoe_graph *p, const lmoe__rule *r, int i, int32_t v)
{
    if (i >= r->n_in || r->in[i].none || p->place[v].dim >= r->in[i].rank) return -1;
    int l = r->in[i].dim[p->place[v].dim];
    return (r->whole | r->offset | r->merge) >> l & 1 ? -1 : l; /* kernels know no shards yet */
}

static bool no_part(const lmoe_op *op, const lmoe__rule *r, int i)
{
    if (op->inputs[i].flags & (LMOE_PORT_CARRY | LMOE_PORT_FORWARD_CARRY)) return true;
    return i >= r->n_in || r->in[i].none;
}

/* All operands partial, or one that the op is linear in while the others are whole: the results are
 * partial. */
static bool passes_partial(const lmoe_graph *p, const lmoe__rule *r, const int32_t *in, int n_in)
{
    int partial = 0, present = 0, which = -1;
    for (int i = 0; i < n_in; i++) {
        if (!in[i] || r->shape_only >> i & 1) continue;
        present++;
        if (p->place[in[i]].kind == LMOE_SPLIT) return false;
        if (p->place[in[i]].kind == LMOE_PARTIAL) {
            partial++;
            which = i;
        }
    }
    if (partial == 0) return false;
    if (r->linear_all && partial == present) return true;
    return partial == 1 && (r->linear >> which & 1);
}

static int dim_of(const lmoe__term *t, int letter)
{
    for (int d = 0; d < t->rank; d++) {
        if (t->dim[d] == letter) return d;
    }
    return -1;
}

static int dim_of_any(const lmoe__term *t, uint32_t letters)
{
    for (int d = 0; d < t->rank; d++) {
        if (letters >> t->dim[d] & 1) return d;
    }
    return -1;
}

static bool is_token_axis(const lmoe__rule *r, int letter)
{
    return r->letters[letter] == 'b' || r->letters[letter] == 's';
}

/* The letter that the node is split on, -1 for none. Rows (ragged letters) are a rank's own because
 * its tokens, b or s, are: neither cutting them nor putting them together would mean anything. So
 * where rows are read, tokens are split if and only if the rows are, and a rank's own rows come
 * before every other split. */
static lmoe_status choose_split(lmoe_graph *p, const lmoe_site *site, const lmoe__rule *r,
                                const int32_t *in, int *split, bool *ragged)
{
    int letter[LMOE_MAX_IO];
    bool reads_rows = false;
    *split = -1;
    *ragged = false;
    for (int i = 0; i < site->n_in; i++) {
        letter[i] = -1;
        if (!in[i] || no_part(site->op, r, i)) continue;
        if (dim_of_any(&r->in[i], r->ragged) >= 0) reads_rows = true;
        if (p->place[in[i]].kind != LMOE_SPLIT) continue;
        int l = split_letter(p, r, i, in[i]);
        if (l >= 0 && (r->order >> l & 1) && (!site->op->carry || !p->axis->strategy->carry))
            continue;
        if (l >= 0 && (r->ragged >> l & 1))
            *ragged = true;
        else
            letter[i] = l;
    }
    for (int i = 0; i < site->n_in; i++) {
        int l = letter[i];
        if (l < 0 || (reads_rows && is_token_axis(r, l) != *ragged)) continue;
        if (*split < 0) *split = l;
        if (*ragged && l != *split)
            return api_fail(p, LMOE_E_UNSUPPORTED,
                            "the tokens of %s are split in two ways; split the batch or the "
                            "sequence of all inputs, not of some",
                            site->op->base.name);
    }
    if (!reads_rows && r->ragged && *split >= 0) *ragged = is_token_axis(r, *split);
    return LMOE_OK;
}

/* Brings operands to one split letter (and ragged ones); returns the letter in *split, -1 for none.
 */
static lmoe_status align(lmoe_graph *p, const lmoe_site *site, const lmoe__rule *r, int32_t *in,
                         int *split, bool *ragged)
{
    LMOE_TRY(choose_split(p, site, r, in, split, ragged));
    for (int i = 0; i < site->n_in; i++) {
        if (!in[i] || no_part(site->op, r, i)) continue;
        lmoe_placement want = whole();
        int d = *split >= 0 ? dim_of(&r->in[i], *split) : -1;
        if (d < 0 && *ragged) d = dim_of_any(&r->in[i], r->ragged);
        if (d >= 0) want = (lmoe_placement){LMOE_SPLIT, d};
        if ((r->shape_only >> i & 1) && p->place[in[i]].kind == LMOE_PARTIAL) continue;
        LMOE_TRY(resolve(p, site, &in[i], want));
    }
    return LMOE_OK;
}

static lmoe_status fill_carries(lmoe_graph *p, const lmoe__node *n, lmoe_site *site, int32_t *in,
                                int split, const lmoe__rule *r)
{
    const lmoe_op *op = n->op;
    int index = (int)(n - p->old->nodes), k = 0;
    for (int i = 0; n->forward >= 0 && i < site->n_in; i++) {
        if (!(op->inputs[i].flags & LMOE_PORT_FORWARD_CARRY) || k >= MAX_CARRY) continue;
        if (p->carry[n->forward][k]) in[i] = p->carry[n->forward][k];
        k++;
    }
    if (split < 0 || !(r->order >> split & 1)) return LMOE_OK;
    const lmoe_carry *c = op->carry;
    if (c->count > MAX_CARRY)
        return api_fail(p, LMOE_E_UNSUPPORTED, "%s has too many carries", op->base.name);
    if (in[c->in])
        return api_fail(p, LMOE_E_UNSUPPORTED,
                        "%s is given a carry already; carried state and a split of seq "
                        "cannot be combined yet",
                        op->base.name);
    int32_t carry[LMOE_MAX_IO] = {0};
    LMOE_TRY(p->axis->strategy->carry(&graph_api, p, site, carry));
    for (int i = 0; i < c->count; i++) {
        in[c->in + i] = carry[i];
        p->carry[index][i] = carry[i];
    }
    return LMOE_OK;
}

static lmoe_status place_node(lmoe_graph *p, const lmoe__node *n)
{
    lmoe_desc desc[LMOE_MAX_IO];
    int32_t in[LMOE_MAX_IO] = {0}, out[LMOE_MAX_IO] = {0};
    char where[160];
    lmoe__rule r;
    for (int i = 0; i < n->n_in; i++) {
        in[i] = p->map[n->in[i]];
        desc[i] = p->old->values[n->in[i]].desc;
    }
    p->at = n;
    lmoe_site site = {
        sizeof site, n->op,           n->attrs, in,
        n->n_in,     n->forward >= 0, n->layer, lmoe__node_where(n, where, sizeof where)};
    lmoe_status has_rule = lmoe__rule_of(p->ctx, n->op, n->attrs, desc, n->n_in, &r);
    if (has_rule != LMOE_OK && has_rule != LMOE_E_UNSUPPORTED) return has_rule;
    if (has_rule == LMOE_E_UNSUPPORTED) memset(&r, 0, sizeof r); /* no rule: whole operands */

    bool partial = passes_partial(p, &r, in, n->n_in), ragged = false;
    int split = -1;
    if (has_rule == LMOE_E_UNSUPPORTED) {
        for (int i = 0; i < n->n_in; i++) {
            if (in[i]) LMOE_TRY(resolve(p, &site, &in[i], whole()));
        }
    } else if (!partial) {
        LMOE_TRY(align(p, &site, &r, in, &split, &ragged));
    }
    LMOE_TRY(fill_carries(p, n, &site, in, split, &r));
    LMOE_TRY(append(p, n->op, n->attrs, in, n->n_in, out));
    p->node_map[n - p->old->nodes] = p->g->n_nodes - 1;
    for (int i = 0; i < n->n_out; i++) {
        if (!n->out[i]) continue;
        p->map[n->out[i]] = out[i];
        p->g->values[out[i]].one = p->old->values[n->out[i]].one;
        bool carry = n->op->outputs[i].flags & LMOE_PORT_CARRY;
        if (partial) set_place(p, out[i], (lmoe_placement){LMOE_PARTIAL, 0});
        if (partial || carry || i >= r.n_out || r.out[i].none || (split < 0 && !ragged)) continue;
        int d = split >= 0 ? dim_of(&r.out[i], split) : -1;
        if (d < 0 && ragged) d = dim_of_any(&r.out[i], r.ragged);
        if (d < 0 && (r.same >> i & 1)) continue; /* whole */
        set_place(p, out[i],
                  d >= 0 ? (lmoe_placement){LMOE_SPLIT, d} : (lmoe_placement){LMOE_PARTIAL, 0});
    }
    return LMOE_OK;
}

/* Gradients lie as their parameter does; everything else that leaves is whole. */
static lmoe_status leave_values(lmoe_graph *p)
{
    for (int i = 0; i < p->old->n_results; i++) {
        const lmoe__result *res = &p->old->results[i];
        const lmoe__value *old = &p->old->values[res->value];
        int32_t v = p->map[res->value];
        lmoe_placement want = whole();
        int32_t param =
            strncmp(res->name, "grad:", 5) == 0 ? lmoe__graph_find(p->g, res->name + 5) : 0;
        if (param) want = p->place[param];
        p->at = old->node >= 0 ? &p->old->nodes[old->node] : NULL;
        lmoe_site site = {.size = sizeof site, .op = p->at ? p->at->op : NULL, .layer = -1};
        if (p->at || p->place[v].kind != LMOE_WHOLE) LMOE_TRY(resolve(p, &site, &v, want));
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
    set_place(&p, 0, whole());
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
    if (status != LMOE_OK) {
        lmoe__graph_free(p.g);
        free(*layouts);
        *layouts = NULL;
        return status;
    }
    *out = p.g;
    return LMOE_OK;
}
