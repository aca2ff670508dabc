/* SPDX-License-Identifier: Apache-2.0
 * plugins/parallel/tp/tp.c: tensor parallelism (Shoeybi et al. 2019, arXiv 1909.08053) with
 * activations split along the sequence between (Korthikanti et al. 2022, arXiv 2205.05198).
 *
 * Weights are cut along the axes that the option names: a projection to heads or hidden features
 * gives each rank its own ones (columns), and the projection back gives partial sums (rows). With
 * `sequence` these are scattered along seq, so that norms and residuals work on parts; without it
 * every rank sums them whole. A weight none of whose axes is named, or can be cut equally, is whole.
 */
#include <lmoe/graph.h>
#include <lmoe/plugin.h>

#include <stdbool.h>

typedef struct tp_options {
    const char *axes;
    int32_t sequence;
} tp_options;

static const lmoe_option options[] = {
    {"axes", LMOE_OPTION_TEXT, offsetof(tp_options, axes), "heads kv_heads hidden inner", 0, 0,
     NULL, NULL, "Axes of weights that are cut."},
    {"sequence", LMOE_OPTION_BOOL, offsetof(tp_options, sequence), "yes", 0, 0, NULL, NULL,
     "Split activations along seq between layers."},
    LMOE_OPTION_END};

static bool named(const char *axes, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = axes; (at = strstr(at, name)); at += n) {
        if ((at == axes || at[-1] == ' ') && (at[n] == ' ' || at[n] == 0)) return true;
    }
    return false;
}

static lmoe_status place(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                         const char *name, const lmoe_desc *desc, lmoe_placement *out)
{
    const tp_options *o = api->options(g);
    out->kind = LMOE_WHOLE;
    out->dim = 0;
    if (!lmoe_of_weight(kind, name)) return LMOE_OK;
    for (int32_t i = 0; i < desc->rank && out->kind == LMOE_WHOLE; i++) {
        if (!named(o->axes, desc->axis[i]) || desc->dim[i] % api->mesh_size(g) != 0) continue;
        out->kind = LMOE_SPLIT;
        out->dim = i;
    }
    return LMOE_OK;
}

/* A sum is scattered along seq where the op that reads it can work on parts of seq. */
static int32_t settle(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                      int32_t operand, uint32_t dims)
{
    const tp_options *o = api->options(g);
    lmoe_placement at;
    lmoe_desc d;
    api->placement(g, site->in[operand], &at);
    if (!o->sequence || at.kind != LMOE_PARTIAL) return -1;
    if (api->describe(g, site->in[operand], &d) != LMOE_OK) return -1;
    for (int32_t i = 0; i < d.rank; i++) {
        if (dims >> i & 1 && strcmp(d.axis[i], "seq") == 0) return i;
    }
    return -1;
}

static const lmoe_strategy strategy = {
    .base = {sizeof(lmoe_strategy), LMOE_KIND_STRATEGY, "parallel/tp",
             "Tensor parallelism: heads and hidden features in parts, and seq between.", options,
             sizeof(tp_options), LMOE_STRATEGY_FEATURES},
    .place = place,
    .resolve = lmoe_resolve,
    .settle = settle,
};
static const lmoe_class *const classes[] = {&strategy.base, NULL};

LMOE_PLUGIN(.id = "parallel/tp", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
