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
#include <lmoe/graph.h>
#include <lmoe/plugin.h>

static lmoe_status place(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                         const char *name, const lmoe_desc *desc, lmoe_placement *out)
{
    return lmoe_place_inputs(kind, desc, "seq", out);
}

static lmoe_status resolve(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                           lmoe_value v, const lmoe_placement *have, const lmoe_placement *want,
                           lmoe_value *out)
{
    return lmoe_resolve_to_whole(api, g, v, have, want, out);
}

static lmoe_status carry(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                         lmoe_value *out)
{
    const lmoe_carry *c = site->op->carry;
    lmoe_value in[LMOE_MAX_IO], summary[LMOE_MAX_IO] = {0};
    lmoe_combine_attrs at = {api->mesh_rank(g), api->mesh_size(g), c->reverse};
    if (!c->summary || !c->combine) {
        return api->fail(g, LMOE_E_UNSUPPORTED,
                         "%s cannot tell other ranks what its tokens amount to, so its sequence "
                         "cannot be split; "
                         "use another layer or no sp axis",
                         site->op->base.name);
    }
    for (int32_t i = 0; i < c->n_summary_in; i++) in[i] = site->in[c->summary_in[i]];
    LMOE_TRY(api->emit(g, c->summary, site->attrs, site->op->base.options_size, in, c->n_summary_in,
                       summary, c->n_summary, NULL));
    for (int32_t i = 0; i < c->n_summary; i++) {
        if (!summary[i]) continue; /* an optional part, which this call does not have */
        LMOE_TRY(api->emit(g, "all_gather/1", NULL, 0, &summary[i], 1, &summary[i], 1, NULL));
    }
    return api->emit(g, c->combine, &at, sizeof at, summary, c->n_summary, out, c->count, NULL);
}

static const lmoe_strategy strategy = {
    .base = {sizeof(lmoe_strategy), LMOE_KIND_STRATEGY, "parallel/lasp2",
             "LASP-2: splits the sequence, gathers what each part carries over.", NULL, 0, 0},
    .place = place,
    .resolve = resolve,
    .carry = carry,
};
static const lmoe_class *const classes[] = {&strategy.base, NULL};

LMOE_PLUGIN(.id = "parallel/lasp2", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
