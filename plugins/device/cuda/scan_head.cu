/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/scan_head.cu: scan_diag/1 in bf16 with one decay for all channels of a head, or
 * none, and its derivative: the walks of delta_chunk.cuh with nothing to erase. Both ways, rows r read
 * the state X and rows w write values o into it:
 *
 *                r   w   o    out                                       X
 *   forwards     q   k   v    y  = scale exp(G) q M + P v               M, from k exp(G_end - G) v^T
 *   backwards    k   q   dy   dv = exp(G_end - G) k D + P^T dy          D, from scale exp(G) q dy^T
 */
#include "delta_chunk.cuh"

template <int P> struct PlainShared {
    bf16 q[2][CHUNK * (P + 8)], k[2][CHUNK * (P + 8)], o[2][CHUNK * PITCH_64];
    bf16 p[CHUNK * PITCH_64], o_write[CHUNK * PITCH_64], x[P * PITCH_64];
    float factors[2][FACTORS * CHUNK];
};

/* What is wanted: `out`, if OUT, and the state that is read in each chunk, or NULL: `states`, of
 * `count` chunks. */
struct Plain {
    const bf16 *o;
    const float *first;
    float *last;
    bf16 *out, *states;
    int64_t count;
};

/* A warp's 16 x 32 of r w^T, and of r times the state. */
template <int P>
static __device__ inline void read_both(const bf16 *r, const bf16 *w, const bf16 *state, int row,
                                        int column, float (&pairs)[4][4], float (&out)[4][4])
{
#pragma unroll 4
    for (int k = 0; k < P; k += 16) {
        uint32_t left[4], right[4];
        load_left<false>(left, r, P + 8, row, k);
#pragma unroll
        for (int n = 0; n < 4; n += 2) {
            load_right<false>(right, w, P + 8, k, column + 8 * n);
            multiply_add(pairs[n], left, right[0], right[1]);
            multiply_add(pairs[n + 1], left, right[2], right[3]);
            load_right<true>(right, state, PITCH_64, k, column + 8 * n);
            multiply_add(out[n], left, right[0], right[1]);
            multiply_add(out[n + 1], left, right[2], right[3]);
        }
    }
}

/* Pairs of steps with their factors to a tile; zeros where a row of the tile does not see the step of a
 * column: P, or backwards its transpose. */
template <bool BACKWARDS>
static __device__ inline void put_scores(float (&x)[4][4], int row, int column, const float *f,
                                         float scale, bf16 *to)
{
    const int OWN = BACKWARDS ? SUMS : SUMS_Q, OTHER = BACKWARDS ? SUMS_Q : SUMS;
    each_pair(x, row, column, [&](int i, int j, float *p) {
        float own = f[OWN * CHUNK + i];
        float2 other = *(const float2 *)(f + OTHER * CHUNK + j);
        float d0 = own - other.x, d1 = own - other.y;
        bool first = BACKWARDS ? j >= i : j <= i, second = BACKWARDS ? j + 1 >= i : j + 1 <= i;
        p[0] = first ? scale * power_of_2(BACKWARDS ? -d0 : d0) * p[0] : 0.0f;
        p[1] = second ? scale * power_of_2(BACKWARDS ? -d1 : d1) * p[1] : 0.0f;
        *(uint32_t *)(to + i * PITCH_64 + j) = two(p[0], p[1]);
    });
}

template <int P, bool BACKWARDS, bool OUT>
static __global__ void __launch_bounds__(WALK_THREADS, 1) walk(Steps c, Cut cut, Plain w)
{
    extern __shared__ __align__(16) char memory[];
    PlainShared<P> *s = (PlainShared<P> *)memory;
    const int READ = BACKWARDS ? TO_END : READ_Q, WRITE = BACKWARDS ? READ_Q : TO_END;
    Stretch part = stretch_of(c, cut, w.first, w.last, BACKWARDS);
    Place at = {part.b, blockIdx.y, 0}, coming = at;
    int row = threadIdx.x / WARP % 4 * 16, column = threadIdx.x / WARP / 4 * 32;
    int64_t size = (int64_t)c.nk * c.nv, length = part.end - part.begin;
    bf16 *states = w.states ? w.states + part.lane * w.count * size : NULL;
    StatePart<P> x;
    auto ask = [&](int64_t i) {
        int64_t chunk = BACKWARDS ? part.end - 1 - i : part.begin + i;
        coming.first = chunk * CHUNK;
        if (i < length) {
            if (OUT || BACKWARDS)
                copy_tile<true, P, WALK_THREADS>(c, coming, c.q, c.nk, 0, s->q[i % 2]);
            if (OUT || !BACKWARDS)
                copy_tile<false, P, WALK_THREADS>(c, coming, c.k, c.nk, 0, s->k[i % 2]);
            copy_tile<false, COLUMNS, WALK_THREADS>(c, coming, w.o, c.nv, part.first, s->o[i % 2]);
            copy_factors<WALK_THREADS>(c.factors + chunk_number(c, coming) * FACTORS * CHUNK,
                                       FACTORS, s->factors[i % 2]);
        }
        copies_commit();
    };
    ask(0);
    enter_state<P>(c, part, x);
    show_state<P>(x, s->x);
    for (int64_t i = 0; i < length; i++) {
        int64_t chunk = BACKWARDS ? part.end - 1 - i : part.begin + i;
        const float *f = s->factors[i % 2];
        const bf16 *q = s->q[i % 2], *k = s->k[i % 2], *o = s->o[i % 2];
        float out[4][4] = {};
        at.first = chunk * CHUNK;
        copies_wait<0>();
        __syncthreads();
        ask(i + 1);
        if (states) put_state<P>(c, s->x, states + chunk * size, part.first);
        scale_tile(o, f + WRITE * CHUNK, s->o_write);
        if (OUT) {
            float pairs[4][4] = {};
            read_both<P>(BACKWARDS ? k : q, BACKWARDS ? q : k, s->x, row, column, pairs, out);
            put_scores<BACKWARDS>(pairs, row, column, f, c.scale, s->p);
            scale_rows<4>(out, row, f + READ * CHUNK, 1);
        }
        __syncthreads();
        if (OUT) {
            if (BACKWARDS)
                multiply_tiles<4, false, true>(out, s->p + row, PITCH_64, row, o + row * PITCH_64,
                                               PITCH_64, column, CHUNK - row);
            else
                multiply_tiles<4, false, true>(out, s->p, PITCH_64, row, o, PITCH_64, column,
                                               row + 16);
            put_rows<false, 4>(c, at, row, part.first + column, out, w.out, c.nv);
        }
        fade(x.x, f[END * CHUNK]);
        multiply_tiles<StatePart<P>::N, true, true>(x.x, BACKWARDS ? q : k, P + 8, x.row(),
                                                    s->o_write, PITCH_64, x.column(), CHUNK);
        show_state<P>(x, s->x);
    }
    leave_state<P>(c, part, x);
    if (BACKWARDS || !states || part.end < c.chunks) return;
    __syncthreads();
    put_state<P>(c, s->x, states + c.chunks * size, part.first);
}

