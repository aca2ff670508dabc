/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/scan_walk.cu: the walk of scan_chunk.cuh over the chunks of a sequence: a block
 * has STATE_COLUMNS columns of a head's state, P rows.
 */
#define SCAN_CHUNK_THREADS 512
#include "scan_chunk.cuh"

enum { O_PITCH = STATE_COLUMNS + 8 };

template <int P> struct WalkShared {
    bf16 r[CHUNK * (P + 8)], o[2][CHUNK * O_PITCH], x[P * O_PITCH];
    float total[Part<P>::SEGMENTS][P], end[P];
    uint8_t flags[2][CHUNK];
};

/* What a thread has of a chunk: two channels of some tokens in a row. */
template <int P> struct WalkPart {
    float2 g[Part<P>::TOKENS];
    uint32_t r[Part<P>::TOKENS];
};

template <int P>
static __device__ inline void load_part(const Walk &w, const Spot &at, WalkPart<P> &mine)
{
    int k = min(threadIdx.x % (P / 2) * 2, (int)w.c.nk - 2);
    int64_t first = at.first + threadIdx.x / (P / 2) * Part<P>::TOKENS, step = w.c.heads * w.c.nk;
    const float *decay = decays_of(w.c, at) + k;
    const bf16 *r = w.r + row_at(w.c, at, 0, w.c.nk) + k;
#pragma unroll
    for (int i = 0; i < Part<P>::TOKENS; i++) {
        int64_t t = min(first + i, w.c.seq - 1);
        mine.g[i] = *(const float2 *)(decay + t * w.c.decay_token);
        mine.r[i] = *(const uint32_t *)(r + t * step);
    }
}

/* Sums within the thread's tokens; all threads meet after it. */
template <int P>
static __device__ inline void sum_part(const Walk &w, WalkPart<P> &mine, const uint8_t *flags,
                                       WalkShared<P> *s)
{
    int k = threadIdx.x % (P / 2) * 2, segment = threadIdx.x / (P / 2);
    float2 sum = {0, 0};
#pragma unroll
    for (int i = 0; i < Part<P>::TOKENS; i++) {
        int flag = flags[segment * Part<P>::TOKENS + i];
        bool there = k < w.c.nk;
        sum.x += there ? log2_decay(mine.g[i].x, flag) : 0.0f;
        sum.y += there ? log2_decay(mine.g[i].y, flag) : 0.0f;
        mine.g[i] = sum;
        mine.r[i] = there && !(flag & NO_ROW) ? mine.r[i] : 0;
    }
    s->total[segment][k] = sum.x;
    s->total[segment][k + 1] = sum.y;
}

/* r with its factors to a tile, and exp(G_end). Returns G_end of the thread's channels. */
template <int P, bool BACKWARDS>
static __device__ inline float2 put_part(const Walk &w, const WalkPart<P> &mine, WalkShared<P> *s)
{
    int k = threadIdx.x % (P / 2) * 2, segment = threadIdx.x / (P / 2);
    float2 before = {0, 0}, all = {0, 0};
#pragma unroll
    for (int i = 0; i < Part<P>::SEGMENTS; i++) {
        float2 x = *(const float2 *)&s->total[i][k];
        if (i < segment) before = make_float2(before.x + x.x, before.y + x.y);
        all = make_float2(all.x + x.x, all.y + x.y);
    }
    if (segment == 0) s->end[k] = power_of_2(all.x);
    if (segment == 0) s->end[k + 1] = power_of_2(all.y);
    if (!BACKWARDS) before = make_float2(all.x - before.x, all.y - before.y);
#pragma unroll
    for (int i = 0; i < Part<P>::TOKENS; i++) {
        float2 g = mine.g[i];
        float x = power_of_2(BACKWARDS ? before.x + g.x : before.x - g.x);
        float y = power_of_2(BACKWARDS ? before.y + g.y : before.y - g.y);
        *(uint32_t *)(s->r + (segment * Part<P>::TOKENS + i) * (P + 8) + k) =
            two(w.scale * x * low(mine.r[i]), w.scale * y * high(mine.r[i]));
    }
    return all;
}

