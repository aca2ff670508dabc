/* SPDX-License-Identifier: Apache-2.0
 * plugins/parallel/ulysses/ulysses.c: sequence parallelism by heads (DeepSpeed-Ulysses, Jacobs et al.
 * 2023, arXiv 2309.14509).
 *
 * The sequence is split, but for the ops that carry something along it: an all-to-all gives each
 * rank some heads (or channels) of all tokens, and another brings the results back. An op with
 * nothing to cut but the sequence gets all of it on every rank.
 */
#include <lmoe/graph.h>
#include <lmoe/plugin.h>

static lmoe_status place(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                         const char *name, const lmoe_desc *desc, lmoe_placement *out)
{
    return lmoe_place_inputs(kind, desc, "seq", out);
}

/* Heads if there are any, else whatever else is not tokens. */
static int32_t settle(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                      int32_t operand, uint32_t dims)
{
    int32_t best = -1;
    lmoe_desc d;
    if (!site->op || !site->op->carry) return -1;
    if (api->describe(g, site->in[operand], &d) != LMOE_OK) return -1;
    for (int32_t i = d.rank - 1; i >= 0; i--) {
        if (!(dims >> i & 1) || strcmp(d.axis[i], "batch") == 0 || strcmp(d.axis[i], "seq") == 0)
            continue;
        if (best < 0 || strstr(d.axis[best], "heads") == NULL) best = i;
    }
    return best;
}

static const lmoe_strategy strategy = {
    .base = {sizeof(lmoe_strategy), LMOE_KIND_STRATEGY, "parallel/ulysses",
             "Sequence parallelism: heads of all tokens by all-to-all.", NULL, 0, 0},
    .place = place,
    .resolve = lmoe_resolve,
    .settle = settle,
};
static const lmoe_class *const classes[] = {&strategy.base, NULL};

LMOE_PLUGIN(.id = "parallel/ulysses", .version = "0.1.0", .licence = "Apache-2.0",
            .classes = classes)
