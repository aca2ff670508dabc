/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/delta_chunk.cuh: recurrences in chunks of 64 steps on the matrix units, with one
 * decay for all channels of a head or none; what scan_delta (scan_delta_chunk.cu), its derivative
 * (scan_delta_chunk_grad.cu) and scan_diag with such a decay (scan_head.cu) share.
 *
 * The steps of a sequence are numbered through, `each` of them to a token. In a chunk that begins with
 * the state M, let H_i be the sum of the decays that act before row a_i reads (a reset does, the
 * step's own decay does not), and G_i that with step i's own. Then, by rows,
 *
 *   A_ij = exp(H_i - G_j) a_i . k_j for j < i,   T = (1 + A)^-1        P_ts = scale exp(G_t - G_s) q_t . k_s
 *   X    = T (V - exp(H) a M)                    Y = scale exp(G) q M + P X
 *   M    <- exp(G_end) M + sum of exp(G_end - G_j) k_j x_j^T
 *
 * and backwards, with D the gradient of the state at the chunk's end,
 *
 *   dX   = P^T dY + exp(G_end - G) k D           E = dV = T^T dX
 *   D    <- exp(G_end) D + (scale exp(G) q)^T dY - (exp(H) a)^T E
 *
 * T and P of all chunks are made at once; then a block walks over the chunks with its columns of the
 * state on the chip. Where nothing is erased (scan_diag: scan_head.cu), X = V and E = dX, and the walk
 * makes P itself. With the states at the chunks' ends known, the other derivatives are those of all
 * chunks at once.
 *
 * Where heads are few and chunks many, a walk is cut into stretches: what each makes of any state comes
 * first, then their starts are known, then each goes with its own.
 *
 * Decays are in logarithms to base 2, and none is below -160, which is 0. Steps that are skipped, or past
 * the end, have decay 0, a row of zeros in T and P, and factors 0.
 */
#ifndef CUDA_DELTA_CHUNK_CUH
#define CUDA_DELTA_CHUNK_CUH

#include "mma.cuh"

enum {
    CHUNK = 64,
    COLUMNS = 64,         /* of the state, of a block's walk */
    PITCH_64 = 64 + 8,    /* of tiles of 64 columns */
    WITHIN_THREADS = 256, /* of a block that makes T and P */
    WALK_THREADS = 256,   /* and of one that walks */
    MOST_CHANNELS = 128
};

/* Of each step in a chunk: rows of CHUNK floats. */
enum {
    READ_A, /* exp(H) */
    READ_Q, /* scale exp(G); 0 where no q reads */
    TO_END, /* exp(G_end - G) */
    END,    /* exp(G_end), in the first one */
    SUMS,   /* G; infinite where there is no row, so that nothing is left of it */
    SUMS_Q, /* G; -infinite where no q reads */
    SUMS_A, /* H; -infinite where there is no row */
    FLAGS,  /* a sum of ROW ... */
    FACTORS = 8
};
enum { ROW = 1, READS = 2 /* a row q too */, FORGETS = 4 /* a reset */, FIRST = 8, LAST = 16 };

struct Steps {
    int64_t batch, seq, steps, heads, chunks;
    int32_t nk, nv, each;
    float scale;
    const float *decay; /* NULL: none; else its distances by token and head */
    int64_t decay_token, decay_head;
    const uint8_t *reset, *skip;
    const bf16 *q, *k, *v, *a;
    bool erase; /* there is an a */
    /* of every chunk, (batch heads chunks ...); t and p only where something is erased */
    bf16 *t, *p;    /* (CHUNK CHUNK); P's is scaled */
    float *factors; /* (FACTORS CHUNK) */
};

/* Cuts them off a workspace. */
void cuda_chunk_take(Steps *c, char **cursor);
/* Fills them. */
void cuda_chunk_prepare(const lmoe_args *a, const Steps *c);

/* A walk that is cut into `count` stretches of `length` chunks. */
struct Cut {
    int64_t count, length;
    float *starts; /* (batch heads count head_k head_v): the state with which each begins */
    float *
        turns; /* (batch heads count head_k head_k): a stretch turns M into turns M + starts, once */
    bool sum;  /* these two are what the walk is for */
};

/* M over all chunks, to y, or for a derivative (begins is not NULL): to x (by step) and begins (batch
 * heads chunks + 1 head_k head_v), M before each chunk and after the last. first, last: may be NULL,
 * and the same memory. */
struct Forwards {
    const float *first;
    float *last;
    bf16 *y, *x, *begins;
};

/* D over all chunks, to e (by step) and ends (batch heads chunks head_k head_v), D at each one's end.
 * first is dM after the last step, last dM before the first one. */
struct Backwards {
    const bf16 *dy;
    const float *first;
    float *last;
    bf16 *e, *ends;
};

/* The walks with something to erase, and without. */
void cuda_erase_forwards(const lmoe_args *a, const Steps *c, const Cut *cut, const Forwards *w);
void cuda_erase_backwards(const lmoe_args *a, const Steps *c, const Cut *cut, const Backwards *w);
void cuda_plain_forwards(const lmoe_args *a, const Steps *c, const Cut *cut, const Forwards *w);
void cuda_plain_backwards(const lmoe_args *a, const Steps *c, const Cut *cut, const Backwards *w);

/* The one that fits, over all stretches. */
void cuda_forwards(const lmoe_args *a, const Steps *c, const Cut *cut, const Forwards *w);

/* States and turns of the stretches of a walk that was for them become their starts. */
void cuda_start_stretches(const lmoe_args *a, const Steps *c, const Cut *cut, const float *first,
                          int backwards);

/* The whole derivative. Its operands and results by number, -1: none; q, k, v and dq, dk, dv come
 * first, and the flags follow the decay. */
typedef struct cuda_chunk_ports {
    int a, decay, dy, carry, dcarry, da, ddecay, dcarry_out;
} cuda_chunk_ports;

size_t cuda_chunk_grad_bytes(const lmoe_args *a, const cuda_chunk_ports *p);
lmoe_status cuda_chunk_grad(const lmoe_args *a, const cuda_chunk_ports *p);

/* ---- on the device ---- */

struct Place {
    int64_t b, h, first; /* step */
};

static __device__ inline float power_of_2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

static __device__ inline int64_t chunk_number(const Steps &c, const Place &at)
{
    return (at.b * c.heads + at.h) * c.chunks + at.first / CHUNK;
}

static __device__ inline int64_t token_of(const Steps &c, int64_t s)
{
    return c.each == 1 ? s : (int32_t)s / c.each;
}

/* First of n elements of step s, or, BY_TOKEN, of its token; of the last step if s is past it. */
template <bool BY_TOKEN>
static __device__ inline int64_t row_of(const Steps &c, const Place &at, int64_t s, int n)
{
    s = min(s, c.steps - 1);
    int64_t row = BY_TOKEN ? at.b * c.seq + token_of(c, s) : at.b * c.steps + s;
    return (row * c.heads + at.h) * n;
}

/* WIDTH columns from `from` on of the chunk's rows of x to a tile, under way when this returns; zeros
 * past column n. */
template <bool BY_TOKEN, int WIDTH, int BLOCK>
static __device__ inline void copy_tile(const Steps &c, const Place &at, const bf16 *x, int n,
                                        int from, bf16 *tile)
{
    const int LINE = WIDTH / 8, STEP = BLOCK / LINE;
    int column = threadIdx.x % LINE * 8, t = threadIdx.x / LINE, step = (int)c.heads * n;
    int last = (int)min((int64_t)CHUNK, c.steps - at.first) - 1;
    bool there = from + column < n, shared = BY_TOKEN && c.each > 1;
    const bf16 *base = x + row_of<BY_TOKEN>(c, at, at.first, n) + (there ? from + column : 0);
    int place = shared ? (int32_t)at.first % c.each : 0;
#pragma unroll
    for (int i = 0; i < CHUNK / STEP; i++, t += STEP) {
        int row = min(t, last);
        if (shared) row = (place + row) / c.each;
        copy_16(tile + t * (WIDTH + 8) + column, base + row * step, there);
    }
}

/* A tile of (CHUNK CHUNK) that lies densely in memory. */
template <int BLOCK> static __device__ inline void copy_square(const bf16 *x, bf16 *tile)
{
#pragma unroll
    for (int i = threadIdx.x; i < CHUNK * CHUNK / 8; i += BLOCK)
        copy_16(tile + i / 8 * PITCH_64 + i % 8 * 8, x + i * 8, true);
}

template <int BLOCK> static __device__ inline void copy_factors(const float *x, int rows, float *to)
{
    for (int i = threadIdx.x; i < rows * CHUNK / 4; i += BLOCK)
        copy_16(to + i * 4, x + i * 4, true);
}

/* Row and column of a lane's c[n][i] in its warp's part. */
static __device__ inline int lane_row(int i)
{
    return threadIdx.x % WARP / 4 + (i >= 2 ? 8 : 0);
}

static __device__ inline int lane_column(int n, int i)
{
    return 8 * n + threadIdx.x % 4 * 2 + (i & 1);
}

/* A warp's 16 x (8 N) at (row, column) of a tile: calls f(row, column, element) for pairs. */
template <int N, class F>
static __device__ inline void each_pair(float (&x)[N][4], int row, int column, F f)
{
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i += 2) f(row + lane_row(i), column + lane_column(n, i), &x[n][i]);
}

