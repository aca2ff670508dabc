/* SPDX-License-Identifier: Apache-2.0
 * lmoe/graph.h: DRAFT extension "lmoe.graph/0": what a parallel strategy sees of a graph. Opaque
 * handles and functions. It may still change; layers, routers, ops and kernels do not need it.
 *
 * A strategy is applied once for its mesh axis. The core walks the recorded graph (backward nodes
 * too) in order and builds a new one with each rank's shapes. For every value it keeps a placement
 * on this mesh axis: whole on every rank, split on one dimension, or partial (the sum over ranks is
 * the value). Op rules carry placements through the graph. Where an op needs another placement than
 * a value has, the strategy is asked to resolve it; where an op with a carry is split along `seq`,
 * the strategy provides the carry with which this rank starts.
 */
#ifndef LMOE_GRAPH_H
#define LMOE_GRAPH_H

#include <lmoe/ops.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t lmoe_value; /* a tensor of the graph being built; 0 is absent */

typedef enum lmoe_place_kind { LMOE_WHOLE = 0, LMOE_SPLIT = 1, LMOE_PARTIAL = 2 } lmoe_place_kind;

typedef struct lmoe_placement {
    lmoe_place_kind kind;
    int32_t dim; /* LMOE_SPLIT: which dimension */
} lmoe_placement;

typedef enum lmoe_value_kind {
    LMOE_VALUE_COMPUTED = 0,
    LMOE_VALUE_INPUT = 1, /* changes from step to step: tokens, labels, positions, scalars */
    LMOE_VALUE_PARAM = 2, /* a weight */
    LMOE_VALUE_STATE = 3  /* other values of the run: carries, optimiser states */
} lmoe_value_kind;

/* An op about to be put into the new graph: its inputs there and its attributes. */
typedef struct lmoe_site {
    size_t size;
    const lmoe_op *op;
    const void *attrs;
    const lmoe_value *in;
    int32_t n_in;
    int32_t backward;   /* 1: recorded by a vjp */
    int32_t layer;      /* index of the layer that recorded it, -1 outside layers */
    const char *source; /* "gla.c:57" */
} lmoe_site;

typedef struct lmoe_graph_api {
    size_t size;
    int32_t (*mesh_rank)(lmoe_graph *g); /* this rank's place on the strategy's mesh axis */
    int32_t (*mesh_size)(lmoe_graph *g);
    lmoe_status (*describe)(lmoe_graph *g, lmoe_value v, lmoe_desc *out); /* this rank's shape */
    lmoe_value_kind (*kind)(lmoe_graph *g, lmoe_value v);
    const char *(*name)(lmoe_graph *g,
                        lmoe_value v); /* of inputs, parameters and states; else "" */
    void (*placement)(lmoe_graph *g, lmoe_value v, lmoe_placement *out);
    /* Appends an op; its outputs are whole unless `placed` (n_out entries) says otherwise.
     * Collectives are ops: "all_reduce/1" (x -> x) and "all_gather/1" (x -> (rank x...), stacked in
     * rank order) on this mesh axis. */
    lmoe_status (*emit)(lmoe_graph *g, const char *op, const void *attrs, size_t attrs_size,
                        const lmoe_value *in, int32_t n_in, lmoe_value *out, int32_t n_out,
                        const lmoe_placement *placed);
    lmoe_status (*fail)(lmoe_graph *g, lmoe_status status, const char *format, ...);
} lmoe_graph_api;

/* ---- pipelines ---- */

typedef struct lmoe_stages {
    size_t size;
    int32_t ranks;  /* of the mesh axis */
    int32_t layers; /* of the model, at least 1 */
    /* FLOPs of a forward pass: of each layer, and of what goes with the first and the last one */
    const double *cost;
    double cost_before, cost_after;
    /* answer */
    int32_t chunks;    /* stages on each rank; ranks * chunks stages in all, at most `layers` */
    int32_t *count;    /* room for `layers` entries: how many layers each stage has, at least 1 */
    char message[400]; /* with a status that is not LMOE_OK: why, and what would work */
} lmoe_stages;

typedef struct lmoe_pipeline {
    size_t size;
    int32_t ranks, chunks, micro_batches;
} lmoe_pipeline;

typedef struct lmoe_stage_action {
    int32_t backward; /* 0: forward pass, 1: backward pass */
    int32_t chunk, micro_batch;
} lmoe_stage_action;

#define LMOE_KIND_STRATEGY "lmoe.strategy/0"

