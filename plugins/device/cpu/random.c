/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/random.c: random/1: number i of a key is word i % 4 of Philox 4x32-10 with the
 * counter (i / 4, key) and the key (salt, 0), its upper 24 bits.
 */
#include "cpu.h"

static inline void philox(uint64_t salt, uint32_t key, uint32_t index, uint32_t c[4])
{
    uint32_t k0 = (uint32_t)salt, k1 = (uint32_t)(salt >> 32);
    c[0] = index;
    c[1] = 0;
    c[2] = key;
    c[3] = 0;
    for (int round = 0; round < 10; round++, k0 += 0x9e3779b9u, k1 += 0xbb67ae85u) {
        uint64_t p0 = (uint64_t)0xd2511f53u * c[0], p1 = (uint64_t)0xcd9e8d57u * c[2];
        uint32_t c1 = c[1], c3 = c[3];
        c[0] = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c[1] = (uint32_t)p1;
        c[2] = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c[3] = (uint32_t)p0;
    }
}

static void draw(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    const lmoe_random_attrs *o = a->attrs;
    const int32_t *key = a->in[0].data;
    for (int64_t k = begin; k < end; k++) {
        float *y = (float *)a->out[0].data + k * o->n;
        for (int64_t i = 0; i < o->n; i += 4) {
            uint32_t word[4];
            philox((uint64_t)o->salt, (uint32_t)key[k], (uint32_t)(i / 4), word);
            for (int64_t j = i; j < cpu_min(i + 4, o->n); j++)
                y[j] = (float)(word[j - i] >> 8) * 0x1p-24f;
        }
    }
}

static lmoe_status launch_random(const lmoe_args *a)
{
    int64_t n = ((const lmoe_random_attrs *)a->attrs)->n;
    return lmoe_parallel(a->ctx, lmoe_buf_count(&a->in[0]), cpu_grain(8 * n), draw, (void *)a);
}

static int can(const lmoe_args *a)
{
    return cpu_is_f32(&a->out[0]);
}

CPU_KERNEL(random, 1, can, NULL, launch_random)
