/* SPDX-License-Identifier: Apache-2.0
 * core/generate/generate.h: continuing a text. The prompt goes through the model in chunks, then
 * tokens one by one; what the model must remember is in the carries of its ops, so an LSM-only
 * model needs the same memory at any length.
 */
#ifndef LMOE_CORE_GENERATE_H
#define LMOE_CORE_GENERATE_H

#include "core/engine/engine.h"

typedef struct lmoe__sampling {
    double temperature; /* 0: the likeliest token */
    int64_t top_k;      /* 0: all */
    double top_p;       /* 1: all */
    uint64_t seed;
} lmoe__sampling;

typedef struct lmoe__generator {
    lmoe__engine *engine;
    lmoe__program *prefill, *decode;
    int64_t chunk, position; /* position of the next token */
    int64_t vocab;
    double *logits; /* of the next token */
    double *weight; /* room for sampling */
    int32_t *order;
    /* inputs of a chunk */
    int32_t *tokens, *positions, *document;
    uint8_t *skip;
} lmoe__generator;

/* Makes the programs in an engine whose weights are loaded afterwards; programs and memory are the
 * engine's. context: past tokens that attention keeps. */
lmoe_status lmoe__generator_init(lmoe__generator *g, lmoe__engine *e, int64_t chunk,
                                 int64_t context);
/* Forgets everything. */
lmoe_status lmoe__generator_restart(lmoe__generator *g);
/* Takes n tokens in; afterwards g->logits are those of the token that follows. */
lmoe_status lmoe__generator_feed(lmoe__generator *g, const int32_t *tokens, int64_t n);
/* Draws a token from g->logits; a function of the seed and the position alone. */
int32_t lmoe__generator_sample(lmoe__generator *g, const lmoe__sampling *s);

/* The state (carries, position, next logits) as one block of host memory that can be put back, into
 * the same generator or another one of the same model: to fork a text, or to keep it in a file. */
size_t lmoe__generator_state_bytes(const lmoe__generator *g);
lmoe_status lmoe__generator_state_get(lmoe__generator *g, void *state);
lmoe_status lmoe__generator_state_put(lmoe__generator *g, const void *state);

#endif
