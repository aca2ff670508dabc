/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/scan_chunk.cuh: scan_diag in chunks of 64 tokens on the matrix units; what the
 * op (scan_chunk.cu) and its derivative (scan_chunk_grad.cu) share.
 *
 * Within a chunk that begins with the state M and ends with it at time `end`, let G_t be the sum of
 * the decays up to token t, for each channel k of head_k. Then (* by channels)
 *
 *   y_t   = scale ((q_t exp G_t) M + sum over s <= t of a_ts v_s),  a_ts = (q_t exp(G_t - G_s)) . k_s
 *   M_end = exp(G_end) * M + sum over s of (k_s exp(G_end - G_s)) v_s^T
 *
 * so a kernel walks over the chunks and leaves each one's M, and another does all chunks at once.
 * The gradient D of the state at a chunk's end comes likewise from the last chunk to the first.
 *
 * For a to be a product of matrices, its factor is taken apart at a reference R: q exp(G - R) times
 * k exp(R - G). R is G in the middle of the chunk, unless a channel fades by more than 2^60 on either
 * side of it (a reset, a strong decay): such a chunk has its pairs of tokens done one by one. One decay
 * for all channels of a head, or none, is simpler: scan_head.cu.
 *
 * States between chunks are bf16 where they are operands; the walk itself is f32. Decays are in
 * logarithms to base 2, and none is below -160, which is 0. Tokens that are skipped, or past the end,
 * have decay 0 and rows of zeros.
 */
#ifndef CUDA_SCAN_CHUNK_CUH
#define CUDA_SCAN_CHUNK_CUH

#include "mma.cuh"
#include "scan.cuh"

enum { CHUNK = 64, SCORES_PITCH = CHUNK + 8, MOST_CHANNELS = 128 };

static const float FADES = 60.0f, FORGETS = -160.0f;

struct Chunks {
    Scan c;
    int64_t batch, chunks;
    float scale;
    const bf16 *q, *k, *v, *dy;
    const bf16 *begins,
        *ends; /* (batch heads chunks+1 head_k head_v): M before each chunk, and after
                                  the last; (batch heads chunks ...): D at each one's end */
};

/* Where a block works. */
struct Spot {
    int64_t b, h, first; /* token, in its sequence */
};

static __device__ inline float power_of_2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* What a token is: one of flags in shared memory, as loads behind a branch would wait for each other.
 * For the same reason loads take the address of some element that is there, and what they bring is
 * dropped where it does not count. */
enum { NO_ROW = 1, FORGET = 2 };

static __device__ inline void find_flags(const Scan &c, const Spot &at, uint8_t *flags)
{
    if (threadIdx.x >= CHUNK) return;
    int64_t s = at.first + threadIdx.x, token = at.b * c.seq + s;
    int flag = s < c.seq ? 0 : NO_ROW;
    if (s < c.seq && c.reset && c.reset[token]) flag |= FORGET;
    if (s < c.seq && c.skip && c.skip[token]) flag |= NO_ROW;
    flags[threadIdx.x] = (uint8_t)flag;
}

/* To base 2, of a token that is as `flag` says. */
static __device__ inline float log2_decay(float decay, int flag)
{
    float d = flag & NO_ROW ? 0.0f : fmaxf(decay * 1.44269504f, FORGETS);
    return flag & FORGET ? FORGETS : d;
}

/* The decay of channel 0 of the block's head at the start of its sequence. */
static __device__ inline const float *decays_of(const Scan &c, const Spot &at)
{
    return c.decay + at.b * c.seq * c.decay_token + at.h * c.decay_head;
}

/* First element of token s in a tensor (token heads n). */
static __device__ inline int64_t row_at(const Scan &c, const Spot &at, int64_t s, int64_t n)
{
    return ((at.b * c.seq + s) * c.heads + at.h) * n;
}

/* The chunk's rows of x (token heads n) from column `from` on to a tile of WIDTH,
 * under way when this returns. */
