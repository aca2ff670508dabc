/* SPDX-License-Identifier: Apache-2.0
 * @NAME@.c: class @CLASS@, a strategy: how values lie on the ranks of one mesh axis. This one splits
 * the sequence: each rank has a run of tokens, weights are whole.
 *
 * lmoe walks the graph of a step, backward pass included, and knows for each op how a split of its
 * operands shows in its results. A strategy is asked at three places only: how does what enters lie
 * (place), which exchange gives an op what it needs (resolve), and with which state does a rank
 * start in the middle of a sequence (carry, carried).
 *
 * Gradients of weights are sums over tokens, so they come out as partial sums, and as weights are
 * whole they are added up over the ranks. Nobody has to say so.
 */
#include <lmoe/plugin.h>
#include <lmoe/sequence.h>

/* Called for each value that enters or stays: inputs, weights, gradients, optimiser states. */
static lmoe_status place(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                         const char *name, const lmoe_desc *desc, lmoe_placement *out)
{
    return lmoe_place_inputs(kind, desc, "seq", out);
}

/* An op whose result depends on the tokens before: all ranks' summaries are gathered, and those
 * before this rank's tokens are combined. What has no summary is waited for, rank after rank. */
static lmoe_status carry(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                         lmoe_value *out)
{
    if (!lmoe_carry_has_summary(site->op->carry)) return lmoe_emit_receive_carry(api, g, site, out);
    return lmoe_emit_gathered_carry(api, g, site, out);
}

static const lmoe_strategy strategy = {
    .base = {sizeof(lmoe_strategy), LMOE_KIND_STRATEGY, "@CLASS@",
             "Splits the sequence; gathers summaries.", NULL, 0, 0},
    .place = place,
    .resolve = lmoe_resolve, /* the least exchange between whole, split and partial */
    .carry = carry,
    .carried = lmoe_carried};
static const lmoe_class *const classes[] = {&strategy.base, NULL};

LMOE_PLUGIN(.id = "@CLASS@", .version = "0.1", .licence = "Apache-2.0", .classes = classes)
