/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/scan_elem_grad.cu: scan_elem_grad/1 (scan_elem.cuh):
 *
 *   G_s = dy_s conj(c_s) + conj(a_{s+1}) G_{s+1}
 *   dx_s = Re sum_n G_s b_s    db_s = Re sum_c G_s x_s      dc_s = sum_c dy_s conj(h_s)
 *   da_s = G_s conj(h_{s-1}), from which step, rate, cos and sin get theirs
 *
 * A stretch is gone through forwards, with the state kept at the beginning of every piece; then pieces
 * come from the last: their states are made again, and met by G. Sums over channels are of a block
 * first, sums over tokens of a stretch; then parts are added up in order.
 */
#include "scan_elem.cuh"

enum { DY = 10, CARRY, DCARRY };
enum { DX, DSTEP, DRATE, DCOS, DSIN, DB, DC, DC_IM, DCARRY_OUT };
enum { PIECE = 8, WARPS = THREADS / WARP, READS = 3 /* db, dc, dc_im */, TABLES = 5 };

/* Where results go; each may be NULL. */
struct Wanted {
    Results dx;
    float *dstep, *dcos, *dsin; /* by row */
    float *reads[READS];        /* (blocks of channels, batch seq heads state) */
    float *tables[TABLES]; /* (stretches batch, heads channel state): rate, cos, sin, c, c_im */
    float *dcarry;
};

/* G of each stretch, from zero. */
template <int E, int PARTS>
static __global__ void __launch_bounds__(THREADS) sum_back(Elem s, float *to)
{
    Spot o = spot_of(s);
    Pair g[E];
    forget(g);
    for (int64_t t = o.end - 1; t >= o.begin; t--) {
        if (!skips(s, o, t) && o.channel < s.channels) {
            float dy = s.dy[row_of(s, o, t)], step = step_of(s, o, t);
#pragma unroll
            for (int e = 0; e < E; e++) {
                if (!has(s, o, e)) continue;
                Pair c = reader_of<PARTS>(s, o, t, e);
                g[e] = {g[e].re + dy * c.re, g[e].im - dy * c.im};
                g[e] = times<PARTS>(conjugate(factor_of<PARTS>(s, o, t, step, e)), g[e]);
            }
        }
        if (resets(s, o, t)) forget(g);
    }
    store<E, PARTS>(s, o, to, o.stretch, g);
}

/* Over the channels of a warp. */
static __device__ inline float channel_sum(const Elem &s, float x)
{
    for (int step = s.group; step < WARP; step *= 2) x += __shfl_xor_sync(~0u, x, step);
    return x;
}

template <int E> struct Shared {
    Pair begins[STRETCH / PIECE][E][THREADS];
    float reads[READS][PIECE][WARPS][E * WARP];
};

/* One token that counts: h is the state before it, g G of what comes after; becomes that before it. */
template <int E, int PARTS>
static __device__ inline void meet(const Elem &s, const Spot &o, int64_t t, const Pair (&before)[E],
                                   Pair (&g)[E], const Wanted &to, float (&tables)[TABLES][E],
                                   float (*reads)[PIECE][WARPS][E * WARP], int place)
{
    bool there = o.channel < s.channels;
    float x = there ? s.x[row_of(s, o, t)] : 0.0f, dy = there ? s.dy[row_of(s, o, t)] : 0.0f;
    float step = there ? step_of(s, o, t) : 0.0f, dx = 0, dstep = 0, dcos = 0, dsin = 0;
    int warp = threadIdx.x / WARP;
#pragma unroll
    for (int e = 0; e < E; e++) {
        float read[READS] = {};
        if (has(s, o, e)) {
            float size = size_of(s, o, step, e), b = b_of(s, o, t, e);
            Pair c = reader_of<PARTS>(s, o, t, e), turn = {1.0f, 0.0f};
            if (PARTS == 2) {
                int64_t at = turn_of(s, o, t, e);
                turn = {s.cos[at], s.sin[at]};
            }
            Pair a = {size * turn.re, size * turn.im}, h = times<PARTS>(a, before[e]);
            h.re += x * b;
            read[1] = dy * h.re;
            read[2] = -dy * h.im;
            g[e] = {g[e].re + dy * c.re, g[e].im - dy * c.im};
            dx += g[e].re * b;
            read[0] = g[e].re * x;
            Pair da = times<2>(g[e], conjugate(before[e]));
            float along = PARTS == 2 ? da.re * turn.re + da.im * turn.im : da.re;
            float dlog = size == 0.0f ? 0.0f : size * along;
            if (s.step) dstep += dlog * (s.rate ? s.rate[table_of(s, o, e)] : 1.0f);
            tables[0][e] += dlog * step;
            dcos += size * da.re;
            dsin += size * da.im;
            tables[1][e] += size * da.re;
            tables[2][e] += size * da.im;
            tables[3][e] += read[1];
            tables[4][e] += read[2];
            g[e] = times<PARTS>(conjugate(a), g[e]);
        }
#pragma unroll
        for (int i = 0; i < READS; i++) {
            if (!to.reads[i]) continue;
            float sum = channel_sum(s, read[i]);
            if (threadIdx.x % WARP < s.group) reads[i][place][warp][e * s.group + o.lane] = sum;
        }
    }
    dx = group_sum(s, dx);
    if (to.dstep) dstep = group_sum(s, dstep);
    if (to.dcos) dcos = group_sum(s, dcos);
    if (to.dsin) dsin = group_sum(s, dsin);
    if (!there || o.lane > 0) return;
    if (to.dx) to.dx.put(row_of(s, o, t), dx);
    if (to.dstep) to.dstep[row_of(s, o, t)] = dstep;
    if (to.dcos) to.dcos[row_of(s, o, t)] = dcos;
    if (to.dsin) to.dsin[row_of(s, o, t)] = dsin;
}

