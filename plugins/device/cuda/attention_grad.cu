/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/attention_grad.cu: attention_grad/1. With p_sj = exp(score_sj - lse_s):
 *
 *   ds_sj = scale p_sj (dy_s . v_j - dy_s . y_s)
 *   dq_s = sum of ds_sj k_j
 *   dk_j = sum of ds_sj q_s (+ dk_more)
 *   dv_j = sum of p_sj dy_s (+ dv_more)
 *
 * Once a warp a query, for dq, and once a warp a key, for dk and dv. Sums over the heads that share
 * a key belong to its warp.
 */
#include "attention.cuh"

struct Gradient {
    Floats y, dy, dk_more, dv_more;
    const float *lse;
    Results dq, dk, dv, dkeys, dvalues; /* each may be absent */
    float *dy_y;                        /* dy . y of every query and head */
};

static __global__ void dots(Attention w, Gradient g)
{
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.y;
    if (row >= w.batch * w.seq * w.heads) return;
    float sum = 0;
    for (int64_t i = threadIdx.x; i < w.nv; i += WARP)
        sum += g.dy[row * w.nv + i] * g.y[row * w.nv + i];
    sum = warp_sum(sum);
    if (threadIdx.x == 0) g.dy_y[row] = sum;
}

/* A warp a query of a head; grid: (queries, heads, batch). C columns of head_k. */
template <int C> static __global__ void query_grad(Attention w, Gradient g)
{
    extern __shared__ float shared[];
    __shared__ int32_t positions[TILE];
    float *keys = shared, *values = keys + TILE * pitch(w.nk);
    float *my_q = values + TILE * pitch(w.nv) + threadIdx.y * (w.nk + w.nv), *my_dy = my_q + w.nk;
    int64_t b = blockIdx.z, h = blockIdx.y, s = (int64_t)blockIdx.x * WARPS + threadIdx.y;
    int64_t row = (b * w.seq + s) * w.heads + h;
    int64_t end = w.context + min(w.seq, (int64_t)(blockIdx.x + 1) * WARPS);
    Query query = query_of(w, b, s);
    float lse = 0, dy_y = 0, sum[C] = {};
    if (query.at >= 0) {
        for (int64_t i = threadIdx.x; i < w.nk; i += WARP) my_q[i] = w.q[row * w.nk + i];
        for (int64_t i = threadIdx.x; i < w.nv; i += WARP) my_dy[i] = g.dy[row * w.nv + i];
        lse = g.lse[row];
        dy_y = g.dy_y[row];
        if (lse == -INFINITY) query.at = -1; /* it saw nothing */
    }
    for (int64_t first = 0; first < end; first += TILE) {
        __syncthreads();
        load_keys(w, b, h * w.groups / w.heads, first, keys, values, positions);
        bool seen = sees(w, query, first + threadIdx.x, positions[threadIdx.x]);
        if (!__any_sync(~0u, seen)) continue;
        float ds = 0;
        if (seen) {
            float score = w.scale * dot(my_q, keys + threadIdx.x * pitch(w.nk), w.nk);
            float dp = dot(my_dy, values + threadIdx.x * pitch(w.nv), w.nv);
            ds = w.scale * expf(score - lse) * (dp - dy_y);
        }
        add_weighted<C>(sum, ds, keys, w.nk);
    }
    if (s < w.seq) put_row<C>(g.dq + row * w.nk, sum, 1.0f, w.nk);
}

/* Queries first ... first + 31 of head h; rows of those that see nothing are zero. */
struct Queries {
    Query query[TILE];
    float lse[TILE], dy_y[TILE];
};

static __device__ void load_queries(const Attention &w, const Gradient &g, int64_t b, int64_t h,
                                    int64_t first, float *q, float *dy, Queries *to)
{
    if (threadIdx.y == 0) {
        int64_t s = first + threadIdx.x, row = (b * w.seq + s) * w.heads + h;
        Query query = query_of(w, b, s);
        float lse = query.at >= 0 ? g.lse[row] : -INFINITY;
        if (lse == -INFINITY) query.at = -1;
        to->query[threadIdx.x] = query;
        to->lse[threadIdx.x] = lse;
        to->dy_y[threadIdx.x] = query.at >= 0 ? g.dy_y[row] : 0.0f;
    }
    __syncthreads();
    for (int t = threadIdx.y; t < TILE; t += WARPS) {
        bool there = to->query[t].at >= 0;
        int64_t row = (b * w.seq + first + t) * w.heads + h;
        for (int64_t i = threadIdx.x; i < w.nk; i += WARP)
            q[t * pitch(w.nk) + i] = there ? w.q[row * w.nk + i] : 0.0f;
        for (int64_t i = threadIdx.x; i < w.nv; i += WARP)
            dy[t * pitch(w.nv) + i] = there ? g.dy[row * w.nv + i] : 0.0f;
    }
    __syncthreads();
}

