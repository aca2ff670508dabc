/* SPDX-License-Identifier: Apache-2.0
 * tests/abi/frozen/0/strategy.c: sequence parallelism by summaries, as an author wrote it with the
 * headers of API 1.0.
 */
#include <lmoe/graph.h>
#include <lmoe/plugin.h>
#include <lmoe/sequence.h>

static lmoe_status place(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                         const char *name, const lmoe_desc *desc, lmoe_placement *out)
{
    return lmoe_place_inputs(kind, desc, "seq", out);
}

/* All summaries, combined up to this rank; what has none is handed on in order. */
static lmoe_status carry(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                         lmoe_value *out)
{
    if (lmoe_carry_has_summary(site->op->carry)) return lmoe_emit_gathered_carry(api, g, site, out);
    return lmoe_emit_receive_carry(api, g, site, out);
}

static const lmoe_strategy strategy = {
    .base = {sizeof(lmoe_strategy), LMOE_KIND_STRATEGY, "vendor.v0/strategy",
             "Splits the sequence, gathers summaries.", NULL, 0, 0},
    .place = place,
    .resolve = lmoe_resolve,
    .carry = carry,
    .carried = lmoe_carried};
static const lmoe_class *const classes[] = {&strategy.base, NULL};

LMOE_PLUGIN(.id = "vendor.v0/strategy", .version = "1", .licence = "Apache-2.0", .classes = classes)
