/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/lanes.h: one register of floats, for the few loops that must keep their sums
 * in registers and so cannot be left to the compiler's vectoriser. The compilers' own vector types
 * suffice; no instruction is named.
 */
#ifndef CPU_LANES_H
#define CPU_LANES_H

#include "cpu.h"

#if CPU_LEVEL == 2
#define CPU_LANES 16
#elif CPU_LEVEL == 1
#define CPU_LANES 8
#else
#define CPU_LANES 4
#endif

/* Rows that are read by lanes are padded with zeros to a multiple of this, at every level. */
#define CPU_PAD 16

#define CPU_UNROLL _Pragma("GCC unroll 8")

/* Four of the eight floats of a and b. */
#if defined(__clang__)
#define CPU_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define CPU_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (cpu_four){__VA_ARGS__})
#endif

typedef int32_t cpu_four __attribute__((vector_size(16)));
typedef float cpu_vec __attribute__((vector_size(CPU_LANES * 4), aligned(4), may_alias));
typedef int32_t cpu_ivec __attribute__((vector_size(CPU_LANES * 4), aligned(4), may_alias));

CPU_INLINE cpu_vec cpu_load(const float *p)
{
    return *(const cpu_vec *)(const void *)p;
}

CPU_INLINE void cpu_store(float *p, cpu_vec x)
{
    *(cpu_vec *)(void *)p = x;
}

CPU_INLINE cpu_vec cpu_all(float x)
{
    return x - (cpu_vec){0};
}

/* x in the lanes where mask (a comparison's result) holds, 0 in the others. */
CPU_INLINE cpu_vec cpu_where(cpu_ivec mask, cpu_vec x)
{
    return (cpu_vec)(mask & (cpu_ivec)x);
}

CPU_INLINE float cpu_sum(cpu_vec x)
{
    typedef float quarter __attribute__((vector_size(16)));
    quarter q[CPU_LANES / 4];
    memcpy(q, &x, sizeof q);
    for (int n = CPU_LANES / 8; n > 0; n /= 2) {
        for (int i = 0; i < n; i++) q[i] += q[i + n];
    }
    return (q[0][0] + q[0][2]) + (q[0][1] + q[0][3]);
}

/* memcpy for a few floats: no call */
CPU_INLINE void cpu_copy(float *restrict to, const float *restrict from, int64_t n)
{
    int64_t i = 0;
    for (; i + CPU_LANES <= n; i += CPU_LANES) cpu_store(to + i, cpu_load(from + i));
    for (; i < n; i++) to[i] = from[i];
}

/* to[j * step + i] = from[i][j], 0 <= i, j < 4 */
CPU_INLINE void cpu_turn(const float *const from[4], float *to, int64_t step)
{
    typedef float quarter __attribute__((vector_size(16), aligned(4), may_alias));
    quarter x[4], y[4];
    for (int i = 0; i < 4; i++) x[i] = *(const quarter *)(const void *)from[i];
    for (int i = 0; i < 4; i += 2) { /* pairs of rows 0, 2 and 1, 3 */
        y[i] = CPU_SHUFFLE(x[i / 2], x[i / 2 + 2], 0, 4, 1, 5);
        y[i + 1] = CPU_SHUFFLE(x[i / 2], x[i / 2 + 2], 2, 6, 3, 7);
    }
    for (int j = 0; j < 2; j++) {
        *(quarter *)(void *)(to + 2 * j * step) = CPU_SHUFFLE(y[j], y[j + 2], 0, 4, 1, 5);
        *(quarter *)(void *)(to + (2 * j + 1) * step) = CPU_SHUFFLE(y[j], y[j + 2], 2, 6, 3, 7);
    }
}

static inline int cpu_f32_or_absent(const lmoe_buf *b)
{
    return b->dtype == LMOE_F32 || b->dtype == LMOE_NONE;
}

static inline int64_t cpu_padded(int64_t n)
{
    return (n + CPU_PAD - 1) / CPU_PAD * CPU_PAD;
}

#endif
