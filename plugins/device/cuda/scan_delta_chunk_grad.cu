/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/scan_delta_chunk_grad.cu: scan_delta_grad/1 in bf16, in chunks (delta_chunk.cuh):
 * a walk forwards leaves M before each chunk and X, one backwards D at its end and E; then all chunks
 * at once. With dP_ts = scale exp(G_t - G_s) dy_t . x_s, s <= t, and dA_ij = - exp(H_i - G_j) e_i . x_j,
 * j < i:
 *
 *   dq = scale exp(G) (dY M^T) + dP k       da = - exp(H) (E M^T) + dA k
 *   dk = exp(G_end - G) (X D^T) + dP^T q + dA^T a
 *   ddecay_u = D . M_end + sum over t >= u of (q_t . dq_t - k_t . dk_t) + sum over i > u of a_i . da_i
 *
 * The last sum stays within a chunk, so it takes no differences of long sums; what a pair of steps
 * gives on one side of u alone is in two of its terms and cancels.
 */
#include "delta_chunk.cuh"

/* ---- backwards ---- */

template <int P> struct BackwardsShared {
    bf16 k[CHUNK * (P + 8)], q[CHUNK * (P + 8)], a[CHUNK * (P + 8)];
    bf16 dy[CHUNK * PITCH_64], p[CHUNK * PITCH_64], t[CHUNK * PITCH_64], dx[CHUNK * PITCH_64];
    bf16 dy_read[CHUNK * PITCH_64], e_read[CHUNK * PITCH_64], d[P * PITCH_64];
    float factors[2][4 * CHUNK];
};

template <int P>
static __global__ void __launch_bounds__(WALK_THREADS, 1)
    walk_backwards(Steps c, Cut cut, Backwards w)
{
    extern __shared__ __align__(16) char memory[];
    BackwardsShared<P> *s = (BackwardsShared<P> *)memory;
    Stretch part = stretch_of(c, cut, w.first, w.last, true);
    Place at = {part.b, blockIdx.y, 0}, coming = at;
    int row = threadIdx.x / WARP % 4 * 16, column = threadIdx.x / WARP / 4 * 32;
    int64_t size = (int64_t)c.nk * c.nv;
    bf16 *ends = w.ends ? w.ends + part.lane * c.chunks * size : NULL;
    StatePart<P> d;
    /* what reads the state; T; what writes it */
    auto ask_reads = [&](int64_t chunk) {
        coming.first = chunk * CHUNK;
        if (chunk >= part.begin) {
            copy_tile<false, P, WALK_THREADS>(c, coming, c.k, c.nk, 0, s->k);
            copy_tile<true, COLUMNS, WALK_THREADS>(c, coming, w.dy, part.turns ? 0 : c.nv,
                                                   part.first, s->dy);
            copy_square<WALK_THREADS>(c.p + chunk_number(c, coming) * CHUNK * CHUNK, s->p);
            copy_factors<WALK_THREADS>(c.factors + chunk_number(c, coming) * FACTORS * CHUNK, 4,
                                       s->factors[chunk % 2]);
        }
        copies_commit();
    };
    auto ask_inverse = [&](int64_t chunk) {
        coming.first = chunk * CHUNK;
        if (chunk >= part.begin)
            copy_square<WALK_THREADS>(c.t + chunk_number(c, coming) * CHUNK * CHUNK, s->t);
        copies_commit();
    };
    auto ask_writes = [&](int64_t chunk) {
        coming.first = chunk * CHUNK;
        copy_tile<true, P, WALK_THREADS>(c, coming, c.q, c.nk, 0, s->q);
        copy_tile<false, P, WALK_THREADS>(c, coming, c.a, c.nk, 0, s->a);
        copies_commit();
    };
    ask_reads(part.end - 1);
    ask_inverse(part.end - 1);
    enter_state<P>(c, part, d);
    show_state<P>(d, s->d);
    for (int64_t chunk = part.end - 1; chunk >= part.begin; chunk--) {
        const float *f = s->factors[chunk % 2];
        float x[4][4] = {};
        at.first = chunk * CHUNK;
        copies_wait<1>();
        __syncthreads();
        ask_writes(chunk);
        if (ends) put_state<P>(c, s->d, ends + chunk * size, part.first);
        multiply_tiles<4, false, true>(x, s->k, P + 8, row, s->d, PITCH_64, column, P);
        scale_rows<4>(x, row, f + TO_END * CHUNK, 1);
        multiply_tiles<4, true, true>(x, s->p + row * PITCH_64, PITCH_64, row,
                                      s->dy + row * PITCH_64, PITCH_64, column, CHUNK - row);
        scale_tile(s->dy, f + READ_Q * CHUNK, s->dy_read);
        each_pair(x, row, column, [&](int t, int j, float *p) {
            *(uint32_t *)(s->dx + t * PITCH_64 + j) = two(p[0], p[1]);
        });
        copies_wait<1>();
        __syncthreads();
        ask_reads(chunk - 1);
        clear(x);
        multiply_tiles<4, true, true>(x, s->t + row * PITCH_64, PITCH_64, row,
                                      s->dx + row * PITCH_64, PITCH_64, column, CHUNK - row);
        each_pair(x, row, column, [&](int t, int j, float *p) {
            float factor = -f[READ_A * CHUNK + t];
            *(uint32_t *)(s->e_read + t * PITCH_64 + j) = two(factor * p[0], factor * p[1]);
        });
        if (ends) put_rows<false, 4>(c, at, row, part.first + column, x, w.e, c.nv);
        copies_wait<1>();
        __syncthreads();
        ask_inverse(chunk - 1);
        fade(d.x, f[END * CHUNK]);
        multiply_tiles<StatePart<P>::N, true, true>(d.x, s->q, P + 8, d.row(), s->dy_read, PITCH_64,
                                                    d.column(), CHUNK);
        multiply_tiles<StatePart<P>::N, true, true>(d.x, s->a, P + 8, d.row(), s->e_read, PITCH_64,
                                                    d.column(), CHUNK);
        show_state<P>(d, s->d);
    }
    leave_state<P>(c, part, d);
}

