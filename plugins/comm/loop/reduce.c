/* SPDX-License-Identifier: Apache-2.0
 * plugins/comm/loop/reduce.c: reductions over the buffers of ranks, a block of elements at a time.
 */
#include "reduce.h"

#include <lmoe/kernel.h>

#include <math.h>

/* IEEE half precision: 1 sign, 5 exponent, 10 fraction bits. */
static float half_to_float(uint16_t h)
{
    int exponent = h >> 10 & 31, fraction = h & 1023;
    float size = exponent == 31  ? (fraction ? NAN : INFINITY)
                 : exponent == 0 ? ldexpf((float)fraction, -24)
                                 : ldexpf((float)(fraction + 1024), exponent - 25);
    return h & 0x8000 ? -size : size;
}

/* Rounds to nearest, ties to even. */
static uint16_t float_to_half(float x)
{
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    int exponent;
    if (x == 0) return sign;
    if (isnan(x)) return sign | 0x7e00;
    if (fabsf(x) >= 65520) return sign | 0x7c00; /* rounds to infinity */
    frexpf(x, &exponent);
    int shift = exponent < -13 ? 24 : 11 - exponent; /* subnormals share one exponent */
    int units = (int)nearbyintf(ldexpf(fabsf(x), shift));
    /* A carry out of the fraction goes on into the exponent, as it should. */
    return exponent < -13 ? sign | (uint16_t)units
                          : sign | (uint16_t)(((exponent + 14) << 10) + (units - 1024));
}

#define SAME(x)        (x)
#define ADD(T, a, b)   ((a) + (b))
#define WRAP_(T, a, b) ((T)((uint64_t)(a) + (uint64_t)(b)))

/* T: element; A: accumulator; load, store: between them; add: the sum in A. b != b: NaN. */
#define REDUCE(name, T, A, load, store, add)                                                    \
    static void name(void *const *buffer, int32_t n, int64_t at, int64_t count, lmoe_reduce op) \
    {                                                                                           \
        A acc[BLOCK];                                                                           \
        for (int64_t i = 0; i < count; i++) acc[i] = load(((const T *)buffer[0])[at + i]);      \
        for (int32_t r = 1; r < n; r++) {                                                       \
            const T *x = (const T *)buffer[r] + at;                                             \
            for (int64_t i = 0; i < count; i++) {                                               \
                A a = acc[i], b = load(x[i]);                                                   \
                if (op == LMOE_SUM)                                                             \
                    acc[i] = add(A, a, b);                                                      \
                else if (op == LMOE_MAX)                                                        \
                    acc[i] = b > a || b != b ? b : a;                                           \
                else                                                                            \
                    acc[i] = b < a || b != b ? b : a;                                           \
            }                                                                                   \
        }                                                                                       \
        for (int32_t r = 0; r < n; r++) {                                                       \
            T *y = (T *)buffer[r] + at;                                                         \
            for (int64_t i = 0; i < count; i++) y[i] = store(acc[i]);                           \
        }                                                                                       \
    }

enum { BLOCK = 512 };

REDUCE(reduce_f32, float, float, SAME, SAME, ADD)
REDUCE(reduce_f64, double, double, SAME, SAME, ADD)
REDUCE(reduce_bf16, uint16_t, float, lmoe_bf16_to_float, lmoe_float_to_bf16, ADD)
REDUCE(reduce_f16, uint16_t, float, half_to_float, float_to_half, ADD)
REDUCE(reduce_i32, int32_t, int32_t, SAME, SAME, WRAP_)
REDUCE(reduce_i64, int64_t, int64_t, SAME, SAME, WRAP_)
REDUCE(reduce_u8, uint8_t, uint8_t, SAME, SAME, WRAP_)

void loop_reduce(void *const *buffer, int32_t n, int64_t begin, int64_t end, lmoe_dtype dtype,
                 lmoe_reduce op)
{
    for (int64_t at = begin; at < end; at += BLOCK) {
        int64_t count = end - at < BLOCK ? end - at : BLOCK;
        switch (dtype) {
        case LMOE_F32: reduce_f32(buffer, n, at, count, op); break;
        case LMOE_F64: reduce_f64(buffer, n, at, count, op); break;
        case LMOE_BF16: reduce_bf16(buffer, n, at, count, op); break;
        case LMOE_F16: reduce_f16(buffer, n, at, count, op); break;
        case LMOE_I32: reduce_i32(buffer, n, at, count, op); break;
        case LMOE_I64: reduce_i64(buffer, n, at, count, op); break;
        case LMOE_U8: reduce_u8(buffer, n, at, count, op); break;
        case LMOE_NONE: break;
        }
    }
}
