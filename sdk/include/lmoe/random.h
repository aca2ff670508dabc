/* SPDX-License-Identifier: Apache-2.0
 * lmoe/random.h: random numbers as functions of (seed, stream, index): the same bits whoever draws
 * them, in which order, on which device.
 *
 * Generator: Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011). counter = (index, stream), key = seed, low words first.
 *
 * The functions are made of additions, products, quotients and roots in double, each rounded by
 * itself, and of no library's logarithm or cosine. A file that calls them must be compiled without
 * contraction to fused operations (-ffp-contract=off; nvcc: -fmad=false).
 */
#ifndef LMOE_RANDOM_H
#define LMOE_RANDOM_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define LMOE_ANYWHERE static __host__ __device__ inline
#else
#define LMOE_ANYWHERE static inline
#endif

LMOE_ANYWHERE void lmoe_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4])
{
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xd2511f53u * c0;
        uint64_t p1 = (uint64_t)0xcd9e8d57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* 53 bits of two words -> [0, 1) */
LMOE_ANYWHERE double lmoe_unit(const uint32_t *word)
{
    return (double)(((uint64_t)word[1] << 32 | word[0]) >> 11) * 0x1p-53;
}

/* [0, 1) */
LMOE_ANYWHERE double lmoe_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t x[4];
    lmoe_philox(seed, stream, index, x);
    return lmoe_unit(x);
}

/* ln u, u in [2^-53, 1]: u = 2^e m with m in [3/4, 3/2), ln m = 2 artanh s, s = (m - 1) / (m + 1),
 * |s| <= 1/5, by its series. */
LMOE_ANYWHERE double lmoe_random_log(double u)
{
    uint64_t bits;
    memcpy(&bits, &u, sizeof bits);
    int64_t e = (int64_t)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffffu) | (uint64_t)1023 << 52;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m >= 1.5) {
        m *= 0.5;
        e++;
    }
    double s = (m - 1.0) / (m + 1.0), z = s * s;
    double sum = 1.0 / 27;
    sum = 1.0 / 25 + z * sum;
    sum = 1.0 / 23 + z * sum;
    sum = 1.0 / 21 + z * sum;
    sum = 1.0 / 19 + z * sum;
    sum = 1.0 / 17 + z * sum;
    sum = 1.0 / 15 + z * sum;
    sum = 1.0 / 13 + z * sum;
    sum = 1.0 / 11 + z * sum;
    sum = 1.0 / 9 + z * sum;
    sum = 1.0 / 7 + z * sum;
    sum = 1.0 / 5 + z * sum;
    sum = 1.0 / 3 + z * sum;
    return (double)e * 0.693147180559945309417 + 2.0 * s * (1.0 + z * sum);
}

/* cos(2 pi v), v in [0, 1): v = quarter / 4 + rest, and the series of cosine or sine at the rest. */
LMOE_ANYWHERE double lmoe_random_cos(double v)
{
    double t = 4.0 * v;
    int quarter = (int)(t + 0.5);
    double x = (t - (double)quarter) * 1.57079632679489661923, z = x * x;
    double y = 1.0;
    if (quarter & 1) {
        y = 1.0 - y * z * (1.0 / (17 * 16));
        y = 1.0 - y * z * (1.0 / (15 * 14));
        y = 1.0 - y * z * (1.0 / (13 * 12));
        y = 1.0 - y * z * (1.0 / (11 * 10));
        y = 1.0 - y * z * (1.0 / (9 * 8));
        y = 1.0 - y * z * (1.0 / (7 * 6));
        y = 1.0 - y * z * (1.0 / (5 * 4));
        y = 1.0 - y * z * (1.0 / (3 * 2));
        y *= x;
    } else {
        y = 1.0 - y * z * (1.0 / (16 * 15));
        y = 1.0 - y * z * (1.0 / (14 * 13));
        y = 1.0 - y * z * (1.0 / (12 * 11));
        y = 1.0 - y * z * (1.0 / (10 * 9));
        y = 1.0 - y * z * (1.0 / (8 * 7));
        y = 1.0 - y * z * (1.0 / (6 * 5));
        y = 1.0 - y * z * (1.0 / (4 * 3));
        y = 1.0 - y * z * (1.0 / (2 * 1));
    }
    return quarter == 1 || quarter == 2 ? -y : y;
}

/* Of mean 0 and deviation 1 (Box and Muller): sqrt(-2 ln u) cos(2 pi v), u in (0, 1]. */
LMOE_ANYWHERE double lmoe_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t x[4];
    lmoe_philox(seed, stream, index, x);
    double u = 1.0 - lmoe_unit(x), v = lmoe_unit(x + 2);
    return sqrt(-2.0 * lmoe_random_log(u)) * lmoe_random_cos(v);
}

#endif
