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

typedef enum lmoe_place_kind {
    LMOE_WHOLE = 0,
    LMOE_SPLIT = 1,   /* equal parts of one dimension, in rank order */
    LMOE_PARTIAL = 2, /* the sum over the ranks is the value */
    LMOE_ROWS = 3     /* rows sorted by expert, of the experts that this rank holds */
} lmoe_place_kind;

typedef struct lmoe_placement {
    lmoe_place_kind kind;
    int32_t dim; /* LMOE_SPLIT, LMOE_ROWS: which dimension */
} lmoe_placement;

typedef enum lmoe_value_kind {
    LMOE_VALUE_COMPUTED = 0,
    LMOE_VALUE_INPUT = 1, /* changes from step to step: tokens, labels, positions, scalars */
    LMOE_VALUE_PARAM = 2, /* a weight */
    LMOE_VALUE_STATE = 3  /* other values of the run: gradients, optimiser states, carries */
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
     * Exchanges are ops too (lmoe_collective_attrs in lmoe/ops.h); the core writes the mesh axis and
     * this rank's place into their attributes, which may be NULL. */
    lmoe_status (*emit)(lmoe_graph *g, const char *op, const void *attrs, size_t attrs_size,
                        const lmoe_value *in, int32_t n_in, lmoe_value *out, int32_t n_out,
                        const lmoe_placement *placed);
    lmoe_status (*fail)(lmoe_graph *g, lmoe_status status, const char *format, ...);
    const void *(*options)(lmoe_graph *g); /* the strategy's, filled from the run file */
#if LMOE_TARGET_API >= 1
    /* Memory of the strategy's own for this graph: zero at first, the same at each call, with the
     * same number of bytes. Gone when the graph is done. */
    void *(*memory)(lmoe_graph *g, size_t bytes);
#endif
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

/* base.flags */
enum {
    /* Operands that are split on tokens and on something else at once: the tokens are gathered.
     * Without it they stay split, and the rest is gathered. */
    LMOE_STRATEGY_FEATURES = 1,
    /* Rows sorted by expert go to the ranks that hold the experts' weights, and come back. */
    LMOE_STRATEGY_EXPERTS = 2
};

typedef struct lmoe_strategy {
    lmoe_class base;
    /* Placement of a value that enters or stays (its global shape is desc), chosen before anything
     * is emitted. Gradients ("grad:NAME") and optimiser states ("adam_m:NAME", ...) are asked for
     * like weights, with kind STATE; an optimiser step works on the parts that this gives it. */
    lmoe_status (*place)(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                         const char *name, const lmoe_desc *desc, lmoe_placement *out);
    /* Turn v from `have` into `want` (never equal): emit the collective and return the new value.
     * NULL: refuse. lmoe_resolve serves nearly everyone. */
    lmoe_status (*resolve)(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                           lmoe_value v, const lmoe_placement *have, const lmoe_placement *want,
                           lmoe_value *out);
    /* The op carries something along seq and its seq is split: fill carry[0 .. op->carry->count)
     * with the carry that this rank starts with (absent: nothing before). NULL: this strategy does
     * not split the seq of such ops. */
    lmoe_status (*carry)(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                         lmoe_value *carry);
    /* After that op was put into the graph: its carry outputs, to be handed on. NULL: nothing. */
    lmoe_status (*carried)(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                           const lmoe_value *carry);
    /* Like carry, but puts other ops in the place of this one: fills out[0 .. outputs of the op) and
     * sets *done. site->in are its operands, seq split. NULL, or *done left 0: carry is asked. */
    lmoe_status (*replace)(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                           lmoe_value *out, int32_t *done);
    /* No operand can stay as it lies, and operand number `operand` would be made whole. Bit d of
     * `dims` says that the op could work on parts of that operand's dimension d instead: choose one,
     * or -1. NULL: whole. */
    int32_t (*settle)(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                      int32_t operand, uint32_t dims);
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

/* A weight, its gradient or a state of its optimiser: what lies in parts when weights do. */
static inline int32_t lmoe_of_weight(lmoe_value_kind kind, const char *name)
{
    return kind == LMOE_VALUE_PARAM ||
           (kind == LMOE_VALUE_STATE &&
            (strncmp(name, "grad:", 5) == 0 || strncmp(name, "adam_", 5) == 0 ||
             strncmp(name, "master:", 7) == 0));
}

/* Cuts the largest dimension that the ranks divide; whole if there is none. */
static inline lmoe_status lmoe_place_largest(const lmoe_desc *desc, int32_t ranks,
                                             lmoe_placement *out)
{
    out->kind = LMOE_WHOLE;
    out->dim = 0;
    for (int32_t i = 0; i < desc->rank; i++) {
        if (desc->dim[i] % ranks != 0 || desc->dim[i] == 0) continue;
        if (out->kind == LMOE_SPLIT && desc->dim[i] <= desc->dim[out->dim]) continue;
        out->kind = LMOE_SPLIT;
        out->dim = i;
    }
    return LMOE_OK;
}

/* The equal pieces of dimension dim, stacked (rank ...); and the reverse. */
static inline lmoe_status lmoe_emit_pieces(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value v,
                                           int32_t dim, lmoe_value *out)
{
    lmoe_collective_attrs a;
    memset(&a, 0, sizeof a);
    a.dim = dim;
    return api->emit(g, "pieces/1", &a, sizeof a, &v, 1, out, 1, NULL);
}

static inline lmoe_status lmoe_emit_join(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value v,
                                         int32_t dim, lmoe_value *out)
{
    lmoe_collective_attrs a;
    memset(&a, 0, sizeof a);
    a.dim = dim;
    return api->emit(g, "join/1", &a, sizeof a, &v, 1, out, 1, NULL);
}

/* Gathers a value that is split on dimension dim. */
static inline lmoe_status lmoe_emit_gather(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value v,
                                           int32_t dim, lmoe_value *out)
{
    LMOE_TRY(api->emit(g, "all_gather/1", NULL, 0, &v, 1, out, 1, NULL));
    return lmoe_emit_join(api, g, *out, dim, out);
}

/* Sums a partial value and keeps this rank's part of dimension dim. */
static inline lmoe_status lmoe_emit_reduce_scatter(const lmoe_graph_api *api, lmoe_graph *g,
                                                   lmoe_value v, int32_t dim, lmoe_value *out)
{
    LMOE_TRY(lmoe_emit_pieces(api, g, v, dim, out));
    return api->emit(g, "reduce_scatter/1", NULL, 0, out, 1, out, 1, NULL);
}

/* From a split of one dimension to a split of another. */
static inline lmoe_status lmoe_emit_swap(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value v,
                                         int32_t from, int32_t to, lmoe_value *out)
{
    LMOE_TRY(lmoe_emit_pieces(api, g, v, to, out));
    LMOE_TRY(api->emit(g, "all_to_all/1", NULL, 0, out, 1, out, 1, NULL));
    return lmoe_emit_join(api, g, *out, from, out);
}

/* Whatever can be done between whole, split and partial, by the least exchange. */
static inline lmoe_status lmoe_resolve(const lmoe_graph_api *api, lmoe_graph *g,
                                       const lmoe_site *site, lmoe_value v,
                                       const lmoe_placement *have, const lmoe_placement *want,
                                       lmoe_value *out)
{
    (void)site;
    if (have->kind == LMOE_PARTIAL && want->kind == LMOE_WHOLE)
        return api->emit(g, "all_reduce/1", NULL, 0, &v, 1, out, 1, NULL);
    if (have->kind == LMOE_PARTIAL && want->kind == LMOE_SPLIT)
        return lmoe_emit_reduce_scatter(api, g, v, want->dim, out);
    if (have->kind == LMOE_SPLIT && want->kind == LMOE_WHOLE)
        return lmoe_emit_gather(api, g, v, have->dim, out);
    if (have->kind == LMOE_SPLIT && want->kind == LMOE_SPLIT)
        return lmoe_emit_swap(api, g, v, have->dim, want->dim, out);
    return api->fail(g, LMOE_E_UNSUPPORTED, "a value cannot be made partial");
}

/* Carries handed from rank to rank along seq. What the rank before (behind, for backward ops)
 * handed over; absent on the first. */
static inline lmoe_status lmoe_emit_receive_carry(const lmoe_graph_api *api, lmoe_graph *g,
                                                  const lmoe_site *site, lmoe_value *carry)
{
    const lmoe_carry *c = site->op->carry;
    int32_t step = c->reverse ? -1 : 1, from = api->mesh_rank(g) - step,
            outputs = c->out + c->count;
    lmoe_value like[LMOE_MAX_IO];
    lmoe_collective_attrs a;
    if (from < 0 || from >= api->mesh_size(g)) return LMOE_OK;
    memset(&a, 0, sizeof a);
    a.peer = from;
    /* only for the shapes of its carry outputs: nobody reads its results, so it is not run */
    LMOE_TRY(api->emit(g, site->op->base.name, site->attrs, site->op->base.options_size, site->in,
                       site->n_in, like, outputs, NULL));
    for (int32_t i = 0; i < c->count; i++)
        LMOE_TRY(api->emit(g, "recv/1", &a, sizeof a, &like[c->out + i], 1, &carry[i], 1, NULL));
    return LMOE_OK;
}

static inline lmoe_status lmoe_emit_send_carry(const lmoe_graph_api *api, lmoe_graph *g,
                                               const lmoe_site *site, const lmoe_value *carry)
{
    const lmoe_carry *c = site->op->carry;
    int32_t to = api->mesh_rank(g) + (c->reverse ? -1 : 1);
    lmoe_collective_attrs a;
    if (to < 0 || to >= api->mesh_size(g)) return LMOE_OK;
    memset(&a, 0, sizeof a);
    a.peer = to;
    for (int32_t i = 0; i < c->count; i++)
        LMOE_TRY(api->emit(g, "send/1", &a, sizeof a, &carry[i], 1, NULL, 0, NULL));
    return LMOE_OK;
}

/* The summary of this rank's tokens: n_summary values. */
static inline lmoe_status lmoe_emit_summary(const lmoe_graph_api *api, lmoe_graph *g,
                                            const lmoe_site *site, lmoe_value *summary)
{
    const lmoe_carry *c = site->op->carry;
    lmoe_value in[LMOE_MAX_IO];
    for (int32_t i = 0; i < c->n_summary_in; i++) in[i] = site->in[c->summary_in[i]];
    return api->emit(g, c->summary, site->attrs, site->op->base.options_size, in, c->n_summary_in,
                     summary, c->n_summary, NULL);
}

#ifdef __cplusplus
}
#endif
#endif
