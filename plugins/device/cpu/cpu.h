/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/cpu.h: conventions of this plugin.
 *
 * Every file but cpu.c is compiled once for each level of the processor (meson.build): 0 the
 * compiler's default, 1 AVX2 with FMA, 2 AVX-512. So one plain C text gives up to three kernels of
 * an op; each has a `score` that is 0 where the processor lacks the level and grows with it, and
 * the host's ordinary choice by score is the dispatch. There is no other.
 *
 *   - Kernels are plain loops marked CPU_SIMD (or CPU_SIMD_SUM for a reduction, which fixes no
 *     order within the loop but does not depend on threads); functions of vec.h vectorise in them.
 *   - A name seen by other files of the plugin is wrapped: #define cpu_gemm CPU_NAME(cpu_gemm).
 *     Everything else is static.
 *   - A kernel ends its file: CPU_KERNEL(op, revision, can, workspace, launch). Its name is added
 * to kernels.def and its file to meson.build.
 *   - Results do not depend on the number of threads: work is cut by shape, never by thread count.
 */
#ifndef CPU_H
#define CPU_H

#include <lmoe/ops.h>

#ifndef CPU_LEVEL
#define CPU_LEVEL 0
#endif

#define CPU_PASTE_(a, b) a##b
#define CPU_PASTE(a, b)  CPU_PASTE_(a, b)
#if CPU_LEVEL == 2
#define CPU_NAME(x)  CPU_PASTE(x, _avx512)
#define CPU_LEVEL_OF " avx512"
#elif CPU_LEVEL == 1
#define CPU_NAME(x)  CPU_PASTE(x, _avx2)
#define CPU_LEVEL_OF " avx2"
#else
#define CPU_NAME(x)  CPU_PASTE(x, _base)
#define CPU_LEVEL_OF ""
#endif

/* 1 if the processor can run code of this level. In cpu.c, which is compiled without extra flags.
 */
int cpu_supports(int level);

/* can(a): 1 if the kernel can do these arguments. workspace may be NULL. */
#define CPU_KERNEL(op_, revision_, can_, workspace_, launch_)                 \
    static int op_##_score(const lmoe_args *a)                                \
    {                                                                         \
        return cpu_supports(CPU_LEVEL) && can_(a) ? 10 * (CPU_LEVEL + 1) : 0; \
    }                                                                         \
    extern const lmoe_kernel CPU_NAME(cpu_##op_);                             \
    const lmoe_kernel CPU_NAME(cpu_##op_) = {                                 \
        .base = {.size = sizeof(lmoe_kernel),                                 \
                 .kind = LMOE_KIND_KERNEL,                                    \
                 .name = "cpu/" #op_ CPU_LEVEL_OF,                            \
                 .summary = "f32 on processor cores"},                        \
        .op = #op_ "/" #revision_,                                            \
        .device = "cpu",                                                      \
        .score = op_##_score,                                                 \
        .workspace = workspace_,                                              \
        .launch = launch_,                                                    \
    };

/* Loops that must become vector code; the second may add up `x` in any order. */
#define CPU_PRAGMA(x)   _Pragma(#x)
#define CPU_SIMD        CPU_PRAGMA(omp simd)
#define CPU_SIMD_SUM(x) CPU_PRAGMA(omp simd reduction(+ : x))

#define CPU_INLINE static inline __attribute__((always_inline))

/* Items of a parallel loop that are worth one hand-over to another thread, when an item costs
 * `work` elementary steps. Depends on the shape alone. */
static inline int64_t cpu_grain(int64_t work)
{
    const int64_t worth = 16384;
    return work >= worth ? 1 : worth / (work > 0 ? work : 1);
}

/* True if every present input and output has dtype f32 (integer ports: test them yourself). */
static inline int cpu_is_f32(const lmoe_buf *b)
{
    return b->dtype == LMOE_F32;
}

/* Takes `count` floats from a workspace cursor; pieces are 64-byte aligned. */
static inline size_t cpu_floats(int64_t count)
{
    return ((size_t)count * sizeof(float) + 63) & ~(size_t)63;
}

static inline float *cpu_take(char **cursor, int64_t count)
{
    float *p = (float *)(void *)*cursor;
    *cursor = (char *)((uintptr_t)*cursor + cpu_floats(count)); /* from NULL: only counts */
    return p;
}

static inline int64_t cpu_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t cpu_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

#endif
