/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/sequence.h: small ops that one block does one after another.
 *
 * Where a step is one token, most ops have a thousand elements, and what they cost is being launched.
 * While launches are captured, such ops are collected (cuda_collect), and become one launch as soon
 * as anybody else asks for the stream.
 */
#ifndef CUDA_SEQUENCE_H
#define CUDA_SEQUENCE_H

#include "cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

enum cuda_small_kind {
    CUDA_SMALL_ADD,     /* y = a + b, b broadcast: element i / inner mod n */
    CUDA_SMALL_AFFINE,  /* y = scale a + shift */
    CUDA_SMALL_MAP,     /* y = fn(a) */
    CUDA_SMALL_CAST,    /* y = a */
    CUDA_SMALL_NORM,    /* rmsnorm: a, weight, gate */
    CUDA_SMALL_SOFTMAX, /* over rows of a */
    CUDA_SMALL_TOP_K,   /* a -> values, index */
    CUDA_SMALL_COUNT,   /* histogram of index */
    CUDA_SMALL_SORT,    /* moe_sort: index -> order, offsets, position */
    CUDA_SMALL_GATHER,  /* moe_gather: a, order */
    CUDA_SMALL_PICK,    /* moe_weight: a, order */
    CUDA_SMALL_COMBINE, /* moe_combine: rows, position, weight */
    CUDA_SMALL_ACT      /* expert_act: gate, up, scale */
};

/* Tensors are f32 or bf16, or i32 where they are ids; bit i of `narrow`: tensor i is bf16. */
typedef struct cuda_small {
    int32_t kind, narrow, fn;
    int32_t count, inner, n, width, choice; /* as the kind needs them */
    float scale, shift;
    const void *in[3];
    void *out[3];
} cuda_small;

enum { CUDA_MOST_SMALL = 32, CUDA_SMALL_ELEMENTS = 16384 };

typedef struct cuda_sequence {
    int32_t count;
    cuda_small op[CUDA_MOST_SMALL];
} cuda_sequence;

/* A vector times a matrix (gemv.cu); several with the same x are one launch, too. */
typedef struct cuda_vector {
    int64_t n, k;
    const void *x, *w;
    void *y;
    int32_t narrow, constant; /* y is bf16; w is a weight */
    int64_t experts, rows;    /* of grouped rows; 0: of one */
    const int32_t *offsets;
} cuda_vector;

enum { CUDA_MOST_VECTORS = 4 };

typedef struct cuda_vectors {
    int32_t count;
    cuda_vector v[CUDA_MOST_VECTORS];
} cuda_vectors;

/* Takes a product to be done in its turn, with those before and behind it that read the same x. */
lmoe_status cuda_collect_vector(const lmoe_args *a, const cuda_vector *v);
void cuda_launch_vectors(cudaStream_t stream, int early, const cuda_vectors *v);

/* Takes an op to be done in its turn; at once, if launches are not being captured. */
lmoe_status cuda_collect(const lmoe_args *a, const cuda_small *op);
/* Launches a sequence (sequence.cu). */
void cuda_launch_sequence(cudaStream_t stream, int early, const cuda_sequence *s);

#ifdef __cplusplus
}
#endif
#endif