/* A token that does not count. */
template <int E>
static __device__ inline void leave_out(const Elem &s, const Spot &o, int64_t t, const Wanted &to,
                                        float (*reads)[PIECE][WARPS][E * WARP], int place)
{
    for (int i = 0; i < READS; i++)
        for (int e = 0; e < E && threadIdx.x % WARP < s.group; e++)
            reads[i][place][threadIdx.x / WARP][e * s.group + o.lane] = 0;
    if (o.channel >= s.channels || o.lane > 0) return;
    if (to.dx) to.dx.put(row_of(s, o, t), 0);
    if (to.dstep) to.dstep[row_of(s, o, t)] = 0;
    if (to.dcos) to.dcos[row_of(s, o, t)] = 0;
    if (to.dsin) to.dsin[row_of(s, o, t)] = 0;
}

/* Sums of the block's warps, for the tokens of a piece. */
template <int E>
static __device__ inline void put_reads(const Elem &s, const Spot &o, int64_t first, int64_t end,
                                        const Wanted &to, float (*reads)[PIECE][WARPS][E * WARP])
{
    int64_t across = gridDim.x / s.stretches, part = blockIdx.x % across;
    int64_t all = s.batch * s.seq * s.heads * s.n;
    for (int i = 0; i < READS; i++) {
        if (!to.reads[i]) continue;
        for (int at = threadIdx.x; at < PIECE * s.n; at += THREADS) {
            int place = at / (int)s.n, n = at % (int)s.n;
            float sum = 0;
            if (first + place >= end) continue;
            for (int w = 0; w < WARPS; w++) sum += reads[i][place][w][n];
            to.reads[i][part * all + (token_of(s, o, first + place) * s.heads + o.h) * s.n + n] =
                sum;
        }
    }
}

template <int E, int PARTS>
static __global__ void __launch_bounds__(THREADS)
    walk_back(Elem s, Stretches w, const float *first, const float *dlast, Wanted to)
{
    extern __shared__ __align__(16) char memory[];
    Shared<E> *m = (Shared<E> *)memory;
    Spot o = spot_of(s);
    Pair h[E], g[E], before[PIECE][E];
    float tables[TABLES][E] = {};
    bool several = s.stretches > 1;
    load<E, PARTS>(s, o, several ? w.states : first, s.stretches, several ? o.stretch : 0, h);
    load<E, PARTS>(s, o, several ? w.gradients : dlast, s.stretches, several ? o.stretch : 0, g);
    for (int64_t t = o.begin; t < o.end; t++) {
        if ((t - o.begin) % PIECE == 0)
#pragma unroll
            for (int e = 0; e < E; e++) m->begins[(t - o.begin) / PIECE][e][threadIdx.x] = h[e];
        if (resets(s, o, t)) forget(h);
        if (!skips(s, o, t)) go_on<E, PARTS>(s, o, t, h);
    }
    for (int piece = (int)((o.end - o.begin - 1) / PIECE); piece >= 0; piece--) {
        int64_t begin = o.begin + piece * PIECE;
#pragma unroll
        for (int e = 0; e < E; e++) h[e] = m->begins[piece][e][threadIdx.x];
#pragma unroll
        for (int i = 0; i < PIECE; i++) {
            if (begin + i < o.end && resets(s, o, begin + i)) forget(h);
#pragma unroll
            for (int e = 0; e < E; e++) before[i][e] = h[e];
            if (begin + i < o.end && !skips(s, o, begin + i)) go_on<E, PARTS>(s, o, begin + i, h);
        }
#pragma unroll
        for (int i = PIECE - 1; i >= 0; i--) {
            int64_t t = begin + i;
            if (t >= o.end) continue;
            if (skips(s, o, t))
                leave_out<E>(s, o, t, to, m->reads, i);
            else
                meet<E, PARTS>(s, o, t, before[i], g, to, tables, m->reads, i);
            if (resets(s, o, t)) forget(g);
        }
        __syncthreads();
        put_reads<E>(s, o, begin, o.end, to, m->reads);
        __syncthreads();
    }
    if (o.begin == 0) store<E, PARTS>(s, o, to.dcarry, 0, g);
    int64_t row = (o.stretch * s.batch + o.b) * s.heads * s.channels * s.n;
#pragma unroll
    for (int e = 0; e < E; e++)
        for (int i = 0; i < TABLES; i++)
            if (to.tables[i] && has(s, o, e)) to.tables[i][row + table_of(s, o, e)] = tables[i][e];
}

