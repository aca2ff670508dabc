/* SPDX-License-Identifier: Apache-2.0
 * core/engine/engine.h: one rank's model on its device: buffers, and the plans that run over them.
 *
 *   engine  = model + device + mesh -> weights, gradients, optimiser states in a store
 *   train   : forward and backward of one micro-batch ("first" writes the gradients, "next" adds to
 * them) eval    : forward of one batch update  : gradient norm and AdamW decode  : carried state in
 * and out; prefill in chunks, then one token at a time Plans share one block of activations: they
 * never run at the same time.
 */
#ifndef LMOE_CORE_ENGINE_H
#define LMOE_CORE_ENGINE_H

#include "core/engine/held.h"
#include "core/model/model.h"

/* What update does. */
typedef struct lmoe__optimiser {
    double beta1, beta2, eps, weight_decay, clip;
    lmoe_dtype state; /* of the means; LMOE_NONE: the state dtype */
} lmoe__optimiser;

/* A plan with the inputs that the caller must write before each replay. */
typedef struct lmoe__program {
    lmoe__plan *plan;
    lmoe__graph *graph;
    lmoe__held *inputs; /* that the caller writes, as the model was traced */
    int n_inputs;
    lmoe__carry_slot *carries;
    int n_carries;
} lmoe__program;

typedef struct lmoe__engine {
    lmoe_ctx *ctx;
    const lmoe__model *model;
    lmoe__mesh mesh;
    const lmoe_device *device;
    void *dev;
    lmoe_dtype dtype;
    lmoe__arena *arena;
    lmoe__store store;
    lmoe__weight *weights; /* in the order of declaration; names and descriptions live in `arena` */
    int n_weights;
    lmoe__held *held; /* weights and states of all programs */
    int n_held, cap_held;
    lmoe__model_count count;
    void *activations, *workspace;
    int64_t activation_bytes, workspace_bytes;
    void *scratch; /* host memory for one input's part, or one result */
    size_t scratch_bytes;
    lmoe__program **programs;
    int n_programs, cap_programs;
    bool eager, profile;
    int pipe_axis; /* mesh axis of the pipeline, -1: none */
    /* with a pipeline: [weight * its ranks + rank]: whether the rank's stages read the weight; NULL:
     * every rank has all */
    const bool *on_rank;
    const int *layer_rank; /* with a pipeline: the rank of its axis that has the layer, else NULL */
} lmoe__engine;

/* dev: opened device, not owned; NULL: sizes only, for `lmoe plan`. */
lmoe_status lmoe__engine_init(lmoe__engine *e, lmoe_ctx *ctx, const lmoe__model *model,
                              const lmoe__mesh *mesh, const lmoe_device *device, void *dev,
                              lmoe_dtype dtype);
void lmoe__engine_free(lmoe__engine *e);

typedef enum lmoe__program_kind {
    LMOE__TRAIN_FIRST,
    LMOE__TRAIN_NEXT,
    LMOE__EVAL,
    LMOE__GENERATE
} lmoe__program_kind;

lmoe_status lmoe__engine_program(lmoe__engine *e, lmoe__program_kind kind,
                                 const lmoe__model_shape *shape, lmoe__program **out);
/* Forward, or forward and backward, of layers alone. */
lmoe_status lmoe__engine_layer_program(lmoe__engine *e, const lmoe__layer_shape *shape,
                                       lmoe__program **out);
lmoe_status lmoe__engine_update_program(lmoe__engine *e, const lmoe__optimiser *o,
                                        lmoe__program **out);
/* The router's update() of all layers, which follows a step; *out is NULL if it has none. */
lmoe_status lmoe__engine_balance_program(lmoe__engine *e, lmoe__program **out);
void lmoe__engine_drop(lmoe__engine *e, lmoe__program *p);
/* The two halves of making a program, for pipeline.c, which cuts the graph in between. The first
 * takes the trace's graph and makes it this rank's; `p` is the caller's. The second lays the graph
 * out in memory and owns the program from then on, with its graph; on failure it frees both. */
lmoe_status lmoe__engine_localise(lmoe__engine *e, lmoe_trace *t, lmoe__program *p);
lmoe_status lmoe__engine_lay_out(lmoe__engine *e, lmoe__program *p);
/* Makes the list of weights, unless it is there. */
void lmoe__engine_remember_weights(lmoe__engine *e, const lmoe_trace *t);

/* ---- a pipeline's weights: some ranks of its axis have a weight, the first of them owns it: it
 * counts the weight in norms and gives it to checkpoints. Without a pipeline, all ranks have all,
 * and the rank itself is the owner. */
bool lmoe__engine_holds(const lmoe__engine *e, int weight, int rank);
int lmoe__engine_owner(const lmoe__engine *e, int weight);
bool lmoe__engine_has_layer(const lmoe__engine *e, int layer);
/* This rank's place on the pipeline's axis; 0 without one. */
int lmoe__engine_stage_rank(const lmoe__engine *e);
int lmoe__engine_stage_ranks(const lmoe__engine *e);
/* The buffer in which this rank receives rank `from`'s part of a gradient: what several ranks of a
 * pipeline hold, they sum before the update. */
const char *lmoe__engine_grad_of(char *buf, size_t n, const lmoe__engine *e, int weight, int from);

/* After the programs are made and before the first replay: allocates what they share. */
lmoe_status lmoe__engine_bind(lmoe__engine *e);
/* Writes initial weights, and the lower halves of 16-bit ones, if there are any. */
lmoe_status lmoe__engine_init_weights(lmoe__engine *e, uint64_t seed);

/* How a weight or state lies over the mesh; NULL if no program has one of this name. */
const lmoe__held *lmoe__engine_held(const lmoe__engine *e, const char *name);

/* Copies this rank's part of a global input to the device. Unknown names are ignored: a model need
 * not read all. */
lmoe_status lmoe__program_set(lmoe__engine *e, lmoe__program *p, const char *name,
                              const void *data);
lmoe_status lmoe__program_set_scalar(lmoe__engine *e, lmoe__program *p, const char *name, double x);
lmoe_status lmoe__program_run(lmoe__engine *e, lmoe__program *p);
/* Reads a result as doubles (at most n); returns how many it has, -1 if there is no such result. */
int64_t lmoe__engine_read(lmoe__engine *e, const char *name, double *out, int64_t n);
/* Puts carries back to "nothing before". */
lmoe_status lmoe__program_clear_carries(lmoe__engine *e, lmoe__program *p);

#endif
