/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/vec.h: elementary functions in f32 without branches, so that compilers turn
 * loops over them (CPU_SIMD) into vector code at every level. Errors stay below about 2 units in
 * the last place; infinities, NaN and results below the normal range are right.
 */
#ifndef CPU_VEC_H
#define CPU_VEC_H

#include "cpu.h"

#include <math.h>

CPU_INLINE uint32_t cpu_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

CPU_INLINE float cpu_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}

/* x = n ln 2 + r, |r| <= ln 2 / 2, by adding 1.5 * 2^23, which rounds to an integer. Returns r; the
 * integer comes as the float's bits minus the constant's. |x| < 2^21. */
CPU_INLINE float cpu_reduce(float x, int32_t *n)
{
    const float shift = 12582912.0f;
    float t = x * 1.44269504088896341f + shift;
    float f = t - shift;
    *n = (int32_t)(cpu_bits(t) - cpu_bits(shift));
    return (x - f * 0.693145751953125f) - f * 1.42860682030941723e-6f;
}

/* (exp(r) - 1 - r) / r^2 for |r| <= ln 2 / 2: interpolated at Chebyshev's points. */
CPU_INLINE float cpu_exp_tail(float r)
{
    float p = 1.392619106e-3f;
    p = p * r + 8.363185032e-3f;
    p = p * r + 4.166655457e-2f;
    p = p * r + 1.666657695e-1f;
    return p * r + 0.5f;
}

/* 2^n for -126 <= n <= 127 */
CPU_INLINE float cpu_pow2(int32_t n)
{
    return cpu_float((uint32_t)(n + 127) << 23);
}

CPU_INLINE float cpu_expf(float x)
{
    int32_t n;
    float c = x < -105.0f ? -105.0f : x;
    c = c > 89.0f ? 89.0f : c;
    float r = cpu_reduce(c, &n);
    float p = (cpu_exp_tail(r) * r) * r + r + 1.0f;
    int32_t half = n >> 1; /* two factors, so that results below the normal range come out too */
    return p * cpu_pow2(half) * cpu_pow2(n - half);
}

/* exp(x) - 1 without cancellation near 0 */
CPU_INLINE float cpu_expm1f(float x)
{
    int32_t n;
    float c = x < -105.0f ? -105.0f : x;
    c = c > 89.0f ? 89.0f : c;
    float r = cpu_reduce(c, &n);
    float e = (cpu_exp_tail(r) * r) * r + r;
    n = n < -100 ? -100 : n;
    int32_t half = n >> 1;
    float s = cpu_pow2(half), t = cpu_pow2(n - half);
    float one = s * t; /* infinite for n = 128, where the result is at hand as s (t e + t) - 1 */
    float y = n > 120 ? s * (t * e + t) : e * one + (one - 1.0f);
    return cpu_bits(x) << 1 == 0 ? x : y;
}

/* log(1 + m) - m for sqrt(1/2) <= 1 + m <= sqrt(2); m^3 times a polynomial, interpolated at
 * Chebyshev's points, less m^2 / 2. */
CPU_INLINE float cpu_log_tail(float m)
{
    float z = m * m, p = 6.971611471e-2f;
    p = p * m - 1.147973385e-1f;
    p = p * m + 1.168541992e-1f;
    p = p * m - 1.242568733e-1f;
    p = p * m + 1.424905765e-1f;
    p = p * m - 1.666780232e-1f;
    p = p * m + 2.000071575e-1f;
    p = p * m - 2.499999696e-1f;
    p = p * m + 3.333333118e-1f;
    return p * (m * z) - 0.5f * z;
}

/* log(x): 0 gives -inf, negative numbers give NaN. x = 2^e (1 + m) */
CPU_INLINE float cpu_logf(float x)
{
    int tiny = x < 1.17549435e-38f;
    float y = tiny ? x * 8388608.0f : x;
    uint32_t u = cpu_bits(y) - 0x3f3504f3u; /* sqrt(1/2) */
    float e = (float)((int32_t)u >> 23) - (tiny ? 23.0f : 0.0f);
    float m = cpu_float((u & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
    float r = (e * 1.42860682e-6f + cpu_log_tail(m)) + m + e * 0.693145752f;
    r = x > 3.40282347e+38f ? x : r;
    r = x == 0.0f ? -INFINITY : r;
    return x < 0.0f ? NAN : (x != x ? x : r);
}

/* log(1 + u), -1/2 <= u: the rounding of 1 + u is put back to first order. */
CPU_INLINE float cpu_log1pf(float u)
{
    float w = 1.0f + u;
    float r = cpu_logf(w) - ((w - 1.0f) - u) / w;
    return u > 3.40282347e+38f ? u : r;
}

/* log(1 + u), 0 <= u <= 1: as log(2) + log(1 + (u - 1) / 2) where 1 + u > sqrt(2). */
CPU_INLINE float cpu_log1p_of_unit(float u)
{
    int large = u > 0.41421356f;
    float m = large ? 0.5f * (u - 1.0f) : u;
    return (cpu_log_tail(m) + m) + (large ? 0.693147181f : 0.0f);
}

/* sigmoid(x), and sigmoid(-x) = 1 - sigmoid(x) without cancellation */
CPU_INLINE float cpu_sigmoid_pair(float x, float *opposite)
{
    float e = cpu_expf(-fabsf(x));
    float large = 1.0f / (1.0f + e), small = e * large;
    *opposite = x < 0.0f ? large : small;
    return x < 0.0f ? small : large;
}

CPU_INLINE float cpu_sigmoidf(float x)
{
    float opposite;
    return cpu_sigmoid_pair(x, &opposite);
}

/* x sigmoid(x); 0 at -inf */
CPU_INLINE float cpu_siluf(float x)
{
    float y = x * cpu_sigmoidf(x);
    return x < -3.40282347e+38f ? -0.0f : y;
}

/* Derivative of silu. */
CPU_INLINE float cpu_silu_slopef(float x)
{
    float t, s = cpu_sigmoid_pair(x, &t);
    return s + (x * s) * t;
}

/* log(1 + exp(x)) */
CPU_INLINE float cpu_softplusf(float x)
{
    return (x > 0.0f ? x : 0.0f) + cpu_log1p_of_unit(cpu_expf(-fabsf(x)));
}

CPU_INLINE float cpu_tanhf(float x)
{
    float t = cpu_expm1f(-2.0f * fabsf(x));
    float y = -t / (t + 2.0f);
    return x < 0.0f ? -y : y;
}

/* log(1 - exp(x)), x < 0 */
CPU_INLINE float cpu_log1mexpf(float x)
{
    float near = cpu_logf(-cpu_expm1f(x)), far = cpu_log1pf(-cpu_expf(x));
    return x > -0.7f ? near : far;
}

/* The largest of n > 0 numbers. By lanes of its own: compilers do not agree on how to reduce a
 * maximum in the presence of NaN. */
CPU_INLINE float cpu_largest(const float *x, int64_t n)
{
    enum { LANES = 64 };
    float most = x[0], lane[LANES];
    int64_t i = 0;
    for (int j = 0; j < LANES; j++) lane[j] = most;
    for (; i + LANES <= n; i += LANES) {
        CPU_SIMD
        for (int j = 0; j < LANES; j++) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    }
    for (; i < n; i++) most = x[i] > most ? x[i] : most;
    for (int j = 0; j < LANES; j++) most = lane[j] > most ? lane[j] : most;
    return most;
}

#endif