/* A warp's part of the state: 16 rows. */
template <int P> struct StatePart {
    static const int DOWN = P / 16, N = STATE_COLUMNS / 8 * DOWN / (CHUNK_THREADS / WARP);
    float x[N][4];
};

/* Calls f(row, column, element) for a lane's pairs. */
template <int P, class F> static __device__ inline void each_pair(StatePart<P> &m, F f)
{
    int warp = threadIdx.x / WARP;
#pragma unroll
    for (int n = 0; n < m.N; n++)
#pragma unroll
        for (int i = 0; i < 4; i += 2)
            f(warp % m.DOWN * 16 + lane_row(i), warp / m.DOWN * (8 * m.N) + lane_column(n, i),
              &m.x[n][i]);
}

template <int P> static __device__ inline void show_state(StatePart<P> &m, bf16 *tile)
{
    each_pair<P>(m, [&](int row, int column, float *p) {
        *(uint32_t *)(tile + row * O_PITCH + column) = two(p[0], p[1]);
    });
}

/* A tile (P, STATE_COLUMNS) to memory (head_k head_v). */
template <int P>
static __device__ inline void leave_state(const Scan &c, const bf16 *tile, bf16 *to, int first)
{
#pragma unroll
    for (int i = threadIdx.x; i < P * STATE_COLUMNS / 8; i += CHUNK_THREADS) {
        int row = i / (STATE_COLUMNS / 8), column = i % (STATE_COLUMNS / 8) * 8;
        if (row < c.nk && first + column < c.nv)
            *(uint4 *)(to + row * c.nv + first + column) =
                *(const uint4 *)(tile + row * O_PITCH + column);
    }
}

/* What the blocks of a walk do: all of it; or stretches of `length` chunks, from zero, of which only
 * the states at their ends are wanted (SUM), or from their own starts. */
struct Stretches {
    int64_t count, length;
    float *states, *decays; /* (batch heads count head_k head_v), (batch heads count head_k) */
};

