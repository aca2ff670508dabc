/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/scan_chunk.cu: scan_diag/1 in bf16, in chunks (scan_chunk.cuh): the walk over
 * the chunks, then the results of all of them.
 */
#include "scan_chunk.cuh"

enum { Q, K, V, DECAY, RESET, SKIP, CARRY };

/* ---- the walk: a block has STATE_ROWS rows and STATE_COLUMNS columns of a head's state ---- */

enum {
    R_PITCH = STATE_ROWS + 8,
    O_PITCH = STATE_COLUMNS + 8,
    TILES = STATE_COLUMNS / 32,
    SEGMENTS = STATE_THREADS / STATE_ROWS,
    PER = CHUNK / SEGMENTS
};

struct WalkShared {
    bf16 r[CHUNK * R_PITCH], o[2][CHUNK * O_PITCH];
    float total[SEGMENTS][STATE_ROWS], end[STATE_ROWS];
    uint8_t flags[2][CHUNK];
};

/* What a thread has of a chunk: one row of the state, PER tokens. */
struct WalkPart {
    float g[PER], r[PER];
};

static __device__ inline void load_part(const Walk &w, const Spot &at, int row, WalkPart *p)
{
    int64_t first = at.first + threadIdx.x / STATE_ROWS * PER, step = w.c.heads * w.c.nk;
    int k = min(row, (int)w.c.nk - 1);
    const bf16 *r = w.r + row_at(w.c, at, 0, w.c.nk) + k;
#pragma unroll
    for (int i = 0; i < PER; i++) p->r[i] = (float)r[min(first + i, w.c.seq - 1) * step];
    if (!w.c.decay) return;
    const float *decay = decays_of(w.c, at) + k * w.c.decay_row;
#pragma unroll
    for (int i = 0; i < PER; i++) p->g[i] = decay[min(first + i, w.c.seq - 1) * w.c.decay_token];
}

/* r with its factors to shared memory, and exp(G_end); returns G_end of the thread's row. */
template <bool BACKWARDS>
static __device__ inline float put_part(const Walk &w, WalkPart *p, int64_t state_row,
                                        const uint8_t *flags, WalkShared *s)
{
    int row = threadIdx.x % STATE_ROWS, segment = threadIdx.x / STATE_ROWS;
    float sum = 0, before = 0, all = 0;
#pragma unroll
    for (int i = 0; i < PER; i++) {
        int flag = flags[segment * PER + i];
        bool there = state_row < w.c.nk;
        sum += there ? log2_decay(w.c.decay ? p->g[i] : 0.0f, flag) : 0.0f;
        p->g[i] = sum;
        p->r[i] = there && !(flag & NO_ROW) ? w.scale * p->r[i] : 0.0f;
    }
    s->total[segment][row] = sum;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < SEGMENTS; i++) {
        if (i < segment) before += s->total[i][row];
        all += s->total[i][row];
    }
    if (segment == 0) s->end[row] = power_of_2(all);
#pragma unroll
    for (int i = 0; i < PER; i++) {
        float g = before + p->g[i], factor = power_of_2(BACKWARDS ? g : all - g);
        s->r[(segment * PER + i) * R_PITCH + row] = __float2bfloat16_rn(factor * p->r[i]);
    }
    return all;
}

/* Calls f(row, column, element) for a lane's pairs of its warp's part: STATE_ROWS rows, a quarter
 * of the columns. */
template <class F> static __device__ inline void each_pair(float (&x)[2][TILES][4], F f)
{
    int warp = threadIdx.x / WARP;
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < TILES; n++)
#pragma unroll
            for (int i = 0; i < 4; i += 2)
                f(16 * m + lane_row(i), warp * (STATE_COLUMNS / 4) + lane_column(n, i),
                  &x[m][n][i]);
}

/* What the blocks of a walk do: all of it; or stretches of `length` chunks, from zero, of which only
 * the states at their ends are wanted (SUM), or from their own starts. */
struct Stretches {
    int64_t count, length;
    float *states, *decays; /* (batch heads count head_k head_v), (batch heads count head_k) */
};

