/* SPDX-License-Identifier: Apache-2.0
 * plugins/parallel/scan/scan.c: all-scan sequence parallelism (ZeCO, Chou et al. 2025, arXiv
 * 2507.01004): carries go from rank to rank in blocks of heads, so that a rank hands on the first
 * block while the next is on its way.
 */
#include <lmoe/plugin.h>
#include <lmoe/sequence.h>

typedef struct scan_options {
    int64_t blocks;
} scan_options;

static const lmoe_option options[] = {{"blocks", LMOE_OPTION_INT, offsetof(scan_options, blocks),
                                       "4", 1, LMOE_MOST_BLOCKS, NULL, NULL,
                                       "Blocks of heads in which a carry is handed on."},
                                      LMOE_OPTION_END};

static lmoe_status place(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                         const char *name, const lmoe_desc *desc, lmoe_placement *out)
{
    return lmoe_place_inputs(kind, desc, "seq", out);
}

static lmoe_status carry(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                         lmoe_value *out)
{
    const scan_options *o = api->options(g);
    return lmoe_emit_hand_over(api, g, site, o->blocks, out);
}

static const lmoe_strategy strategy = {
    .base = {sizeof(lmoe_strategy), LMOE_KIND_STRATEGY, "parallel/scan",
             "Splits the sequence, hands carries on in blocks of heads.", options,
             sizeof(scan_options), 0},
    .place = place,
    .resolve = lmoe_resolve,
    .carry = carry,
    .carried = lmoe_carried,
};
static const lmoe_class *const classes[] = {&strategy.base, NULL};

LMOE_PLUGIN(.id = "parallel/scan", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
