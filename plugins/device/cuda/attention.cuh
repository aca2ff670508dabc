/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/attention.cuh: what attention/1 and its derivative share: who sees what, and
 * tiles of rows in shared memory.
 *
 * A warp has one row of the result (a query, or a key), and walks over the other side in tiles of
 * 32 rows, which the WARPS rows of the block share: for the products a lane has one row of the
 * tile, for what is summed over them it has some columns (C of them, 32 apart). Keys are numbered 0
 * ... context-1 (cached), then the segment's own.
 */
#ifndef CUDA_ATTENTION_CUH
#define CUDA_ATTENTION_CUH

#include "kernel.cuh"

enum { TILE = WARP, WARPS = ROWS, MOST_WIDTH = 256 };

struct Attention {
    int64_t batch, seq, heads, groups, nk, nv, context;
    int64_t window;
    float scale;
    Floats q, k, v, keys, values;
    const int32_t *positions, *document, *key_positions;
    const uint8_t *skip;
};

/* What a query sees: keys at positions from ... at, own ones up to itself. at < 0: nothing. */
struct Query {
    int64_t from, at, self;
};

static __device__ inline Query query_of(const Attention &w, int64_t b, int64_t s)
{
    Query q = {0, -1, s};
    int64_t token = b * w.seq + s;
    if (s >= w.seq || (w.skip && w.skip[token])) return q;
    q.at = w.positions[token];
    q.from = w.document[token];
    if (w.window > 0 && q.at - w.window + 1 > q.from) q.from = q.at - w.window + 1;
    return q;
}

/* Position of key j; -1: there is none. */
static __device__ inline int64_t key_position(const Attention &w, int64_t b, int64_t j)
{
    if (j >= w.context + w.seq) return -1;
    if (j < w.context) return w.key_positions[b * w.context + j];
    int64_t token = b * w.seq + j - w.context;
    return w.skip && w.skip[token] ? -1 : w.positions[token];
}

static __device__ inline bool sees(const Attention &w, const Query &q, int64_t j, int64_t position)
{
    return position >= 0 && position >= q.from && position <= q.at && j - w.context <= q.self;
}

/* Key or value j of head g: (batch keys kv_heads width), cached or own. */
static __device__ inline Floats row_of(const Attention &w, Floats cached, Floats own, int64_t b,
                                       int64_t j, int64_t g, int64_t width)
{
    if (j < w.context) return cached + ((b * w.context + j) * w.groups + g) * width;
    return own + ((b * w.seq + j - w.context) * w.groups + g) * width;
}

/* The part of shared memory that holds a tile of rows; a row has one element more than it needs, so
 * that a column lies in different banks. */
static __device__ inline int64_t pitch(int64_t width)
{
    return width + 1;
}

/* sum of a_i b_i */
static __device__ inline float dot(const float *a, const float *b, int64_t n)
{
    float sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* Keys and values first ... first + 31 and their positions; rows that nobody may read are zero. */
static __device__ inline void load_keys(const Attention &w, int64_t b, int64_t g, int64_t first,
                                        float *keys, float *values, int32_t *positions)
{
    if (threadIdx.y == 0) positions[threadIdx.x] = (int32_t)key_position(w, b, first + threadIdx.x);
    __syncthreads();
    for (int row = threadIdx.y; row < TILE; row += WARPS) {
        bool there = positions[row] >= 0;
        Floats k = row_of(w, w.keys, w.k, b, first + row, g, w.nk);
        Floats v = row_of(w, w.values, w.v, b, first + row, g, w.nv);
        for (int64_t i = threadIdx.x; i < w.nk; i += WARP)
            keys[row * pitch(w.nk) + i] = there ? k[i] : 0.0f;
        for (int64_t i = threadIdx.x; i < w.nv; i += WARP)
            values[row * pitch(w.nv) + i] = there ? v[i] : 0.0f;
    }
    __syncthreads();
}

/* sum_c += sum over the tile's rows t of weight_t row_t: weight is lane t's. */
template <int C>
static __device__ void add_weighted(float *sum, float weight, const float *rows, int64_t width)
{
    for (int t = 0; t < TILE; t++) {
        float p = __shfl_sync(~0u, weight, t);
#pragma unroll
        for (int c = 0; c < C; c++) {
            int64_t i = threadIdx.x + WARP * c;
            if (i < width) sum[c] += p * rows[t * pitch(width) + i];
        }
    }
}

template <int C>
static __device__ void put_row(Results to, const float *sum, float scale, int64_t width)
{
#pragma unroll
    for (int c = 0; c < C; c++) {
        int64_t i = threadIdx.x + WARP * c;
        if (i < width) to.put(i, scale * sum[c]);
    }
}

/* Columns of a lane; 0: too many. */
static inline int columns_of(int64_t width)
{
    for (int c = 1; c <= MOST_WIDTH / WARP; c *= 2)
        if (width <= WARP * c) return c;
    return 0;
}

static inline int can_attend(const lmoe_args *a)
{
    if (((const lmoe_attention_attrs *)a->attrs)->past) return 0; /* ring attention */
    return cuda_floats(a) && a->in[0].dim[3] <= MOST_WIDTH && a->in[2].dim[3] <= MOST_WIDTH;
}

/* Operands from `keys` on are the cached ones. */
static inline Attention describe_attention(const lmoe_args *a, int keys)
{
    const lmoe_attention_attrs *o = (const lmoe_attention_attrs *)a->attrs;
    const lmoe_buf *q = &a->in[0], *k = &a->in[1], *cached = cuda_at(a->in, a->n_in, keys);
    Attention w = {q->dim[0], q->dim[1], q->dim[2], k->dim[2], q->dim[3], a->in[2].dim[3]};
    w.context = lmoe_buf_present(cached) ? cached->dim[1] : 0;
    w.window = o->window;
    w.scale = (float)o->scale;
    w.q = floats(a, 0);
    w.k = floats(a, 1);
    w.v = floats(a, 2);
    w.positions = input<int32_t>(a, 3);
    w.document = input<int32_t>(a, 4);
    w.skip = input<uint8_t>(a, 5);
    w.keys = floats(a, keys);
    w.values = floats(a, keys + 1);
    w.key_positions = input<int32_t>(a, keys + 2);
    return w;
}

/* Bytes of shared memory: a tile of rows of both widths, and the rows of the block's warps. */
static inline size_t shared_bytes(const Attention &w)
{
    return sizeof(float) * (size_t)(TILE * (w.nk + w.nv + 2) + WARPS * (w.nk + w.nv));
}

#endif
