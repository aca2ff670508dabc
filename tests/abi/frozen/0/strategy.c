/* SPDX-License-Identifier: Apache-2.0
 * tests/abi/frozen/0/strategy.c: sequence parallelism by summaries, as an author wrote it with the
 * headers of API 1.0.
 */
#include <lmoe/graph.h>
#include <lmoe/plugin.h>

static lmoe_status place(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                         const char *name, const lmoe_desc *desc, lmoe_placement *out)
{
    return lmoe_place_inputs(kind, desc, "seq", out);
}

/* The carry with which this rank starts: all summaries, combined up to it. */
static lmoe_status carry(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                         lmoe_value *carry)
{
    const lmoe_carry *c = site->op->carry;
    lmoe_value summary[LMOE_MAX_IO] = {0};
    const lmoe_combine_attrs at = {api->mesh_rank(g), api->mesh_size(g), c->reverse};
    if (!c->summary)
        return api->fail(g, LMOE_E_UNSUPPORTED, "%s has no summary", site->op->base.name);
    LMOE_TRY(lmoe_emit_summary(api, g, site, summary));
    for (int32_t i = 0; i < c->n_summary; i++) {
        if (!summary[i]) continue; /* an optional part, which this call does not have */
        LMOE_TRY(api->emit(g, "all_gather/1", NULL, 0, &summary[i], 1, &summary[i], 1, NULL));
    }
    return api->emit(g, c->combine, &at, sizeof at, summary, c->n_summary, carry, c->count, NULL);
}

static const lmoe_strategy strategy = {
    .base = {sizeof(lmoe_strategy), LMOE_KIND_STRATEGY, "vendor.v0/strategy",
             "Splits the sequence, gathers summaries.", NULL, 0, 0},
    .place = place,
    .resolve = lmoe_resolve,
    .carry = carry};
static const lmoe_class *const classes[] = {&strategy.base, NULL};

LMOE_PLUGIN(.id = "vendor.v0/strategy", .version = "1", .licence = "Apache-2.0", .classes = classes)
