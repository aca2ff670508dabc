/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/attention_tensor.cu: attention/1 in bf16 (attention_tensor.cuh), in one pass over
 * the keys: with m the largest score of a query so far, sums of exp(score - m) are scaled when m grows.
 */
#include "attention_tensor.cuh"

template <int P> struct AttendShared {
    bf16 q[SIDE * (P + 8)], k[2][SIDE * (P + 8)], v[2][SIDE * (P + 8)];
    Sight queries;
    int32_t positions[2][SIDE];
};

/* Scores to exp_2(score - m) in place; returns by what the sums before shrink. m, sum: of a lane's two
 * rows; sum is the lane's own part. */
static __device__ inline void soften(float (&s)[SIDE / 8][4], float (&m)[2], float (&sum)[2],
                                     float (&shrink)[2])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float most = m[half];
#pragma unroll
        for (int n = 0; n < SIDE / 8; n++)
            most = fmaxf(most, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
        most = row_max(most);
        float zero = most == -INFINITY ? 0.0f : most; /* nothing was seen yet */
        shrink[half] = exp_2(m[half] - zero);
        sum[half] *= shrink[half];
        m[half] = most;
#pragma unroll
        for (int n = 0; n < SIDE / 8; n++)
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                s[n][i] = exp_2(s[n][i] - zero);
                sum[half] += s[n][i];
            }
    }
}

/* Grid: (tiles of queries, heads, batch); the last tiles, which see the most keys, come first. */
template <int P>
static __global__ void __launch_bounds__(TENSOR_THREADS, 2)
    attend_tensor(Attention w, bf16 *y, float *lse)
{
    extern __shared__ __align__(16) char memory[];
    AttendShared<P> *s = (AttendShared<P> *)memory;
    int64_t b = blockIdx.z, h = blockIdx.y, g = h * w.groups / w.heads;
    int64_t first = (int64_t)(gridDim.x - 1 - blockIdx.x) * SIDE;
    int tiles = (int)(first / SIDE) + 1;
    float m[2] = {-INFINITY, -INFINITY}, sum[2] = {}, x[P / 8][4] = {};
    auto bring = [&](int tile, int to) {
        copy_tile<P>(w, w.k, b, (int64_t)tile * SIDE, w.groups, g, (int)w.nk, s->k[to]);
        copy_tile<P>(w, w.v, b, (int64_t)tile * SIDE, w.groups, g, (int)w.nv, s->v[to]);
        put_positions(w, b, (int64_t)tile * SIDE, s->positions[to]);
    };
    copy_tile<P>(w, w.q, b, first, w.heads, h, (int)w.nk, s->q);
    put_queries(w, b, first, &s->queries);
    bring(0, 0);
    copies_commit();
    for (int tile = 0; tile < tiles; tile++) {
        int now = tile % 2;
        if (tile + 1 < tiles) bring(tile + 1, 1 - now);
        copies_commit();
        copies_wait<1>();
        __syncthreads();
        float p[SIDE / 8][4], shrink[2];
        multiply_rows<P>(p, s->q, s->k[now]);
#pragma unroll
        for (int n = 0; n < SIDE / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int row = own_row(i), column = own_column(n, i);
                bool seen =
                    is_seen(s->queries.from[row], s->queries.at[row], s->positions[now][column],
                            first + row, (int64_t)tile * SIDE + column);
                p[n][i] = seen ? p[n][i] * (w.scale * LOG2_E) : -INFINITY;
            }
        soften(p, m, sum, shrink);
#pragma unroll
        for (int n = 0; n < P / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) x[n][i] *= shrink[i / 2];
        add_products<P>(x, p, s->v[now]);
        __syncthreads();
    }
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int64_t query = first + own_row(2 * half);
        float all = row_sum(sum[half]);
        factor[half] = all > 0 ? 1.0f / all : 0.0f;
        if (lse && threadIdx.x % 4 == 0 && query < w.seq)
            lse[(b * w.seq + query) * w.heads + h] =
                all > 0 ? m[half] / LOG2_E + logf(all) : -INFINITY;
    }
    if (y) put_tile<P>(w, x, factor, b, first, w.heads, h, (int)w.nv, y);
}

template <int P> static void run(const lmoe_args *a, const Attention &w)
{
    dim3 grid(blocks(w.seq, SIDE), (unsigned)w.heads, (unsigned)w.batch);
    allow_shared(attend_tensor<P>, sizeof(AttendShared<P>));
    attend_tensor<P><<<grid, TENSOR_THREADS, sizeof(AttendShared<P>), stream_of(a)>>>(
        w, output<bf16>(a, 0), output<float>(a, 1));
}

static int can(const lmoe_args *a)
{
    return can_attend_tensor(a, 6, 2);
}

static lmoe_status launch(const lmoe_args *a)
{
    Attention w = describe_attention(a, 6);
    is_wide(w) ? run<128>(a, w) : run<64>(a, w);
    return cuda_launched(a);
}

CUDA_FAST_KERNEL(attention, 1, tensor, can, NULL, launch)
