/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/attention_tensor.cuh: attention in bf16 on the matrix units, of a segment without
 * cached keys; what the op (attention_tensor.cu) and its derivative (attention_tensor_grad.cu) share.
 *
 * A block of four warps has a tile of SIDE rows, queries or keys, and walks over the tiles of the other
 * side, of which the next one is on its way while one is worked on. A warp has 16 rows: its products
 * with the other tile, (16, SIDE), stay in registers and are there the left operand of the next
 * product.
 */
#ifndef CUDA_ATTENTION_TENSOR_CUH
#define CUDA_ATTENTION_TENSOR_CUH

#include "attention.cuh"
#include "mma.cuh"

enum { SIDE = 64, TENSOR_THREADS = 128, MOST_HEAD = 128 };

/* Who sees whom: of queries, the first and last position that they see (at < 0: nothing); of keys,
 * their position (-1: nobody sees them). */
struct Sight {
    int32_t from[SIDE], at[SIDE];
};

static __device__ inline void put_queries(const Attention &w, int64_t b, int64_t first, Sight *to)
{
    if (threadIdx.x >= SIDE) return;
    Query q = query_of(w, b, first + threadIdx.x);
    to->from[threadIdx.x] = (int32_t)q.from;
    to->at[threadIdx.x] = (int32_t)q.at;
}

static __device__ inline void put_positions(const Attention &w, int64_t b, int64_t first,
                                            int32_t *to)
{
    if (threadIdx.x < SIDE) to[threadIdx.x] = (int32_t)key_position(w, b, first + threadIdx.x);
}

static __device__ inline bool is_seen(int32_t from, int32_t at, int32_t position, int64_t query,
                                      int64_t key)
{
    return position >= 0 && position >= from && position <= at && key <= query;
}

/* Rows first ... of head h of x (batch seq heads n) to a tile of P columns, under way. */
template <int P>
static __device__ inline void copy_tile(const Attention &w, Floats x, int64_t b, int64_t first,
                                        int64_t heads, int64_t h, int n, bf16 *tile)
{
    const bf16 *data = (const bf16 *)x.data;
    const bf16 *from = data + ((b * w.seq + first) * heads + h) * n;
#pragma unroll
    for (int i = threadIdx.x; i < SIDE * P / 8; i += TENSOR_THREADS) {
        int row = i / (P / 8), column = i % (P / 8) * 8;
        bool there = column < n && first + row < w.seq;
        copy_16(tile + row * (P + 8) + column, there ? from + row * heads * n + column : data,
                there);
    }
}

/* A warp's (16, SIDE) of left right^T, both tiles of P columns. */
template <int P>
static __device__ inline void multiply_rows(float (&c)[SIDE / 8][4], const bf16 *left,
                                            const bf16 *right)
{
#pragma unroll
    for (int n = 0; n < SIDE / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) c[n][i] = 0;
    multiply_tiles<SIDE / 8, false, false>(c, left, P + 8, threadIdx.x / WARP * 16, right, P + 8, 0,
                                           P);
}

/* x (16, P) += p (16, SIDE) tile (SIDE, P), p as it lies in registers. */
template <int P>
static __device__ inline void add_products(float (&x)[P / 8][4], const float (&p)[SIDE / 8][4],
                                           const bf16 *tile)
{
#pragma unroll
    for (int k = 0; k < SIDE / 16; k++) {
        uint32_t left[4] = {two(p[2 * k][0], p[2 * k][1]), two(p[2 * k][2], p[2 * k][3]),
                            two(p[2 * k + 1][0], p[2 * k + 1][1]),
                            two(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < P / 8; n += 2) {
            uint32_t right[4];
            load_right<true>(right, tile, P + 8, 16 * k, 8 * n);
            multiply_add(x[n], left, right[0], right[1]);
            multiply_add(x[n + 1], left, right[2], right[3]);
        }
    }
}

/* Row and column of lane's c[n][i] in a warp's (16, ...). */
static __device__ inline int own_row(int i)
{
    return threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4 + (i >= 2 ? 8 : 0);
}

static __device__ inline int own_column(int n, int i)
{
    return 8 * n + threadIdx.x % 4 * 2 + (i & 1);
}

/* Rows first ... of head h of y (batch seq heads n), times factor[0] (factor[1] for the lower rows). */
template <int P>
static __device__ inline void put_tile(const Attention &w, const float (&x)[P / 8][4],
                                       const float (&factor)[2], int64_t b, int64_t first,
                                       int64_t heads, int64_t h, int n, bf16 *y)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int64_t s = first + own_row(2 * half);
        bf16 *row = y + ((b * w.seq + s) * heads + h) * n;
#pragma unroll
        for (int i = 0; i < P / 8; i += 4) {
            uint32_t u[4];
#pragma unroll
            for (int k = 0; k < 4; k++)
                u[k] =
                    two(factor[half] * x[i + k][2 * half], factor[half] * x[i + k][2 * half + 1]);
            trade(u);
            int column = 8 * i + threadIdx.x % 4 * 8;
            if (s < w.seq && column < n)
                *(uint4 *)(row + column) = make_uint4(u[0], u[1], u[2], u[3]);
        }
    }
}

/* Sums over the four lanes of a row. */
static __device__ inline float row_sum(float x)
{
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

static __device__ inline float row_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

static __device__ inline float exp_2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#define LOG2_E 1.44269504f

/* q, k, v in bf16, heads of at most MOST_HEAD, no cached keys from operand `cached` on, and no results
 * for a cache from `results` on. */
static inline int can_attend_tensor(const lmoe_args *a, int cached, int results)
{
    for (int i = 0; i < 3; i++) {
        const lmoe_buf *b = &a->in[i];
        if (!cuda_is_bf16(b) || b->dim[3] > MOST_HEAD || b->dim[3] % 8 != 0) return 0;
    }
    for (int i = cached; i < a->n_in; i++)
        if (lmoe_buf_present(&a->in[i])) return 0;
    for (int i = results; i < a->n_out; i++)
        if (lmoe_buf_present(&a->out[i])) return 0;
    if (((const lmoe_attention_attrs *)a->attrs)->past) return 0; /* ring attention */
    return cuda_floats(a) && a->in[0].dim[1] >= 16;
}

static inline bool is_wide(const Attention &w)
{
    return w.nk > 64 || w.nv > 64;
}

#endif
