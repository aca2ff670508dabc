/* SPDX-License-Identifier: Apache-2.0
 * core/ckpt/ckpt.h: tensors in files (safetensors), and checkpoints made of them.
 *
 *   safetensors.c   reads and checks a file; nothing in it is believed
 *   st_write.c      writes one, tensor by tensor
 *   manifest.c      manifest.json, the last file of a checkpoint: without it there is none
 *   save.c          a checkpoint: aside, synced, renamed, read again; then old ones go
 *   load.c          the newest checkpoint that is whole, and tensors out of it
 *
 * A checkpoint is data. It holds the text of the run's configuration for people and for
 * comparison, but nothing here, and nobody who reads it, opens a file or a plugin because of it.
 */
#ifndef LMOE_CORE_CKPT_H
#define LMOE_CORE_CKPT_H

#include "core/base/base.h"

#include <jansson.h>

/* ---- tensors to write or to read: the caller's list ---- */

typedef enum lmoe__ckpt_kind {
    LMOE__CKPT_MODEL = 0,    /* parameters: model-*.safetensors */
    LMOE__CKPT_OPTIMIZER = 1 /* what only training needs: optimizer-*.safetensors */
} lmoe__ckpt_kind;

typedef struct lmoe__ckpt_tensor {
    const char *name; /* UTF-8, at most 1024 bytes, each once */
    lmoe_desc desc;   /* dtype and sizes; axis names do not matter */
    lmoe__ckpt_kind kind;
} lmoe__ckpt_tensor;

/* Moves bytes at ... at+n-1 of tensor `index` of the list, row-major: into `host` (reading for a
 * save), or out of it (for a load). Pieces come in order, at least one for each tensor; n is at
 * most LMOE__CKPT_PIECE, `host` aligned to 64 bytes. */
enum { LMOE__CKPT_PIECE = 16 << 20 };
typedef lmoe_status (*lmoe__ckpt_io)(void *user, int index, size_t at, void *host, size_t n);

/* Of tensors which[0 ... n-1] (NULL: 0 ... n-1): names can be written and differ, dtypes and sizes
 * are of tensors. LMOE_E_USAGE with the first that is not so. */
lmoe_status lmoe__ckpt_check(lmoe_ctx *ctx, const lmoe__ckpt_tensor *tensors, const int *which,
                             int n);
/* Room for a piece of any of them, aligned to 64 bytes; free(). */
void *lmoe__ckpt_room(const lmoe__ckpt_tensor *tensors, const int *which, int n);

/* ---- safetensors ---- */

/* u64 N, N bytes of JSON, the tensors back to back from offset 0 without a hole to the file's end.
 */
enum {
    LMOE__ST_MAX_HEADER = 100000000,
    LMOE__ST_MAX_RANK = 16,
    LMOE__ST_MAX_TENSORS = 1 << 20,
    LMOE__ST_MAX_NAME = 1024
};

typedef struct lmoe__st_tensor {
    const char *name;
    const char *dtype_name; /* as in the file: "BF16" */
    lmoe_dtype dtype;       /* LMOE_NONE: one that lmoe does not compute with */
    int rank;
    const int64_t *dim;
    const unsigned char *data; /* not aligned */
    size_t bytes;
} lmoe__st_tensor;

typedef struct lmoe__st {
    char *path;
    lmoe__map map;
    lmoe__arena *arena;
    lmoe__st_tensor *tensors; /* by name */
    int count;
    const char **metadata; /* key, value, key, value, ...; NULL */
} lmoe__st;

/* Maps and checks. LMOE_E_CONFIG, with the file, the tensor, and what was expected and found. */
lmoe_status lmoe__st_open(lmoe_ctx *ctx, const char *path, lmoe__st *st);
void lmoe__st_close(lmoe__st *st);
const lmoe__st_tensor *lmoe__st_find(const lmoe__st *st, const char *name);
const char *lmoe__st_metadata(const lmoe__st *st, const char *key);

/* A dtype's name in a file, and its place in the order of the reference writer; -1 for LMOE_NONE.
 */
int lmoe__st_dtype(lmoe_dtype dtype, const char **name);

