/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/tile.h: products of small matrices that lie in cache, where a library's call
 * would cost more than it saves.
 *
 *   C = op(A) B   or   C += op(A) B ;    op(A): m x k, B: k x n, C: m x n
 *
 * n is a multiple of CPU_PAD. C (and A, unless it is transposed) has room for m rounded up to
 * CPU_PAD rows; what is in the rows past m is not used, and destroyed in C.
 */
#ifndef CPU_TILE_H
#define CPU_TILE_H

#include "lanes.h"

#if CPU_LEVEL == 2
#define TILE_ROWS 8
#else
#define TILE_ROWS 4
#endif

CPU_INLINE void tile_block(int transposed, int add, int width, int64_t k, const float *a,
                           int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc)
{
    cpu_vec s[TILE_ROWS][2];
    CPU_UNROLL
    for (int r = 0; r < TILE_ROWS; r++) {
        for (int v = 0; v < width; v++)
            s[r][v] = add ? cpu_load(c + r * ldc + v * CPU_LANES) : cpu_all(0);
    }
    for (int64_t p = 0; p < k; p++) {
        const float *x = transposed ? a + p * lda : a + p;
        cpu_vec y[2];
        for (int v = 0; v < width; v++) y[v] = cpu_load(b + p * ldb + v * CPU_LANES);
        CPU_UNROLL
        for (int r = 0; r < TILE_ROWS; r++) {
            for (int v = 0; v < width; v++) s[r][v] += x[transposed ? r : r * lda] * y[v];
        }
    }
    CPU_UNROLL
    for (int r = 0; r < TILE_ROWS; r++) {
        for (int v = 0; v < width; v++) cpu_store(c + r * ldc + v * CPU_LANES, s[r][v]);
    }
}

CPU_INLINE void tile_product(int transposed, int add, int64_t m, int64_t n, int64_t k,
                             const float *a, int64_t lda, const float *b, int64_t ldb, float *c,
                             int64_t ldc)
{
    for (int64_t i = 0; i < m; i += TILE_ROWS) {
        const float *from = transposed ? a + i : a + i * lda;
        int64_t j = 0;
        for (; j + 2 * CPU_LANES <= n; j += 2 * CPU_LANES)
            tile_block(transposed, add, 2, k, from, lda, b + j, ldb, c + i * ldc + j, ldc);
        for (; j < n; j += CPU_LANES)
            tile_block(transposed, add, 1, k, from, lda, b + j, ldb, c + i * ldc + j, ldc);
    }
}

/* C = A B */
static inline void tile_multiply(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda,
                                 const float *b, int64_t ldb, float *c, int64_t ldc)
{
    tile_product(0, 0, m, n, k, a, lda, b, ldb, c, ldc);
}

/* C += A B */
static inline void tile_add(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda,
                            const float *b, int64_t ldb, float *c, int64_t ldc)
{
    tile_product(0, 1, m, n, k, a, lda, b, ldb, c, ldc);
}

/* C += A^T B; A: k x m */
static inline void tile_add_transposed(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda,
                                       const float *b, int64_t ldb, float *c, int64_t ldc)
{
    tile_product(1, 1, m, n, k, a, lda, b, ldb, c, ldc);
}

#endif