template <int P>
static void run_backwards(const lmoe_args *a, const Steps &c, const Cut &cut, const Backwards &w)
{
    allow_shared(walk_backwards<P>, sizeof(BackwardsShared<P>));
    walk_backwards<P>
        <<<walk_grid(c, cut), WALK_THREADS, sizeof(BackwardsShared<P>), stream_of(a)>>>(c, cut, w);
}

void cuda_erase_backwards(const lmoe_args *a, const Steps *c, const Cut *cut, const Backwards *w)
{
    c->nk > 64 ? run_backwards<128>(a, *c, *cut, *w) : run_backwards<64>(a, *c, *cut, *w);
}

static void all_backwards(const lmoe_args *a, const Steps *c, const Cut *cut, const Backwards *w)
{
    auto walk = c->erase ? cuda_erase_backwards : cuda_plain_backwards;
    Backwards none = {w->dy};
    Cut sum = *cut;
    if (cut->count > 1) {
        sum.sum = true;
        walk(a, c, &sum, &none);
        cuda_start_stretches(a, c, cut, w->first, 1);
    }
    walk(a, c, cut, w);
}

/* ---- a chunk's derivatives: sixteen warps ---- */

enum { GRAD_THREADS = 512, GRAD_COLUMNS = GRAD_THREADS / WARP / 4 /* of warps */ };

struct Known {
    const bf16 *dy, *x, *e, *begins, *ends;
};

struct Wanted {
    bf16 *dq, *dk, *da;
    float *ddecay; /* (batch seq heads); each may be NULL */
};

template <int P> struct GradShared {
    static const int TILE = CHUNK * (P + 8);
    bf16 q[TILE], k[TILE], x[TILE], dy[TILE], m[P * (P + 8)], d[P * (P + 8)];
    bf16 dp[CHUNK * PITCH_64];
    float factors[FACTORS * CHUNK];
    float of_q[GRAD_COLUMNS][CHUNK], of_a[GRAD_COLUMNS][CHUNK], of_k[GRAD_COLUMNS][CHUNK];
    float met[GRAD_THREADS / WARP], half[2];
    /* where something is erased */
    alignas(16) bf16 da[CHUNK * PITCH_64];
    bf16 a[TILE], e[TILE];
};

template <int P, bool ERASE> static constexpr size_t grad_bytes()
{
    return ERASE ? sizeof(GradShared<P>) : offsetof(GradShared<P>, da);
}

/* (head_k head_v) to a tile (P, P + 8); zeros past its ends. */
template <int P>
static __device__ inline void copy_state(const Steps &c, const bf16 *state, bf16 *tile)
{
#pragma unroll
    for (int i = threadIdx.x; i < P * P / 8; i += GRAD_THREADS) {
        int row = i / (P / 8), column = i % (P / 8) * 8;
        bool there = row < c.nk && column < c.nv;
        copy_16(tile + row * (P + 8) + column, there ? state + row * c.nv + column : state, there);
    }
}

