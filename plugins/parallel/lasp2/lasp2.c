/* SPDX-License-Identifier: Apache-2.0
 * plugins/parallel/lasp2/lasp2.c: LASP-2 sequence parallelism (Sun et al. 2025, arXiv 2502.07563),
 * for every op with a carry.
 *
 * Each rank has a run of tokens of every row. An op that carries something along seq tells the
 * others what its run amounts to (its summary), all ranks gather the summaries at once, and each
 * combines those before it into the carry that it starts with. For linear attention the summary is
 * the state that the run makes from zero; for softmax attention it is keys and values, which is
 * LASP-2H; for a convolution the last inputs. Backward ops are carry ops that walk from the end, so
 * the same exchange serves them in reverse.
 */
#include <lmoe/plugin.h>
#include <lmoe/sequence.h>

static lmoe_status place(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                         const char *name, const lmoe_desc *desc, lmoe_placement *out)
{
    return lmoe_place_inputs(kind, desc, "seq", out);
}

static lmoe_status carry(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                         lmoe_value *out)
{
    if (lmoe_carry_has_summary(site->op->carry)) return lmoe_emit_gathered_carry(api, g, site, out);
    return lmoe_emit_receive_carry(api, g, site, out); /* in order: nothing can be told before */
}

static const lmoe_strategy strategy = {
    .base = {sizeof(lmoe_strategy), LMOE_KIND_STRATEGY, "parallel/lasp2",
             "LASP-2: splits the sequence, gathers what each part carries over.", NULL, 0, 0},
    .place = place,
    .resolve = lmoe_resolve,
    .carry = carry,
    .carried = lmoe_carried,
};
static const lmoe_class *const classes[] = {&strategy.base, NULL};

LMOE_PLUGIN(.id = "parallel/lasp2", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
