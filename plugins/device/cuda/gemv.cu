/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/gemv.cu: products of one token's vector with a matrix of bf16: einsum/1, and
 * grouped_linear/1 of few rows.
 *
 *   columns   y_n = sum_k x_k w_kn     neighbours of y lie side by side in w
 *   rows      y_n = sum_k x_k w_nk     w holds what a y needs side by side
 *
 * Each byte of w is read once and used once, so all that counts is how many are on their way. A block
 * of `columns` has 16 of them, and each thread a part of the rows, 8 loads of 16 bytes at a time; a
 * warp of `rows` has 4. The first loads begin before the kernel before has ended, if w is a weight.
 */
#include "early.cuh"
#include "loops.h"
#include "sequence.h"

enum {
    COLUMNS = 2 * PACK,
    DEEP = THREADS / 2, /* rows that the threads of a block have at a time */
    HELD = 8,           /* packs that a thread has on their way */
    FEW_ROWS = 16
};

/* A product as a thread sees it. */
struct Vector {
    int64_t n, k;
    const bf16 *x, *w;
    Results y;
    bool constant; /* w may be read early */
    int64_t experts;
    const int32_t *offsets;

    __device__ explicit Vector(const cuda_vector &v)
        : n(v.n), k(v.k), x((const bf16 *)v.x), w((const bf16 *)v.w), y{v.y, v.narrow != 0},
          constant(v.constant != 0), experts(v.experts), offsets(v.offsets)
    {
    }
};

static __device__ inline void add_pack(float *sum, float x, uint4 w)
{
    sum[0] += x * low(w.x);
    sum[1] += x * high(w.x);
    sum[2] += x * low(w.y);
    sum[3] += x * high(w.y);
    sum[4] += x * low(w.z);
    sum[5] += x * high(w.z);
    sum[6] += x * low(w.w);
    sum[7] += x * high(w.w);
}

/* The expert of a row; -1: nobody's. */
static __device__ int64_t expert_of(const Vector &g, int64_t row)
{
    __shared__ int found;
    if (threadIdx.x == 0) found = -1;
    __syncthreads();
    for (int64_t x = threadIdx.x; x < g.experts; x += blockDim.x)
        if (g.offsets[x] <= row && row < g.offsets[x + 1]) found = (int)x;
    __syncthreads();
    return found;
}

static __device__ void load_held(uint4 *held, const bf16 *w, int64_t n, int64_t k, int64_t first,
                                 bool inside)
{
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        int64_t row = first + i * DEEP;
        held[i] = inside && row < k ? *(const uint4 *)(w + row * n) : make_uint4(0, 0, 0, 0);
    }
}

/* Grid: (columns / COLUMNS, rows, products). */
template <bool GROUPED>
static __global__ void __launch_bounds__(THREADS)
    columns(const __grid_constant__ cuda_vectors all_of)
{
    Vector g(all_of.v[blockIdx.z]);
    __shared__ float sums[THREADS / WARP][COLUMNS];
    int pack = threadIdx.x % 2, thread = threadIdx.x / 2;
    int64_t column = (int64_t)blockIdx.x * COLUMNS + pack * PACK;
    bool inside = column < g.n;
    const bf16 *w = g.w + column;
    uint4 held[HELD];
    let_next_begin();
    if (GROUPED) {
        wait_for_earlier();
        int64_t x = expert_of(g, blockIdx.y);
        inside &= x >= 0;
        w += max(x, (int64_t)0) * g.k * g.n;
        g.x += blockIdx.y * g.k;
        g.y = g.y + blockIdx.y * g.n;
        load_held(held, w, g.n, g.k, thread, inside);
    } else {
        if (!g.constant) wait_for_earlier();
        load_held(held, w, g.n, g.k, thread, inside);
        if (g.constant) wait_for_earlier();
    }
    float sum[PACK] = {};
    for (int64_t first = thread; first < g.k; first += HELD * DEEP) {
        if (first > thread) load_held(held, w, g.n, g.k, first, inside);
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            int64_t row = first + i * DEEP;
            if (row < g.k) add_pack(sum, (float)g.x[row], held[i]);
        }
    }
    for (int k = 0; k < PACK; k++)
        for (int step = 2; step < WARP; step *= 2) sum[k] += __shfl_xor_sync(~0u, sum[k], step);
    if (threadIdx.x % WARP < 2)
        for (int k = 0; k < PACK; k++) sums[threadIdx.x / WARP][pack * PACK + k] = sum[k];
    __syncthreads();
    column = (int64_t)blockIdx.x * COLUMNS + threadIdx.x;
    if (threadIdx.x >= COLUMNS || column >= g.n) return;
    float all = 0;
    for (int i = 0; i < THREADS / WARP; i++) all += sums[i][threadIdx.x];
    g.y.put(column, all);
}

enum { WARP_ROWS = 4, BLOCK_ROWS = WARP_ROWS * THREADS / WARP };