/* Writes tensors which[0 ... n-1] of a list as a new file, synced, in the order and form of the
 * reference writer. metadata: as in lmoe__st ("format" = "pt" is put before it), or NULL.
 * Gives the size of the file, and the digest of what was meant to be written. */
typedef struct lmoe__st_file {
    const char *path;
    const lmoe__ckpt_tensor *tensors;
    const int *which;
    int n;
    const char *const *metadata;
    lmoe__ckpt_io read;
    void *user;
    uint64_t size;   /* out */
    char digest[33]; /* out */
} lmoe__st_file;
lmoe_status lmoe__st_write(lmoe_ctx *ctx, lmoe__st_file *f);

/* ---- checkpoints: FOLDER/step-N ---- */

typedef struct lmoe__ckpt_options {
    const char *folder; /* RUN/checkpoints; made if its parent is there */
    int64_t step;
    const lmoe__ckpt_tensor *tensors;
    int count;
    lmoe__ckpt_io read;
    void *user;
    json_t *state;       /* an object: whatever training needs to go on beside the tensors */
    const char *config;  /* the run's configuration, every value */
    int64_t shard_bytes; /* a file of tensors has at most so many, if one tensor has; 0: 2 GiB */
    int keep_last;       /* so many newest stay (0: all), */
    int64_t keep_every;  /* and each whose step is a multiple of this (0: none) */
} lmoe__ckpt_options;

/* Writes FOLDER/step-N, reads it again, then removes what need not be kept. If anything fails the
 * other checkpoints are as before. One process at a time writes into a folder; what killed ones
 * left is removed. An existing step-N is replaced. */
lmoe_status lmoe__ckpt_save(lmoe_ctx *ctx, const lmoe__ckpt_options *o);

typedef struct lmoe__ckpt lmoe__ckpt;

/* Opens one checkpoint and checks all of it: manifest, sizes, digests, tensors. */
lmoe_status lmoe__ckpt_open(lmoe_ctx *ctx, const char *path, lmoe__ckpt **out);
/* Opens the newest of FOLDER that is whole; says in one sentence each why newer ones are passed
 * over. *out is NULL if there is none at all; that all are damaged is LMOE_E_CONFIG. */
lmoe_status lmoe__ckpt_newest(lmoe_ctx *ctx, const char *folder, lmoe__ckpt **out);
void lmoe__ckpt_close(lmoe__ckpt *c); /* NULL is fine */

const char *lmoe__ckpt_path(const lmoe__ckpt *c);
int64_t lmoe__ckpt_step(const lmoe__ckpt *c);
const json_t *lmoe__ckpt_state(const lmoe__ckpt *c);
const char *lmoe__ckpt_config(const lmoe__ckpt *c);
const lmoe__st_tensor *lmoe__ckpt_find(const lmoe__ckpt *c, const char *name);

/* Gives each tensor of the list to `write`. Dtype and sizes must be those of the checkpoint; of
 * each kind that the list has, the checkpoint must hold all and no others. Nothing is given out
 * before all of this is known. */
lmoe_status lmoe__ckpt_load(lmoe_ctx *ctx, const lmoe__ckpt *c, const lmoe__ckpt_tensor *tensors,
                            int count, lmoe__ckpt_io write, void *user);

/* ---- manifest.json ---- */

typedef struct lmoe__manifest_file {
    const char *name; /* plain: no folder */
    uint64_t size;
    char digest[33];
} lmoe__manifest_file;

typedef struct lmoe__manifest {
    int64_t step;
    int64_t tensors; /* in all files */
    lmoe__manifest_file *files;
    int count;
    json_t *state;
    const char *config;
    json_t *root; /* owns state and the texts when read */
} lmoe__manifest;

lmoe_status lmoe__manifest_write(lmoe_ctx *ctx, const char *folder, const lmoe__manifest *m);
/* Also checks that each file is there, a regular one, and of its size; not digests. */
lmoe_status lmoe__manifest_read(lmoe_ctx *ctx, const char *folder, lmoe__manifest *m);
void lmoe__manifest_free(lmoe__manifest *m);

/* Steps of the folders step-N, newest first; free(). *count is -1 if the folder cannot be read. */
int64_t *lmoe__ckpt_steps(const char *folder, int *count);

#endif