/* Grid: (columns, heads, batch x stretches). */
template <int P, bool BACKWARDS, bool SUM>
static __global__ void __launch_bounds__(CHUNK_THREADS, 1) walk(Walk w, Stretches cut)
{
    extern __shared__ __align__(16) char memory[];
    WalkShared<P> *s = (WalkShared<P> *)memory;
    int64_t b = blockIdx.z / cut.count, stretch = blockIdx.z % cut.count;
    int64_t lane = b * w.c.heads + blockIdx.y, size = w.c.nk * w.c.nv;
    int64_t begin = stretch * cut.length, end = min(w.chunks, begin + cut.length);
    int64_t here = lane * cut.count + stretch;
    int first_column = (int)blockIdx.x * STATE_COLUMNS, nk = (int)w.c.nk;
    int columns = (int)w.c.nv - first_column;
    bool is_last = stretch == (BACKWARDS ? 0 : cut.count - 1);
    Spot at = {b, blockIdx.y, (BACKWARDS ? end - 1 : begin) * CHUNK};
    bf16 *to = SUM || !w.to ? NULL : w.to + lane * (w.chunks + w.one_more) * size;
    const float *first = w.first ? w.first + lane * size : NULL;
    float *last = w.last && is_last ? w.last + lane * size : NULL;
    float2 fades = {0, 0};
    if (cut.count > 1) first = SUM ? NULL : cut.states + here * size;
    if (SUM) last = cut.states + here * size;
    StatePart<P> x;
    WalkPart<P> part;
    each_pair<P>(x, [&](int r, int c, float *p) {
        bool there = first && r < nk && c < columns;
        for (int i = 0; i < 2; i++) p[i] = there ? first[r * w.c.nv + first_column + c + i] : 0.0f;
    });
    show_state<P>(x, s->x);
    find_flags(w.c, at, s->flags[0]);
    load_part<P>(w, at, part);
    __syncthreads();
    copy_rows<STATE_COLUMNS, CHUNK_THREADS>(w.c, at, s->flags[0], w.o, (int)w.c.nv, first_column,
                                            s->o[0], O_PITCH);
    copies_commit();
    for (int64_t i = 0; i < end - begin; i++) {
        int now = i % 2, next = 1 - now;
        bool more = i + 1 < end - begin;
        sum_part<P>(w, part, s->flags[now], s);
        at.first += BACKWARDS ? -CHUNK : CHUNK;
        if (more) find_flags(w.c, at, s->flags[next]);
        __syncthreads();
        float2 all = put_part<P, BACKWARDS>(w, part, s);
        fades = make_float2(fades.x + all.x, fades.y + all.y);
        if (more) { /* the next one's are under way meanwhile */
            load_part<P>(w, at, part);
            copy_rows<STATE_COLUMNS, CHUNK_THREADS>(w.c, at, s->flags[next], w.o, (int)w.c.nv,
                                                    first_column, s->o[next], O_PITCH);
        }
        copies_commit();
        if (to)
            leave_state<P>(w.c, s->x, to + (BACKWARDS ? end - 1 - i : begin + i) * size,
                           first_column);
        copies_wait<1>();
        __syncthreads();
        each_pair<P>(x, [&](int r, int c, float *p) {
            p[0] *= s->end[r];
            p[1] *= s->end[r];
        });
        int warp = threadIdx.x / WARP;
        multiply_tiles<StatePart<P>::N, true, true>(x.x, s->r, P + 8, warp % x.DOWN * 16, s->o[now],
                                                    O_PITCH, warp / x.DOWN * (8 * x.N), CHUNK);
        show_state<P>(x, s->x);
    }
    __syncthreads();
    if (to && w.one_more && is_last) leave_state<P>(w.c, s->x, to + w.chunks * size, first_column);
    each_pair<P>(x, [&](int r, int c, float *p) {
        bool there = last && r < nk && c < columns;
        for (int i = 0; i < 2 && there; i++) last[r * w.c.nv + first_column + c + i] = p[i];
    });
    int k = threadIdx.x * 2;
    if (SUM && threadIdx.x < P / 2 && k < nk && first_column == 0)
        *(float2 *)(cut.decays + here * nk + k) = fades;
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

template <int P, bool BACKWARDS>
static void run_walk(const lmoe_args *a, const Walk &w, int64_t batch)
{
    int64_t n = stretches_of(&a->in[1], &a->in[2]), elements = batch * w.c.heads * w.c.nk * w.c.nv;
    Stretches cut = {n, cuda_pieces(w.chunks, n), w.room, w.room + elements * n};
    dim3 grid(blocks(w.c.nv, STATE_COLUMNS), (unsigned)w.c.heads, (unsigned)(batch * n));
    size_t bytes = sizeof(WalkShared<P>);
    if (n > 1) {
        allow_shared(walk<P, BACKWARDS, true>, bytes);
        walk<P, BACKWARDS, true><<<grid, CHUNK_THREADS, bytes, stream_of(a)>>>(w, cut);
        start_stretches<<<blocks(elements, THREADS), THREADS, 0, stream_of(a)>>>(
            cut, elements, w.c.nk, w.c.nv, w.first, BACKWARDS);
    }
    allow_shared(walk<P, BACKWARDS, false>, bytes);
    walk<P, BACKWARDS, false><<<grid, CHUNK_THREADS, bytes, stream_of(a)>>>(w, cut);
}

lmoe_status cuda_walk_chunks(const lmoe_args *a, const Walk *w, int64_t batch, int backwards)
{
    if (w->c.nk > 64)
        backwards ? run_walk<128, true>(a, *w, batch) : run_walk<128, false>(a, *w, batch);
    else
        backwards ? run_walk<64, true>(a, *w, batch) : run_walk<64, false>(a, *w, batch);
    return cuda_launched(a);
}