/* Rows of out (... heads n) from a warp's 16 x (8 N), N even, at row `row` of the chunk and column
 * `column` of n; BY_TOKEN: rows of a token's last step. */
template <bool BY_TOKEN, int N>
static __device__ inline void put_rows(const Steps &c, const Place &at, int row, int column,
                                       const float (&x)[N][4], bf16 *out, int n)
{
    int lane = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int64_t s = at.first + row + lane_row(2 * half);
        bool there = s < c.steps;
        if (BY_TOKEN && c.each > 1) there = there && (int32_t)s % c.each == c.each - 1;
        bf16 *to = out + row_of<BY_TOKEN>(c, at, s, n);
        if (N % 4 == 0) {
#pragma unroll
            for (int i = 0; i + 3 < N; i += 4) {
                uint32_t u[4];
#pragma unroll
                for (int k = 0; k < 4; k++) u[k] = two(x[i + k][2 * half], x[i + k][2 * half + 1]);
                trade(u);
                int first = column + 8 * i + lane * 8;
                if (there && first < n) *(uint4 *)(to + first) = make_uint4(u[0], u[1], u[2], u[3]);
            }
        } else {
#pragma unroll
            for (int i = 0; i < N; i++) {
                int first = column + 8 * i + lane * 2;
                if (there && first < n)
                    *(uint32_t *)(to + first) = two(x[i][2 * half], x[i][2 * half + 1]);
            }
        }
    }
}

