/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/scan_chunk_grad.cu: scan_diag_grad/1 in bf16, in chunks (scan_chunk.cuh). With
 * p_ts = dy_t . v_s and D the gradient of the state at the chunk's end, from later chunks alone:
 *
 *   dq_t = scale (exp(G_t) * (M dy_t) + sum over s <= t of p_ts k_s * exp(G_t - G_s))
 *   dk_s = exp(G_end - G_s) * (D v_s) + scale sum over t >= s of p_ts q_t * exp(G_t - G_s)
 *   dv_s = D^T (k_s * exp(G_end - G_s)) + sum over t >= s of scale a_ts dy_t
 *   ddecay_t = rowsum(M_end * D) + sum over u >= t of (q_u * dq_u - k_u * dk_u)
 *
 * Terms of u = t = s are in both parts of the last sum and cancel, so they are left out of it and
 * added to dq and dk at the end. M comes from a walk forwards, D from one backwards.
 */
#define SCAN_CHUNK_THREADS 512
#include "scan_chunk.cuh"

enum { Q, K, V, DECAY, RESET, SKIP, DY, CARRY, DCARRY };

template <int P> struct GradShared {
    static const int TILE_SIZE = CHUNK * (P + 8);
    bf16 q[TILE_SIZE], k[TILE_SIZE], v[TILE_SIZE], dy[TILE_SIZE];
    bf16 state[P * (P + 8)]; /* M, then D */
    bf16 a[CHUNK * SCORES_PITCH],
        p[CHUNK * SCORES_PITCH]; /* scale a_ts, t >= s; scale p_ts, t > s */
    float g[CHUNK * (P + 8)];    /* G; then what ddecay sums up */
    uint8_t flags[CHUNK];
    float same[CHUNK], dots[P]; /* scale p_tt; rowsum(M_end * D) */
    Channels<P> channels;
};

struct Gradients {
    bf16 *dq, *dk, *dv; /* each may be NULL */
    float *ddecay;      /* (batch seq heads head_k); may be NULL */
};

/* ---- what a pair of tokens gives in a steep chunk ---- */

/* scale sum over s < t of p_ts k_s exp(G_t - G_s), channel i; or, LATER, over t > s of p_ts q_t. */
template <int P, bool LATER>
static __device__ __noinline__ float steep_sum(const Chunks &w, const Spot &at,
                                               const GradShared<P> *s, int t, int i)
{
    float sum = 0, own = s->g[t * (P + 8) + i];
    const bf16 *x = LATER ? w.q : w.k;
    for (int u = LATER ? t + 1 : 0; u < (LATER ? CHUNK : t); u++) {
        float p = LATER ? s->p[u * SCORES_PITCH + t] : s->p[t * SCORES_PITCH + u];
        if (p == 0.0f) continue; /* so it is where there is no row */
        float other = s->g[u * (P + 8) + i];
        sum += p * (float)x[row_at(w.c, at, at.first + u, w.c.nk) + i] *
               power_of_2(LATER ? other - own : own - other);
    }
    return sum;
}

/* ---- dq and dk ---- */

/* A warp's part of dq (x: without the factor of its channels), or, OF_K, of dk. Terms for ddecay are
 * added to e, those of dk with a minus. Unless STEEP, both tiles have the same factor's inverses. */
template <int P, int N, bool OF_K, bool STEEP>
static __device__ inline void finish_rows(const Chunks &w, const Spot &at, GradShared<P> *s,
                                          float (&x)[N][4], float (&e)[N][4], bf16 *out)
{
    Corner corner = corner_of<P>();
    const bf16 *tile = OF_K ? s->k : s->q, *other = OF_K ? s->q : s->k;
    const bf16 *raw = OF_K ? w.k : w.q, *raw_other = OF_K ? w.q : w.k;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int t = corner.row + lane_row(i), k = corner.column + lane_column(n, i);
            float g = s->g[t * (P + 8) + k];
            float factor = power_of_2(OF_K ? s->channels.k_from[k] - g : g - s->channels.q_from[k]);
            float term = (float)tile[t * (P + 8) + k] * x[n][i];
            float result = factor * x[n][i];
            if (!STEEP) {
                result += factor * s->same[t] * (float)other[t * (P + 8) + k];
            } else if (k < w.c.nk && !(s->flags[t] & NO_ROW)) {
                int64_t at_k = row_at(w.c, at, at.first + t, w.c.nk) + k;
                float pairs = steep_sum<P, OF_K>(w, at, s, t, k);
                result += pairs + s->same[t] * (float)raw_other[at_k];
                term += pairs * (float)raw[at_k];
            }
            e[n][i] += OF_K ? -term : term;
            x[n][i] = result;
        }
    if (out) put_rows<N>(w.c, at, corner, x, out, w.c.nk);
}