/* Grid: rows / BLOCK_ROWS. */
static __global__ void __launch_bounds__(THREADS) rows(const __grid_constant__ cuda_vector product)
{
    Vector g(product);
    enum { AT_ONCE = 4, STEP = WARP * PACK };
    int lane = threadIdx.x % WARP;
    int64_t first = (int64_t)blockIdx.x * BLOCK_ROWS + threadIdx.x / WARP * WARP_ROWS;
    float sum[WARP_ROWS] = {};
    let_next_begin();
    if (!g.constant) wait_for_earlier();
    for (int64_t k = lane * PACK; k < g.k; k += AT_ONCE * STEP) {
        uint4 held[WARP_ROWS][AT_ONCE];
#pragma unroll
        for (int r = 0; r < WARP_ROWS; r++)
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                bool inside = first + r < g.n && k + i * STEP < g.k;
                held[r][i] = inside ? *(const uint4 *)(g.w + (first + r) * g.k + k + i * STEP)
                                    : make_uint4(0, 0, 0, 0);
            }
        if (g.constant && k == lane * PACK) wait_for_earlier();
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            if (k + i * STEP >= g.k) continue;
            uint4 x = *(const uint4 *)(g.x + k + i * STEP);
            float v[PACK] = {low(x.x), high(x.x), low(x.y), high(x.y),
                             low(x.z), high(x.z), low(x.w), high(x.w)};
#pragma unroll
            for (int r = 0; r < WARP_ROWS; r++) {
                uint4 u = held[r][i];
                sum[r] += v[0] * low(u.x) + v[1] * high(u.x) + v[2] * low(u.y) + v[3] * high(u.y) +
                          v[4] * low(u.z) + v[5] * high(u.z) + v[6] * low(u.w) + v[7] * high(u.w);
            }
        }
    }
    wait_for_earlier(); /* threads without elements, before they write */
    for (int r = 0; r < WARP_ROWS; r++) {
        float all = warp_sum(sum[r]);
        if (lane == 0 && first + r < g.n) g.y.put(first + r, all);
    }
}

void cuda_launch_vectors(cudaStream_t stream, int early, const cuda_vectors *list)
{
    const cuda_vector *first = &list->v[0];
    int64_t n = 0;
    for (int i = 0; i < list->count; i++) n = cuda_max(n, list->v[i].n);
    dim3 grid(blocks(n, COLUMNS), (unsigned)cuda_max(first->rows, 1), (unsigned)list->count);
    if (first->rows)
        launch_early(columns<true>, grid, THREADS, stream, early, *list);
    else
        launch_early(columns<false>, grid, THREADS, stream, early, *list);
}

/* ---- einsum ---- */

/* The two loops, over y and summed; 0: this is another product. */
static int find_loops(const lmoe_args *a, cuda_loop *out, cuda_loop *sum)
{
    cuda_nest nest;
    if (a->n_in < 2 || !lmoe_buf_present(&a->in[1]) || !cuda_read_loops(a, &nest)) return 0;
    if (!cuda_is_bf16(&a->in[0]) || !cuda_is_bf16(&a->in[1]) || !cuda_floats(a)) return 0;
    if (nest.n != 2) return 0;
    int o = nest.loop[0].c ? 0 : 1;
    *out = nest.loop[o];
    *sum = nest.loop[1 - o];
    if (out->c != 1 || sum->c || out->a || sum->a != 1) return 0;
    if (out->size < COLUMNS || sum->size < PACK) return 0;
    if (out->b == 1) return sum->b == out->size && out->size % PACK == 0;
    return sum->b == 1 && out->b == sum->size && sum->size % PACK == 0;
}

static int can_einsum(const lmoe_args *a)
{
    cuda_loop out = {}, sum = {};
    return find_loops(a, &out, &sum);
}

static lmoe_status launch_einsum(const lmoe_args *a)
{
    cuda_loop out = {}, sum = {};
    find_loops(a, &out, &sum);
    cuda_vector v = {out.size, sum.size, a->in[0].data, a->in[1].data, a->out[0].data};
    v.narrow = cuda_is_bf16(&a->out[0]);
    v.constant = cuda_is_constant(a, 1);
    if (out.b == 1) return cuda_collect_vector(a, &v);
    launch_early(rows, blocks(v.n, BLOCK_ROWS), THREADS, stream_of(a), cuda_has_tensor_maps(a), v);
    return cuda_launched(a);
}

CUDA_FAST_KERNEL(einsum, 1, vector, can_einsum, NULL, launch_einsum)

/* ---- grouped_linear ---- */

static int can_grouped(const lmoe_args *a)
{
    const lmoe_grouped_attrs *o = (const lmoe_grouped_attrs *)a->attrs;
    return !o->transpose && a->in[2].dtype == LMOE_I32 && cuda_is_bf16(&a->in[0]) &&
           cuda_is_bf16(&a->in[1]) && cuda_floats(a) && a->in[0].dim[0] <= FEW_ROWS &&
           a->out[0].dim[1] % PACK == 0;
}

/* Above the matrix units, whose tiles would be all but empty. */
static int score_grouped(const lmoe_args *a)
{
    return can_grouped(a) ? 30 : 0;
}

static lmoe_status launch_grouped(const lmoe_args *a)
{
    cuda_vector v = {a->out[0].dim[1], a->in[0].dim[1], a->in[0].data, a->in[1].data,
                     a->out[0].data};
    v.narrow = cuda_is_bf16(&a->out[0]);
    v.constant = cuda_is_constant(a, 1);
    v.experts = a->in[1].dim[0];
    v.rows = a->in[0].dim[0];
    v.offsets = input<int32_t>(a, 2);
    return cuda_collect_vector(a, &v);
}

const lmoe_kernel cuda_grouped_linear_vector = {{sizeof(lmoe_kernel), LMOE_KIND_KERNEL,
                                                 "cuda/grouped_linear-vector", "few rows of bf16",
                                                 NULL, 0, 0},
                                                "grouped_linear/1",
                                                "cuda",
                                                score_grouped,
                                                NULL,
                                                NULL,
                                                launch_grouped,
                                                NULL};