template <int WIDTH, int BLOCK>
static __device__ inline void copy_rows(const Scan &c, const Spot &at, const uint8_t *flags,
                                        const bf16 *x, int n, int from, bf16 *tile, int pitch)
{
    const bf16 *first = x + row_at(c, at, at.first, n);
    int64_t step = c.heads * n;
#pragma unroll
    for (int i = threadIdx.x; i < CHUNK * WIDTH / 8; i += BLOCK) {
        int t = i / (WIDTH / 8), column = i % (WIDTH / 8) * 8;
        bool there = from + column < n && !(flags[t] & NO_ROW);
        copy_16(tile + t * pitch + column, there ? first + t * step + from + column : x, there);
    }
}

/* ---- all chunks at once: a block has one ---- */

#ifndef SCAN_CHUNK_THREADS /* a file may say so before this one */
#define SCAN_CHUNK_THREADS 256
#endif
enum {
    CHUNK_THREADS = SCAN_CHUNK_THREADS,
    ACROSS = CHUNK_THREADS / WARP / 4, /* warps side by side; four are one below the other */
    SCORES = CHUNK / ACROSS / 8,       /* columns of a warp's scores, in eights */
    SCORE_LANES = CHUNK_THREADS / CHUNK
};

/* A thread has two channels of some tokens in a row: G, q and k. */
template <int P> struct Part {
    static const int SEGMENTS = CHUNK_THREADS / (P / 2), TOKENS = CHUNK / SEGMENTS;
    float2 g[TOKENS];
    uint32_t q[TOKENS], k[TOKENS];
};

/* Of each channel: what q's and k's factors are taken from (R and R, or 0 and G_end where the chunk
 * is `steep`), and what M and D then lack. */
template <int P> struct Channels {
    float q_from[P], k_from[P], begin[P], end[P];
    float total[CHUNK_THREADS / (P / 2)][P];
};

template <int P>
static __device__ inline void load_part(const Chunks &w, const Spot &at, Part<P> &mine)
{
    const Scan &c = w.c;
    int k = min(threadIdx.x % (P / 2) * 2, (int)c.nk - 2);
    int64_t first = at.first + threadIdx.x / (P / 2) * Part<P>::TOKENS, step = c.heads * c.nk;
    const float *decay = decays_of(c, at) + k;
    const bf16 *q = w.q + row_at(c, at, 0, c.nk) + k, *z = w.k + row_at(c, at, 0, c.nk) + k;
#pragma unroll
    for (int i = 0; i < Part<P>::TOKENS; i++) {
        int64_t t = min(first + i, c.seq - 1);
        mine.g[i] = *(const float2 *)(decay + t * c.decay_token);
        mine.q[i] = *(const uint32_t *)(q + t * step);
        mine.k[i] = *(const uint32_t *)(z + t * step);
    }
}

/* Makes sums of what was loaded. Returns 1 if the chunk is steep. */
template <int P>
static __device__ inline bool sum_decays(const Scan &c, const uint8_t *flags, Part<P> &mine,
                                         Channels<P> &s)
{
    int k = threadIdx.x % (P / 2) * 2, segment = threadIdx.x / (P / 2);
    float2 sum = {0, 0}, before = {0, 0}, middle = {0, 0}, all = {0, 0};
#pragma unroll
    for (int i = 0; i < Part<P>::TOKENS; i++) {
        int flag = flags[segment * Part<P>::TOKENS + i];
        bool there = k < c.nk, row = there && !(flag & NO_ROW);
        sum.x += there ? log2_decay(mine.g[i].x, flag) : 0.0f;
        sum.y += there ? log2_decay(mine.g[i].y, flag) : 0.0f;
        mine.g[i] = sum;
        mine.q[i] = row ? mine.q[i] : 0;
        mine.k[i] = row ? mine.k[i] : 0;
    }
    s.total[segment][k] = sum.x;
    s.total[segment][k + 1] = sum.y;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < Part<P>::SEGMENTS; i++) {
        float2 x = make_float2(s.total[i][k], s.total[i][k + 1]);
        if (i < segment) before = make_float2(before.x + x.x, before.y + x.y);
        if (i < Part<P>::SEGMENTS / 2) middle = make_float2(middle.x + x.x, middle.y + x.y);
        all = make_float2(all.x + x.x, all.y + x.y);
    }
