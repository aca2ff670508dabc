/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/scan_elem.cuh: recurrences with a decay for each element of the state, real or
 * complex; what scan_elem/1 (scan_elem.cu) and its derivative (scan_elem_grad.cu) share.
 *
 *   h_s[c,n] = a_s[c,n] h_{s-1}[c,n] + x_s[c] b_s[n]      y_s[c] = Re sum_n h_s[c,n] c_s[n]
 *   a_s[c,n] = exp(step_s[c] rate[c,n]) (cos + i sin)
 *
 * `group` threads have a channel, each up to E elements of its state, PARTS floats each. A sequence is
 * cut into stretches: what each makes of any state (a product of decays, and the state from zero) is
 * found first, then their starts, then each goes with its own.
 */
#ifndef CUDA_SCAN_ELEM_CUH
#define CUDA_SCAN_ELEM_CUH

#include "kernel.cuh"

enum { STRETCH = 64, MOST_ELEMENTS = 4 /* of a thread */ };

struct Pair {
    float re, im;
};

struct Elem {
    int64_t batch, seq, heads, channels, n, stretches;
    int32_t group, parts;
    bool turn_by_row, read_by_row; /* cos and sin, c and c_im: by token, not in a table */
    Floats x, b, c, c_im, dy;
    const float *step, *rate, *cos, *sin; /* like all of these, NULL where absent */
    const uint8_t *reset, *skip;
};

/* ---- where a thread works ---- */

struct Spot {
    int64_t b, h, channel, begin, end, stretch; /* tokens */
    int lane;
};

static __device__ inline Spot spot_of(const Elem &s)
{
    int64_t across = (s.channels * s.group + THREADS - 1) / THREADS;
    Spot o = {blockIdx.z, blockIdx.y};
    o.stretch = blockIdx.x / across;
    int64_t thread = blockIdx.x % across * THREADS + threadIdx.x;
    o.channel = thread / s.group;
    o.lane = (int)(thread % s.group);
    o.begin = o.stretch * STRETCH;
    o.end = min(s.seq, o.begin + STRETCH);
    return o;
}

/* Is there an element number e of this thread? */
static __device__ inline bool has(const Elem &s, const Spot &o, int e)
{
    return o.channel < s.channels && o.lane + e * s.group < s.n;
}

static __device__ inline int64_t token_of(const Elem &s, const Spot &o, int64_t t)
{
    return o.b * s.seq + t;
}

/* Index in (batch seq heads channel), (batch seq heads state), (heads channel state), and of an element
 * of the state in (batch heads channel state). */
static __device__ inline int64_t row_of(const Elem &s, const Spot &o, int64_t t)
{
    return (token_of(s, o, t) * s.heads + o.h) * s.channels + o.channel;
}

static __device__ inline int64_t read_of(const Elem &s, const Spot &o, int64_t t, int e)
{
    return (token_of(s, o, t) * s.heads + o.h) * s.n + o.lane + e * s.group;
}

static __device__ inline int64_t table_of(const Elem &s, const Spot &o, int e)
{
    return (o.h * s.channels + o.channel) * s.n + o.lane + e * s.group;
}

static __device__ inline int64_t state_of(const Elem &s, const Spot &o, int e)
{
    return o.b * s.heads * s.channels * s.n + table_of(s, o, e);
}

static __device__ inline int64_t turn_of(const Elem &s, const Spot &o, int64_t t, int e)
{
    return s.turn_by_row ? row_of(s, o, t) : table_of(s, o, e);
}

static __device__ inline int64_t c_of(const Elem &s, const Spot &o, int64_t t, int e)
{
    return s.read_by_row ? read_of(s, o, t, e) : table_of(s, o, e);
}

static __device__ inline bool resets(const Elem &s, const Spot &o, int64_t t)
{
    return s.reset && s.reset[token_of(s, o, t)];
}

static __device__ inline bool skips(const Elem &s, const Spot &o, int64_t t)
{
    return s.skip && s.skip[token_of(s, o, t)];
}

/* ---- numbers: with one part, im is not looked at ---- */

/* a x; what is forgotten is gone, whatever it was. */
template <int PARTS> static __device__ inline Pair times(Pair a, Pair x)
{
    if (PARTS == 1) return {a.re == 0.0f ? 0.0f : a.re * x.re, 0.0f};
    if (a.re == 0.0f && a.im == 0.0f) return {0.0f, 0.0f};
    return {a.re * x.re - a.im * x.im, a.re * x.im + a.im * x.re};
}

static __device__ inline Pair conjugate(Pair x)
{
    return {x.re, -x.im};
}

/* What is read at a token is the same for all elements of a thread: x, and the step. */
static __device__ inline float step_of(const Elem &s, const Spot &o, int64_t t)
{
    return s.step ? s.step[row_of(s, o, t)] : 1.0f;
}

