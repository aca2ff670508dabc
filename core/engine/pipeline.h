/* SPDX-License-Identifier: Apache-2.0
 * core/engine/pipeline.h: one rank's part of a pipeline: a forward and a backward program for each
 * of its chunks and each micro-batch in flight, and the order in which they run.
 *
 *   for each action (forward or backward pass of one chunk and micro-batch), in schedule order
 *     receive what other stages made for it   run its program   start sending what it made for them
 *
 * A chunk's micro-batch i uses slot i modulo the number of slots: buffers for what the forward pass
 * leaves for the backward pass, and for what is exchanged. There are as many as the schedule has
 * micro-batches in flight. A send is waited for when its slot is needed again.
 */
#ifndef LMOE_CORE_PIPELINE_H
#define LMOE_CORE_PIPELINE_H

#include "core/engine/engine.h"
#include "core/graph/stage.h"

/* Passes of one chunk in one direction. */
typedef struct lmoe__pipe_unit {
    lmoe__program **programs; /* by slot */
    int *in, *out;            /* transfers that end, begin here */
    int n_in, n_out;
    double flops; /* of a pass */
} lmoe__pipe_unit;

typedef struct lmoe__pipe_chunk {
    int stage, slots;
    lmoe__pipe_unit pass[2]; /* forward, backward */
    void **sends;            /* [slot * n_sends]: requests that are not waited for yet */
    int *n_open;             /* by slot */
    int n_sends;             /* transfers that begin in this chunk */
} lmoe__pipe_chunk;

/* What is reported, and where it is made. */
typedef struct lmoe__pipe_result {
    const char *name;
    int rank;
} lmoe__pipe_result;

typedef struct lmoe__pipeline {
    lmoe__engine *engine;
    const lmoe__mesh_axis *axis;
    const lmoe__mesh_comm *comm;
    lmoe__stages stages;
    lmoe__cut *cut;
    lmoe__program whole; /* the graph of all stages, and the inputs */
    bool train;
    int micro_batches;
    lmoe__pipe_chunk *chunk;
    int chunks;
    lmoe_stage_action *actions;
    int n_actions;
    lmoe__pipe_result *results;
    int n_results;
    int64_t received; /* bytes since the last report, and seconds waited for them */
    double exposed;
    double flops;  /* of a micro-batch, all stages together */
    double bubble; /* part of a step that a rank waits on average, when FLOPs are time */
} lmoe__pipeline;

/* Programs for `micro_batches` at a time. train: forward and backward passes, gradients are added
 * up; else forward passes alone. Before lmoe__engine_bind. */
lmoe_status lmoe__pipeline_new(lmoe__engine *e, const lmoe__model_shape *shape, int micro_batches,
                               bool train, lmoe__pipeline **out);
/* Before the engine is freed. NULL is fine. */
void lmoe__pipeline_free(lmoe__pipeline *p);

/* Writes the inputs of a micro-batch (lmoe__program_set). */
typedef lmoe_status (*lmoe__pipeline_inputs)(void *user, lmoe__program *p, int micro_batch);
/* Runs micro-batches 0 ... n-1, n at most those it was made for. loss (on every rank): the sum of
 * their losses. Then gradients are complete, but for the sum over the ranks that share a weight,
 * which the update program does; and rank 0 of the axis has the results of the last micro-batch. */
lmoe_status lmoe__pipeline_run(lmoe__pipeline *p, int n, lmoe__pipeline_inputs inputs, void *user,
                               double *loss);
/* Whether each op's results are looked at (lmoe__plan.eager). */
void lmoe__pipeline_eager(lmoe__pipeline *p, bool eager);

/* ---- the order of work (schedule.c) ---- */

/* actions[rank]: the order of each rank, from the strategy; refused if it is no order in which the
 * passes can run. cost[unit]: of a pass; *bubble: see lmoe__pipeline. Memory of `arena`. */
lmoe_status lmoe__schedule(lmoe_ctx *ctx, lmoe__arena *arena, const lmoe__mesh_axis *axis,
                           const lmoe_pipeline *shape, const double *cost,
                           lmoe_stage_action **actions, double *bubble);

#endif