typedef struct lmoe_strategy {
    lmoe_class base;
    /* Placement of a graph input in the full model, chosen before anything is emitted. desc is its
     * global shape. */
    lmoe_status (*place)(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                         const char *name, const lmoe_desc *desc, lmoe_placement *out);
    /* Turn v from `have` into `want` (never equal): emit the collective and return the new value.
     * NULL: refuse. */
    lmoe_status (*resolve)(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                           lmoe_value v, const lmoe_placement *have, const lmoe_placement *want,
                           lmoe_value *out);
    /* The op carries something along seq and its seq is split: fill carry[0 .. op->carry->count)
     * with the carry that this rank starts with. NULL: this strategy does not split seq. */
    lmoe_status (*carry)(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                         lmoe_value *carry);
    /* A pipeline: the axis cuts the layers into stages instead of splitting values, after all other
     * axes' strategies, and nothing but these two is asked. A stage is some consecutive layers;
     * stages are numbered in the order of layers, and stage s is chunk s / ranks of rank s % ranks.
     * What lies before the first layer belongs to the first stage, norm, head and loss to the last.
     * Both NULL: no pipeline. */
    lmoe_status (*stages)(const void *options, lmoe_stages *out);
    /* The order of one rank's work: out[0 .. 2 * chunks * micro_batches) has each forward and each
     * backward pass once, those of one kind and chunk in the order of micro-batches. Which of them
     * may not run before which is the core's knowledge: it refuses orders that stand still. */
    lmoe_status (*schedule)(const void *options, const lmoe_pipeline *pipeline, int32_t rank,
                            lmoe_stage_action *out);
} lmoe_strategy;

/* ---- what most strategies share ---- */

/* Places a value that changes from step to step along the axis of this name; all others are whole.
 */
static inline lmoe_status lmoe_place_inputs(lmoe_value_kind kind, const lmoe_desc *desc,
                                            const char *axis, lmoe_placement *out)
{
    out->kind = LMOE_WHOLE;
    out->dim = 0;
    for (int32_t i = 0; kind == LMOE_VALUE_INPUT && i < desc->rank; i++) {
        if (strcmp(desc->axis[i], axis) != 0) continue;
        out->kind = LMOE_SPLIT;
        out->dim = i;
    }
    return LMOE_OK;
}

/* Gathers a value that is split on dimension dim: stacks the parts, then brings them side by side.
 */
static inline lmoe_status lmoe_emit_gather(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value v,
                                           int32_t dim, lmoe_value *out)
{
    static const char letters[] = "bcdefghi";
    lmoe_einsum_attrs e;
    lmoe_reshape_attrs m;
    lmoe_desc d;
    size_t n = 2;
    LMOE_TRY(api->describe(g, v, &d));
    LMOE_TRY(api->emit(g, "all_gather/1", NULL, 0, &v, 1, out, 1, NULL));
    memset(&e, 0, sizeof e);
    memset(&m, 0, sizeof m);
    memcpy(e.text, "a ", 2); /* "a b c -> b a c" for dim 1; a counts the ranks */
    for (int32_t i = 0; i < d.rank; i++, n += 2) {
        e.text[n] = letters[i];
        e.text[n + 1] = ' ';
    }
    memcpy(e.text + n, "->", 2);
    n += 2;
    for (int32_t i = 0; i < d.rank; i++) {
        if (i == dim) {
            memcpy(e.text + n, " a", 2);
            n += 2;
        }
        e.text[n++] = ' ';
        e.text[n++] = letters[i];
    }
    if (dim > 0) LMOE_TRY(api->emit(g, "einsum/1", &e, sizeof e, out, 1, out, 1, NULL));
    m.axis = dim;
    strncpy(m.outer_name, d.axis[dim], sizeof m.outer_name - 1);
    return api->emit(g, "merge_axes/1", &m, sizeof m, out, 1, out, 1, NULL);
}

/* Partial values are summed over the ranks, split ones gathered; nothing else is known. */
static inline lmoe_status lmoe_resolve_to_whole(const lmoe_graph_api *api, lmoe_graph *g,
                                                lmoe_value v, const lmoe_placement *have,
                                                const lmoe_placement *want, lmoe_value *out)
{
    lmoe_value w = v;
    if (have->kind == LMOE_PARTIAL)
        LMOE_TRY(api->emit(g, "all_reduce/1", NULL, 0, &v, 1, &w, 1, NULL));
    if (have->kind == LMOE_SPLIT) LMOE_TRY(lmoe_emit_gather(api, g, v, have->dim, &w));
    *out = w;
    if (want->kind == LMOE_WHOLE) return LMOE_OK;
    if (want->kind == LMOE_PARTIAL)
        return api->fail(g, LMOE_E_UNSUPPORTED, "a value cannot be made partial");
    lmoe_collective_attrs c = {0, api->mesh_rank(g), api->mesh_size(g), want->dim};
    return api->emit(g, "shard/1", &c, sizeof c, &w, 1, out, 1, NULL);
}

#ifdef __cplusplus
}
#endif
#endif
