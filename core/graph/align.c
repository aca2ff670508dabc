/* SPDX-License-Identifier: Apache-2.0
 * core/graph/align.c: brings the operands of one node to placements that its rule allows.
 *
 * At most one letter of a node is split. It is a letter that some operand is split on already, that
 * the rule lets split and whose sizes the ranks divide; which one, if there are several, is the
 * strategy's choice between tokens and features. What lies otherwise is resolved.
 */
#include "core/graph/split.h"

static int64_t bytes_of(const lmoe_graph *p, int32_t v)
{
    return lmoe_desc_bytes(&p->g->values[v].desc);
}

static bool has_dim(lmoe_placement at)
{
    return at.kind == LMOE_SPLIT || at.kind == LMOE_ROWS;
}

static bool flag(const lmoe_graph *p, uint32_t which)
{
    return p->axis->strategy->base.flags & which;
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

static bool no_part(const lmoe_op *op, const lmoe__rule *r, int i)
{
    if (op->inputs[i].flags & (LMOE_PORT_CARRY | LMOE_PORT_FORWARD_CARRY)) return true;
    return i >= r->n_in || r->in[i].none;
}

/* ---- resolving ---- */

static int32_t known(const lmoe_graph *p, int32_t v, lmoe_placement want)
{
    for (int i = 0; i < p->n_resolved; i++) {
        const lmoe__resolved *k = &p->resolved[i];
        if (k->value == v && lmoe__lies_as(k->want, want)) return k->result;
    }
    return 0;
}

/* Where the rows of the node's experts come from: its offsets, or the table of rows that it has
 * already. */
static void row_source(const lmoe_graph *p, const lmoe_site *site, int32_t *offsets, int32_t *table)
{
    *offsets = *table = 0;
    for (int i = 0; site->op && i < site->n_in; i++) {
        int32_t v = site->in[i];
        if (strcmp(site->op->inputs[i].name, "offsets") == 0 && p->place[v].kind != LMOE_ROWS)
            *offsets = v;
        if (p->place[v].kind == LMOE_ROWS && p->rows_of[v]) *table = p->rows_of[v];
    }
}

static lmoe_status convert(lmoe_graph *p, const lmoe_site *site, int32_t v, lmoe_placement want,
                           int32_t *out)
{
    lmoe_placement have = p->place[v];
    if (have.kind == LMOE_WHOLE && want.kind == LMOE_SPLIT) {
        lmoe_collective_attrs c = {.dim = want.dim};
        return lmoe__graph_api.emit(p, "shard/1", &c, sizeof c, &v, 1, out, 1, NULL);
    }
    if (have.kind == LMOE_WHOLE && want.kind == LMOE_PARTIAL) { /* rank 0 has it, others nothing */
        lmoe_affine_attrs scale = {p->axis->rank == 0 ? 1 : 0, 0};
        return lmoe__graph_api.emit(p, "affine/1", &scale, sizeof scale, &v, 1, out, 1, NULL);
    }
    if (want.kind == LMOE_ROWS) {
        int32_t offsets, table;
        row_source(p, site, &offsets, &table);
        return lmoe__rows_to_experts(p, offsets, table, v, out);
    }
    if (have.kind == LMOE_ROWS) return lmoe__rows_to_tokens(p, v, out);
    if (!p->axis->strategy->resolve)
        return lmoe__graph_api.fail(p, LMOE_E_UNSUPPORTED,
                                    "this strategy cannot gather operands of %s",
                                    site->op ? site->op->base.name : "a result");
    return p->axis->strategy->resolve(&lmoe__graph_api, p, site, v, &have, &want, out);
}

lmoe_status lmoe__resolve(lmoe_graph *p, const lmoe_site *site, int32_t *v, lmoe_placement want)
{
    lmoe_placement have = p->place[*v];
    int32_t out = known(p, *v, want);
    if (lmoe__lies_as(have, want)) return LMOE_OK;
    if (!out) {
        LMOE_TRY(convert(p, site, *v, want, &out));
        lmoe__set_place(p, out, want);
        lmoe__resolved k = {*v, out, want};
        LMOE_PUSH(p->resolved, p->n_resolved, p->cap_resolved, k);
    }
    /* a sum that is known need never be summed again */
    for (int i = 1; have.kind == LMOE_PARTIAL && i < p->old->n_values; i++) {
        if (p->map[i] == *v) p->map[i] = out;
    }
    *v = out;
    return LMOE_OK;
}

/* ---- partial operands that may stay so ---- */

/* All operands partial, or one that the op is linear in while the others are whole (or are smaller
 * than it, and so cheaper to gather): the results are partial. */
static bool passes_partial(const lmoe_graph *p, const lmoe_site *site, const lmoe__rule *r,
                           const int32_t *in)
{
    int partial = 0, present = 0, which = -1;
    int64_t split = 0;
    bool scalars = true;
    for (int i = 0; i < site->n_in; i++) {
        if (!in[i] || r->shape_only >> i & 1 || site->op->inputs[i].flags & LMOE_PORT_MUTATES)
            continue;
        present++;
        scalars &= p->g->values[in[i]].desc.rank == 0;
        if (has_dim(p->place[in[i]])) split += bytes_of(p, in[i]);
        if (p->place[in[i]].kind != LMOE_PARTIAL) continue;
        partial++;
        which = i;
    }
    if (partial == 0) return false;
    if (r->linear_all && (partial == present || scalars)) return true;
    return partial == 1 && (r->linear >> which & 1) && split * 4 <= bytes_of(p, in[which]);
}

static lmoe_status pass_partial(lmoe_graph *p, const lmoe_site *site, const lmoe__rule *r,
                                int32_t *in)
{
    for (int i = 0; i < site->n_in; i++) {
        if (!in[i] || r->shape_only >> i & 1 || p->place[in[i]].kind == LMOE_PARTIAL) continue;
        if (no_part(site->op, r, i)) continue;
        LMOE_TRY(lmoe__resolve(p, site, &in[i],
                               lmoe__placed(r->linear_all ? LMOE_PARTIAL : LMOE_WHOLE, 0)));
    }
    return LMOE_OK;
}

/* ---- the letter that is split ---- */

/* Tokens are what has an axis batch or seq. */
static bool is_token(const lmoe_graph *p, const lmoe__rule *r, const int32_t *in, int n_in,
                     int letter)
{
    for (int i = 0; i < n_in && i < r->n_in; i++) {
        int d = in[i] && !r->in[i].none ? dim_of(&r->in[i], letter) : -1;
        if (d < 0) continue;
        const char *name = p->g->values[in[i]].desc.axis[d];
        if (strcmp(name, "batch") == 0 || strcmp(name, "seq") == 0) return true;
    }
    return false;
}

/* The ranks divide the letter wherever it stands and is not split already; where an axis is taken
 * apart, its outer part too. */
static bool divides(const lmoe_graph *p, const lmoe__rule *r, const int32_t *in, int n_in,
                    int letter)
{
    int64_t whole = 0; /* the letter's size in an operand */
    for (int i = 0; i < n_in && i < r->n_in; i++) {
        int d = in[i] && !r->in[i].none ? dim_of(&r->in[i], letter) : -1;
        if (d < 0) continue;
        whole = p->old->values[p->at->in[i]].desc.dim[d];
        lmoe_placement at = p->place[in[i]];
        if (at.kind == LMOE_SPLIT && at.dim == d) continue;
        if (p->g->values[in[i]].desc.dim[d] % p->axis->ranks != 0) return false;
    }
    for (int i = 0; i < p->at->n_out && i < r->n_out; i++) {
        int d = p->at->out[i] && !r->out[i].none ? dim_of(&r->out[i], letter) : -1;
        int64_t size = d < 0 ? 0 : p->old->values[p->at->out[i]].desc.dim[d];
        if (d >= 0 && size != whole && size % p->axis->ranks != 0) return false;
    }
    return true;
}

static bool may_split(const lmoe_graph *p, const lmoe_site *site, const lmoe__rule *r,
                      const int32_t *in, int letter)
{
    if ((r->whole | r->offset | r->merge | r->expert) >> letter & 1) return false;
    if (r->order >> letter & 1 && (!site->op->carry || !p->axis->strategy->carry)) return false;
    return divides(p, r, in, site->n_in, letter);
}

/* The letter of an operand's split dimension, -1 if there is none or it may not stay split. */
static int split_letter(const lmoe_graph *p, const lmoe_site *site, const lmoe__rule *r,
                        const int32_t *in, int i)
{
    if (!in[i] || no_part(site->op, r, i) || p->place[in[i]].kind != LMOE_SPLIT) return -1;
    if (p->place[in[i]].dim >= r->in[i].rank) return -1;
    int l = r->in[i].dim[p->place[in[i]].dim];
    return may_split(p, site, r, in, l) ? l : -1;
}

/* Rows come to the experts: the op has expert weights, and they or its rows are split by expert. */
static bool works_on_rows(const lmoe_graph *p, const lmoe_site *site, const lmoe__rule *r,
                          const int32_t *in)
{
    for (int i = 0; i < site->n_in; i++) {
        if (!in[i] || no_part(site->op, r, i)) continue;
        lmoe_placement at = p->place[in[i]];
        if (at.kind == LMOE_ROWS && (r->expert || !r->ragged)) return true;
        if (r->expert && flag(p, LMOE_STRATEGY_EXPERTS) && at.kind == LMOE_SPLIT &&
            r->expert >> r->in[i].dim[at.dim] & 1)
            return true;
    }
    return false;
}

/* Rows (ragged letters) are a rank's own because its tokens are: neither cutting them nor putting
 * them together would mean anything. So where rows are read, tokens are split if and only if the
 * rows are, and a rank's own rows come before every other split. A strategy that prefers features
 * has whole tokens wherever there are rows. */
static lmoe_status choose(lmoe_graph *p, const lmoe_site *site, const lmoe__rule *r,
                          const int32_t *in, lmoe__alignment *a)
{
    int letter[LMOE_MAX_IO];
    bool reads_rows = false, features = flag(p, LMOE_STRATEGY_FEATURES);
    for (int i = 0; i < site->n_in; i++) {
        letter[i] = split_letter(p, site, r, in, i);
        if (!in[i] || no_part(site->op, r, i)) continue;
        if (dim_of_any(&r->in[i], r->ragged) >= 0) reads_rows = true;
        if (p->place[in[i]].kind == LMOE_ROWS) a->ragged = true;
        if (letter[i] >= 0 && r->ragged >> letter[i] & 1) {
            a->ragged = true;
            letter[i] = -1;
        }
    }
    for (int pass = 0; pass < 2 && a->split < 0; pass++) {
        for (int i = 0; i < site->n_in && a->split < 0; i++) {
            int l = letter[i];
            if (l < 0) continue;
            bool token = is_token(p, r, in, site->n_in, l);
            if (reads_rows && token != a->ragged) continue;
            if (r->ragged && features && token) continue;
            if (pass == 0 && token == features) continue; /* the preferred kind first */
            a->split = l;
        }
    }
    for (int i = 0; a->ragged && a->split >= 0 && i < site->n_in; i++) {
        if (letter[i] >= 0 && letter[i] != a->split && is_token(p, r, in, site->n_in, letter[i]))
            return lmoe__graph_api.fail(p, LMOE_E_UNSUPPORTED,
                                        "the tokens of %s are split in two ways; split the batch "
                                        "or the sequence of all inputs, not of some",
                                        site->op->base.name);
    }
    if (!reads_rows && r->ragged && a->split >= 0)
        a->ragged = is_token(p, r, in, site->n_in, a->split);
    return LMOE_OK;
}

/* Nothing can stay as it lies: the strategy may choose what the op works on. */
static void settle(lmoe_graph *p, const lmoe_site *site, const lmoe__rule *r, const int32_t *in,
                   lmoe__alignment *a)
{
    if (!p->axis->strategy->settle || r->ragged) return;
    for (int i = 0; i < site->n_in && a->split < 0; i++) {
        if (!in[i] || no_part(site->op, r, i) || p->place[in[i]].kind == LMOE_WHOLE) continue;
        uint32_t dims = 0;
        for (int d = 0; d < r->in[i].rank; d++) {
            int l = r->in[i].dim[d];
            lmoe_placement at = p->place[in[i]];
            bool here = at.kind == LMOE_SPLIT && at.dim == d;
            if (!here && may_split(p, site, r, in, l)) dims |= 1u << d;
        }
        if (!dims) continue;
        int32_t d = p->axis->strategy->settle(&lmoe__graph_api, p, site, i, dims);
        if (d >= 0 && d < r->in[i].rank && dims >> d & 1) a->split = r->in[i].dim[d];
    }
}

static lmoe_placement wanted(const lmoe__rule *r, const lmoe__term *t, const lmoe__alignment *a)
{
    if (a->rows) {
        int rows = dim_of_any(t, r->ragged ? r->ragged : 1u << a->split);
        int expert = dim_of_any(t, r->expert);
        if (rows >= 0) return lmoe__placed(LMOE_ROWS, rows);
        return expert >= 0 ? lmoe__placed(LMOE_SPLIT, expert) : lmoe__placed(LMOE_WHOLE, 0);
    }
    int d = a->split >= 0 ? dim_of(t, a->split) : -1;
    if (d < 0 && a->ragged) d = dim_of_any(t, r->ragged);
    return d >= 0 ? lmoe__placed(LMOE_SPLIT, d) : lmoe__placed(LMOE_WHOLE, 0);
}

/* The letter of rows in a rule that does not speak of them (element-wise ops). */
static int row_letter(const lmoe_graph *p, const lmoe__rule *r, const int32_t *in, int n_in)
{
    for (int i = 0; i < n_in; i++) {
        if (in[i] && p->place[in[i]].kind == LMOE_ROWS) return r->in[i].dim[p->place[in[i]].dim];
    }
    return -1;
}

lmoe_status lmoe__align(lmoe_graph *p, const lmoe_site *site, const lmoe__rule *r, int32_t *in,
                        lmoe__alignment *a)
{
    *a = (lmoe__alignment){.split = -1};
    if (passes_partial(p, site, r, in)) {
        a->partial = true;
        return pass_partial(p, site, r, in);
    }
    if (works_on_rows(p, site, r, in)) {
        a->rows = true;
        if (!r->ragged) a->split = row_letter(p, r, in, site->n_in);
    } else {
        LMOE_TRY(choose(p, site, r, in, a));
        if (a->split < 0 && !a->ragged) settle(p, site, r, in, a);
    }
    for (int i = 0; i < site->n_in; i++) {
        if (!in[i] || no_part(site->op, r, i)) continue;
        if ((r->shape_only >> i & 1) && p->place[in[i]].kind == LMOE_PARTIAL) continue;
        LMOE_TRY(lmoe__resolve(p, site, &in[i], wanted(r, &r->in[i], a)));
    }
    return LMOE_OK;
}

lmoe_placement lmoe__result_place(const lmoe__rule *r, int i, const lmoe__alignment *a)
{
    if (a->partial) return lmoe__placed(LMOE_PARTIAL, 0);
    if (i >= r->n_out || r->out[i].none || (a->split < 0 && !a->ragged && !a->rows))
        return lmoe__placed(LMOE_WHOLE, 0);
    lmoe_placement at = wanted(r, &r->out[i], a);
    if (at.kind != LMOE_WHOLE || r->same >> i & 1) return at;
    return lmoe__placed(LMOE_PARTIAL, 0);
}