/* Grid: (rows x columns, heads, batch x stretches). */
template <bool BACKWARDS, bool SUM>
static __global__ void __launch_bounds__(STATE_THREADS, 4) walk(Walk w, Stretches cut)
{
    extern __shared__ __align__(16) char memory[];
    WalkShared *s = (WalkShared *)memory;
    int64_t b = blockIdx.z / cut.count, stretch = blockIdx.z % cut.count;
    int64_t lane = b * w.c.heads + blockIdx.y, down = (w.c.nk + STATE_ROWS - 1) / STATE_ROWS;
    int64_t first_row = blockIdx.x % down * STATE_ROWS, size = w.c.nk * w.c.nv;
    int64_t begin = stretch * cut.length, end = min(w.chunks, begin + cut.length);
    int64_t row = first_row + threadIdx.x % STATE_ROWS, here = lane * cut.count + stretch;
    int first_column = (int)(blockIdx.x / down) * STATE_COLUMNS;
    int columns = (int)w.c.nv - first_column;
    bool is_last = stretch == (BACKWARDS ? 0 : cut.count - 1);
    Spot at = {b, blockIdx.y, (BACKWARDS ? end - 1 : begin) * CHUNK};
    bf16 *to = SUM || !w.to ? NULL : w.to + lane * (w.chunks + w.one_more) * size;
    const float *first = w.first ? w.first + lane * size : NULL;
    float *last = w.last && is_last ? w.last + lane * size : NULL, fades = 0;
    if (cut.count > 1) first = SUM ? NULL : cut.states + here * size;
    if (SUM) last = cut.states + here * size;
    float x[2][TILES][4];
    WalkPart part;
    each_pair(x, [&](int r, int c, float *p) {
        bool there = first && first_row + r < w.c.nk && c < columns;
        for (int i = 0; i < 2; i++)
            p[i] = there ? first[(first_row + r) * w.c.nv + first_column + c + i] : 0.0f;
    });
    auto leave = [&](int64_t chunk) {
        each_pair(x, [&](int r, int c, float *p) {
            if (to && first_row + r < w.c.nk && c < columns)
                *(uint32_t *)(to + chunk * size + (first_row + r) * w.c.nv + first_column + c) =
                    two(p[0], p[1]);
        });
    };
    find_flags(w.c, at, s->flags[0]);
    load_part(w, at, (int)row, &part);
    __syncthreads();
    copy_rows<STATE_COLUMNS, STATE_THREADS>(w.c, at, s->flags[0], w.o, (int)w.c.nv, first_column,
                                            s->o[0], O_PITCH);
    copies_commit();
    for (int64_t i = 0; i < end - begin; i++) {
        int now = i % 2, next = 1 - now;
        bool more = i + 1 < end - begin;
        at.first += BACKWARDS ? -CHUNK : CHUNK;
        if (more) find_flags(w.c, at, s->flags[next]);
        leave(BACKWARDS ? end - 1 - i : begin + i);
        fades += put_part<BACKWARDS>(w, &part, row, s->flags[now], s); /* all threads meet in it */
        if (more) { /* the next one's are under way meanwhile */
            load_part(w, at, (int)row, &part);
            copy_rows<STATE_COLUMNS, STATE_THREADS>(w.c, at, s->flags[next], w.o, (int)w.c.nv,
                                                    first_column, s->o[next], O_PITCH);
        }
        copies_commit();
        copies_wait<1>();
        __syncthreads();
        each_pair(x, [&](int r, int c, float *p) {
            p[0] *= s->end[r];
            p[1] *= s->end[r];
        });
#pragma unroll
        for (int m = 0; m < 2; m++)
            multiply_tiles<TILES, true, true>(x[m], s->r, R_PITCH, 16 * m, s->o[now], O_PITCH,
                                              threadIdx.x / WARP * (STATE_COLUMNS / 4), CHUNK);
        __syncthreads();
    }
    if (w.one_more && is_last) leave(w.chunks);
    each_pair(x, [&](int r, int c, float *p) {
        bool there = last && first_row + r < w.c.nk && c < columns;
        for (int i = 0; i < 2 && there; i++)
            last[(first_row + r) * w.c.nv + first_column + c + i] = p[i];
    });
    if (SUM && threadIdx.x < STATE_ROWS && row < w.c.nk && first_column == 0)
        cut.decays[here * w.c.nk + row] = fades;
}

/* States at the ends of stretches, each from zero, become those at their starts. A thread an element
 * of a head's state; first: of all (NULL: zero). */
static __global__ void start_stretches(Stretches cut, int64_t elements, int64_t nk, int64_t nv,
                                       const float *first, int backwards)
{
    int64_t i = item(), lane = i / (nk * nv), at = i % (nk * nv);
    if (i >= elements) return;
    float x = first ? first[i] : 0.0f;
    for (int64_t n = 0; n < cut.count; n++) {
        int64_t here = lane * cut.count + (backwards ? cut.count - 1 - n : n);
        float own = cut.states[here * nk * nv + at];
        cut.states[here * nk * nv + at] = x;
        x = power_of_2(cut.decays[here * nk + at / nv]) * x + own;
    }
}

template <bool BACKWARDS> static void run_walk(const lmoe_args *a, const Walk &w, int64_t batch)
{
    int64_t n = stretches_of(&a->in[1], &a->in[2]), elements = batch * w.c.heads * w.c.nk * w.c.nv;
    Stretches cut = {n, cuda_pieces(w.chunks, n), w.room, w.room + elements * n};
    dim3 grid(blocks(w.c.nk, STATE_ROWS) * blocks(w.c.nv, STATE_COLUMNS), (unsigned)w.c.heads,
              (unsigned)(batch * n));
    if (n > 1) {
        walk<BACKWARDS, true><<<grid, STATE_THREADS, sizeof(WalkShared), stream_of(a)>>>(w, cut);
        start_stretches<<<blocks(elements, THREADS), THREADS, 0, stream_of(a)>>>(
            cut, elements, w.c.nk, w.c.nv, w.first, BACKWARDS);
    }
    walk<BACKWARDS, false><<<grid, STATE_THREADS, sizeof(WalkShared), stream_of(a)>>>(w, cut);
}

