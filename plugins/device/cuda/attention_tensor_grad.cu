/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/attention_tensor_grad.cu: attention_grad/1 in bf16 (attention_tensor.cuh). The
 * equations stand in attention_grad.cu. As there, it is done once with a block a tile of queries, for
 * dq, and once with a block a tile of keys, for dk and dv: so nothing is added up by several blocks.
 */
#include "attention_tensor.cuh"

struct TensorGradient {
    const bf16 *y, *dy;
    const float *lse;
    bf16 *dq, *dk, *dv; /* each may be NULL */
    float *dy_y;        /* dy . y of every query and head */
};

/* A warp a query of a head. */
static __global__ void row_dots(int64_t rows, int64_t nv, TensorGradient g)
{
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.y;
    if (row >= rows) return;
    float sum = 0;
    for (int64_t i = threadIdx.x; i < nv; i += WARP)
        sum += (float)g.dy[row * nv + i] * (float)g.y[row * nv + i];
    sum = warp_sum(sum);
    if (threadIdx.x == 0) g.dy_y[row] = sum;
}

/* Of a tile of queries, what its scores need besides. */
struct Norms {
    float lse[SIDE], dy_y[SIDE];
};

/* Queries first ... of head h, with their norms; one that saw nothing sees nothing here either. */
static __device__ inline void put_norms(const Attention &w, const TensorGradient &g, int64_t b,
                                        int64_t h, int64_t first, Sight *sight, Norms *to)
{
    if (threadIdx.x >= SIDE) return;
    int64_t s = first + threadIdx.x, row = (b * w.seq + s) * w.heads + h;
    float lse = s < w.seq ? g.lse[row] : -INFINITY;
    put_queries(w, b, first, sight);
    if (lse == -INFINITY) sight->at[threadIdx.x] = -1;
    to->lse[threadIdx.x] = lse == -INFINITY ? 0.0f : lse * LOG2_E;
    to->dy_y[threadIdx.x] = s < w.seq ? g.dy_y[row] : 0.0f;
}

/* ---- dq ---- */

template <int P> struct QueryShared {
    bf16 q[SIDE * (P + 8)], dy[SIDE * (P + 8)], k[2][SIDE * (P + 8)], v[2][SIDE * (P + 8)];
    Sight sight;
    Norms norms;
    int32_t positions[2][SIDE];
};

/* Grid: (tiles of queries, heads, batch). */
template <int P>
static __global__ void __launch_bounds__(TENSOR_THREADS, 2)
    query_grad_tensor(Attention w, TensorGradient g)
{
    extern __shared__ __align__(16) char memory[];
    QueryShared<P> *s = (QueryShared<P> *)memory;
    int64_t b = blockIdx.z, h = blockIdx.y, group = h * w.groups / w.heads;
    int64_t first = (int64_t)(gridDim.x - 1 - blockIdx.x) * SIDE;
    int tiles = (int)(first / SIDE) + 1;
    float x[P / 8][4] = {};
    auto bring = [&](int tile, int to) {
        copy_tile<P>(w, w.k, b, (int64_t)tile * SIDE, w.groups, group, (int)w.nk, s->k[to]);
        copy_tile<P>(w, w.v, b, (int64_t)tile * SIDE, w.groups, group, (int)w.nv, s->v[to]);
        put_positions(w, b, (int64_t)tile * SIDE, s->positions[to]);
    };
    copy_tile<P>(w, w.q, b, first, w.heads, h, (int)w.nk, s->q);
    copy_tile<P>(w, {g.dy, true}, b, first, w.heads, h, (int)w.nv, s->dy);
    put_norms(w, g, b, h, first, &s->sight, &s->norms);
    bring(0, 0);
    copies_commit();
    for (int tile = 0; tile < tiles; tile++) {
        int now = tile % 2;
        if (tile + 1 < tiles) bring(tile + 1, 1 - now);
        copies_commit();
        copies_wait<1>();
        __syncthreads();
        float score[SIDE / 8][4], d[SIDE / 8][4];
        multiply_rows<P>(score, s->q, s->k[now]);
        multiply_rows<P>(d, s->dy, s->v[now]);
#pragma unroll
        for (int n = 0; n < SIDE / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int row = own_row(i), column = own_column(n, i);
                bool seen = is_seen(s->sight.from[row], s->sight.at[row], s->positions[now][column],
                                    first + row, (int64_t)tile * SIDE + column);
                float p = exp_2(score[n][i] * (w.scale * LOG2_E) - s->norms.lse[row]);
                d[n][i] = seen ? p * (d[n][i] - s->norms.dy_y[row]) : 0.0f;
            }
        add_products<P>(x, d, s->k[now]);
        __syncthreads();
    }
    const float factor[2] = {w.scale, w.scale};
    put_tile<P>(w, x, factor, b, first, w.heads, h, (int)w.nk, g.dq);
}

/* ---- dk and dv ---- */

template <int P> struct KeyShared {
    bf16 k[SIDE * (P + 8)], v[SIDE * (P + 8)], q[2][SIDE * (P + 8)], dy[2][SIDE * (P + 8)];
    Sight sight[2];
    Norms norms[2];
    int32_t positions[SIDE];
};