/* Where key j's gradient goes; `more` is added to own ones. */
template <int C>
static __device__ void put_key(const Attention &w, int64_t b, int64_t j, int64_t g, float *sum,
                               int64_t width, Results cached, Results own, Floats more)
{
    Results to = j < w.context ? cached : own;
    if (!to) return;
    int64_t at = j < w.context ? b * w.context + j : b * w.seq + j - w.context;
    at = (at * w.groups + g) * width;
#pragma unroll
    for (int c = 0; c < C; c++) {
        int64_t i = threadIdx.x + WARP * c;
        if (i < width && more && j >= w.context) sum[c] += more[at + i];
    }
    put_row<C>(to + at, sum, 1.0f, width);
}

/* A warp a key of a kv head; grid: (keys, kv_heads, batch). C columns of head_k and of head_v. */
template <int C> static __global__ void key_grad(Attention w, Gradient g)
{
    extern __shared__ float shared[];
    __shared__ Queries tile;
    float *q = shared, *dy = q + TILE * pitch(w.nk);
    float *my_k = dy + TILE * pitch(w.nv) + threadIdx.y * (w.nk + w.nv), *my_v = my_k + w.nk;
    int64_t b = blockIdx.z, group = blockIdx.y, shared_by = w.heads / w.groups;
    int64_t block = (int64_t)blockIdx.x * WARPS, j = block + threadIdx.y;
    int64_t position = key_position(w, b, j);
    if (position >= 0) {
        Floats k = row_of(w, w.keys, w.k, b, j, group, w.nk);
        Floats v = row_of(w, w.values, w.v, b, j, group, w.nv);
        for (int64_t i = threadIdx.x; i < w.nk; i += WARP) my_k[i] = k[i];
        for (int64_t i = threadIdx.x; i < w.nv; i += WARP) my_v[i] = v[i];
    }
    float dk[C] = {}, dv[C] = {};
    int64_t from = max((int64_t)0, block - w.context); /* queries before see none of these keys */
    for (int64_t h = group * shared_by; h < (group + 1) * shared_by; h++) {
        for (int64_t first = from; first < w.seq; first += TILE) {
            __syncthreads();
            load_queries(w, g, b, h, first, q, dy, &tile);
            bool seen = sees(w, tile.query[threadIdx.x], j, position);
            if (!__any_sync(~0u, seen)) continue;
            float p = 0, ds = 0;
            if (seen) {
                float score = w.scale * dot(my_k, q + threadIdx.x * pitch(w.nk), w.nk);
                float dp = dot(my_v, dy + threadIdx.x * pitch(w.nv), w.nv);
                p = expf(score - tile.lse[threadIdx.x]);
                ds = w.scale * p * (dp - tile.dy_y[threadIdx.x]);
            }
            add_weighted<C>(dk, ds, q, w.nk);
            add_weighted<C>(dv, p, dy, w.nv);
        }
    }
    if (j >= w.context + w.seq) return;
    put_key<C>(w, b, j, group, dk, w.nk, g.dkeys, g.dk, g.dk_more);
    put_key<C>(w, b, j, group, dv, w.nv, g.dvalues, g.dv, g.dv_more);
}

/* ---- the kernel ---- */

template <int C> static void run(const lmoe_args *a, const Attention &w, const Gradient &g)
{
    size_t bytes = shared_bytes(w);
    dim3 block(WARP, WARPS), queries(blocks(w.seq, WARPS), (unsigned)w.heads, (unsigned)w.batch);
    dim3 keys(blocks(w.context + w.seq, WARPS), (unsigned)w.groups, (unsigned)w.batch);
    if (g.dq) {
        allow_shared(query_grad<C>, bytes);
        query_grad<C><<<queries, block, bytes, stream_of(a)>>>(w, g);
    }
    if (g.dk || g.dv || g.dkeys || g.dvalues) {
        allow_shared(key_grad<C>, bytes);
        key_grad<C><<<keys, block, bytes, stream_of(a)>>>(w, g);
    }
}

static size_t workspace(const lmoe_args *a)
{
    return cuda_words(a->in[0].dim[0] * a->in[0].dim[1] * a->in[0].dim[2]);
}

static lmoe_status launch(const lmoe_args *a)
{
    Attention w = describe_attention(a, 9);
    Gradient g = {floats(a, 6), floats(a, 8), floats(a, 12), floats(a, 13), input<float>(a, 7)};
    g.dq = results(a, 0);
    g.dk = results(a, 1);
    g.dv = results(a, 2);
    g.dkeys = results(a, 3);
    g.dvalues = results(a, 4);
    g.dy_y = (float *)a->workspace;
    dots<<<blocks(w.batch * w.seq * w.heads, WARPS), dim3(WARP, WARPS), 0, stream_of(a)>>>(w, g);
    switch (columns_of(cuda_max(w.nk, w.nv))) {
    case 1: run<1>(a, w, g); break;
    case 2: run<2>(a, w, g); break;
    case 4: run<4>(a, w, g); break;
    default: run<8>(a, w, g); break;
    }
    return cuda_launched(a);
}

CUDA_KERNEL(attention_grad, 1, can_attend, workspace, launch)
