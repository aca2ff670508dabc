/* SPDX-License-Identifier: Apache-2.0
 * sdk/examples/07-strategy/budget.c: class vendor.example/budget, a strategy that splits the sequence
 * and counts its collectives: a plan that exchanges more than its budget is refused, with the line
 * that goes over it.
 *
 * lmoe.strategy/0 is a draft: it may still change.
 */
#include <lmoe/plugin.h>
#include <lmoe/sequence.h>

typedef struct options {
    int64_t collectives;
    double megabytes;
} options;

static const lmoe_option table[] = {
    {"collectives", LMOE_OPTION_INT, offsetof(options, collectives), "0", 0, 1e9, NULL, NULL,
     "Most exchanges of one program; 0: any number."},
    {"megabytes", LMOE_OPTION_FLOAT, offsetof(options, megabytes), "0", 0, 1e9, NULL, "MB",
     "Most that a rank sends in them; 0: any amount."},
    LMOE_OPTION_END};

/* There is one strategy for all graphs and ranks, and no mutable statics: what is counted lies in
 * memory of the graph. */
typedef struct count {
    int64_t collectives;
    double bytes;
} count;

/* Inputs with an axis "seq" are split on it; weights, their gradients and optimiser states are whole
 * on each rank. */
static lmoe_status place(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                         const char *name, const lmoe_desc *desc, lmoe_placement *out)
{
    return lmoe_place_inputs(kind, desc, "seq", out);
}

/* One more exchange of v, of which a rank sends `share`. The message names the source line of the op
 * that needs it. */
static lmoe_status spend(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value v, double share)
{
    const options *o = api->options(g);
    count *c = api->memory(g, sizeof *c);
    lmoe_desc d;
    LMOE_TRY(api->describe(g, v, &d));
    c->collectives++;
    c->bytes += share * (double)lmoe_desc_bytes(&d);
    if (o->collectives > 0 && c->collectives > o->collectives)
        return api->fail(g, LMOE_E_CONFIG,
                         "this is exchange number %lld; collectives = %lld allows no more",
                         (long long)c->collectives, (long long)o->collectives);
    if (o->megabytes > 0 && c->bytes > o->megabytes * 1e6)
        return api->fail(g, LMOE_E_CONFIG,
                         "with exchange number %lld, of %.3g MB, a rank sends %.3g MB; megabytes = "
                         "%.3g allows no more",
                         (long long)c->collectives, (double)lmoe_desc_bytes(&d) / 1e6,
                         c->bytes / 1e6, o->megabytes);
    return LMOE_OK;
}

/* Asked when an op needs v in another placement than it has. What is split and needed split on
 * another dimension stays on this rank in part; partial sums travel twice (a reduce-scatter and an
 * all-gather, as rings do it). */
static lmoe_status resolve(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                           lmoe_value v, const lmoe_placement *have, const lmoe_placement *want,
                           lmoe_value *out)
{
    double ranks = api->mesh_size(g), others = (ranks - 1) / ranks;
    double share = have->kind == LMOE_PARTIAL && want->kind == LMOE_WHOLE ? 2 * others
                   : have->kind == LMOE_SPLIT && want->kind == LMOE_WHOLE ? ranks - 1
                                                                          : others;
    LMOE_TRY(spend(api, g, v, share));
    return lmoe_resolve(api, g, site, v, have, want, out);
}

/* Asked when an op carries something along a split sequence: what its tokens amount to goes to all
 * ranks, and the op's own combine makes of it the carry with which this rank starts. */
static lmoe_status carry(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                         lmoe_value *out)
{
    const lmoe_carry *c = site->op->carry;
    lmoe_combine_attrs at = {api->mesh_rank(g), api->mesh_size(g), c->reverse};
    lmoe_value summary[LMOE_MAX_IO] = {0};
    if (!lmoe_carry_has_summary(c)) return lmoe_emit_receive_carry(api, g, site, out);
    LMOE_TRY(lmoe_emit_summary(api, g, site, summary));
    for (int32_t i = 0; i < c->n_summary; i++) {
        if (!summary[i]) continue; /* an optional part, which this call does not have */
        LMOE_TRY(spend(api, g, summary[i], api->mesh_size(g) - 1));
        LMOE_TRY(api->emit(g, "all_gather/1", NULL, 0, &summary[i], 1, &summary[i], 1, NULL));
    }
    return api->emit(g, c->combine, &at, sizeof at, summary, c->n_summary, out, c->count, NULL);
}

static const lmoe_strategy strategy = {
    .base = {sizeof(lmoe_strategy), LMOE_KIND_STRATEGY, "vendor.example/budget",
             "Splits the sequence, and holds a budget of exchanges.", table, sizeof(options), 0},
    .place = place,
    .resolve = resolve,
    .carry = carry,
    .carried = lmoe_carried};
static const lmoe_class *const classes[] = {&strategy.base, NULL};

LMOE_PLUGIN(.id = "vendor.example/budget", .version = "0.1", .licence = "Apache-2.0",
            .classes = classes)
