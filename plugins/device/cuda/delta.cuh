/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/delta.cuh: recurrences that erase before they write, step by step; what
 * scan_delta/1 (scan_delta.cu) and its derivative (scan_delta_grad.cu) share.
 *
 * The steps of a sequence are numbered through, `each` of them to a token: the decay, and a reset
 * before it, act in a token's first one, and the result is read after its last one.
 *
 * Columns of the state (head_v) know nothing of each other, so a column's LINE threads go through the
 * steps alone, with sums by shuffles:
 *
 *   forwards    z = M^T a ;  M <- f M + k v - b z ;  y = scale M^T q
 *   backwards   G <- G + scale q dy ;  e = G^T b, dv = G^T k ;  G <- f G - a e
 *
 * Once z and e are known, rows (head_k) know nothing of each other either.
 */
#ifndef CUDA_DELTA_CUH
#define CUDA_DELTA_CUH

#include "kernel.cuh"

enum {
    LINE = 8 /* threads of a column or row */,
    LINES = 16 /* of a block */,
    DELTA_THREADS = 128
};

struct Delta {
    int64_t batch, seq, steps, heads, nk, nv; /* steps: of a sequence */
    int32_t each;                             /* steps of a token */
    float scale;
    const float *decay; /* NULL: none; else its steps by token, head, row */
    int64_t decay_token, decay_head, decay_row;
    const uint8_t *reset, *skip;
    Floats q, k, v, a, b; /* b: k if there is none */
    bool own_b;
};

/* Operands k, v, a, b follow q; `decay` and the flags behind it. */
static inline Delta describe_delta(const lmoe_args *a)
{
    const lmoe_buf *k = &a->in[1], *v = &a->in[2], *d = cuda_at(a->in, a->n_in, 5);
    Delta c = {};
    c.batch = k->dim[0];
    c.seq = k->dim[1];
    c.each = k->rank == 5 ? (int32_t)k->dim[2] : 1;
    c.steps = c.seq * c.each;
    c.heads = k->dim[k->rank - 2];
    c.nk = k->dim[k->rank - 1];
    c.nv = v->dim[v->rank - 1];
    c.scale = (float)((const lmoe_scan_delta_attrs *)a->attrs)->scale;
    c.decay = input<float>(a, 5);
    bool by_token = d->rank > 1, by_row = d->rank == 4;
    c.decay_row = by_row;
    c.decay_head = by_row ? c.nk : 1;
    c.decay_token = by_token ? c.heads * c.decay_head : 0;
    c.reset = input<uint8_t>(a, 6);
    c.skip = input<uint8_t>(a, 7);
    c.q = floats(a, 0);
    c.k = floats(a, 1);
    c.v = floats(a, 2);
    c.a = floats(a, 3);
    c.own_b = lmoe_buf_present(cuda_at(a->in, a->n_in, 4));
    c.b = c.own_b ? floats(a, 4) : c.k;
    return c;
}

/* Decays and states, from operand `carry` on, are f32 beside floats of either kind. */
static inline int can_delta(const lmoe_args *a, int carry)
{
    const lmoe_buf *d = cuda_at(a->in, a->n_in, 5);
    for (int i = carry; i < a->n_in; i++)
        if (lmoe_buf_present(&a->in[i]) && !cuda_is_f32(&a->in[i])) return 0;
    return cuda_floats(a) && (!lmoe_buf_present(d) || cuda_is_f32(d));
}

/* ---- a step of a head ---- */

struct Head {
    int64_t b, h;
};

/* Number of step s's token in (batch seq). */
static __device__ inline int64_t token_of(const Delta &c, const Head &at, int64_t s)
{
    return at.b * c.seq + s / c.each;
}

/* First element of step s in (batch seq step heads n), of its token in (batch seq heads n). */
static __device__ inline int64_t step_row(const Delta &c, const Head &at, int64_t s, int64_t n)
{
    return ((at.b * c.steps + s) * c.heads + at.h) * n;
}

static __device__ inline int64_t token_row(const Delta &c, const Head &at, int64_t s, int64_t n)
{
    return (token_of(c, at, s) * c.heads + at.h) * n;
}

/* What a step is. */
enum { COUNTS = 1, FIRST = 2, LAST = 4, FORGETS = 8 };

static __device__ inline int flags_of(const Delta &c, const Head &at, int64_t s)
{
    if (s < 0 || s >= c.steps) return 0;
    int64_t token = token_of(c, at, s);
    int flags = c.skip && c.skip[token] ? 0 : COUNTS;
    if (s % c.each == 0) flags |= c.reset && c.reset[token] ? FIRST | FORGETS : FIRST;
    if (s % c.each == c.each - 1) flags |= LAST;
    return flags;
}