#pragma unroll
    for (int i = 0; i < Part<P>::TOKENS; i++) {
        mine.g[i].x += before.x;
        mine.g[i].y += before.y;
    }
    bool steep = __syncthreads_or(middle.x < -FADES || middle.y < -FADES ||
                                  middle.x - all.x > FADES || middle.y - all.y > FADES);
    if (segment == 0) {
        s.q_from[k] = steep ? 0.0f : middle.x;
        s.q_from[k + 1] = steep ? 0.0f : middle.y;
        s.k_from[k] = steep ? all.x : middle.x;
        s.k_from[k + 1] = steep ? all.y : middle.y;
        for (int i = k; i < k + 2; i++) {
            s.begin[i] = power_of_2(s.q_from[i]);
            s.end[i] = power_of_2((i == k ? all.x : all.y) - s.k_from[i]);
        }
    }
    __syncthreads();
    return steep;
}

/* q and k with their factors, and G (unless NULL), to tiles. */
template <int P>
static __device__ inline void put_factored(const Part<P> &mine, const Channels<P> &s, bf16 *q,
                                           bf16 *k, float *g)
{
    const int PITCH = P + 8;
    int i = threadIdx.x % (P / 2) * 2, first = threadIdx.x / (P / 2) * Part<P>::TOKENS;
    float2 q_from = *(const float2 *)(s.q_from + i), k_from = *(const float2 *)(s.k_from + i);
#pragma unroll
    for (int n = 0; n < Part<P>::TOKENS; n++) {
        int t = first + n;
        float2 sum = mine.g[n];
        *(uint32_t *)(q + t * PITCH + i) = two(low(mine.q[n]) * power_of_2(sum.x - q_from.x),
                                               high(mine.q[n]) * power_of_2(sum.y - q_from.y));
        *(uint32_t *)(k + t * PITCH + i) = two(low(mine.k[n]) * power_of_2(k_from.x - sum.x),
                                               high(mine.k[n]) * power_of_2(k_from.y - sum.y));
        if (g) *(float2 *)(g + t * (P + 8) + i) = sum;
    }
}

/* a_ts of a steep chunk. g: (CHUNK, P + 8) */
template <int P>
static __device__ __noinline__ float score_of_pair(const Chunks &w, const Spot &at,
                                                   const uint8_t *flags, const float *g, int t,
                                                   int s)
{
    float sum = 0;
    if ((flags[t] | flags[s]) & NO_ROW) return 0.0f;
    const bf16 *q = w.q + row_at(w.c, at, at.first + t, w.c.nk);
    const bf16 *k = w.k + row_at(w.c, at, at.first + s, w.c.nk);
    for (int i = 0; i < w.c.nk; i += 2) {
        uint32_t x = *(const uint32_t *)(q + i), z = *(const uint32_t *)(k + i);
        float2 a = *(const float2 *)(g + t * (P + 8) + i);
        float2 b = *(const float2 *)(g + s * (P + 8) + i);
        sum += low(x) * low(z) * power_of_2(a.x - b.x) + high(x) * high(z) * power_of_2(a.y - b.y);
    }
    return sum;
}

/* Scores of a steep chunk, scaled, into a tile. */
template <int P>
static __device__ void put_steep_scores(const Chunks &w, const Spot &at, const uint8_t *flags,
                                        const float *g, bf16 *a)
{
    int t = threadIdx.x / SCORE_LANES;
    for (int s = threadIdx.x % SCORE_LANES; s < CHUNK; s += SCORE_LANES) {
        float x = s <= t ? w.scale * score_of_pair<P>(w, at, flags, g, t, s) : 0.0f;
        a[t * SCORES_PITCH + s] = __float2bfloat16_rn(x);
    }
}

/* A warp's place in a result of CHUNK rows and P columns: rows `row` ..., columns `column` ... */
struct Corner {
    int row, column;
};