template <int N> static __device__ inline void clear(float (&x)[N][4])
{
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) x[n][i] = 0;
}

/* A warp's 16 x (8 N) of the products of rows of two tiles of P columns, times their factors and
 * `scale`, where the right one's step comes before the left one's, STRICTly or not; 0 elsewhere. sums:
 * of the left rows. */
template <int P, int N, bool STRICT>
static __device__ inline void put_pairs(const bf16 *left, const bf16 *right, const float *f,
                                        int sums, float scale, bf16 *to)
{
    int row = threadIdx.x / WARP % 4 * 16, column = threadIdx.x / WARP / 4 * (8 * N);
    float x[N][4] = {};
    multiply_tiles<N, false, false>(x, left, P + 8, row, right, P + 8, column, P);
    each_pair(x, row, column, [&](int t, int s, float *p) {
        float own = f[sums * CHUNK + t];
        float2 other = *(const float2 *)(f + SUMS * CHUNK + s);
        bool first = STRICT ? s < t : s <= t, second = STRICT ? s + 1 < t : s + 1 <= t;
        p[0] = first ? scale * power_of_2(own - other.x) * p[0] : 0.0f;
        p[1] = second ? scale * power_of_2(own - other.y) * p[1] : 0.0f;
        *(uint32_t *)(to + t * PITCH_64 + s) = two(p[0], p[1]);
    });
}

/* x times the rows' factor. */
template <int N>
static __device__ inline void scale_rows(float (&x)[N][4], int row, const float *factor, float sign)
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float f = sign * factor[row + lane_row(i)];
#pragma unroll
        for (int n = 0; n < N; n++) x[n][i] *= f;
    }
}

/* x times `factor`; what is forgotten is gone, whatever it was. */
template <int N> static __device__ inline void fade(float (&x)[N][4], float factor)
{
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) x[n][i] = factor == 0.0f ? 0.0f : factor * x[n][i];
}

