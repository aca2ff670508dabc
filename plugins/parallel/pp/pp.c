/* SPDX-License-Identifier: Apache-2.0
 * plugins/parallel/pp/pp.c: pipeline parallelism: which layers each rank has, and in which order it
 * works on micro-batches.
 *
 * One chunk a rank, 1F1B: rank r of p first runs p - r - 1 forward passes, then a forward and a
 * backward pass in turn, then the backward passes that are left. So rank r holds the activations of
 * p - r micro-batches at most, however many there are.
 *
 * v chunks a rank, interleaved 1F1B: the forward passes go in groups of p micro-batches, each group
 * through one chunk after the other; the backward passes likewise, from the last chunk. 2 (p - r -
 * 1) + (v - 1) p forward passes come first. The ranks wait (p - 1) / v passes at each end of a step
 * instead of p - 1, and exchange v times as much.
 *
 * That order is known to work where p divides the number of micro-batches. Other numbers are
 * rounded up, and the passes of micro-batches that do not exist are left out: what waits for what
 * is a matter within one micro-batch, so leaving some out holds up none.
 */
#include "pp.h"

#include <lmoe/plugin.h>

#include <stdio.h>
#include <stdlib.h>

typedef struct pp_options {
    const char *layers;
    int64_t interleave;
} pp_options;

static const lmoe_option options[] = {
    {"layers", LMOE_OPTION_TEXT, offsetof(pp_options, layers), "", 0, 0, NULL, NULL,
     "How many layers each stage has, e.g. 5 7 7 5; empty: balanced by FLOPs."},
    {"interleave", LMOE_OPTION_INT, offsetof(pp_options, interleave), "1", 1, 1024, NULL, NULL,
     "Stages on each rank: more of them wait less and exchange more."},
    LMOE_OPTION_END};

static lmoe_status place(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                         const char *name, const lmoe_desc *desc, lmoe_placement *out)
{
    *out = (lmoe_placement){LMOE_WHOLE, 0};
    return LMOE_OK;
}

/* Reads "5 7 7 5". */
static lmoe_status read_counts(const char *text, lmoe_stages *s, int32_t stages)
{
    int32_t n = 0, sum = 0;
    for (const char *p = text + strspn(text, " \t"); *p; p += strspn(p, " \t"), n++) {
        char *end;
        long x = strtol(p, &end, 10);
        if (end == p || (*end && *end != ' ' && *end != '\t') || x < 1 || x > s->layers) {
            snprintf(s->message, sizeof s->message,
                     "layers = %.100s: '%.20s' is not a number of layers from 1 to %d", text, p,
                     s->layers);
            return LMOE_E_CONFIG;
        }
        if (n < stages) s->count[n] = (int32_t)x;
        sum += (int32_t)x;
        p = end;
    }
    if (n == stages && sum == s->layers) return LMOE_OK;
    snprintf(s->message, sizeof s->message,
             "layers = %.100s has %d numbers with the sum %d; there are %d stages (%d ranks, "
             "interleave = %d) and %d layers",
             text, n, sum, stages, s->ranks, s->chunks, s->layers);
    return LMOE_E_CONFIG;
}

static lmoe_status stages(const void *opt, lmoe_stages *s)
{
    const pp_options *o = opt;
    int64_t n = s->ranks * o->interleave;
    if (n > s->layers) {
        snprintf(s->message, sizeof s->message,
                 "%lld stages (%d ranks, interleave = %lld) need as many layers, and the model has "
                 "%d; take fewer ranks%s",
                 (long long)n, s->ranks, (long long)o->interleave, s->layers,
                 o->interleave > 1 ? " or a smaller interleave" : "");
        return LMOE_E_CONFIG;
    }
    s->chunks = (int32_t)o->interleave;
    if (o->layers[strspn(o->layers, " \t")]) return read_counts(o->layers, s, (int32_t)n);
    return pp_balance(s, (int32_t)n, s->count);
}

/* The k-th pass of its direction in an order for whole groups. */
static lmoe_stage_action pass(const lmoe_pipeline *p, int32_t backward, int64_t k)
{
    int64_t group = (int64_t)p->ranks * p->chunks, in_group = k % group;
    lmoe_stage_action a = {backward, (int32_t)(in_group / p->ranks), 0};
    a.micro_batch = (int32_t)(k / group * p->ranks + k % p->ranks);
    if (backward) a.chunk = p->chunks - 1 - a.chunk;
    return a;
}

static lmoe_status schedule(const void *opt, const lmoe_pipeline *p, int32_t rank,
                            lmoe_stage_action *out)
{
    int64_t micro = p->micro_batches, behind = p->ranks - rank - 1, early = behind, n = 0;
    if (p->chunks > 1) {
        micro = (micro + p->ranks - 1) / p->ranks * p->ranks;
        early = 2 * behind + (int64_t)(p->chunks - 1) * p->ranks;
    }
    int64_t passes = micro * p->chunks;
    if (early > passes) early = passes;
    for (int64_t k = 0; k < passes + early; k++) { /* a forward pass, and one back that is due */
        lmoe_stage_action f = k < passes ? pass(p, 0, k) : (lmoe_stage_action){.micro_batch = -1};
        if (k < passes && f.micro_batch < p->micro_batches) out[n++] = f;
        if (k < early) continue;
        lmoe_stage_action b = pass(p, 1, k - early);
        if (b.micro_batch < p->micro_batches) out[n++] = b;
    }
    return LMOE_OK;
}

static const lmoe_strategy strategy = {
    .base = {sizeof(lmoe_strategy), LMOE_KIND_STRATEGY, "parallel/pp",
             "Pipeline parallelism: cuts the layers into stages, 1F1B or interleaved.", options,
             sizeof(pp_options), 0},
    .place = place,
    .stages = stages,
    .schedule = schedule,
};
static const lmoe_class *const classes[] = {&strategy.base, NULL};

LMOE_PLUGIN(.id = "parallel/pp", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
