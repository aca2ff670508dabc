/* SPDX-License-Identifier: Apache-2.0
 * core/base/rng.c: random numbers as functions of (seed, stream, index), so that they do not depend
 * on who draws them or in which order.
 *
 * Generator: Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011). counter = (index, stream), key = seed, low words first.
 */
#include "core/base/base.h"

#include <math.h>

void lmoe__philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4])
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

static uint64_t word64(const uint32_t *x)
{
    return (uint64_t)x[1] << 32 | x[0];
}

/* 53 bits -> [0, 1) */
static double to_unit(uint64_t x)
{
    return (double)(x >> 11) * 0x1p-53;
}

double lmoe__uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t x[4];
    lmoe__philox(seed, stream, index, x);
    return to_unit(word64(x));
}

/* Box-Muller: sqrt(-2 ln u) cos(2 pi v), u in (0, 1]. */
double lmoe__normal(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t x[4];
    lmoe__philox(seed, stream, index, x);
    double u = 1.0 - to_unit(word64(x)), v = to_unit(word64(x + 2));
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586476925 * v);
}

/* High half of a product: no value is favoured by more than n / 2^64. */
uint64_t lmoe__below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n)
{
    uint32_t x[4];
    lmoe__philox(seed, stream, index, x);
    return (uint64_t)(((unsigned __int128)word64(x) * n) >> 64);
}

/* A Feistel network permutes [0, 4^half), the smallest such range that holds n; walking its cycle
 * until the value is below n permutes [0, n). Fewer than 4 turns on average. */
uint64_t lmoe__permute(uint64_t seed, uint64_t stream, uint64_t i, uint64_t n)
{
    enum { ROUNDS = 8 }; /* tiny ranges need more than the usual 4 */
    if (n < 2) return 0;
    unsigned half = 1;
    while (half < 32 && (n - 1) >> (2 * half)) half++;
    const uint64_t mask = ((uint64_t)1 << half) - 1;
    stream ^= 0x7065726d75746521u; /* apart from numbers drawn from the stream itself */

    uint64_t x = i % n;
    do {
        uint64_t left = x >> half, right = x & mask;
        for (uint64_t round = 0; round < ROUNDS; round++) {
            uint32_t f[4];
            lmoe__philox(seed, stream, round << 32 | right, f);
            uint64_t next = left ^ (f[0] & mask);
            left = right;
            right = next;
        }
        x = left << half | right;
    } while (x >= n);
    return x;
}