template <int P, bool BACKWARDS, bool OUT>
static void run(const lmoe_args *a, const Steps &c, const Cut &cut, const Plain &w)
{
    allow_shared(walk<P, BACKWARDS, OUT>, sizeof(PlainShared<P>));
    walk<P, BACKWARDS, OUT>
        <<<walk_grid(c, cut), WALK_THREADS, sizeof(PlainShared<P>), stream_of(a)>>>(c, cut, w);
}

template <bool BACKWARDS>
static void run_walk(const lmoe_args *a, const Steps &c, const Cut &cut, const Plain &w)
{
    if (c.nk > 64)
        w.out ? run<128, BACKWARDS, true>(a, c, cut, w) : run<128, BACKWARDS, false>(a, c, cut, w);
    else
        w.out ? run<64, BACKWARDS, true>(a, c, cut, w) : run<64, BACKWARDS, false>(a, c, cut, w);
}

void cuda_plain_forwards(const lmoe_args *a, const Steps *c, const Cut *cut, const Forwards *w)
{
    Plain plain = {c->v, w->first, w->last, w->y, w->begins, c->chunks + 1};
    run_walk<false>(a, *c, *cut, plain);
}

void cuda_plain_backwards(const lmoe_args *a, const Steps *c, const Cut *cut, const Backwards *w)
{
    Plain plain = {w->dy, w->first, w->last, w->e, w->ends, c->chunks};
    run_walk<true>(a, *c, *cut, plain);
}

/* ---- the kernels ---- */

enum { Q, K, V, DECAY, RESET, SKIP, CARRY, DECAY_V };

static size_t cut_work(Steps *c, Cut *cut, char *memory)
{
    char *cursor = memory;
    cuda_chunk_take(c, &cursor);
    cut_take(c, cut, &cursor);
    return (size_t)(cursor - memory);
}

static Steps describe(const lmoe_args *a)
{
    float scale = (float)((const lmoe_scan_diag_attrs *)a->attrs)->scale;
    return describe_steps(a, scale, K, V, -1, DECAY);
}

static int can(const lmoe_args *a)
{
    return can_steps(a, DECAY, CARRY) && !lmoe_buf_present(cuda_at(a->in, a->n_in, DECAY_V));
}

static size_t workspace(const lmoe_args *a)
{
    Steps c = describe(a);
    Cut cut = cut_of(&c);
    return cut_work(&c, &cut, NULL);
}

static lmoe_status launch(const lmoe_args *a)
{
    Steps c = describe(a);
    Cut cut = cut_of(&c);
    Forwards w = {input<float>(a, CARRY), output<float>(a, 1), output<bf16>(a, 0)};
    cut_work(&c, &cut, (char *)a->workspace);
    cuda_chunk_prepare(a, &c);
    cuda_forwards(a, &c, &cut, &w);
    return cuda_launched(a);
}

CUDA_FAST_KERNEL(scan_diag, 1, head, can, workspace, launch)

/* ---- the derivative ---- */

static const cuda_chunk_ports ports = {
    .a = -1, .decay = 3, .dy = 6, .carry = 7, .dcarry = 8, .da = -1, .ddecay = 3, .dcarry_out = 4};
enum { GRAD_DECAY_V = 9 };

static int can_grad(const lmoe_args *a)
{
    return can_steps(a, ports.decay, ports.carry) && cuda_is_bf16(&a->in[ports.dy]) &&
           !lmoe_buf_present(cuda_at(a->in, a->n_in, GRAD_DECAY_V));
}

static size_t grad_workspace(const lmoe_args *a)
{
    return cuda_chunk_grad_bytes(a, &ports);
}

static lmoe_status grad_launch(const lmoe_args *a)
{
    return cuda_chunk_grad(a, &ports);
}

CUDA_FAST_KERNEL(scan_diag_grad, 1, head, can_grad, grad_workspace, grad_launch)
