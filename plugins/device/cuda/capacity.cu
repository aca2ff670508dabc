/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/capacity.cu: moe_capacity/1: a choice is kept if fewer than `capacity` others of
 * its expert and sequence come before it; and random/1, the numbers of which are a function of a key.
 */
#include "kernel.cuh"

#include <lmoe/random.h>

/* ---- moe_capacity: a thread a slot, which looks at all of its sequence, a tile at a time ---- */

struct Limit {
    int64_t slots, experts, capacity; /* slots of a sequence */
    const int32_t *index;
    Floats score;
};

/* Grid: (slots / THREADS, sequences). */
static __global__ void limit(Limit l, int32_t *kept)
{
    __shared__ int32_t expert[THREADS];
    __shared__ float scores[THREADS];
    int64_t first = blockIdx.y * l.slots, slot = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    bool there = slot < l.slots;
    int32_t mine = there ? l.index[first + slot] : -1;
    float score = there && l.score ? l.score[first + slot] : 0.0f;
    int64_t rank = 0;
    for (int64_t from = 0; from < l.slots; from += THREADS) {
        int n = (int)min((int64_t)THREADS, l.slots - from);
        __syncthreads();
        if (threadIdx.x < n) {
            expert[threadIdx.x] = l.index[first + from + threadIdx.x];
            scores[threadIdx.x] = l.score ? l.score[first + from + threadIdx.x] : 0.0f;
        }
        __syncthreads();
        for (int i = 0; i < n; i++) {
            bool before = scores[i] > score || (scores[i] == score && from + i < slot);
            rank += expert[i] == mine && before;
        }
    }
    bool keeps = mine >= 0 && mine < l.experts && rank < l.capacity;
    if (there) kept[first + slot] = keeps ? mine : -1;
}

static int can_limit(const lmoe_args *a)
{
    return cuda_floats(a) && a->in[0].dtype == LMOE_I32;
}

static lmoe_status launch_limit(const lmoe_args *a)
{
    const lmoe_moe_capacity_attrs *o = (const lmoe_moe_capacity_attrs *)a->attrs;
    const lmoe_buf *index = &a->in[0];
    Limit l = {index->dim[1] * index->dim[2], o->experts, o->capacity, input<int32_t>(a, 0),
               floats(a, 1)};
    dim3 grid(blocks(l.slots, THREADS), (unsigned)index->dim[0]);
    limit<<<grid, THREADS, 0, stream_of(a)>>>(l, output<int32_t>(a, 0));
    return cuda_launched(a);
}

CUDA_KERNEL(moe_capacity, 1, can_limit, NULL, launch_limit)

/* ---- random: a thread four numbers of a key ---- */

static __global__ void draw(int64_t keys, int64_t n, uint64_t salt, const int32_t *key, Results y)
{
    int64_t quads = (n + 3) / 4, at = item(), row = at / quads, i = at % quads * 4;
    if (row >= keys) return;
    uint32_t word[4];
    lmoe_philox(salt, (uint32_t)key[row], (uint64_t)i / 4, word);
    for (int k = 0; k < 4 && i + k < n; k++)
        y.put(row * n + i + k, (float)(word[k] >> 8) * 0x1p-24f);
}

static int can_draw(const lmoe_args *a)
{
    return a->in[0].dtype == LMOE_I32 && cuda_is_f32(&a->out[0]);
}

static lmoe_status launch_draw(const lmoe_args *a)
{
    const lmoe_random_attrs *o = (const lmoe_random_attrs *)a->attrs;
    int64_t keys = lmoe_buf_count(&a->in[0]);
    draw<<<blocks(keys * cuda_pieces(o->n, 4), THREADS), THREADS, 0, stream_of(a)>>>(
        keys, o->n, (uint64_t)o->salt, input<int32_t>(a, 0), results(a, 0));
    return cuda_launched(a);
}

CUDA_KERNEL(random, 1, can_draw, NULL, launch_draw)
