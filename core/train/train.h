/* SPDX-License-Identifier: Apache-2.0
 * core/train/train.h: training: one thread or process a rank, each with its engine; rank 0
 * writes.
 *
 *   train.c    the step loop and evaluation
 *   world.c    one rank among others: signals, agreement, communicators, its life
 *   team.c     the ranks of this process, threads or one, and how they end
 *   ranks.c    which rank a process is
 *   state.c    checkpoints: save, load
 *   report.c   metrics.jsonl, run.json, the status line
 *   balance.c  loads of experts in the metrics, alarms about them
 */
#ifndef LMOE_CORE_TRAIN_H
#define LMOE_CORE_TRAIN_H

#include "core/data/data.h"
#include "core/engine/pipeline.h"
#include "core/train/setup.h"

/* What happened in a step. */
typedef struct lmoe__step_result {
    int64_t step; /* steps done, this one included */
    double loss, grad_norm, lr, seconds, tokens;
    double val_loss, val_bits; /* NaN: not evaluated here */
} lmoe__step_result;

/* How a layer's choices spread over its experts; 1 is a fair share. */
typedef struct lmoe__balance {
    int layer, dead;
    double most, least, deviation, entropy, dropped;
} lmoe__balance;

typedef struct lmoe__report {
    FILE *metrics;   /* metrics.jsonl; NULL on ranks above 0 */
    lmoe__text line; /* metrics of the step that is going on, up to its losses on held-out text */
    bool terminal;
    double started, last_line, rate; /* rate: tokens/s, smoothed */
    double peak_flops, flops_per_token;
    double *load;           /* of one layer's experts */
    lmoe__balance *balance; /* of the layers with experts, in the last step that was noted */
    int n_balance;
    int64_t resident; /* bytes of the process before any rank began */
    double planned;   /* bytes on all ranks */
    bool alarmed[3];
} lmoe__report;

typedef struct lmoe__rank {
    lmoe_ctx ctx;
    const lmoe__setup *setup;
    int rank;
    void *world; /* communicator of all ranks; NULL for one rank */
    void *dev;
    void *word; /* on the device, where the communicator exchanges its memory: of rank_reduce */
    lmoe__engine engine;
    lmoe__program *first, *next, *eval, *update, *balance;
    lmoe__pipeline *pipe,
        *pipe_eval; /* instead of the first three, where the mesh has a pipeline */
    double flops;   /* of this rank for a micro-batch */
    lmoe__data data;
    lmoe__batch batch;
    int32_t *noise; /* (batch seq): keys for random/1; NULL: nobody draws */
    int64_t done;   /* steps */
    double tokens;  /* seen */
    double best_val;
    double eval_seconds; /* of the last evaluation */
    int unseen;          /* steps since the host last looked at a loss */
    double unseen_since; /* when they began */
    bool stop;           /* asked to by a signal */
    bool owes_eval; /* the evaluation after step `done` is still to come: a signal cut it off */
    bool saved;     /* the state of `done` is on disk */
    lmoe__report report;
    lmoe_status status;
} lmoe__rank;

/* What the launcher of this process says of it. ranks: 0 if there is none. */
typedef struct lmoe__place {
    int rank, ranks, local_rank, local_ranks;
    const char *launcher, *variable; /* who says so, and where */
} lmoe__place;

/* Open MPI, MPICH, torchrun, Slurm; contradictions are errors. */
lmoe_status lmoe__place_find(lmoe_ctx *ctx, lmoe__place *out);

/* Trains, in this process or as one of its ranks; returns the exit code: 1 for a failure, of which
 * ctx tells unless it is told already (status LMOE_OK). Signals must be held. */
int lmoe__train(lmoe_ctx *ctx, const lmoe__setup *s);

/* From the weights to the last step; r->ctx, setup, rank, dev, world and the mesh's communicators are
 * set. */
lmoe_status lmoe__rank_train(lmoe__rank *r, const lmoe__mesh *mesh);
void lmoe__rank_free(lmoe__rank *r);

/* A few elements, at most LMOE__WORD bytes, become their reduction over all ranks. */
#define LMOE__WORD 64
lmoe_status lmoe__rank_reduce(lmoe__rank *r, void *x, int64_t count, lmoe_dtype dtype,
                              lmoe_reduce reduce);
/* Ranks agree on a flag: true if any rank says so. */
lmoe_status lmoe__rank_any(lmoe__rank *r, bool *flag);

lmoe_status lmoe__state_save(lmoe__rank *r);
/* Loads the newest valid checkpoint of the run's directory, if there is one. */
lmoe_status lmoe__state_resume(lmoe__rank *r);

/* Weights alone, of the newest valid checkpoint of a run's directory; LMOE_E_CONFIG if there is
 * none. */
lmoe_status lmoe__state_load_weights(lmoe__engine *e, const char *dir, int64_t *step);

/* balance.c: metrics of experts are appended to t; a line at the end. */
void lmoe__balance_note(lmoe__rank *r, lmoe__text *t);
void lmoe__balance_summary(const lmoe__rank *r);

lmoe_status lmoe__report_open(lmoe__rank *r);
/* What a step has given, before the evaluation that may follow it; kept in report.line, which a
 * checkpoint takes along if that evaluation is cut off. */
void lmoe__report_note(lmoe__rank *r, const lmoe__step_result *s);
/* Writes the line and what the evaluation has given. */
lmoe_status lmoe__report_step(lmoe__rank *r, const lmoe__step_result *s);
lmoe_status lmoe__report_end(lmoe__rank *r);
void lmoe__report_close(lmoe__rank *r);
/* A figure of /proc/self/status in bytes, e.g. "VmRSS"; 0 where the system does not tell. */
int64_t lmoe__process_bytes(const char *key);

/* SIGINT and SIGTERM are held back from here on, and asked for by lmoe__signal_pending. */
void lmoe__signals_hold(void);
bool lmoe__signal_pending(void);

#endif
