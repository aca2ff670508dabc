/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/scan_step.cu: scan_diag/1 of one token, which is what decoding takes:
 *
 *   M = diag(exp(decay)) M + k v^T      y = scale M^T q
 *
 * A block has 32 columns of a head's state, a thread 4 of them and every 32nd row: all of the state is
 * on its way at once. The state may be changed in place.
 */
#include "early.cuh"
#include "scan.cuh"

enum { Q, K, V, DECAY, RESET, SKIP, CARRY };
enum { QUADS = 8, GROUPS = THREADS / QUADS, HELD = 4, WIDTH = 4 * QUADS };

struct Step {
    Floats q, k, v;
    float scale;
    const float *first;
    float *last;
    Results y;
};

static __device__ inline float part(const float4 &x, int i)
{
    return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

/* Grid: (columns / WIDTH, heads, batch). */
static __global__ void __launch_bounds__(THREADS) step(Scan c, Step w)
{
    __shared__ float sums[THREADS / WARP][WIDTH];
    let_next_begin();
    wait_for_earlier();
    int quad = threadIdx.x % QUADS, group = threadIdx.x / QUADS;
    int64_t row = blockIdx.z * c.heads + blockIdx.y, at = blockIdx.x * WIDTH + quad * 4;
    bool inside = at < c.nv, there = counts(c, blockIdx.z);
    const float *first = w.first ? w.first + row * c.nk * c.nv + at : NULL;
    float *last = w.last ? w.last + row * c.nk * c.nv + at : NULL;
    Lane l = {blockIdx.z, blockIdx.y};
    float v[4] = {}, y[4] = {};
    for (int i = 0; i < 4 && inside && there; i++) v[i] = w.v[row * c.nv + at + i];
    for (int64_t from = group; from < c.nk; from += HELD * GROUPS) {
        float4 m[HELD];
#pragma unroll
        for (int h = 0; h < HELD; h++) {
            int64_t i = from + h * GROUPS;
            bool read = first && inside && i < c.nk;
            m[h] = read ? *(const float4 *)(first + i * c.nv) : make_float4(0, 0, 0, 0);
        }
#pragma unroll
        for (int h = 0; h < HELD; h++) {
            int64_t i = from + h * GROUPS;
            if (i >= c.nk || !inside) continue;
            float factor = factor_of(c, l, blockIdx.z, i), x[4];
            float k = there ? w.k[row * c.nk + i] : 0.0f, q = there ? w.q[row * c.nk + i] : 0.0f;
            for (int e = 0; e < 4; e++) {
                x[e] = faded(factor, part(m[h], e)) + k * v[e];
                y[e] += q * x[e];
            }
            if (last) *(float4 *)(last + i * c.nv) = make_float4(x[0], x[1], x[2], x[3]);
        }
    }
    for (int e = 0; e < 4; e++)
        for (int s = QUADS; s < WARP; s *= 2) y[e] += __shfl_xor_sync(~0u, y[e], s);
    if (threadIdx.x % WARP < QUADS)
        for (int e = 0; e < 4; e++) sums[threadIdx.x / WARP][quad * 4 + e] = y[e];
    __syncthreads();
    at = blockIdx.x * WIDTH + threadIdx.x;
    if (threadIdx.x >= WIDTH || at >= c.nv || !w.y) return;
    float all = 0;
    for (int i = 0; i < THREADS / WARP; i++) all += sums[i][threadIdx.x];
    w.y.put(row * c.nv + at, w.scale * all);
}

static int can(const lmoe_args *a)
{
    int values = a->n_in > CARRY + 1 && lmoe_buf_present(&a->in[CARRY + 1]); /* that decay */
    return can_scan(a, DECAY, CARRY) && !values && a->in[K].dim[1] == 1 && a->in[V].dim[3] % 4 == 0;
}

/* Above the kernels of many tokens. */
static int score(const lmoe_args *a)
{
    return can(a) ? 30 : 0;
}

static lmoe_status launch(const lmoe_args *a)
{
    Scan c = describe_scan(a, DECAY);
    Step w = {floats(a, Q),           floats(a, K),
              floats(a, V),           (float)((const lmoe_scan_diag_attrs *)a->attrs)->scale,
              input<float>(a, CARRY), output<float>(a, 1),
              results(a, 0)};
    dim3 grid(blocks(c.nv, WIDTH), (unsigned)c.heads, (unsigned)a->in[K].dim[0]);
    launch_early(step, grid, THREADS, stream_of(a), cuda_has_tensor_maps(a), c, w);
    return cuda_launched(a);
}

const lmoe_kernel cuda_scan_diag_step = {
    {sizeof(lmoe_kernel), LMOE_KIND_KERNEL, "cuda/scan_diag-step", "of one token", NULL, 0, 0},
    "scan_diag/1",
    "cuda",
    score,
    NULL,
    NULL,
    launch,
    NULL};