lmoe_status cuda_walk_chunks(const lmoe_args *a, const Walk *w, int64_t batch, int backwards)
{
    backwards ? run_walk<true>(a, *w, batch) : run_walk<false>(a, *w, batch);
    return cuda_launched(a);
}

/* ---- the results of a chunk ---- */

template <int P> struct OutShared {
    static const int TILE_SIZE = CHUNK * (P + 8);
    bf16 q[TILE_SIZE], k[TILE_SIZE], v[TILE_SIZE], a[CHUNK * SCORES_PITCH];
    union {
        bf16 state[P * (P + 8)];
        float g[CHUNK * (P + 8)]; /* of a steep chunk, before its state */
    };
    uint8_t flags[CHUNK];
    union {
        Channels<P> channels;
        Tokens tokens;
    };
};

/* Grid: (chunks, heads, batch). BY_CHANNEL: every channel has its own decay. */
template <int P, bool BY_CHANNEL>
static __global__ void __launch_bounds__(CHUNK_THREADS, 2) outputs(Chunks w, bf16 *y)
{
    extern __shared__ __align__(16) char memory[];
    OutShared<P> *s = (OutShared<P> *)memory;
    const int PITCH = P + 8, N = P / 16;
    Spot at = {blockIdx.z, blockIdx.y, (int64_t)blockIdx.x * CHUNK};
    int64_t lane = blockIdx.z * w.c.heads + blockIdx.y, size = w.c.nk * w.c.nv;
    const bf16 *state = w.begins + (lane * w.chunks + blockIdx.x) * size;
    const Tokens *tokens = BY_CHANNEL ? NULL : &s->tokens;
    bool steep = false;
    Part<P> mine;
    find_flags(w.c, at, s->flags);
    if (BY_CHANNEL) load_part<P>(w, at, mine);
    __syncthreads();
    copy_rows<P, CHUNK_THREADS>(w.c, at, s->flags, w.v, (int)w.c.nv, 0, s->v, PITCH);
    if (BY_CHANNEL) {
        steep = sum_decays<P>(w.c, s->flags, mine, s->channels);
        put_factored<P>(mine, s->channels, s->q, s->k, steep ? s->g : NULL);
    } else {
        copy_rows<P, CHUNK_THREADS>(w.c, at, s->flags, w.q, (int)w.c.nk, 0, s->q, PITCH);
        copy_rows<P, CHUNK_THREADS>(w.c, at, s->flags, w.k, (int)w.c.nk, 0, s->k, PITCH);
        find_token_decays(w.c, at, s->flags, s->tokens);
    }
    copies_commit();
    copies_wait<0>();
    __syncthreads();
    if (steep) {
        put_steep_scores<P>(w, at, s->flags, s->g, s->a);
        __syncthreads();
    } else {
        float c[4][4] = {};
        multiply_scores<P>(c, s->q, s->k);
        put_scores<false>(c, w.scale, tokens, s->a, NULL);
    }
    load_state<P>(w.c, state, BY_CHANNEL ? s->channels.begin : NULL, NULL, NULL, s->state);
    __syncthreads();
    float x[N][4] = {};
    Corner corner = corner_of<P>();
    multiply_tiles<N, false, true>(x, s->q, PITCH, corner.row, s->state, PITCH, corner.column, P);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float factor = w.scale;
        if (tokens) factor *= power_of_2(tokens->g[corner.row + lane_row(i)]);
#pragma unroll
        for (int n = 0; n < N; n++) x[n][i] *= factor;
    }
    multiply_tiles<N, false, true>(x, s->a, SCORES_PITCH, corner.row, s->v, PITCH, corner.column,
                                   CHUNK);
    put_rows<N>(w.c, at, corner, x, y, w.c.nv);
}

template <int P, bool BY_CHANNEL> static void run_outputs(const lmoe_args *a, const Chunks &w)
{
    dim3 grid((unsigned)w.chunks, (unsigned)w.c.heads, (unsigned)w.batch);
    allow_shared(outputs<P, BY_CHANNEL>, sizeof(OutShared<P>));
    outputs<P, BY_CHANNEL>
        <<<grid, CHUNK_THREADS, sizeof(OutShared<P>), stream_of(a)>>>(w, output<bf16>(a, 0));
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
    bool wide = w.c.nk > 64 || w.c.nv > 64;
    if (w.c.decay_row)
        wide ? run_outputs<128, true>(a, w) : run_outputs<64, true>(a, w);
    else
        wide ? run_outputs<128, false>(a, w) : run_outputs<64, false>(a, w);
    return cuda_launched(a);
}

CUDA_FAST_KERNEL(scan_diag, 1, chunk, can, workspace, launch)
