/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/gemm.h: matrix products, row-major:  C = alpha op(A) op(B) + beta C,
 * op(A): m x k, op(B): k x n, C: m x n; op is the transpose where ta (tb) is not 0. lda, ldb, ldc
 * are the distances of rows in memory, as stored. With beta 0, C may hold anything.
 */
#ifndef CPU_GEMM_H
#define CPU_GEMM_H

#include "loops.h"

#define cpu_gemm      CPU_NAME(cpu_gemm)
#define cpu_gemm_1    CPU_NAME(cpu_gemm_1)
#define cpu_gemm_many CPU_NAME(cpu_gemm_many)
#define cpu_gemm_own  CPU_NAME(cpu_gemm_own)

/* On all threads: C is cut into tiles that depend on (m, n, k) alone, so the result does not depend
 * on the number of threads. Not within lmoe_parallel. */
lmoe_status cpu_gemm(lmoe_ctx *ctx, int ta, int tb, int64_t m, int64_t n, int64_t k, float alpha,
                     const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                     int64_t ldc);

/* The same on the calling thread alone: for use inside lmoe_parallel. Allocates nothing of ours. */
void cpu_gemm_1(int ta, int tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

/* cpu_gemm_1 without a library. */
void cpu_gemm_own(int ta, int tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                  int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

/* Many products of one shape. For each combination of `batch` rounds, C is the sum over the
 * combinations of `sum` rounds (whose steps in c are 0). */
typedef struct cpu_product {
    int ta, tb;
    int64_t m, n, k, lda, ldb, ldc;
    float alpha, beta;
    const float *a, *b;
    float *c;
    int n_batch, n_sum;
    cpu_loop batch[CPU_MAX_LOOPS], sum[CPU_MAX_LOOPS];
} cpu_product;

/* On all threads, as cpu_gemm. */
lmoe_status cpu_gemm_many(lmoe_ctx *ctx, const cpu_product *p);

#endif