/* Element `row` of a step's factor. */
static __device__ inline float factor_of(const Delta &c, const Head &at, int64_t s, int flags,
                                         int64_t row)
{
    if (!c.decay || (flags & (COUNTS | FIRST)) != (COUNTS | FIRST) || row >= c.nk) return 1.0f;
    return expf(
        c.decay[token_of(c, at, s) * c.decay_token + at.h * c.decay_head + row * c.decay_row]);
}

/* What is forgotten is gone, whatever it was. */
static __device__ inline float faded(float factor, float x)
{
    return factor == 0.0f ? 0.0f : factor * x;
}

/* Over the threads of a line. */
static __device__ inline float line_sum(float x)
{
    for (int step = LINE / 2; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
    return x;
}

/* ---- groups of steps in shared memory ---- */

/* Steps of a group, for a thread of R elements: tables of WIDTH = LINE R floats a step. */
static constexpr int steps_of(int R)
{
    return R <= 16 ? 16 : 4;
}

/* Flags of the group's steps s, s + direction, ... that lie in begin ... end - 1. */
template <int STEPS>
static __device__ inline void load_flags(const Delta &c, const Head &at, int64_t s, int direction,
                                         int64_t begin, int64_t end, uint8_t *flags)
{
    int64_t own = s + direction * (int64_t)threadIdx.x;
    if (threadIdx.x < STEPS)
        flags[threadIdx.x] = own >= begin && own < end ? flags_of(c, at, own) : 0;
}

/* Rows of x (n floats from element `first` on) of the steps that count; with BY_TOKEN, x has them by
 * token, and steps that are not the last of one have none. */
template <int STEPS, int WIDTH, bool BY_TOKEN>
static __device__ inline void load_rows(const Delta &c, const Head &at, int64_t s, int direction,
                                        const uint8_t *flags, Floats x, int64_t n, int64_t first,
                                        float scale, float (*to)[WIDTH])
{
    const int need = BY_TOKEN ? COUNTS | LAST : COUNTS;
    for (int i = threadIdx.x; i < STEPS * WIDTH; i += DELTA_THREADS) {
        int64_t step = s + direction * (i / WIDTH), column = first + i % WIDTH;
        bool there = x && column < n && (flags[i / WIDTH] & need) == need;
        float value = 0.0f;
        if (there)
            value = x[(BY_TOKEN ? token_row(c, at, step, n) : step_row(c, at, step, n)) + column];
        to[i / WIDTH][i % WIDTH] = scale * value;
    }
}

template <int STEPS, int WIDTH>
static __device__ inline void load_factors(const Delta &c, const Head &at, int64_t s, int direction,
                                           const uint8_t *flags, int64_t first, float (*to)[WIDTH])
{
    for (int i = threadIdx.x; i < STEPS * WIDTH; i += DELTA_THREADS)
        to[i / WIDTH][i % WIDTH] =
            factor_of(c, at, s + direction * (i / WIDTH), flags[i / WIDTH], first + i % WIDTH);
}

/* ---- columns ---- */

template <int R> struct ColumnGroup {
    static const int STEPS = steps_of(R), WIDTH = LINE * R;
    float a[STEPS][WIDTH], k[STEPS][WIDTH], b[STEPS][WIDTH], q[STEPS][WIDTH], factor[STEPS][WIDTH];
    float value[STEPS][LINES], read[STEPS][LINES]; /* v; dy */
    uint8_t flags[STEPS];
};

/* Where a walk over columns leaves things; each may be NULL. */
struct Columns {
    const float *first;
    float *last;   /* may be the same memory as first */
    Results out;   /* y (batch seq heads head_v), or dv, by step */
    float *erased; /* z, or e: (batch steps heads head_v) */
    Floats dy;     /* backwards */
};

/* Grid: (columns, heads, batch). */
template <int R, bool BACKWARDS>
static __global__ void __launch_bounds__(DELTA_THREADS) walk_columns(Delta c, Columns w)
{
    typedef ColumnGroup<R> Group;
    extern __shared__ __align__(16) char memory[];
    Group &g = *(Group *)memory;
    const int STEPS = Group::STEPS, direction = BACKWARDS ? -1 : 1;
    Head at = {blockIdx.z, blockIdx.y};
    int lane = threadIdx.x % LINE, own = threadIdx.x / LINE;
    int64_t block = (int64_t)blockIdx.x * LINES, column = block + own;
    int64_t state = (at.b * c.heads + at.h) * c.nk * c.nv + column;
    bool there = column < c.nv;
    float x[R];
#pragma unroll
    for (int i = 0; i < R; i++) {
        int row = lane + LINE * i;
        x[i] = w.first && there && row < c.nk ? w.first[state + row * c.nv] : 0.0f;
    }
    for (int64_t done = 0; done < c.steps; done += STEPS) {
        int64_t s = BACKWARDS ? c.steps - 1 - done : done;
        __syncthreads();
        load_flags<STEPS>(c, at, s, direction, 0, c.steps, g.flags);
        __syncthreads();
        load_rows<STEPS, Group::WIDTH, false>(c, at, s, direction, g.flags, c.a, c.nk, 0, 1, g.a);
        load_rows<STEPS, Group::WIDTH, false>(c, at, s, direction, g.flags, c.k, c.nk, 0, 1, g.k);
        if (c.own_b)
            load_rows<STEPS, Group::WIDTH, false>(c, at, s, direction, g.flags, c.b, c.nk, 0, 1,
                                                  g.b);
        load_rows<STEPS, Group::WIDTH, true>(c, at, s, direction, g.flags, c.q, c.nk, 0, c.scale,
                                             g.q);
        load_factors<STEPS, Group::WIDTH>(c, at, s, direction, g.flags, 0, g.factor);
        if (BACKWARDS)
            load_rows<STEPS, LINES, true>(c, at, s, direction, g.flags, w.dy, c.nv, block, 1,
                                          g.read);
        else
            load_rows<STEPS, LINES, false>(c, at, s, direction, g.flags, c.v, c.nv, block, 1,
                                           g.value);
        __syncthreads();
#pragma unroll 1
        for (int t = 0; t < STEPS; t++) {
            int64_t step = s + direction * t;
            if (step < 0 || step >= c.steps) break;
            const float *b = c.own_b ? g.b[t] : g.k[t];
            float erased = 0, out = 0;
            if (!BACKWARDS) {
                bool forgets = g.flags[t] & FORGETS;
                float value = g.value[t][own];
#pragma unroll
                for (int i = 0; i < R; i++) {
                    x[i] = forgets ? 0.0f : x[i];
                    erased += g.a[t][lane + LINE * i] * x[i];
                }
                erased = line_sum(erased);
#pragma unroll
                for (int i = 0; i < R; i++) {
                    int row = lane + LINE * i;
                    x[i] = faded(g.factor[t][row], x[i]);
                    x[i] += g.k[t][row] * value - b[row] * erased;
                    out += g.q[t][row] * x[i];
                }
                out = line_sum(out);
                if (w.out && there && lane == 0 && g.flags[t] & LAST)
                    w.out.put(token_row(c, at, step, c.nv) + column, out);
            } else {
                float read = g.read[t][own];
#pragma unroll
                for (int i = 0; i < R; i++) {
                    int row = lane + LINE * i;
                    x[i] += g.q[t][row] * read;
                    erased += b[row] * x[i];
                    out += g.k[t][row] * x[i];
                }
                erased = line_sum(erased);
                out = line_sum(out);
#pragma unroll
                for (int i = 0; i < R; i++) {
                    int row = lane + LINE * i;
                    x[i] = faded(g.factor[t][row], x[i]) - g.a[t][row] * erased;
                    x[i] = g.flags[t] & FORGETS ? 0.0f : x[i];
                }
                if (w.out && there && lane == 0)
                    w.out.put(step_row(c, at, step, c.nv) + column, out);
            }
            if (w.erased && there && lane == 0)
                w.erased[step_row(c, at, step, c.nv) + column] = erased;
        }
    }
#pragma unroll
    for (int i = 0; i < R; i++) {
        int row = lane + LINE * i;
        if (w.last && there && row < c.nk) w.last[state + row * c.nv] = x[i];
    }
}

/* Elements of a thread, for a line of n; 0: too many. */
static inline int elements_of(int64_t n)
{
    static const int sizes[] = {2, 8, 16, 32};
    for (int i = 0; i < 4; i++)
        if (n <= LINE * sizes[i]) return sizes[i];
    return 0;
}

static inline dim3 delta_grid(const Delta &c, int64_t n)
{
    return dim3(blocks(n, LINES), (unsigned)c.heads, (unsigned)c.batch);
}

template <int R, bool BACKWARDS>
static inline void run_columns_of(const lmoe_args *a, const Delta &c, const Columns &w)
{
    allow_shared(walk_columns<R, BACKWARDS>, sizeof(ColumnGroup<R>));
    walk_columns<R, BACKWARDS>
        <<<delta_grid(c, c.nv), DELTA_THREADS, sizeof(ColumnGroup<R>), stream_of(a)>>>(c, w);
}

template <bool BACKWARDS>
static inline void run_columns(const lmoe_args *a, const Delta &c, const Columns &w)
{
    switch (elements_of(c.nk)) {
    case 2: run_columns_of<2, BACKWARDS>(a, c, w); break;
    case 8: run_columns_of<8, BACKWARDS>(a, c, w); break;
    case 16: run_columns_of<16, BACKWARDS>(a, c, w); break;
    default: run_columns_of<32, BACKWARDS>(a, c, w); break;
    }
}

#endif
