/* SPDX-License-Identifier: Apache-2.0
 * lmoe/base.h: the words that every other public header uses: status, dtype, tensor description.
 */
#ifndef LMOE_BASE_H
#define LMOE_BASE_H

#include <stddef.h>
#include <stdint.h>

/* The ABI's major number is part of the entry symbol's name (lmoe_plugin_v1). The minor number is
 * raised by one when a slot, a field or a word is added; nothing is ever taken away or changed. So a
 * plugin runs on every host of the same major whose minor is not lower than its target. */
#define LMOE_ABI_MAJOR 1
#define LMOE_API_MINOR 1

/* The oldest API minor that the built plugin runs on: these headers' own, unless it is defined
 * before they are included (-DLMOE_TARGET_API=0). What came later is then not declared. */
#ifndef LMOE_TARGET_API
#define LMOE_TARGET_API LMOE_API_MINOR
#endif
#if LMOE_TARGET_API > LMOE_API_MINOR
#error "these headers are older than LMOE_TARGET_API: LMOE_API_MINOR is lower"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What a call reports. Zero is success; each failure says whose fault it is. The sentence for
 * people is recorded once, where the failure was decided (lmoe_fail, lmoe_error); callers only pass
 * the status up. */
typedef int lmoe_status;
enum {
    LMOE_OK = 0,
    LMOE_E_USAGE = -1,       /* the calling code broke a contract of this API */
    LMOE_E_CONFIG = -2,      /* the user's configuration or input is wrong */
    LMOE_E_UNSUPPORTED = -3, /* legal, but this class, op or device cannot do it */
    LMOE_E_MEMORY = -4,      /* out of memory */
    LMOE_E_DEVICE = -5,      /* the device reported a failure */
    LMOE_E_COMM = -6,        /* a communicator failed or was aborted */
    LMOE_E_IO = -7,          /* reading or writing a file failed */
    LMOE_E_NUMERIC = -8,     /* NaN or infinity where there must be none */
    LMOE_E_INTERNAL = -9     /* a fault of lmoe itself */
};

/* Passes a failure up. */
#define LMOE_TRY(expr)                                            \
    do {                                                          \
        lmoe_status lmoe_try_status_ = (expr);                    \
        if (lmoe_try_status_ != LMOE_OK) return lmoe_try_status_; \
    } while (0)

typedef enum lmoe_dtype {
    LMOE_NONE = 0, /* of an absent tensor */
    LMOE_F32 = 1,
    LMOE_F64 = 2,
    LMOE_BF16 = 3,
    LMOE_F16 = 4,
    LMOE_I32 = 5,
    LMOE_I64 = 6,
    LMOE_U8 = 7,
#if LMOE_TARGET_API >= 1
    LMOE_U16 = 8
#endif
} lmoe_dtype;

/* Bytes of one element; 0 for LMOE_NONE. */
static inline size_t lmoe_dtype_bytes(lmoe_dtype d)
{
    static const unsigned char bytes[] = {0, 4, 8, 2, 2, 4, 8, 1, 2};
    return (unsigned)d < sizeof bytes ? bytes[d] : 0;
}

/* True for dtypes that carry gradients. */
static inline int lmoe_dtype_is_float(lmoe_dtype d)
{
    return d >= LMOE_F32 && d <= LMOE_F16;
}

#define LMOE_MAX_DIMS  8   /* most dimensions of a tensor */
#define LMOE_MAX_IO    20  /* most inputs, or outputs, of an op */
#define LMOE_MAX_ATTRS 256 /* most bytes of an op's attribute struct */

/* Dtype, sizes and axis names of a tensor. Tensors are dense and row-major (the last axis is
 * contiguous). Axis names are the field's words: batch seq embed heads head_k head_v hidden expert
 * vocab kernel ... ; a name occurs at most once in a tensor. The texts live as long as the trace.
 */
typedef struct lmoe_desc {
    lmoe_dtype dtype;
    int32_t rank;
    int64_t dim[LMOE_MAX_DIMS];
    const char *axis[LMOE_MAX_DIMS];
} lmoe_desc;

/* Number of elements; 1 for a scalar (rank 0). */
static inline int64_t lmoe_desc_count(const lmoe_desc *d)
{
    int64_t n = 1;
    for (int i = 0; i < d->rank; i++) n *= d->dim[i];
    return n;
}

static inline int64_t lmoe_desc_bytes(const lmoe_desc *d)
{
    return lmoe_desc_count(d) * (int64_t)lmoe_dtype_bytes(d->dtype);
}

/* A tensor while a model is traced: a handle, valid until the trace ends. {0} is "absent" (an
 * optional operand that is not given); a negative id is poison: the result of a call that failed,
 * which every later call passes on. */
typedef struct lmoe_tensor {
    int32_t id;
} lmoe_tensor;

static inline lmoe_tensor lmoe_absent(void)
{
    lmoe_tensor x = {0};
    return x;
}

static inline int lmoe_is_absent(lmoe_tensor x)
{
    return x.id == 0;
}

typedef struct lmoe_trace lmoe_trace; /* a model being recorded; [build] thread only */
typedef struct lmoe_ctx
    lmoe_ctx; /* where a kernel runs: threads, messages; valid during the call */
typedef struct lmoe_graph lmoe_graph; /* a recorded graph, as strategies see it (lmoe/graph.h) */

enum { LMOE_LOG_ERROR = 0, LMOE_LOG_WARN = 1, LMOE_LOG_INFO = 2, LMOE_LOG_DEBUG = 3 };

#ifdef __cplusplus
}
#endif
#endif