static __device__ inline float size_of(const Elem &s, const Spot &o, float step, int e)
{
    if (!s.step && !s.rate) return 1.0f;
    return expf(step * (s.rate ? s.rate[table_of(s, o, e)] : 1.0f));
}

template <int PARTS>
static __device__ inline Pair factor_of(const Elem &s, const Spot &o, int64_t t, float step, int e)
{
    float size = size_of(s, o, step, e);
    if (PARTS == 1) return {size, 0.0f};
    int64_t at = turn_of(s, o, t, e);
    return {size * s.cos[at], size * s.sin[at]};
}

static __device__ inline float b_of(const Elem &s, const Spot &o, int64_t t, int e)
{
    return s.b ? s.b[read_of(s, o, t, e)] : 1.0f;
}

template <int PARTS>
static __device__ inline Pair reader_of(const Elem &s, const Spot &o, int64_t t, int e)
{
    int64_t at = s.c || s.c_im ? c_of(s, o, t, e) : 0;
    return {s.c ? s.c[at] : 1.0f, PARTS == 2 && s.c_im ? s.c_im[at] : 0.0f};
}

/* Over the threads of a channel; all of a warp take part. */
static __device__ inline float group_sum(const Elem &s, float x)
{
    for (int step = s.group / 2; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
    return x;
}

/* h after token t, which counts. */
template <int E, int PARTS>
static __device__ inline void go_on(const Elem &s, const Spot &o, int64_t t, Pair (&h)[E])
{
    bool there = o.channel < s.channels;
    float x = there ? s.x[row_of(s, o, t)] : 0.0f, step = there ? step_of(s, o, t) : 0.0f;
#pragma unroll
    for (int e = 0; e < E; e++) {
        if (!has(s, o, e)) continue;
        h[e] = times<PARTS>(factor_of<PARTS>(s, o, t, step, e), h[e]);
        h[e].re += x * b_of(s, o, t, e);
    }
}

template <int E> static __device__ inline void forget(Pair (&h)[E])
{
#pragma unroll
    for (int e = 0; e < E; e++) h[e] = {0.0f, 0.0f};
}

/* Elements of `state`, number `n` of `count` such states; NULL: zero. */
template <int E, int PARTS>
static __device__ inline void load(const Elem &s, const Spot &o, const float *state, int64_t count,
                                   int64_t n, Pair (&h)[E])
{
    int64_t first = n * s.batch * s.heads * s.channels * s.n * PARTS;
    forget(h);
#pragma unroll
    for (int e = 0; e < E; e++) {
        if (!state || n >= count || !has(s, o, e)) continue;
        const float *p = state + first + state_of(s, o, e) * PARTS;
        h[e] = {p[0], PARTS == 2 ? p[1] : 0.0f};
    }
}

template <int E, int PARTS>
static __device__ inline void store(const Elem &s, const Spot &o, float *state, int64_t n,
                                    const Pair (&h)[E])
{
    int64_t first = n * s.batch * s.heads * s.channels * s.n * PARTS;
#pragma unroll
    for (int e = 0; e < E; e++) {
        if (!state || !has(s, o, e)) continue;
        float *p = state + first + state_of(s, o, e) * PARTS;
        p[0] = h[e].re;
        if (PARTS == 2) p[1] = h[e].im;
    }
}

/* ---- stretches: arrays (stretches batch heads channel state part) ---- */

struct Stretches {
    float *products, *states, *gradients; /* gradients: of the derivative alone */
};

/* Products, and states from zero. */
template <int E, int PARTS>
static __global__ void __launch_bounds__(THREADS) sum_stretches(Elem s, Stretches to)
{
    Spot o = spot_of(s);
    Pair h[E], product[E];
    forget(h);
#pragma unroll
    for (int e = 0; e < E; e++) product[e] = {1.0f, 0.0f};
    for (int64_t t = o.begin; t < o.end; t++) {
        if (resets(s, o, t)) {
            forget(h);
            forget(product);
        }
        if (skips(s, o, t)) continue;
        float step = o.channel < s.channels ? step_of(s, o, t) : 0.0f;
#pragma unroll
        for (int e = 0; e < E; e++)
            if (has(s, o, e))
                product[e] = times<PARTS>(factor_of<PARTS>(s, o, t, step, e), product[e]);
        go_on<E, PARTS>(s, o, t, h);
    }
    store<E, PARTS>(s, o, to.products, o.stretch, product);
    store<E, PARTS>(s, o, to.states, o.stretch, h);
}

/* What the stretches make of zero becomes what they start with; a thread an element. first: of all,
 * or NULL. Backwards they come in the other order, and products are conjugate. */
template <int PARTS>
static __global__ void __launch_bounds__(THREADS)
    start_stretches(int64_t elements, int64_t stretches, const float *products, const float *first,
                    float *states, bool backwards)
{
    int64_t i = item();
    if (i >= elements) return;
    Pair h = {0.0f, 0.0f};
    if (first) h = {first[i * PARTS], PARTS == 2 ? first[i * PARTS + 1] : 0.0f};
    for (int64_t n = 0; n < stretches; n++) {
        int64_t at = ((backwards ? stretches - 1 - n : n) * elements + i) * PARTS;
        Pair own = {states[at], PARTS == 2 ? states[at + 1] : 0.0f};
        Pair a = {products[at], PARTS == 2 ? products[at + 1] : 0.0f};
        states[at] = h.re;
        if (PARTS == 2) states[at + 1] = h.im;
        h = times<PARTS>(backwards ? conjugate(a) : a, h);
        h = {h.re + own.re, h.im + own.im};
    }
}

/* ---- on the host ---- */

static inline int64_t state_count(const Elem &s)
{
    return s.batch * s.heads * s.channels * s.n;
}

/* Words of such an array; none where there is one stretch. */
static inline int64_t stretch_words(const Elem &s)
{
    return s.stretches > 1 ? s.stretches * state_count(s) * s.parts : 0;
}

static inline dim3 elem_grid(const Elem &s)
{
    return dim3((unsigned)(cuda_pieces(s.channels * s.group, THREADS) * s.stretches),
                (unsigned)s.heads, (unsigned)s.batch);
}

/* Operands x, step, rate, cos, sin, b, c, c_im, reset, skip. */
static inline Elem describe_elem(const lmoe_args *a)
{
    const lmoe_buf *x = &a->in[0], *rate = cuda_at(a->in, a->n_in, 2);
    const lmoe_buf *cos = cuda_at(a->in, a->n_in, 3), *b = cuda_at(a->in, a->n_in, 5);
    const lmoe_buf *c = cuda_at(a->in, a->n_in, 6), *c_im = cuda_at(a->in, a->n_in, 7);
    const lmoe_buf *table = lmoe_buf_present(rate) ? rate : cos, *read = c;
    if (!lmoe_buf_present(c)) read = c_im;
    Elem s = {x->dim[0], x->dim[1], x->rank == 4 ? x->dim[2] : 1, x->dim[x->rank - 1], 1};
    if (lmoe_buf_present(table) && table->rank != x->rank)
        s.n = table->dim[table->rank - 1];
    else if (lmoe_buf_present(b) || lmoe_buf_present(read))
        s.n = lmoe_buf_present(b) ? b->dim[b->rank - 1] : read->dim[read->rank - 1];
    s.stretches = cuda_pieces(s.seq, STRETCH);
    s.parts = lmoe_buf_present(cos) ? 2 : 1;
    s.group = 1;
    while (s.group < WARP && s.group < s.n) s.group *= 2;
    s.turn_by_row = cos->rank == x->rank;
    s.read_by_row = read->rank == x->rank;
    s.x = floats(a, 0);
    s.step = input<float>(a, 1);
    s.rate = input<float>(a, 2);
    s.cos = input<float>(a, 3);
    s.sin = input<float>(a, 4);
    s.b = floats(a, 5);
    s.c = floats(a, 6);
    s.c_im = floats(a, 7);
    s.reset = input<uint8_t>(a, 8);
    s.skip = input<uint8_t>(a, 9);
    return s;
}

/* Decays and, from operand `carry` on, states are f32 beside floats of either kind. */
static inline int can_elem(const lmoe_args *a, int carry)
{
    for (int i = 1; i < a->n_in; i++)
        if ((i < 5 || i >= carry) && lmoe_buf_present(&a->in[i]) && !cuda_is_f32(&a->in[i]))
            return 0;
    return cuda_floats(a) && describe_elem(a).n <= MOST_ELEMENTS * WARP;
}

/* run<elements of a thread, parts>(...) */
#define RUN_ELEM(s, run, ...)                                                            \
    ((s).n <= WARP    ? (s).parts == 1 ? run<1, 1>(__VA_ARGS__) : run<1, 2>(__VA_ARGS__) \
        : (s).parts == 1 ? run<MOST_ELEMENTS, 1>(__VA_ARGS__)                            \
                      : run<MOST_ELEMENTS, 2>(__VA_ARGS__))

/* The starts of all stretches in w.states, if there are several; else `first` is the start. */
template <int E, int PARTS>
static inline void find_starts(const lmoe_args *a, const Elem &s, const Stretches &w,
                               const float *first)
{
    if (s.stretches == 1) return;
    sum_stretches<E, PARTS><<<elem_grid(s), THREADS, 0, stream_of(a)>>>(s, w);
    start_stretches<PARTS><<<blocks(state_count(s), THREADS), THREADS, 0, stream_of(a)>>>(
        state_count(s), s.stretches, w.products, first, w.states, false);
}

#endif