/* Grid: (tiles of keys, kv heads, batch). Queries of all heads that share the key, from its tile on. */
template <int P>
static __global__ void __launch_bounds__(TENSOR_THREADS, 2)
    key_grad_tensor(Attention w, TensorGradient g)
{
    extern __shared__ __align__(16) char memory[];
    KeyShared<P> *s = (KeyShared<P> *)memory;
    int64_t b = blockIdx.z, group = blockIdx.y, first = (int64_t)blockIdx.x * SIDE;
    int shared_by = (int)(w.heads / w.groups), per_head = (int)(gridDim.x - blockIdx.x);
    int tiles = shared_by * per_head;
    float dk[P / 8][4] = {}, dv[P / 8][4] = {};
    auto query_of_tile = [&](int tile) { return first + (int64_t)(tile % per_head) * SIDE; };
    auto bring = [&](int tile, int to) {
        int64_t h = group * shared_by + tile / per_head, query = query_of_tile(tile);
        copy_tile<P>(w, w.q, b, query, w.heads, h, (int)w.nk, s->q[to]);
        copy_tile<P>(w, {g.dy, true}, b, query, w.heads, h, (int)w.nv, s->dy[to]);
        put_norms(w, g, b, h, query, &s->sight[to], &s->norms[to]);
    };
    copy_tile<P>(w, w.k, b, first, w.groups, group, (int)w.nk, s->k);
    copy_tile<P>(w, w.v, b, first, w.groups, group, (int)w.nv, s->v);
    put_positions(w, b, first, s->positions);
    bring(0, 0);
    copies_commit();
    for (int tile = 0; tile < tiles; tile++) {
        int now = tile % 2;
        int64_t query = query_of_tile(tile);
        if (tile + 1 < tiles) bring(tile + 1, 1 - now);
        copies_commit();
        copies_wait<1>();
        __syncthreads();
        float p[SIDE / 8][4], d[SIDE / 8][4];
        multiply_rows<P>(p, s->k, s->q[now]);
        multiply_rows<P>(d, s->v, s->dy[now]);
#pragma unroll
        for (int n = 0; n < SIDE / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int key = own_row(i), at = own_column(n, i);
                bool seen = is_seen(s->sight[now].from[at], s->sight[now].at[at], s->positions[key],
                                    query + at, first + key);
                float x = exp_2(p[n][i] * (w.scale * LOG2_E) - s->norms[now].lse[at]);
                p[n][i] = seen ? x : 0.0f;
                d[n][i] = seen ? x * (d[n][i] - s->norms[now].dy_y[at]) : 0.0f;
            }
        add_products<P>(dv, p, s->dy[now]);
        add_products<P>(dk, d, s->q[now]);
        __syncthreads();
    }
    const float one[2] = {1, 1}, scale[2] = {w.scale, w.scale};
    if (g.dk) put_tile<P>(w, dk, scale, b, first, w.groups, group, (int)w.nk, g.dk);
    if (g.dv) put_tile<P>(w, dv, one, b, first, w.groups, group, (int)w.nv, g.dv);
}

/* ---- the kernel ---- */

template <int P> static void run(const lmoe_args *a, const Attention &w, const TensorGradient &g)
{
    dim3 queries(blocks(w.seq, SIDE), (unsigned)w.heads, (unsigned)w.batch);
    dim3 keys(blocks(w.seq, SIDE), (unsigned)w.groups, (unsigned)w.batch);
    allow_shared(query_grad_tensor<P>, sizeof(QueryShared<P>));
    allow_shared(key_grad_tensor<P>, sizeof(KeyShared<P>));
    if (g.dq)
        query_grad_tensor<P>
            <<<queries, TENSOR_THREADS, sizeof(QueryShared<P>), stream_of(a)>>>(w, g);
    if (g.dk || g.dv)
        key_grad_tensor<P><<<keys, TENSOR_THREADS, sizeof(KeyShared<P>), stream_of(a)>>>(w, g);
}

static int can(const lmoe_args *a)
{
    return can_attend_tensor(a, 9, 3) && cuda_is_bf16(&a->in[6]) && cuda_is_bf16(&a->in[8]);
}

static size_t workspace(const lmoe_args *a)
{
    return cuda_words(a->in[0].dim[0] * a->in[0].dim[1] * a->in[0].dim[2]);
}

static lmoe_status launch(const lmoe_args *a)
{
    Attention w = describe_attention(a, 9);
    TensorGradient g = {input<bf16>(a, 6), input<bf16>(a, 8), input<float>(a, 7)};
    g.dq = output<bf16>(a, 0);
    g.dk = output<bf16>(a, 1);
    g.dv = output<bf16>(a, 2);
    g.dy_y = (float *)a->workspace;
    int64_t rows = w.batch * w.seq * w.heads;
    row_dots<<<blocks(rows, ROWS), dim3(WARP, ROWS), 0, stream_of(a)>>>(rows, w.nv, g);
    is_wide(w) ? run<128>(a, w, g) : run<64>(a, w, g);
    return cuda_launched(a);
}

CUDA_FAST_KERNEL(attention_grad, 1, tensor, can, workspace, launch)