template <int P> static __device__ inline Corner corner_of()
{
    int warp = threadIdx.x / WARP;
    return {warp % 4 * 16, warp / 4 * (P / ACROSS)};
}

/* A warp's part of left right^T (CHUNK, CHUNK), both tiles of P columns. */
template <int P>
static __device__ inline void multiply_scores(float (&c)[SCORES][4], const bf16 *left,
                                              const bf16 *right)
{
    Corner at = corner_of<CHUNK>();
    multiply_tiles<SCORES, false, false>(c, left, P + 8, at.row, right, P + 8, at.column, P);
}

/* Element (t, s) of lane's c[n][i]. */
static __device__ inline int lane_row(int i)
{
    return threadIdx.x % WARP / 4 + (i >= 2 ? 8 : 0);
}

static __device__ inline int lane_column(int n, int i)
{
    return 8 * n + threadIdx.x % 4 * 2 + (i & 1);
}

/* Products of tokens, times `scale`, where t > s, or t = s unless STRICT, go to a tile. diagonal (unless
 * NULL) gets those of t = s. */
template <bool STRICT>
static __device__ inline void put_scores(const float (&c)[SCORES][4], float scale, bf16 *a,
                                         float *diagonal)
{
    Corner at = corner_of<CHUNK>();
#pragma unroll
    for (int n = 0; n < SCORES; n++)
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
            int t = at.row + lane_row(i), s = at.column + lane_column(n, i);
            float x[2];
#pragma unroll
            for (int k = 0; k < 2; k++) {
                bool counts = STRICT ? t > s + k : t >= s + k;
                x[k] = counts ? scale * c[n][i + k] : 0.0f;
                if (diagonal && t == s + k) diagonal[t] = scale * c[n][i + k];
            }
            *(uint32_t *)(a + t * SCORES_PITCH + s) = two(x[0], x[1]);
        }
}

/* A thread's part of a state on its way to a tile. */
template <int P> struct StateLoad {
    static const int LANES_OF_ROW = P / 8, STEP = CHUNK_THREADS / LANES_OF_ROW, N = P / STEP;
    uint4 x[N];

    static __device__ int row(int i)
    {
        return threadIdx.x / LANES_OF_ROW + i * STEP;
    }
    static __device__ int column()
    {
        return threadIdx.x % LANES_OF_ROW * 8;
    }
};

template <int P>
static __device__ inline void fetch_state(const Scan &c, const bf16 *state, StateLoad<P> &l)
{
#pragma unroll
    for (int i = 0; i < l.N; i++)
        l.x[i] = *(const uint4 *)(state + min(l.row(i), (int)c.nk - 1) * c.nv +
                                  min(l.column(), (int)c.nv - 8));
}

/* To a tile (P, P + 8), its rows times `factor`. If dots is not NULL, it gets the sum over head_v of
 * this state and `other`, for each row. */
template <int P>
static __device__ inline void put_state(const Scan &c, const StateLoad<P> &l, const float *factor,
                                        const StateLoad<P> *other, float *dots, bf16 *tile)
{
#pragma unroll
    for (int i = 0; i < l.N; i++) {
        int row = l.row(i), column = l.column();
        bool there = row < c.nk && column < c.nv;
        Pack x = there ? Floats{&l.x[i], true}.pack(0, PACK) : Pack{};
        if (dots) {
            Pack z = Floats{&other->x[i], true}.pack(0, PACK);
            float sum = 0;
            for (int k = 0; k < PACK; k++) sum += x.x[k] * (there ? z.x[k] : 0.0f);
            for (int step = l.LANES_OF_ROW / 2; step > 0; step /= 2)
                sum += __shfl_xor_sync(~0u, sum, step);
            if (column == 0) dots[row] = sum;
        }
        float f = factor[row];
        for (int k = 0; k < PACK; k++) x.x[k] *= f;
        Results{tile + row * (P + 8) + column, true}.pack(0, PACK, x);
    }
}

