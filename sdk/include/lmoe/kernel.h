/* SPDX-License-Identifier: Apache-2.0
 * lmoe/kernel.h: kernels, one device's fast way of doing an op, and what any kernel (reference ones
 * too) is given.
 *
 * Life of a kernel in a plan: score (may it, and how well) - workspace - prepare (once, after
 * memory is laid out) - launch (each step) - release. `launch` neither allocates nor waits nor
 * prints; CUDA kernels go to `stream` and return the error of their own launch.
 */
#ifndef LMOE_KERNEL_H
#define LMOE_KERNEL_H

#include <lmoe/option.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A tensor as a kernel sees it. data == NULL with dtype LMOE_NONE: absent. An *output* may be
 * absent because nobody reads it; the kernel then need not compute it. During score and workspace,
 * data of present tensors is NULL too, so test presence by dtype. */
typedef struct lmoe_buf {
    void *data;
    lmoe_dtype dtype;
    int32_t rank;
    int64_t dim[LMOE_MAX_DIMS];
} lmoe_buf;

static inline int lmoe_buf_present(const lmoe_buf *b)
{
    return b->dtype != LMOE_NONE;
}

static inline int64_t lmoe_buf_count(const lmoe_buf *b)
{
    int64_t n = 1;
    for (int i = 0; i < b->rank; i++) n *= b->dim[i];
    return n;
}

typedef struct lmoe_args {
    size_t size;
    const void *attrs; /* the op's attribute struct */
    int32_t n_in, n_out;
    const lmoe_buf *in; /* n_in of them, in the order of the op's ports */
    const lmoe_buf *out;
    void *workspace; /* at least what workspace() asked for, 64-byte aligned, contents undefined */
    size_t workspace_size;
    void *prepared; /* what prepare() made */
    void *stream;   /* native stream of the device (cudaStream_t), NULL on the CPU */
    lmoe_ctx *ctx;
    void *dev; /* what the device's open() made, for its own kernels; NULL: the host's memory */
#if LMOE_TARGET_API >= 1
    uint64_t constant; /* bit i: operand i is a weight, which nothing in the plan changes */
#endif
} lmoe_args;

#define LMOE_KIND_KERNEL "lmoe.kernel/1"

typedef struct lmoe_kernel {
    lmoe_class base;    /* name: free, shown by `lmoe bench`, e.g. "cpu/scan_diag" */
    const char *op;     /* "scan_diag/1" */
    const char *device; /* kind of device: "cpu", "cuda" */
    /* 0: cannot do these arguments; else the higher, the better (the reference counts as 1). */
    int (*score)(const lmoe_args *a);
    size_t (*workspace)(const lmoe_args *a); /* bytes; NULL: none. a->ctx gives lmoe_threads() */
    lmoe_status (*prepare)(const lmoe_args *a, void **prepared); /* NULL: nothing to prepare */
    lmoe_status (*launch)(const lmoe_args *a);
    void (*release)(void *prepared);
} lmoe_kernel;

/* ---- element access for reference kernels: any float dtype in, double arithmetic, any float dtype
 * out ---- */

static inline float lmoe_bf16_to_float(uint16_t u)
{
    uint32_t w = (uint32_t)u << 16;
    float f;
    memcpy(&f, &w, 4);
    return f;
}

/* Round to nearest even; NaN stays NaN. */
static inline uint16_t lmoe_float_to_bf16(float f)
{
    uint32_t w;
    memcpy(&w, &f, 4);
    if ((w & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((w >> 16) | 0x40u);
    return (uint16_t)((w + 0x7fffu + ((w >> 16) & 1u)) >> 16);
}

/* f32 in two halves: one of bf16, rounded to nearest (away from zero where both are as near), and the
 * 16 bits that complete it; together they are f again. */
static inline uint16_t lmoe_upper_half(float f)
{
    uint32_t w;
    memcpy(&w, &f, 4);
    if ((w & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((w >> 16) | 0x40u);
    return (uint16_t)((w + 0x8000u) >> 16);
}

static inline uint16_t lmoe_lower_half(float f)
{
    uint32_t w;
    memcpy(&w, &f, 4);
    return (uint16_t)w;
}

static inline float lmoe_join_halves(uint16_t upper, uint16_t lower)
{
    uint32_t w = ((uint32_t)upper << 16 | lower) - ((uint32_t)(lower >> 15) << 16);
    float f;
    memcpy(&f, &w, 4);
    return f;
}

/* Element i (row-major). f16 is not read by references. */
static inline double lmoe_get(const lmoe_buf *b, int64_t i)
{
    switch (b->dtype) {
    case LMOE_F32: return ((const float *)b->data)[i];
    case LMOE_F64: return ((const double *)b->data)[i];
    case LMOE_BF16: return lmoe_bf16_to_float(((const uint16_t *)b->data)[i]);
    case LMOE_I32: return ((const int32_t *)b->data)[i];
    case LMOE_I64: return (double)((const int64_t *)b->data)[i];
    case LMOE_U8: return ((const uint8_t *)b->data)[i];
#if LMOE_TARGET_API >= 1
    case LMOE_U16: return ((const uint16_t *)b->data)[i];
#endif
    default: return 0;
    }
}

static inline void lmoe_put(const lmoe_buf *b, int64_t i, double x)
{
    switch (b->dtype) {
    case LMOE_F32: ((float *)b->data)[i] = (float)x; break;
    case LMOE_F64: ((double *)b->data)[i] = x; break;
    case LMOE_BF16: ((uint16_t *)b->data)[i] = lmoe_float_to_bf16((float)x); break;
    case LMOE_I32: ((int32_t *)b->data)[i] = (int32_t)x; break;
    case LMOE_I64: ((int64_t *)b->data)[i] = (int64_t)x; break;
    case LMOE_U8: ((uint8_t *)b->data)[i] = (uint8_t)x; break;
#if LMOE_TARGET_API >= 1
    case LMOE_U16: ((uint16_t *)b->data)[i] = (uint16_t)x; break;
#endif
    default: break;
    }
}

/* Adds into element i; for references that accumulate (outputs start undefined: zero them first).
 */
static inline void lmoe_put_add(const lmoe_buf *b, int64_t i, double x)
{
    lmoe_put(b, i, lmoe_get(b, i) + x);
}

#ifdef __cplusplus
}
#endif
#endif
