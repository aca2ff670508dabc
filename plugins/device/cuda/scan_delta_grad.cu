/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/scan_delta_grad.cu: scan_delta_grad/1, step by step (delta.cuh). With
 * z_s = M_{s-1}^T a_s and e_s = G_s^T b_s of a walk over columns each way, rows are walked over:
 *
 *   dq_s = scale M_s dy_s   dk_s = G_s v_s (without b: G_s (v_s - z_s))   da_s = -M_{s-1} e_s
 *   db_s = -G_s z_s         ddecay_s = exp(decay_s) rowsum(G_s * M_{s-1}), summed to decay's shape
 *
 * ddecay needs M and G of the same step, of which one is known from the front and the other from the
 * end: a row is kept at the beginning of each stretch of steps; from the last stretch to the first it
 * is made again from there, step by step, and then met by G. Stretches have about sqrt(steps) steps.
 */
#include "delta.cuh"

enum { Q, K, V, A, B, DECAY, RESET, SKIP, DY, CARRY, DCARRY };
enum { DQ, DK, DV, DA, DB, DDECAY, DCARRY_OUT };

template <int R> struct RowGroup {
    static const int STEPS = steps_of(R), WIDTH = LINE * R;
    float value[STEPS][WIDTH], z[STEPS][WIDTH], e[STEPS][WIDTH], read[STEPS][WIDTH];
    float a[STEPS][LINES], k[STEPS][LINES], b[STEPS][LINES], q[STEPS][LINES];
    float factor[STEPS][LINES];
    uint8_t flags[STEPS];
};

struct Rows {
    const float *first, *dlast, *z, *e; /* M before, dM after; by step */
    float *dfirst;                      /* dM before; may be NULL, or where dM after is */
    Floats dy;
    Results dq, dk, da, db;
    float *ddecay;              /* (batch seq heads head_k); NULL: not wanted */
    int64_t stretch, stretches; /* steps of one, and how many */
    float *begins, *states;     /* (block, stretches, ...), (block, stretch, ...) */
};