/* Rows of out (token heads n) from a warp's 16 x (8 N) at its corner. */
template <int N>
static __device__ inline void put_rows(const Scan &c, const Spot &at, Corner corner,
                                       const float (&x)[N][4], bf16 *out, int64_t n)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int64_t s = at.first + corner.row + lane_row(2 * half);
#pragma unroll
        for (int i = 0; i + 3 < N; i += 4) {
            uint32_t u[4];
#pragma unroll
            for (int k = 0; k < 4; k++) u[k] = two(x[i + k][2 * half], x[i + k][2 * half + 1]);
            trade(u);
            int column = corner.column + 8 * i + threadIdx.x % 4 * 8;
            if (s < c.seq && column < n)
                *(uint4 *)(out + row_at(c, at, s, n) + column) = make_uint4(u[0], u[1], u[2], u[3]);
        }
#pragma unroll
        for (int i = N / 4 * 4; i < N; i++) {
            int column = corner.column + lane_column(i, 0);
            if (s < c.seq && column < n)
                *(uint32_t *)(out + row_at(c, at, s, n) + column) =
                    two(x[i][2 * half], x[i][2 * half + 1]);
        }
    }
}

/* ---- one chunk after another: states ---- */

enum { STATE_COLUMNS = 64 };

/* forwards:  X before each chunk goes to `to`;  X = exp(G_end) X + sum of (r_s exp(G_end - G_s)) o_s^T
 * backwards: X at each chunk's end goes there;  X = exp(G_end) X + sum of (r_s exp(G_s)) o_s^T
 * r: (token heads head_k), o: (token heads head_v). X enters from `first` and leaves to `last`, f32,
 * which may be NULL or the same memory; with `one_more` it also goes behind the last chunk's place. */
struct Walk {
    Scan c;
    const bf16 *r, *o;
    float scale;
    const float *first;
    float *last;
    bf16 *to;
    int64_t chunks;
    int one_more;
    float *room; /* of walk_words */
};

lmoe_status cuda_walk_chunks(const lmoe_args *a, const Walk *w, int64_t batch, int backwards);

/* Where heads are few and chunks many, a walk is cut into stretches: first each from zero, then their
 * starts are known, then each with its own. By shapes alone, as results must not depend on the GPU. */
static inline int64_t stretches_of(const lmoe_buf *k, const lmoe_buf *v)
{
    const int64_t enough = 128, shortest = 8;
    int64_t chunks = cuda_pieces(k->dim[1], CHUNK);
    int64_t blocks = k->dim[0] * k->dim[2] * cuda_pieces(v->dim[3], STATE_COLUMNS);
    int64_t most = cuda_max(1, cuda_min(enough / blocks, chunks / shortest));
    return cuda_pieces(chunks, cuda_pieces(chunks, most));
}

/* States of the stretches, and by what each fades. */
static inline int64_t walk_words(const lmoe_args *a)
{
    const lmoe_buf *k = &a->in[1], *v = &a->in[2];
    int64_t n = stretches_of(k, v);
    return n == 1 ? 0 : k->dim[0] * k->dim[2] * n * k->dim[3] * (v->dim[3] + 1);
}

static inline int can_chunk(const lmoe_args *a, int decay, int carry)
{
    const lmoe_buf *k = &a->in[1], *v = &a->in[2];
    if (!can_scan(a, decay, carry) || !cuda_is_bf16(k) || k->dim[1] < 16) return 0;
    if (a->in[decay].rank != 4) return 0; /* scan_head.cu */
    return cuda_is_bf16(&a->in[0]) && cuda_is_bf16(v) && k->dim[3] % 8 == 0 && v->dim[3] % 8 == 0 &&
           k->dim[3] <= MOST_CHANNELS && v->dim[3] <= MOST_CHANNELS;
}

/* Words of the states of `count` chunks of every head. */
static inline int64_t state_words(const lmoe_args *a, int64_t count)
{
    const lmoe_buf *k = &a->in[1];
    return k->dim[0] * k->dim[2] * count * k->dim[3] * a->in[2].dim[3] / 2;
}

#endif
