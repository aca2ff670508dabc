/* SPDX-License-Identifier: Apache-2.0
 * core/graph/stage.h: cuts a graph into the stages of a pipeline.
 *
 * A stage is some consecutive layers. Stages are numbered in the order of layers; a unit is what of
 * a pass one stage works off at once: with n stages, unit s is the forward pass of stage s, unit
 * 2 n - 1 - s its backward pass. A micro-batch goes through the units in this order, so no unit
 * needs anything of a later one.
 *
 * The cut takes a graph with all layers, to which every other mesh axis has been applied, and gives
 * each unit's graph. What one unit makes and another one needs leaves the first and enters the
 * second under a name, save/PASS/STAGE/SLOT/VALUE, a buffer of the stage that holds it: what the forward
 * pass leaves for the backward pass of the same stage, and what is transferred from stage to stage.
 * A slot is a set of these buffers, for one micro-batch in flight.
 */
#ifndef LMOE_CORE_STAGE_H
#define LMOE_CORE_STAGE_H

#include "core/graph/graph.h"

typedef struct lmoe__stages {
    int count;
    int layers;
    const int32_t *of_layer; /* layers entries, not decreasing */
} lmoe__stages;

/* A value that stage to_unit needs and another stage makes; it enters the first unit of the stage
 * that reads it. */
typedef struct lmoe__transfer {
    int32_t value; /* of the cut graph */
    int from, to;  /* units */
} lmoe__transfer;

typedef struct lmoe__cut {
    lmoe_ctx *ctx;
    const lmoe__graph *graph; /* not owned */
    lmoe__arena *arena;
    const char *pass; /* in the names of its buffers: "train" */
    int stages;
    int32_t *unit; /* of each node; LMOE__ANYWHERE */
    bool *live;    /* node is needed */
    uint8_t *need; /* [stage * values + value]: bit 0: the stage's forward unit needs it of another
                      unit, bit 1: its backward unit does */
    lmoe__transfer *transfers;
    int n_transfers, cap_transfers;
} lmoe__cut;

/* Unit of a node that depends on nothing but inputs of the step: it is repeated where it is needed.
 */
#define LMOE__ANYWHERE (-2)

int lmoe__unit_stage(int stages, int unit);
int lmoe__unit_of(int stages, int stage, bool backward);

/* Before the backward pass is recorded: where several stages read a weight, each but the first gets
 * a name of its own for it, NAME@STAGE, so that each has a gradient of its own. In the graphs of
 * units all of them are NAME again. */
lmoe_status lmoe__stages_own_weights(lmoe_trace *t, const lmoe__stages *s);
/* The length of a name without the @STAGE that it may have. */
size_t lmoe__stage_name(const char *name);

/* pass: a word for the names of buffers; it outlives the cut. */
lmoe_status lmoe__cut_new(lmoe_ctx *ctx, const lmoe__graph *g, const lmoe__stages *s,
                          const char *pass, lmoe__cut **out);
void lmoe__cut_free(lmoe__cut *c); /* NULL is fine */
lmoe_status lmoe__cut_graph(const lmoe__cut *c, int unit, int slot, lmoe__graph **out);
/* The unit that a result leaves from. */
int lmoe__cut_result(const lmoe__cut *c, int result);
/* used[stage]: whether a node of the stage reads the weight of this name. */
void lmoe__cut_readers(const lmoe__cut *c, const char *weight, bool *used);
/* The name of a value's buffer in a stage. */
const char *lmoe__cut_name(char *buf, size_t n, const lmoe__cut *c, int stage, int slot,
                           int32_t value);

#endif
