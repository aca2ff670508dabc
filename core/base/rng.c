/* SPDX-License-Identifier: Apache-2.0
 * core/base/rng.c: random numbers as functions of (seed, stream, index), so that they do not depend
 * on who draws them or in which order. The generator is that of lmoe/random.h.
 */
#include "core/base/base.h"

#include <lmoe/random.h>

void lmoe__philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4])
{
    lmoe_philox(seed, stream, index, out);
}

double lmoe__uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    return lmoe_uniform(seed, stream, index);
}

double lmoe__normal(uint64_t seed, uint64_t stream, uint64_t index)
{
    return lmoe_normal(seed, stream, index);
}

/* High half of a product: no value is favoured by more than n / 2^64. */
uint64_t lmoe__below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n)
{
    uint32_t x[4];
    lmoe__philox(seed, stream, index, x);
    return (uint64_t)(((unsigned __int128)((uint64_t)x[1] << 32 | x[0]) * n) >> 64);
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