/* Where a thread keeps its elements of row number n of `count`. */
template <int R> static __device__ float *kept(float *rows, int64_t count, int64_t n)
{
    int64_t block = ((int64_t)blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    return rows + (block * count + n) * R * DELTA_THREADS + threadIdx.x;
}

/* Steps s, s + direction ... of begin ... end - 1. */
template <int R>
static __device__ void load_group(const Delta &c, const Rows &w, const Head &at, int64_t s,
                                  int direction, int64_t begin, int64_t end, RowGroup<R> &g)
{
    typedef RowGroup<R> Group;
    const int STEPS = Group::STEPS, WIDTH = Group::WIDTH;
    int64_t first = (int64_t)blockIdx.x * LINES;
    Floats z = {w.z, false}, e = {w.e, false};
    __syncthreads();
    load_flags<STEPS>(c, at, s, direction, begin, end, g.flags);
    __syncthreads();
    load_rows<STEPS, WIDTH, false>(c, at, s, direction, g.flags, c.v, c.nv, 0, 1, g.value);
    load_rows<STEPS, WIDTH, false>(c, at, s, direction, g.flags, z, c.nv, 0, 1, g.z);
    load_rows<STEPS, WIDTH, false>(c, at, s, direction, g.flags, e, c.nv, 0, 1, g.e);
    load_rows<STEPS, WIDTH, true>(c, at, s, direction, g.flags, w.dy, c.nv, 0, 1, g.read);
    load_rows<STEPS, LINES, false>(c, at, s, direction, g.flags, c.a, c.nk, first, 1, g.a);
    load_rows<STEPS, LINES, false>(c, at, s, direction, g.flags, c.k, c.nk, first, 1, g.k);
    load_rows<STEPS, LINES, false>(c, at, s, direction, g.flags, c.b, c.nk, first, 1, g.b);
    load_rows<STEPS, LINES, true>(c, at, s, direction, g.flags, c.q, c.nk, first, c.scale, g.q);
    load_factors<STEPS, LINES>(c, at, s, direction, g.flags, first, g.factor);
    __syncthreads();
}

/* M over the steps begin ... end - 1. OUT: dq and da are written; states, unless NULL: M before each
 * step (after its reset) is kept there. */
template <int R, bool OUT>
static __device__ void forwards(const Delta &c, const Rows &w, const Head &at, int64_t begin,
                                int64_t end, float (&x)[R], float *states, RowGroup<R> &g)
{
    int lane = threadIdx.x % LINE, own = threadIdx.x / LINE;
    int64_t row = (int64_t)blockIdx.x * LINES + own;
    for (int64_t s = begin; s < end; s += RowGroup<R>::STEPS) {
        load_group<R>(c, w, at, s, 1, begin, end, g);
#pragma unroll 1
        for (int t = 0; t < RowGroup<R>::STEPS && s + t < end; t++) {
            float a = 0, q = 0, k = g.k[t][own], b = g.b[t][own], f = g.factor[t][own];
#pragma unroll
            for (int i = 0; i < R; i++) {
                int column = lane + LINE * i;
                x[i] = g.flags[t] & FORGETS ? 0.0f : x[i];
                if (states) kept<R>(states, w.stretch, s + t - begin)[i * DELTA_THREADS] = x[i];
                if (OUT) a -= x[i] * g.e[t][column];
                x[i] = faded(f, x[i]) + k * g.value[t][column] - b * g.z[t][column];
                if (OUT) q += x[i] * g.read[t][column];
            }
            if (!OUT) continue;
            a = line_sum(a);
            q = line_sum(q);
            if (lane > 0 || row >= c.nk) continue;
            if (w.da) w.da.put(step_row(c, at, s + t, c.nk) + row, a);
            if (w.dq && g.flags[t] & LAST)
                w.dq.put(token_row(c, at, s + t, c.nk) + row, c.scale * q);
        }
    }
}

/* G over the same steps from the end; meets the states, unless they are NULL. */
template <int R>
static __device__ void backwards(const Delta &c, const Rows &w, const Head &at, int64_t begin,
                                 int64_t end, float (&x)[R], float *states, RowGroup<R> &g)
{
    int lane = threadIdx.x % LINE, own = threadIdx.x / LINE;
    int64_t row = (int64_t)blockIdx.x * LINES + own;
    for (int64_t s = end - 1; s >= begin; s -= RowGroup<R>::STEPS) {
        load_group<R>(c, w, at, s, -1, begin, end, g);
#pragma unroll 1
        for (int t = 0; t < RowGroup<R>::STEPS && s - t >= begin; t++) {
            float value = 0, erased = 0, met = 0, a = g.a[t][own], q = g.q[t][own];
            float f = g.factor[t][own];
            const float *before = states ? kept<R>(states, w.stretch, s - t - begin) : NULL;
#pragma unroll
            for (int i = 0; i < R; i++) {
                int column = lane + LINE * i;
                x[i] += q * g.read[t][column];
                value += x[i] * g.value[t][column];
                erased += x[i] * g.z[t][column];
                if (states) met += x[i] * faded(f, before[i * DELTA_THREADS]);
                x[i] = faded(f, x[i]) - a * g.e[t][column];
                x[i] = g.flags[t] & FORGETS ? 0.0f : x[i];
            }
            value = line_sum(value);
            erased = line_sum(erased);
            met = line_sum(met);
            if (lane > 0 || row >= c.nk) continue;
            int64_t out = step_row(c, at, s - t, c.nk) + row;
            if (w.dk) w.dk.put(out, c.own_b ? value : value - erased);
            if (w.db) w.db.put(out, -erased);
            if (states && g.flags[t] & FIRST)
                w.ddecay[token_row(c, at, s - t, c.nk) + row] = g.flags[t] & COUNTS ? met : 0.0f;
        }
    }
}

/* Grid: (rows, heads, batch). */
template <int R> static __global__ void __launch_bounds__(DELTA_THREADS) walk_rows(Delta c, Rows w)
{
    extern __shared__ __align__(16) char memory[];
    RowGroup<R> &g = *(RowGroup<R> *)memory;
    Head at = {blockIdx.z, blockIdx.y};
    int lane = threadIdx.x % LINE;
    int64_t row = (int64_t)blockIdx.x * LINES + threadIdx.x / LINE;
    int64_t state = ((at.b * c.heads + at.h) * c.nk + row) * c.nv;
    float x[R], gradient[R];
#pragma unroll
    for (int i = 0; i < R; i++) {
        int column = lane + LINE * i;
        bool there = row < c.nk && column < c.nv;
        x[i] = w.first && there ? w.first[state + column] : 0.0f;
        gradient[i] = w.dlast && there ? w.dlast[state + column] : 0.0f;
    }
    for (int64_t n = 0; n < w.stretches; n++) {
#pragma unroll
        for (int i = 0; i < R; i++)
            if (w.ddecay) kept<R>(w.begins, w.stretches, n)[i * DELTA_THREADS] = x[i];
        forwards<R, true>(c, w, at, n * w.stretch, min(c.steps, (n + 1) * w.stretch), x, NULL, g);
    }
    for (int64_t n = w.stretches - 1; n >= 0; n--) {
        int64_t begin = n * w.stretch, end = min(c.steps, begin + w.stretch);
        if (w.ddecay) {
#pragma unroll
            for (int i = 0; i < R; i++) x[i] = kept<R>(w.begins, w.stretches, n)[i * DELTA_THREADS];
            forwards<R, false>(c, w, at, begin, end, x, w.states, g);
        }
        backwards<R>(c, w, at, begin, end, gradient, w.ddecay ? w.states : NULL, g);
    }
#pragma unroll
    for (int i = 0; i < R; i++) {
        int column = lane + LINE * i;
        if (w.dfirst && row < c.nk && column < c.nv) w.dfirst[state + column] = gradient[i];
    }
}

/* ---- the kernel ---- */

/* What is in the workspace, of elements. */
struct Room {
    int64_t stretch, stretches, begins, states, whole, erased;
};

static Room room_of(const lmoe_args *a, const Delta &c)
{
    Room o = {};
    const lmoe_buf *ddecay = cuda_at(a->out, a->n_out, DDECAY);
    bool wanted = lmoe_buf_present(ddecay);
    int64_t group = steps_of(elements_of(c.nv)), root = 1;
    while (root * root < c.steps) root++;
    o.stretch = cuda_pieces(wanted ? root : c.steps, group) * group;
    o.stretches = cuda_pieces(c.steps, o.stretch);
    o.erased = c.batch * c.steps * c.heads * c.nv;
    if (!wanted) return o;
    int64_t row = cuda_pieces(c.nk, LINES) * c.heads * c.batch * elements_of(c.nv) * DELTA_THREADS;
    o.begins = row * o.stretches;
    o.states = row * o.stretch;
    o.whole = ddecay->rank == 4 ? 0 : c.batch * c.seq * c.heads * c.nk;
    return o;
}

static size_t workspace(const lmoe_args *a)
{
    Room o = room_of(a, describe_delta(a));
    return 2 * cuda_words(o.erased) + cuda_words(o.begins) + cuda_words(o.states) +
           cuda_words(o.whole);
}

template <int R> static void run_rows(const lmoe_args *a, const Delta &c, const Rows &w)
{
    allow_shared(walk_rows<R>, sizeof(RowGroup<R>));
    walk_rows<R><<<delta_grid(c, c.nk), DELTA_THREADS, sizeof(RowGroup<R>), stream_of(a)>>>(c, w);
}

static int can(const lmoe_args *a)
{
    const lmoe_buf *k = &a->in[K], *v = &a->in[V];
    return can_delta(a, CARRY) && elements_of(k->dim[k->rank - 1]) > 0 &&
           elements_of(v->dim[v->rank - 1]) > 0;
}

static lmoe_status launch(const lmoe_args *a)
{
    Delta c = describe_delta(a);
    Room o = room_of(a, c);
    char *cursor = (char *)a->workspace;
    float *z = (float *)cuda_take(&cursor, o.erased), *e = (float *)cuda_take(&cursor, o.erased);
    Rows w = {input<float>(a, CARRY), input<float>(a, DCARRY), z, e, output<float>(a, DCARRY_OUT)};
    w.dy = floats(a, DY);
    w.dq = results(a, DQ);
    w.dk = results(a, DK);
    w.da = results(a, DA);
    if (c.own_b) w.db = results(a, DB);
    w.stretch = o.stretch;
    w.stretches = o.stretches;
    w.begins = (float *)cuda_take(&cursor, o.begins);
    w.states = (float *)cuda_take(&cursor, o.states);
    w.ddecay = o.whole ? (float *)cursor : output<float>(a, DDECAY);
    Columns forth = {w.first, NULL, {}, z, {}}, back = {w.dlast, NULL, results(a, DV), e, w.dy};
    run_columns<false>(a, c, forth);
    run_columns<true>(a, c, back);
    switch (elements_of(c.nv)) {
    case 2: run_rows<2>(a, c, w); break;
    case 8: run_rows<8>(a, c, w); break;
    case 16: run_rows<16>(a, c, w); break;
    default: run_rows<32>(a, c, w); break;
    }
    if (o.whole) cuda_add_decays(a, w.ddecay, c.nk, c.heads, c.batch * c.seq, &a->out[DDECAY]);
    return cuda_launched(a);
}

CUDA_KERNEL(scan_delta_grad, 1, can, workspace, launch)
