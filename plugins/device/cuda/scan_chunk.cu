/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/scan_chunk.cu: scan_diag/1 in bf16, in chunks (scan_chunk.cuh): the walk over
 * the chunks (scan_walk.cu), then the results of all of them.
 */
#include "scan_chunk.cuh"

enum { Q, K, V, DECAY, RESET, SKIP, CARRY };

/* ---- the results of a chunk ---- */

template <int P> struct OutShared {
    static const int TILE_SIZE = CHUNK * (P + 8);
    bf16 q[TILE_SIZE], k[TILE_SIZE], v[TILE_SIZE], a[CHUNK * SCORES_PITCH];
    union {
        bf16 state[P * (P + 8)];
        float g[CHUNK * (P + 8)]; /* of a steep chunk, before its state */
    };
    uint8_t flags[CHUNK];
    Channels<P> channels;
};

/* Grid: (chunks, heads, batch). */
template <int P>
static __global__ void __launch_bounds__(CHUNK_THREADS, 2) outputs(Chunks w, bf16 *y)
{
    extern __shared__ __align__(16) char memory[];
    OutShared<P> *s = (OutShared<P> *)memory;
    const int PITCH = P + 8, N = P / ACROSS / 8;
    Spot at = {blockIdx.z, blockIdx.y, (int64_t)blockIdx.x * CHUNK};
    int64_t lane = blockIdx.z * w.c.heads + blockIdx.y, size = w.c.nk * w.c.nv;
    Part<P> mine;
    StateLoad<P> state;
    find_flags(w.c, at, s->flags);
    load_part<P>(w, at, mine);
    __syncthreads();
    copy_rows<P, CHUNK_THREADS>(w.c, at, s->flags, w.v, (int)w.c.nv, 0, s->v, PITCH);
    copies_commit();
    bool steep = sum_decays<P>(w.c, s->flags, mine, s->channels);
    put_factored<P>(mine, s->channels, s->q, s->k, steep ? s->g : NULL);
    fetch_state<P>(w.c, w.begins + (lane * w.chunks + blockIdx.x) * size, state);
    copies_wait<0>();
    __syncthreads();
    if (steep) {
        put_steep_scores<P>(w, at, s->flags, s->g, s->a);
        __syncthreads();
    } else {
        float c[SCORES][4] = {};
        multiply_scores<P>(c, s->q, s->k);
        put_scores<false>(c, w.scale, s->a, NULL);
    }
    put_state<P>(w.c, state, s->channels.begin, NULL, NULL, s->state);
    __syncthreads();
    float x[N][4] = {};
    Corner corner = corner_of<P>();
    multiply_tiles<N, false, true>(x, s->q, PITCH, corner.row, s->state, PITCH, corner.column, P);
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) x[n][i] *= w.scale;
    multiply_tiles<N, false, true>(x, s->a, SCORES_PITCH, corner.row, s->v, PITCH, corner.column,
                                   corner.row + 16);
    put_rows<N>(w.c, at, corner, x, y, w.c.nv);
}

template <int P> static void run_outputs(const lmoe_args *a, const Chunks &w)
{
    dim3 grid((unsigned)w.chunks, (unsigned)w.c.heads, (unsigned)w.batch);
    allow_shared(outputs<P>, sizeof(OutShared<P>));
    outputs<P><<<grid, CHUNK_THREADS, sizeof(OutShared<P>), stream_of(a)>>>(w, output<bf16>(a, 0));
}

static int can(const lmoe_args *a)
{
    return can_chunk(a, DECAY, CARRY) && !lmoe_buf_present(cuda_at(a->in, a->n_in, CARRY + 1));
}

static size_t workspace(const lmoe_args *a)
{
    return cuda_words(state_words(a, cuda_pieces(a->in[K].dim[1], CHUNK))) +
           cuda_words(walk_words(a));
}

static lmoe_status launch(const lmoe_args *a)
{
    Chunks w = {describe_scan(a, DECAY), a->in[K].dim[0], cuda_pieces(a->in[K].dim[1], CHUNK)};
    w.scale = (float)((const lmoe_scan_diag_attrs *)a->attrs)->scale;
    w.q = input<bf16>(a, Q);
    w.k = input<bf16>(a, K);
    w.v = input<bf16>(a, V);
    char *cursor = (char *)a->workspace;
    bf16 *begins = (bf16 *)cuda_take(&cursor, state_words(a, w.chunks));
    w.begins = begins;
    Walk walk = {w.c,    w.k,      w.v, 1.0f,           input<float>(a, CARRY), output<float>(a, 1),
                 begins, w.chunks, 0,   (float *)cursor};
    LMOE_TRY(cuda_walk_chunks(a, &walk, w.batch, 0));
    if (!output<bf16>(a, 0)) return LMOE_OK;
    w.c.nk > 64 || w.c.nv > 64 ? run_outputs<128>(a, w) : run_outputs<64>(a, w);
    return cuda_launched(a);
}

CUDA_FAST_KERNEL(scan_diag, 1, chunk, can, workspace, launch)