template <int N> static __device__ inline void clear(float (&x)[N][4])
{
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) x[n][i] = 0;
}

/* ---- ddecay ---- */

/* From the sums' terms in s->g (CHUNK, P), of which those of later tokens are added up. */
template <int P>
static __device__ void put_channel_decays(const Chunks &w, const Spot &at, GradShared<P> *s,
                                          float *ddecay)
{
    int k = threadIdx.x % P, segment = threadIdx.x / P;
    const int ALL = CHUNK_THREADS / P, TOKENS = CHUNK / ALL;
    float sum = 0, later = s->dots[k];
    for (int t = segment * TOKENS; t < (segment + 1) * TOKENS; t++) sum += s->g[t * (P + 8) + k];
    s->channels.total[segment][k] = sum;
    __syncthreads();
    for (int i = ALL - 1; i > segment; i--) later += s->channels.total[i][k];
    for (int t = (segment + 1) * TOKENS - 1; t >= segment * TOKENS; t--) {
        int64_t token = at.first + t;
        later += s->g[t * (P + 8) + k];
        if (token >= w.c.seq || k >= w.c.nk) continue;
        ddecay[row_at(w.c, at, token, w.c.nk) + k] = s->flags[t] ? 0.0f : later;
    }
}

/* ---- a chunk ---- */

template <int P>
static __global__ void __launch_bounds__(CHUNK_THREADS, 1) gradients(Chunks w, Gradients to)
{
    extern __shared__ __align__(16) char memory[];
    GradShared<P> *s = (GradShared<P> *)memory;
    const int PITCH = P + 8, N = P / ACROSS / 8;
    Spot at = {blockIdx.z, blockIdx.y, (int64_t)blockIdx.x * CHUNK};
    int64_t lane = blockIdx.z * w.c.heads + blockIdx.y, size = w.c.nk * w.c.nv;
    const bf16 *begin = w.begins + (lane * (w.chunks + 1) + blockIdx.x) * size;
    const bf16 *end = w.ends + (lane * w.chunks + blockIdx.x) * size;
    Corner corner = corner_of<P>();
    Part<P> mine;
    StateLoad<P> state, after;
    find_flags(w.c, at, s->flags);
    load_part<P>(w, at, mine);
    __syncthreads();
    copy_rows<P, CHUNK_THREADS>(w.c, at, s->flags, w.v, (int)w.c.nv, 0, s->v, PITCH);
    copy_rows<P, CHUNK_THREADS>(w.c, at, s->flags, w.dy, (int)w.c.nv, 0, s->dy, PITCH);
    copies_commit();
    bool steep = sum_decays<P>(w.c, s->flags, mine, s->channels);
    put_factored<P>(mine, s->channels, s->q, s->k, s->g);
    fetch_state<P>(w.c, begin, state);
    copies_wait<0>();
    __syncthreads();
    {
        float c[SCORES][4] = {};
        multiply_scores<P>(c, s->dy, s->v);
        put_scores<true>(c, w.scale, s->p, s->same);
    }
    if (steep) {
        put_steep_scores<P>(w, at, s->flags, s->g, s->a);
    } else {
        float c[SCORES][4] = {};
        multiply_scores<P>(c, s->q, s->k);
        put_scores<false>(c, w.scale, s->a, NULL);
    }
    put_state<P>(w.c, state, s->channels.begin, NULL, NULL, s->state);
    fetch_state<P>(w.c, end, state); /* both under way meanwhile */
    if (to.ddecay) fetch_state<P>(w.c, begin + size, after);
    __syncthreads();

    float x[N][4] = {}, e[N][4] = {};
    multiply_tiles<N, false, false>(x, s->dy, PITCH, corner.row, s->state, PITCH, corner.column, P);
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) x[n][i] *= w.scale;
    if (!steep)
        multiply_tiles<N, false, true>(x, s->p, SCORES_PITCH, corner.row, s->k, PITCH,
                                       corner.column, corner.row + 16);
    if (steep)
        finish_rows<P, N, false, true>(w, at, s, x, e, to.dq);
    else
        finish_rows<P, N, false, false>(w, at, s, x, e, to.dq);
    __syncthreads(); /* M was read */

    put_state<P>(w.c, state, s->channels.end, &after, to.ddecay ? s->dots : NULL, s->state);
    __syncthreads();
    const int row = corner.row, later = CHUNK - row;
    clear(x);
    multiply_tiles<N, false, false>(x, s->v, PITCH, row, s->state, PITCH, corner.column, P);
    if (!steep)
        multiply_tiles<N, true, true>(x, s->p + row * SCORES_PITCH, SCORES_PITCH, row,
                                      s->q + row * PITCH, PITCH, corner.column, later);
    if (steep)
        finish_rows<P, N, true, true>(w, at, s, x, e, to.dk);
    else
        finish_rows<P, N, true, false>(w, at, s, x, e, to.dk);

    if (to.dv) {
        clear(x);
        multiply_tiles<N, false, true>(x, s->k, PITCH, row, s->state, PITCH, corner.column, P);
        multiply_tiles<N, true, true>(x, s->a + row * SCORES_PITCH, SCORES_PITCH, row,
                                      s->dy + row * PITCH, PITCH, corner.column, later);
        put_rows<N>(w.c, at, corner, x, to.dv, w.c.nv);
    }
    if (!to.ddecay) return;
    __syncthreads(); /* G was read */
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i += 2)
            *(float2 *)(s->g + (row + lane_row(i)) * (P + 8) + corner.column + lane_column(n, i)) =
                make_float2(e[n][i], e[n][i + 1]);
    __syncthreads();
    put_channel_decays<P>(w, at, s, to.ddecay);
}

