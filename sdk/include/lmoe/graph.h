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

#include <lmoe/op.h>

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
} lmoe_strategy;

#ifdef __cplusplus
}
#endif
#endif