/* Of each row, the sum of x times a tile over the warp's columns. */
template <int N, int P>
static __device__ inline void put_dots(const float (&x)[N][4], int row, int column,
                                       const bf16 *tile, float *to)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = 0;
        int t = row + lane_row(2 * half);
#pragma unroll
        for (int n = 0; n < N; n++) {
            uint32_t u = *(const uint32_t *)(tile + t * (P + 8) + column + lane_column(n, 0));
            sum += x[n][2 * half] * low(u) + x[n][2 * half + 1] * high(u);
        }
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        if (threadIdx.x % 4 == 0) to[t] = sum;
    }
}

/* A thread's part of M_end, asked for early. */
template <int P> struct EndPart {
    static const int LINE = P / 8, STEP = GRAD_THREADS / LINE, N = P / STEP;
    uint4 m[N];
};

template <int P>
static __device__ inline void load_end(const Steps &c, const bf16 *end, EndPart<P> &part)
{
    int row = threadIdx.x / part.LINE, column = threadIdx.x % part.LINE * 8;
#pragma unroll
    for (int i = 0; i < part.N; i++)
        part.m[i] = *(const uint4 *)(end + min(row + i * part.STEP, c.nk - 1) * c.nv +
                                     min(column, c.nv - 8));
}

/* D . M_end, a warp's part of it to s->met; D's tile is zero past its ends. */
template <int P> static __device__ inline void meet_states(const EndPart<P> &part, GradShared<P> *s)
{
    int row = threadIdx.x / part.LINE, column = threadIdx.x % part.LINE * 8;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < part.N; i++) {
        const uint32_t *d = (const uint32_t *)(s->d + (row + i * part.STEP) * (P + 8) + column);
        const uint32_t m[4] = {part.m[i].x, part.m[i].y, part.m[i].z, part.m[i].w};
#pragma unroll
        for (int k = 0; k < 4; k++) sum += low(m[k]) * low(d[k]) + high(m[k]) * high(d[k]);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) s->met[threadIdx.x / WARP] = sum;
}

/* From the dots of the rows: sums over what comes later, by two warps. */
template <int P, bool ERASE>
static __device__ inline void put_decays(const Steps &c, const Place &at, GradShared<P> *s,
                                         float *ddecay)
{
    int u = threadIdx.x;
    float sum = 0;
    if (u >= CHUNK) return;
    for (int i = 0; i < GRAD_COLUMNS; i++) {
        sum += s->of_q[i][u] - s->of_k[i][u];
        if (ERASE && u + 1 < CHUNK) sum += s->of_a[i][u + 1];
    }
#pragma unroll
    for (int step = 1; step < WARP; step *= 2) {
        float later = __shfl_down_sync(~0u, sum, step);
        if (u % WARP + step < WARP) sum += later;
    }
    if (u % WARP == 0) s->half[u / WARP] = sum;
    asm volatile("bar.sync 1, 64;" ::: "memory");
    if (u < WARP) sum += s->half[1];
    for (int i = 0; i < GRAD_THREADS / WARP; i++) sum += s->met[i];
    if (at.first + u >= c.steps) return;
    int flags = (int)s->factors[FLAGS * CHUNK + u];
    if (!(flags & FIRST)) return;
    int64_t token = at.b * c.seq + token_of(c, at.first + u);
    ddecay[token * c.heads + at.h] = flags & ROW && !(flags & FORGETS) ? sum : 0.0f;
}