/* Rows of a tile (CHUNK, PITCH_64) times their factors to another. */
static __device__ inline void scale_tile(const bf16 *from, const float *factor, bf16 *to)
{
#pragma unroll
    for (int i = threadIdx.x; i < CHUNK * COLUMNS / 8; i += WALK_THREADS) {
        int t = i / (COLUMNS / 8), at = t * PITCH_64 + i % (COLUMNS / 8) * 8;
        uint4 u = *(const uint4 *)(from + at);
        float f = factor[t];
        *(uint4 *)(to + at) =
            make_uint4(two(f * low(u.x), f * high(u.x)), two(f * low(u.y), f * high(u.y)),
                       two(f * low(u.z), f * high(u.z)), two(f * low(u.w), f * high(u.w)));
    }
}

/* A walking block's columns of the state of P rows: each warp has 16 of the rows. */
template <int P> struct StatePart {
    static const int DOWN = P / 16, N = COLUMNS / 8 * DOWN / (WALK_THREADS / WARP);
    float x[N][4];

    static __device__ int row()
    {
        return threadIdx.x / WARP % DOWN * 16;
    }
    static __device__ int column()
    {
        return threadIdx.x / WARP / DOWN * (8 * N);
    }
};

/* Which part of a walk a block has. */
struct Stretch {
    int64_t b, lane, begin, end; /* chunks */
    int first, width;            /* column, and columns in all: head_v, or head_k of turns */
    bool turns;
    const float *from; /* (head_k width), or NULL */
    float *to;
};

/* Grid: (columns, heads, batch x stretches); behind the columns of the state those of turns. */
static __device__ inline Stretch stretch_of(const Steps &c, const Cut &cut, const float *first,
                                            float *last, bool backwards)
{
    int64_t stretch = blockIdx.z % cut.count, size = (int64_t)c.nk * c.nv;
    int across = (c.nv + COLUMNS - 1) / COLUMNS;
    Stretch o = {blockIdx.z / cut.count};
    o.lane = o.b * c.heads + blockIdx.y;
    o.begin = stretch * cut.length;
    o.end = min(c.chunks, o.begin + cut.length);
    o.turns = (int)blockIdx.x >= across;
    o.first = ((int)blockIdx.x - (o.turns ? across : 0)) * COLUMNS;
    o.width = o.turns ? c.nk : c.nv;
    bool is_last = stretch == (backwards ? 0 : cut.count - 1);
    int64_t here = o.lane * cut.count + stretch;
    float *starts = cut.count > 1 ? cut.starts + here * size : NULL;
    if (cut.sum) {
        o.to = o.turns ? cut.turns + here * c.nk * c.nk : starts;
    } else {
        o.from = starts ? starts : first ? first + o.lane * size : NULL;
        o.to = last && is_last ? last + o.lane * size : NULL;
    }
    return o;
}

template <int P>
static __device__ inline void enter_state(const Steps &c, const Stretch &w, StatePart<P> &m)
{
    each_pair(m.x, m.row(), m.column() + w.first, [&](int row, int column, float *p) {
        bool there = w.from && row < c.nk && column < w.width;
        for (int i = 0; i < 2; i++) {
            p[i] = w.turns && row == column + i ? 1.0f : 0.0f;
            if (there) p[i] = w.from[row * w.width + column + i];
        }
    });
}

template <int P>
static __device__ inline void leave_state(const Steps &c, const Stretch &w, StatePart<P> &m)
{
    each_pair(m.x, m.row(), m.column() + w.first, [&](int row, int column, float *p) {
        bool there = w.to && row < c.nk && column < w.width;
        for (int i = 0; i < 2 && there; i++) w.to[row * w.width + column + i] = p[i];
    });
}

/* To a tile (P, PITCH_64). */
template <int P> static __device__ inline void show_state(StatePart<P> &m, bf16 *tile)
{
    each_pair(m.x, m.row(), m.column(), [&](int row, int column, float *p) {
        *(uint32_t *)(tile + row * PITCH_64 + column) = two(p[0], p[1]);
    });
}

/* From there to memory (head_k head_v). */
template <int P>
static __device__ inline void put_state(const Steps &c, const bf16 *tile, bf16 *to, int first)
{
#pragma unroll
    for (int i = threadIdx.x; i < P * COLUMNS / 8; i += WALK_THREADS) {
        int row = i / (COLUMNS / 8), column = i % (COLUMNS / 8) * 8;
        if (row < c.nk && first + column < c.nv)
            *(uint4 *)(to + row * c.nv + first + column) =
                *(const uint4 *)(tile + row * PITCH_64 + column);
    }
}

