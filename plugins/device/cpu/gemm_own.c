/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/gemm_own.c: the matrix product that needs no library.
 *
 * k is cut into runs of KC, m into blocks of MC rows, n into panels of NR columns. A block of op(A)
 * and a panel of op(B) are packed so that the innermost loop, which keeps MR x NR sums in
 * registers, reads both in order. The packed pieces (about 130 KiB) live on the stack: nothing is
 * allocated.
 */
#include "gemm.h"

#if CPU_LEVEL == 2
#define LANES 16
#define MR    12
#elif CPU_LEVEL == 1
#define LANES 8
#define MR    6
#else
#define LANES 4
#define MR    6
#endif
#define NR (2 * LANES)
#define KC 256
#define MC 96

typedef float vec __attribute__((vector_size(LANES * 4)));

/* op(A)[i0 ... i0+rows-1, k0 ... k0+depth-1] in strips of MR rows, column after column; rows past
 * the end are zero. */
static void pack_a(int ta, const float *a, int64_t lda, int64_t i0, int64_t rows, int64_t k0,
                   int64_t depth, float *to)
{
    for (int64_t i = 0; i < rows; i += MR) {
        for (int64_t p = 0; p < depth; p++) {
            for (int64_t r = 0; r < MR; r++) {
                int64_t row = i0 + i + r, column = k0 + p;
                *to++ = i + r >= rows ? 0.0f : ta ? a[column * lda + row] : a[row * lda + column];
            }
        }
    }
}

/* op(B)[k0 ... k0+depth-1, j0 ... j0+columns-1] as rows of NR; columns past the end are zero. */
static void pack_b(int tb, const float *b, int64_t ldb, int64_t k0, int64_t depth, int64_t j0,
                   int64_t columns, float *to)
{
    for (int64_t p = 0; p < depth; p++) {
        for (int64_t j = 0; j < NR; j++) {
            int64_t row = k0 + p, column = j0 + j;
            *to++ = j >= columns ? 0.0f : tb ? b[column * ldb + row] : b[row * ldb + column];
        }
    }
}

/* sums = packed strip of A (MR x depth) times packed panel of B (depth x NR) */
static void multiply(int64_t depth, const float *a, const float *b, float *sums)
{
    vec s[MR][2] = {0};
    for (int64_t p = 0; p < depth; p++, a += MR, b += NR) {
        vec b0 = *(const vec *)(const void *)b, b1 = *(const vec *)(const void *)(b + LANES);
#pragma GCC unroll 12
        for (int r = 0; r < MR; r++) {
            s[r][0] += a[r] * b0;
            s[r][1] += a[r] * b1;
        }
    }
    memcpy(sums, s, sizeof s);
}

/* C[rows x columns] = alpha sums + beta C */
static void store(const float *sums, int64_t rows, int64_t columns, float alpha, float beta,
                  float *c, int64_t ldc)
{
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t j = 0; j < columns; j++) {
            float x = alpha * sums[r * NR + j];
            c[r * ldc + j] = beta == 0.0f ? x : x + beta * c[r * ldc + j];
        }
    }
}

void cpu_gemm_own(int ta, int tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                  int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    _Alignas(64) float block[MC * KC], panel[KC * NR], sums[MR * NR];

    if (k == 0) memset(sums, 0, sizeof sums);
    for (int64_t k0 = 0; k0 == 0 || k0 < k; k0 += KC) {
        int64_t depth = cpu_min(KC, k - k0);
        float keep = k0 == 0 ? beta : 1.0f;
        for (int64_t i0 = 0; i0 < m; i0 += MC) {
            int64_t rows = cpu_min(MC, m - i0);
            pack_a(ta, a, lda, i0, rows, k0, depth, block);
            for (int64_t j0 = 0; j0 < n; j0 += NR) {
                int64_t columns = cpu_min(NR, n - j0);
                pack_b(tb, b, ldb, k0, depth, j0, columns, panel);
                for (int64_t i = 0; i < rows; i += MR) {
                    multiply(depth, block + i * depth, panel, sums);
                    store(sums, cpu_min(MR, rows - i), columns, alpha, keep,
                          c + (i0 + i) * ldc + j0, ldc);
                }
            }
        }
    }
}