/* ---- the kernel ---- */

template <int P> static void run(const lmoe_args *a, const Chunks &w, const Gradients &to)
{
    dim3 grid((unsigned)w.chunks, (unsigned)w.c.heads, (unsigned)w.batch);
    allow_shared(gradients<P>, sizeof(GradShared<P>));
    gradients<P><<<grid, CHUNK_THREADS, sizeof(GradShared<P>), stream_of(a)>>>(w, to);
}

static int can(const lmoe_args *a)
{
    return can_chunk(a, DECAY, CARRY) && cuda_is_bf16(&a->in[DY]) &&
           !lmoe_buf_present(cuda_at(a->in, a->n_in, DCARRY + 1));
}

static size_t workspace(const lmoe_args *a)
{
    int64_t chunks = cuda_pieces(a->in[K].dim[1], CHUNK);
    return cuda_words(state_words(a, chunks + 1)) + cuda_words(state_words(a, chunks)) +
           cuda_words(walk_words(a));
}

static lmoe_status launch(const lmoe_args *a)
{
    Chunks w = {describe_scan(a, DECAY), a->in[K].dim[0], cuda_pieces(a->in[K].dim[1], CHUNK)};
    char *cursor = (char *)a->workspace;
    bf16 *begins = (bf16 *)cuda_take(&cursor, state_words(a, w.chunks + 1));
    bf16 *ends = (bf16 *)cuda_take(&cursor, state_words(a, w.chunks));
    float *room = (float *)cursor;
    w.scale = (float)((const lmoe_scan_diag_attrs *)a->attrs)->scale;
    w.q = input<bf16>(a, Q);
    w.k = input<bf16>(a, K);
    w.v = input<bf16>(a, V);
    w.dy = input<bf16>(a, DY);
    w.begins = begins;
    w.ends = ends;
    Walk forth = {w.c, w.k, w.v, 1.0f, input<float>(a, CARRY), NULL, begins, w.chunks, 1, room};
    Walk back = {w.c,  w.q,      w.dy, w.scale, input<float>(a, DCARRY), output<float>(a, 4),
                 ends, w.chunks, 0,    room};
    LMOE_TRY(cuda_walk_chunks(a, &forth, w.batch, 0));
    LMOE_TRY(cuda_walk_chunks(a, &back, w.batch, 1));
    Gradients to = {output<bf16>(a, 0), output<bf16>(a, 1), output<bf16>(a, 2),
                    output<float>(a, 3)};
    w.c.nk > 64 || w.c.nv > 64 ? run<128>(a, w, to) : run<64>(a, w, to);
    return cuda_launched(a);
}

CUDA_FAST_KERNEL(scan_diag_grad, 1, chunk, can, workspace, launch)
