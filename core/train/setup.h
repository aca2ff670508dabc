/* SPDX-License-Identifier: Apache-2.0
 * core/train/setup.h: a run as its file describes it: options, classes, mesh. Read once, before
 * anything runs; the ranks share it and change nothing in it.
 */
#ifndef LMOE_CORE_SETUP_H
#define LMOE_CORE_SETUP_H

#include "core/engine/engine.h"

typedef struct lmoe__run_options {
    const char *dir;     /* path */
    const char *plugins; /* paths */
    int64_t seed, save_every, keep_last, keep_every, log_every;
    double minutes;
    int32_t resume;
} lmoe__run_options;

enum { LMOE__COSINE = 0, LMOE__WSD = 1, LMOE__CONSTANT = 2 };
enum { LMOE__NAN_ABORT = 0, LMOE__NAN_SKIP = 1 };

typedef struct lmoe__train_options {
    int64_t seq, batch, accumulate, steps, warmup, eval_every, eval_tokens;
    double lr, lr_final, decay, beta1, beta2, eps, weight_decay, clip;
    int32_t schedule, nan, dtype, adam_dtype, recompute, eager;
} lmoe__train_options;

typedef struct lmoe__data_section {
    const char *train; /* path */
    const char *valid; /* path, "N %" or "" */
    int32_t packed;
} lmoe__data_section;

typedef struct lmoe__alarm_options {
    double load_max, load_dead, drop_max;
    int64_t after;
} lmoe__alarm_options;

/* Machines as lmoe plan takes them: FLOP/s of a rank, seconds to begin an exchange, bytes/s. */
typedef struct lmoe__plan_options {
    double flops, latency, bandwidth;
} lmoe__plan_options;

typedef struct lmoe__setup {
    lmoe__arena *arena;
    lmoe__conf *conf;
    lmoe__registry *registry;
    lmoe__model model;
    lmoe__run_options run;
    lmoe__train_options train;
    lmoe__data_section data;
    lmoe__alarm_options alarm;
    const lmoe_device *device;
    void *device_options;
    /* the mesh, outermost axis first; ranks are numbered with the last axis fastest */
    const char *axis_name[LMOE__MAX_MESH];
    int axis_size[LMOE__MAX_MESH];
    const lmoe_strategy *axis_strategy[LMOE__MAX_MESH];
    void *axis_options[LMOE__MAX_MESH]; /* the strategies', from sections such as [tp] */
    lmoe__plan_options plan;
    int n_axes, world;
    const lmoe_comm *comm;
    void *comm_options;
    double comm_timeout; /* seconds */
} lmoe__setup;

/* What of a run file is needed: `lmoe plan` works without data, a feed-forward part alone without
 * [layer X]. */
enum { LMOE__SETUP_DATA = 1, LMOE__SETUP_NO_MIXERS = 2 };

/* Reads everything; unknown keys and sections are refused. s->conf must be set; s->registry may be,
 * and is freed with the setup. */
lmoe_status lmoe__setup_read(lmoe_ctx *ctx, lmoe__setup *s, const char *plugin_path, int needs);
/* Its parts in kernels.c: opens the files of [run] plugins; gives the device the kernels of all
 * plugins, but for those that `forced` ([device] kernels) shuts out. */
lmoe_status lmoe__setup_open_files(lmoe_ctx *ctx, lmoe__setup *s);
lmoe_status lmoe__setup_kernels(lmoe_ctx *ctx, lmoe__setup *s, const char *forced);
void lmoe__setup_free(lmoe__setup *s); /* the conf too */

/* The options of the sections that are not the model's, apart from those of classes. */
const lmoe__section_table *lmoe__setup_tables(void);

/* The shape of one micro-batch. */
lmoe__model_shape lmoe__setup_shape(const lmoe__setup *s);
lmoe_dtype lmoe__setup_dtype(const lmoe__setup *s);
lmoe__optimiser lmoe__setup_optimiser(const lmoe__setup *s);
/* This rank's place on each axis. */
void lmoe__setup_place(const lmoe__setup *s, int rank, lmoe__mesh *mesh);
/* Learning rate of a step (0 is the first). */
double lmoe__setup_lr(const lmoe__setup *s, int64_t step);

#endif