/* ---- the kernel ---- */

/* Where a launch keeps things, and how much of it. */
struct Work {
    Stretches stretches;
    Wanted to;
    int64_t parts, rows; /* parts of sums over channels, over tokens */
};

/* Results that are added up from parts: number, and whether the operand is a table here. */
static bool is_table(const Elem &s, int out)
{
    return out == DRATE || ((out == DCOS || out == DSIN) && !s.turn_by_row) ||
           ((out == DC || out == DC_IM) && !s.read_by_row);
}

static const int table_outs[TABLES] = {DRATE, DCOS, DSIN, DC, DC_IM};
static const int read_outs[READS] = {DB, DC, DC_IM};

/* Cuts memory into it; returns how many bytes it takes. */
static size_t cut_work(const lmoe_args *a, const Elem &s, char *memory, Work *w)
{
    char *cursor = memory;
    *w = {};
    w->parts = cuda_pieces(s.channels * s.group, THREADS);
    w->rows = s.stretches * s.batch;
    w->stretches.products = (float *)cuda_take(&cursor, stretch_words(s));
    w->stretches.states = (float *)cuda_take(&cursor, stretch_words(s));
    w->stretches.gradients = (float *)cuda_take(&cursor, stretch_words(s));
    for (int i = 0; i < READS; i++)
        if (lmoe_buf_present(&a->out[read_outs[i]]) && !is_table(s, read_outs[i]))
            w->to.reads[i] =
                (float *)cuda_take(&cursor, w->parts * s.batch * s.seq * s.heads * s.n);
    for (int i = 0; i < TABLES; i++)
        if (lmoe_buf_present(&a->out[table_outs[i]]) && is_table(s, table_outs[i]))
            w->to.tables[i] = (float *)cuda_take(&cursor, w->rows * s.heads * s.channels * s.n);
    w->to.dx = results(a, DX);
    w->to.dstep = output<float>(a, DSTEP);
    w->to.dcos = s.turn_by_row ? output<float>(a, DCOS) : NULL;
    w->to.dsin = s.turn_by_row ? output<float>(a, DSIN) : NULL;
    w->to.dcarry = output<float>(a, DCARRY_OUT);
    return (size_t)(cursor - memory);
}

template <int E, int PARTS> static lmoe_status run(const lmoe_args *a, const Elem &s, const Work &w)
{
    const float *first = input<float>(a, CARRY), *dlast = input<float>(a, DCARRY);
    find_starts<E, PARTS>(a, s, w.stretches, first);
    if (s.stretches > 1) {
        sum_back<E, PARTS><<<elem_grid(s), THREADS, 0, stream_of(a)>>>(s, w.stretches.gradients);
        start_stretches<PARTS><<<blocks(state_count(s), THREADS), THREADS, 0, stream_of(a)>>>(
            state_count(s), s.stretches, w.stretches.products, dlast, w.stretches.gradients, true);
    }
    allow_shared(walk_back<E, PARTS>, sizeof(Shared<E>));
    walk_back<E, PARTS><<<elem_grid(s), THREADS, sizeof(Shared<E>), stream_of(a)>>>(
        s, w.stretches, first, dlast, w.to);
    for (int i = 0; i < READS; i++)
        if (w.to.reads[i])
            cuda_add_parts(stream_of(a), w.to.reads[i], w.parts, s.batch * s.seq * s.heads * s.n,
                           &a->out[read_outs[i]]);
    for (int i = 0; i < TABLES; i++)
        if (w.to.tables[i])
            cuda_add_parts(stream_of(a), w.to.tables[i], w.rows, s.heads * s.channels * s.n,
                           &a->out[table_outs[i]]);
    return cuda_launched(a);
}

static int can(const lmoe_args *a)
{
    return can_elem(a, CARRY);
}

static size_t workspace(const lmoe_args *a)
{
    Work w;
    return cut_work(a, describe_elem(a), NULL, &w);
}

static lmoe_status launch(const lmoe_args *a)
{
    Elem s = describe_elem(a);
    Work w;
    s.dy = floats(a, DY);
    cut_work(a, s, (char *)a->workspace, &w);
    return RUN_ELEM(s, run, a, s, w);
}

CUDA_KERNEL(scan_elem_grad, 1, can, workspace, launch)