/* Grid: (chunks, heads, batch). */
template <int P, bool ERASE>
static __global__ void __launch_bounds__(GRAD_THREADS, 1) gradients(Steps c, Known w, Wanted to)
{
    extern __shared__ __align__(16) char memory[];
    GradShared<P> *s = (GradShared<P> *)memory;
    const int PITCH = P + 8, N = P / GRAD_COLUMNS / 8;
    Place at = {blockIdx.z, blockIdx.y, (int64_t)blockIdx.x * CHUNK};
    int64_t lane = at.b * c.heads + at.h, size = (int64_t)c.nk * c.nv;
    const bf16 *begin = w.begins + (lane * (c.chunks + 1) + blockIdx.x) * size;
    const float *f = s->factors;
    int row = threadIdx.x / WARP % 4 * 16, column = threadIdx.x / WARP / 4 * (8 * N);
    copy_tile<true, P, GRAD_THREADS>(c, at, w.dy, c.nv, 0, s->dy);
    copy_tile<false, P, GRAD_THREADS>(c, at, w.x, c.nv, 0, s->x);
    if (ERASE) copy_tile<false, P, GRAD_THREADS>(c, at, w.e, c.nv, 0, s->e);
    copy_factors<GRAD_THREADS>(c.factors + chunk_number(c, at) * FACTORS * CHUNK, FACTORS,
                               s->factors);
    copies_commit();
    copy_state<P>(c, begin, s->m);
    copy_tile<false, P, GRAD_THREADS>(c, at, c.k, c.nk, 0, s->k);
    copy_tile<true, P, GRAD_THREADS>(c, at, c.q, c.nk, 0, s->q);
    if (ERASE) copy_tile<false, P, GRAD_THREADS>(c, at, c.a, c.nk, 0, s->a);
    copy_state<P>(c, w.ends + (lane * c.chunks + blockIdx.x) * size, s->d);
    copies_commit();
    EndPart<P> end;
    if (to.ddecay) load_end<P>(c, begin + size, end);
    copies_wait<1>();
    __syncthreads();
    put_pairs<P, 2, false>(s->dy, s->x, f, SUMS_Q, c.scale, s->dp);
    if (ERASE) put_pairs<P, 2, true>(s->e, s->x, f, SUMS_A, -1.0f, s->da);
    copies_wait<0>();
    __syncthreads();
    if (to.ddecay) meet_states<P>(end, s);
    float x[N][4] = {};
    multiply_tiles<N, false, false>(x, s->dy, PITCH, row, s->m, PITCH, column, P);
    scale_rows<N>(x, row, f + READ_Q * CHUNK, 1);
    multiply_tiles<N, false, true>(x, s->dp, PITCH_64, row, s->k, PITCH, column, row + 16);
    if (to.ddecay) put_dots<N, P>(x, row, column, s->q, s->of_q[column / (8 * N)]);
    if (to.dq) put_rows<true, N>(c, at, row, column, x, to.dq, c.nk);
    if (ERASE) {
        clear(x);
        multiply_tiles<N, false, false>(x, s->e, PITCH, row, s->m, PITCH, column, P);
        scale_rows<N>(x, row, f + READ_A * CHUNK, -1);
        multiply_tiles<N, false, true>(x, s->da, PITCH_64, row, s->k, PITCH, column, row + 16);
        if (to.ddecay) put_dots<N, P>(x, row, column, s->a, s->of_a[column / (8 * N)]);
        if (to.da) put_rows<false, N>(c, at, row, column, x, to.da, c.nk);
    }
    clear(x);
    multiply_tiles<N, false, false>(x, s->x, PITCH, row, s->d, PITCH, column, P);
    scale_rows<N>(x, row, f + TO_END * CHUNK, 1);
    multiply_tiles<N, true, true>(x, s->dp + row * PITCH_64, PITCH_64, row, s->q + row * PITCH,
                                  PITCH, column, CHUNK - row);
    if (ERASE)
        multiply_tiles<N, true, true>(x, s->da + row * PITCH_64, PITCH_64, row, s->a + row * PITCH,
                                      PITCH, column, CHUNK - row);
    if (to.ddecay) put_dots<N, P>(x, row, column, s->k, s->of_k[column / (8 * N)]);
    if (to.dk) put_rows<false, N>(c, at, row, column, x, to.dk, c.nk);
    if (!to.ddecay) return;
    __syncthreads();
    put_decays<P, ERASE>(c, at, s, to.ddecay);
}

template <int P, bool ERASE>
static void run_gradients(const lmoe_args *a, const Steps &c, const Known &w, const Wanted &to)
{
    const size_t bytes = grad_bytes<P, ERASE>();
    dim3 grid((unsigned)c.chunks, (unsigned)c.heads, (unsigned)c.batch);
    allow_shared(gradients<P, ERASE>, bytes);
    gradients<P, ERASE><<<grid, GRAD_THREADS, bytes, stream_of(a)>>>(c, w, to);
}

/* ---- both kernels ---- */

/* A decay for each head: sums over all tokens, a block a head. x: (token heads) */
static __global__ void add_tokens(const float *x, int64_t tokens, int64_t heads, float *y)
{
    double sum = 0;
    for (int64_t t = threadIdx.x; t < tokens; t += blockDim.x) sum += x[t * heads + blockIdx.x];
    sum = block_sum(sum);
    if (threadIdx.x == 0) y[blockIdx.x] = (float)sum;
}

