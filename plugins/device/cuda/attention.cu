/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/attention.cu: attention/1, exact, in one pass over the keys: with m the
 * largest score so far, sums of exp(score - m) are scaled when m grows.
 */
#include "attention.cuh"

/* A warp a query of a head; grid: (queries, heads, batch). y, lse may be NULL. */
template <int C> static __global__ void attend(Attention w, Results y, float *lse)
{
    extern __shared__ float shared[];
    __shared__ int32_t positions[TILE];
    float *keys = shared, *values = keys + TILE * pitch(w.nk);
    float *mine = values + TILE * pitch(w.nv) + threadIdx.y * w.nk;
    int64_t b = blockIdx.z, h = blockIdx.y, s = (int64_t)blockIdx.x * WARPS + threadIdx.y;
    int64_t row = (b * w.seq + s) * w.heads + h;
    int64_t end = w.context + min(w.seq, (int64_t)(blockIdx.x + 1) * WARPS);
    Query query = query_of(w, b, s);
    if (query.at >= 0)
        for (int64_t i = threadIdx.x; i < w.nk; i += WARP) mine[i] = w.q[row * w.nk + i];
    float most = -INFINITY, own = 0, sum[C] = {}; /* own: this lane's part of the sum */
    for (int64_t first = 0; first < end; first += TILE) {
        __syncthreads();
        load_keys(w, b, h * w.groups / w.heads, first, keys, values, positions);
        bool seen = sees(w, query, first + threadIdx.x, positions[threadIdx.x]);
        if (!__any_sync(~0u, seen)) continue;
        float score =
            seen ? w.scale * dot(mine, keys + threadIdx.x * pitch(w.nk), w.nk) : -INFINITY;
        float larger = fmaxf(most, warp_max(score)), shrink = expf(most - larger);
        float p = seen ? expf(score - larger) : 0.0f;
        own = own * shrink + p;
#pragma unroll
        for (int c = 0; c < C; c++) sum[c] *= shrink;
        add_weighted<C>(sum, p, values, w.nv);
        most = larger;
    }
    if (s >= w.seq) return;
    float all = warp_sum(own);
    if (y) put_row<C>(y + row * w.nv, sum, all > 0 ? 1.0f / all : 0.0f, w.nv);
    if (lse && threadIdx.x == 0) lse[row] = all > 0 ? most + logf(all) : -INFINITY;
}

template <int C> static void run(const lmoe_args *a, const Attention &w)
{
    size_t bytes = shared_bytes(w);
    dim3 grid(blocks(w.seq, WARPS), (unsigned)w.heads, (unsigned)w.batch);
    allow_shared(attend<C>, bytes);
    attend<C>
        <<<grid, dim3(WARP, WARPS), bytes, stream_of(a)>>>(w, results(a, 0), output<float>(a, 1));
}

/* ---- the ring ---- */

struct Ring {
    int64_t slots;
    Results keys, values;
    int32_t *positions;
};

/* The last own token that goes into the slot; -1: none. The whole block asks. */
static __device__ int64_t newest(const Attention &w, int64_t b, int64_t slot, int64_t slots)
{
    __shared__ int32_t best[THREADS];
    int32_t mine = -1;
    for (int64_t s = threadIdx.x; s < w.seq; s += THREADS) {
        int64_t position = key_position(w, b, w.context + s);
        if (position >= 0 && position % slots == slot) mine = (int32_t)s;
    }
    best[threadIdx.x] = mine;
    for (int step = THREADS / 2; step > 0; step /= 2) {
        __syncthreads();
        if (threadIdx.x < step)
            best[threadIdx.x] = max(best[threadIdx.x], best[threadIdx.x + step]);
    }
    __syncthreads();
    return best[0];
}

/* A block a slot; grid: (slots, batch). The ring may lie over the one that is read. */
static __global__ void put_ring(Attention w, Ring r)
{
    int64_t b = blockIdx.y, slot = blockIdx.x, to = b * r.slots + slot;
    int64_t s = newest(w, b, slot, r.slots), from = b * w.seq + s;
    int64_t nk = w.groups * w.nk, nv = w.groups * w.nv;
    for (int64_t i = threadIdx.x; i < nk && r.keys; i += THREADS)
        r.keys.put(to * nk + i, s >= 0 ? w.k[from * nk + i] : w.keys ? w.keys[to * nk + i] : 0.0f);
    for (int64_t i = threadIdx.x; i < nv && r.values; i += THREADS)
        r.values.put(to * nv + i, s >= 0     ? w.v[from * nv + i]
                                  : w.values ? w.values[to * nv + i]
                                             : 0.0f);
    if (threadIdx.x > 0 || !r.positions) return;
    r.positions[to] = s >= 0 ? w.positions[from] : w.key_positions ? w.key_positions[to] : -1;
}

static lmoe_status launch(const lmoe_args *a)
{
    Attention w = describe_attention(a, 6);
    if (results(a, 0) || results(a, 1)) {
        switch (columns_of(w.nv)) {
        case 1: run<1>(a, w); break;
        case 2: run<2>(a, w); break;
        case 4: run<4>(a, w); break;
        default: run<8>(a, w); break;
        }
    }
    Ring r = {w.context > 0 ? w.context : w.seq, results(a, 2), results(a, 3),
              output<int32_t>(a, 4)};
    if (r.keys || r.values || r.positions)
        put_ring<<<dim3((unsigned)r.slots, (unsigned)w.batch), THREADS, 0, stream_of(a)>>>(w, r);
    return cuda_launched(a);
}

CUDA_KERNEL(attention, 1, can_attend, NULL, launch)