/* ---- on the host ---- */

static inline int64_t chunk_heads(const Steps *c)
{
    return c->batch * c->heads;
}

/* Words of the states of `count` chunks of every head, of the rows of every step. */
static inline int64_t chunk_state_words(const Steps *c, int64_t count)
{
    return chunk_heads(c) * count * c->nk * c->nv / 2;
}

static inline int64_t chunk_value_words(const Steps *c)
{
    return c->batch * c->steps * c->heads * c->nv / 2;
}

/* Stretches by shapes alone, as results must not depend on the GPU. */
static inline Cut cut_of(const Steps *c)
{
    const int64_t enough = 128, shortest = 8;
    int64_t blocks = chunk_heads(c) * cuda_pieces(c->nv, COLUMNS);
    int64_t most = cuda_max(1, cuda_min(enough / blocks, c->chunks / shortest));
    Cut cut = {};
    cut.length = cuda_pieces(c->chunks, most);
    cut.count = cuda_pieces(c->chunks, cut.length);
    return cut;
}

static inline void cut_take(const Steps *c, Cut *cut, char **cursor)
{
    if (cut->count == 1) return;
    int64_t rows = chunk_heads(c) * cut->count * c->nk;
    cut->starts = (float *)cuda_take(cursor, rows * c->nv);
    if (c->erase) cut->turns = (float *)cuda_take(cursor, rows * c->nk);
}

static inline dim3 walk_grid(const Steps &c, const Cut &cut)
{
    int64_t turns = cut.sum && c.erase ? cuda_pieces(c.nk, COLUMNS) : 0;
    return dim3((unsigned)(cuda_pieces(c.nv, COLUMNS) + turns), (unsigned)c.heads,
                (unsigned)(c.batch * cut.count));
}

/* Operand k of rank 4 or 5, v, and the decay and the flags behind it, by their numbers. */
static inline Steps describe_steps(const lmoe_args *args, float scale, int k, int v, int a,
                                   int decay)
{
    const lmoe_buf *key = &args->in[k], *value = &args->in[v];
    const lmoe_buf *d = cuda_at(args->in, args->n_in, decay);
    Steps c = {};
    c.batch = key->dim[0];
    c.seq = key->dim[1];
    c.each = key->rank == 5 ? (int32_t)key->dim[2] : 1;
    c.steps = c.seq * c.each;
    c.heads = key->dim[key->rank - 2];
    c.chunks = cuda_pieces(c.steps, CHUNK);
    c.nk = (int32_t)key->dim[key->rank - 1];
    c.nv = (int32_t)value->dim[value->rank - 1];
    c.scale = scale;
    c.decay = input<float>(args, decay);
    c.decay_head = 1;
    c.decay_token = d->rank > 1 ? c.heads : 0;
    c.reset = input<uint8_t>(args, decay + 1);
    c.skip = input<uint8_t>(args, decay + 2);
    c.q = input<bf16>(args, 0);
    c.k = input<bf16>(args, k);
    c.v = input<bf16>(args, v);
    c.a = a < 0 ? NULL : input<bf16>(args, a);
    c.erase = a >= 0;
    return c;
}

/* Are there chunks worth it, of channels that fit, in bf16; and one decay for all channels? */
static inline int can_steps(const lmoe_args *a, int decay, int carry)
{
    const lmoe_buf *k = &a->in[1], *v = &a->in[2], *d = cuda_at(a->in, a->n_in, decay);
    int64_t nk = k->dim[k->rank - 1], nv = v->dim[v->rank - 1];
    int64_t steps = k->dim[1] * (k->rank == 5 ? k->dim[2] : 1);
    for (int i = carry; i < a->n_in; i++)
        if (lmoe_buf_present(&a->in[i]) && !cuda_is_f32(&a->in[i])) return 0;
    if (lmoe_buf_present(d) && (!cuda_is_f32(d) || d->rank == 4)) return 0;
    return cuda_is_bf16(&a->in[0]) && cuda_is_bf16(k) && cuda_is_bf16(v) && steps >= 16 &&
           steps < 1 << 30 && nk % 8 == 0 && nv % 8 == 0 && nk <= MOST_CHANNELS &&
           nv <= MOST_CHANNELS;
}

#endif