/* What a launch works with. */
struct Work {
    Steps c;
    Cut cut;
    Known known;
    Backwards back;
    float *by_token; /* sums of ddecay, if the decay is one for each head */
};

/* Cuts memory into it; returns how many bytes it takes. */
static size_t cut_work(const lmoe_args *a, const cuda_chunk_ports *p, char *memory, Work *w)
{
    const lmoe_buf *ddecay = cuda_at(a->out, a->n_out, p->ddecay);
    float scale = (float)((const lmoe_scan_diag_attrs *)a->attrs)->scale;
    char *cursor = memory;
    *w = {describe_steps(a, scale, 1, 2, p->a, p->decay)};
    const Steps &c = w->c;
    w->cut = cut_of(&c);
    cuda_chunk_take(&w->c, &cursor);
    cut_take(&c, &w->cut, &cursor);
    w->known.dy = w->back.dy = input<bf16>(a, p->dy);
    w->known.begins = (bf16 *)cuda_take(&cursor, chunk_state_words(&c, c.chunks + 1));
    w->known.ends = w->back.ends = (bf16 *)cuda_take(&cursor, chunk_state_words(&c, c.chunks));
    w->known.x = c.erase ? (bf16 *)cuda_take(&cursor, chunk_value_words(&c)) : c.v;
    bool kept = lmoe_buf_present(&a->out[2]); /* as dv */
    w->back.e = kept ? output<bf16>(a, 2) : (bf16 *)cuda_take(&cursor, chunk_value_words(&c));
    w->known.e = w->back.e;
    w->back.first = input<float>(a, p->dcarry);
    w->back.last = output<float>(a, p->dcarry_out);
    if (lmoe_buf_present(ddecay) && ddecay->rank == 1)
        w->by_token = (float *)cuda_take(&cursor, c.batch * c.seq * c.heads);
    return (size_t)(cursor - memory);
}

size_t cuda_chunk_grad_bytes(const lmoe_args *a, const cuda_chunk_ports *p)
{
    Work w;
    return cut_work(a, p, NULL, &w);
}

lmoe_status cuda_chunk_grad(const lmoe_args *a, const cuda_chunk_ports *p)
{
    Work w;
    cut_work(a, p, (char *)a->workspace, &w);
    float *ddecay = output<float>(a, p->ddecay);
    Forwards forth = {input<float>(a, p->carry), NULL, NULL, (bf16 *)w.known.x,
                      (bf16 *)w.known.begins};
    Wanted to = {output<bf16>(a, 0), output<bf16>(a, 1), p->da < 0 ? NULL : output<bf16>(a, p->da),
                 w.by_token ? w.by_token : ddecay};
    bool wide = w.c.nk > 64 || w.c.nv > 64, erase = w.c.erase;
    cuda_chunk_prepare(a, &w.c);
    cuda_forwards(a, &w.c, &w.cut, &forth);
    all_backwards(a, &w.c, &w.cut, &w.back);
    if (erase)
        wide ? run_gradients<128, true>(a, w.c, w.known, to)
             : run_gradients<64, true>(a, w.c, w.known, to);
    else
        wide ? run_gradients<128, false>(a, w.c, w.known, to)
             : run_gradients<64, false>(a, w.c, w.known, to);
    if (w.by_token)
        add_tokens<<<(unsigned)w.c.heads, THREADS, 0, stream_of(a)>>>(
            w.by_token, w.c.batch * w.c.seq, w.c.heads, ddecay);
    return cuda_launched(a);
}

static const cuda_chunk_ports ports = {
    .a = 3, .decay = 5, .dy = 8, .carry = 9, .dcarry = 10, .da = 3, .ddecay = 5, .dcarry_out = 6};

static int can(const lmoe_args *a)
{
    return can_steps(a, ports.decay, ports.carry) && cuda_is_bf16(&a->in[ports.a]) &&
           cuda_is_bf16(&a->in[ports.dy]) && !lmoe_buf_present(&a->in[4]);
}

static size_t workspace(const lmoe_args *a)
{
    return cuda_chunk_grad_bytes(a, &ports);
}

static lmoe_status launch(const lmoe_args *a)
{
    return cuda_chunk_grad(a, &ports);
}

CUDA_FAST_KERNEL(scan_delta_grad, 1, chunk, can, workspace, launch)
