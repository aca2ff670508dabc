/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/scan_delta_chunk.cu: scan_delta/1 in bf16, in chunks (delta_chunk.cuh): what is
 * within each of them, then the walk over the chunks.
 */
#include "delta_chunk.cuh"

/* ---- T and P of a chunk ---- */

template <int P> struct WithinShared {
    bf16 a[CHUNK * (P + 8)], q[CHUNK * (P + 8)], k[CHUNK * (P + 8)];
    bf16 erase[CHUNK * PITCH_64], inverse[CHUNK * PITCH_64], between[CHUNK * PITCH_64];
    float factors[FACTORS * CHUNK];
};

static const float GONE = -160.0f;

/* Flags, sums of logs, and factors, by the block's first two warps; all threads meet in it. */
static __device__ inline void find_factors(const Steps &c, const Place &at, float *f)
{
    __shared__ float half[2];
    int i = threadIdx.x, flags = 0;
    float log = 0, reset = 0, sum = 0;
    if (i < CHUNK) {
        int64_t s = at.first + i, token = at.b * c.seq + token_of(c, min(s, c.steps - 1));
        int place = c.each == 1 ? 0 : (int32_t)s % c.each;
        if (s < c.steps) {
            if (place == 0) flags |= FIRST;
            if (place == c.each - 1) flags |= LAST;
            if (place == 0 && c.reset && c.reset[token]) flags |= FORGETS, reset = GONE;
            if (!(c.skip && c.skip[token])) flags |= flags & LAST ? ROW | READS : ROW;
            if (c.decay && flags & FIRST && flags & ROW)
                log =
                    fmaxf(c.decay[token * c.decay_token + at.h * c.decay_head] * 1.44269504f, GONE);
        }
        sum = log + reset;
#pragma unroll
        for (int step = 1; step < WARP; step *= 2) {
            float before = __shfl_up_sync(~0u, sum, step);
            if (i % WARP >= step) sum += before;
        }
        if (i % WARP == WARP - 1) half[i / WARP] = sum;
    }
    __syncthreads();
    if (i < CHUNK) {
        float all = half[0] + half[1], before = __shfl_up_sync(~0u, sum, 1);
        if (i % WARP == 0) before = 0;
        if (i >= WARP) before += half[0];
        float of_a = before + reset, own = of_a + log;
        f[READ_A * CHUNK + i] = flags & ROW ? power_of_2(of_a) : 0.0f;
        f[READ_Q * CHUNK + i] = flags & READS ? c.scale * power_of_2(own) : 0.0f;
        f[TO_END * CHUNK + i] = flags & ROW ? power_of_2(all - own) : 0.0f;
        f[END * CHUNK + i] = power_of_2(all);
        f[SUMS * CHUNK + i] = flags & ROW ? own : INFINITY;
        f[SUMS_Q * CHUNK + i] = flags & READS ? own : -INFINITY;
        f[SUMS_A * CHUNK + i] = flags & ROW ? of_a : -INFINITY;
        f[FLAGS * CHUNK + i] = (float)flags;
    }
    __syncthreads();
}

/* The inverse of one block of 16 of 1 + A, a lane a column. */
static __device__ inline void invert_block(const bf16 *erase, bf16 *inverse)
{
    int column = threadIdx.x % WARP;
    float x[16];
    if (column >= 16) return;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        float sum = i == column ? 1.0f : 0.0f;
#pragma unroll
        for (int j = 0; j < i; j++) sum -= (float)erase[i * PITCH_64 + j] * x[j];
        x[i] = sum;
        inverse[i * PITCH_64 + column] = __float2bfloat16_rn(sum);
    }
}

/* 16 x 16 of `sign` left right at (row, column), the sum over `depth` from column, and row, `from`. */
static __device__ inline void put_product(const bf16 *left, const bf16 *right, int row, int column,
                                          int from, int depth, float sign, bf16 *to)
{
    float x[2][4] = {};
    multiply_tiles<2, false, true>(x, left + from, PITCH_64, row, right + from * PITCH_64, PITCH_64,
                                   column, depth);
    each_pair(x, row, column, [&](int i, int j, float *p) {
        *(uint32_t *)(to + i * PITCH_64 + j) = two(sign * p[0], sign * p[1]);
    });
}

/* T = (1 + A)^-1 by blocks: with the inverses of two blocks on the diagonal, that of both together
 * has - T2 A21 T1 below them. */
static __device__ inline void invert(const bf16 *erase, bf16 *inverse, bf16 *between)
{
    int warp = threadIdx.x / WARP;
    for (int i = threadIdx.x; i < CHUNK * PITCH_64 / 2; i += WITHIN_THREADS)
        ((uint32_t *)inverse)[i] = 0;
    __syncthreads();
    if (warp < 4) {
        int at = warp * 16 * (PITCH_64 + 1);
        invert_block(erase + at, inverse + at);
    }
    __syncthreads();
    if (warp < 2) {
        int first = 32 * warp;
        put_product(erase, inverse, first + 16, first, first, 16, 1, between);
        __syncwarp();
        put_product(inverse, between, first + 16, first, first + 16, 16, -1, inverse);
    }
    __syncthreads();
    int row = 32 + warp % 2 * 16, column = warp / 2 * 16;
    if (warp < 4) put_product(erase, inverse, row, column, 0, 32, 1, between);
    __syncthreads();
    if (warp < 4) put_product(inverse, between, row, column, 32, 32, -1, inverse);
    __syncthreads();
}

static __device__ inline void put_square(const bf16 *tile, const float *flags, bf16 *to)
{
    for (int i = threadIdx.x; i < CHUNK * CHUNK / 8; i += WITHIN_THREADS) {
        uint4 u = *(const uint4 *)(tile + i / 8 * PITCH_64 + i % 8 * 8);
        bool there = !flags || (int)flags[i / 8] & ROW;
        *(uint4 *)(to + i * 8) = there ? u : make_uint4(0, 0, 0, 0);
    }
}

/* Grid: (chunks, heads, batch). */
template <int P> static __global__ void __launch_bounds__(WITHIN_THREADS, 2) within(Steps c)
{
    extern __shared__ __align__(16) char memory[];
    WithinShared<P> *s = (WithinShared<P> *)memory;
    Place at = {blockIdx.z, blockIdx.y, (int64_t)blockIdx.x * CHUNK};
    int64_t number = chunk_number(c, at);
    copy_tile<false, P, WITHIN_THREADS>(c, at, c.k, c.nk, 0, s->k);
    copy_tile<false, P, WITHIN_THREADS>(c, at, c.a, c.nk, 0, s->a);
    copy_tile<true, P, WITHIN_THREADS>(c, at, c.q, c.nk, 0, s->q);
    copies_commit();
    find_factors(c, at, s->factors);
    copies_wait<0>();
    __syncthreads();
    for (int i = threadIdx.x; i < FACTORS * CHUNK; i += WITHIN_THREADS)
        c.factors[number * FACTORS * CHUNK + i] = s->factors[i];
    put_pairs<P, 4, true>(s->a, s->k, s->factors, SUMS_A, 1.0f, s->erase);
    __syncthreads();
    invert(s->erase, s->inverse, s->between);
    put_square(s->inverse, s->factors + FLAGS * CHUNK, c.t + number * CHUNK * CHUNK);
    put_pairs<P, 4, false>(s->q, s->k, s->factors, SUMS_Q, c.scale, s->erase);
    __syncthreads();
    put_square(s->erase, NULL, c.p + number * CHUNK * CHUNK);
}

/* Where nothing is erased: the factors alone. */
static __global__ void __launch_bounds__(CHUNK) factors_alone(Steps c)
{
    Place at = {blockIdx.z, blockIdx.y, (int64_t)blockIdx.x * CHUNK};
    find_factors(c, at, c.factors + chunk_number(c, at) * FACTORS * CHUNK);
}

void cuda_chunk_prepare(const lmoe_args *a, const Steps *c)
{
    dim3 grid((unsigned)c->chunks, (unsigned)c->heads, (unsigned)c->batch);
    if (!c->erase) {
        factors_alone<<<grid, CHUNK, 0, stream_of(a)>>>(*c);
    } else if (c->nk > 64) {
        allow_shared(within<128>, sizeof(WithinShared<128>));
        within<128><<<grid, WITHIN_THREADS, sizeof(WithinShared<128>), stream_of(a)>>>(*c);
    } else {
        allow_shared(within<64>, sizeof(WithinShared<64>));
        within<64><<<grid, WITHIN_THREADS, sizeof(WithinShared<64>), stream_of(a)>>>(*c);
    }
}

void cuda_chunk_take(Steps *c, char **cursor)
{
    int64_t all = chunk_heads(c) * c->chunks, square = all * CHUNK * CHUNK / 2;
    if (c->erase) {
        c->t = (bf16 *)cuda_take(cursor, square);
        c->p = (bf16 *)cuda_take(cursor, square);
    }
    c->factors = (float *)cuda_take(cursor, all * FACTORS * CHUNK);
}

/* ---- the starts of stretches ---- */

enum { START_COLUMNS = 8 };

/* A block has some columns of a head's state; a thread some elements of one. */
static __global__ void __launch_bounds__(THREADS)
    start_stretches(Steps c, Cut cut, const float *first, bool backwards)
{
    __shared__ float x[MOST_CHANNELS][START_COLUMNS], fades;
    const int STEP = THREADS / START_COLUMNS;
    int64_t lane = blockIdx.y, size = (int64_t)c.nk * c.nv;
    int j = threadIdx.x % START_COLUMNS, column = blockIdx.x * START_COLUMNS + j;
    for (int i = threadIdx.x / START_COLUMNS; i < c.nk; i += STEP)
        x[i][j] = first && column < c.nv ? first[lane * size + i * c.nv + column] : 0.0f;
    for (int64_t n = 0; n < cut.count; n++) {
        int64_t stretch = backwards ? cut.count - 1 - n : n, here = lane * cut.count + stretch;
        float *own = cut.starts + here * size, next[MOST_CHANNELS / STEP];
        if (!c.erase && threadIdx.x == 0) {
            int64_t begin = stretch * cut.length, end = min(c.chunks, begin + cut.length);
            fades = 1;
            for (int64_t i = begin; i < end; i++)
                fades *= c.factors[((lane * c.chunks + i) * FACTORS + END) * CHUNK];
        }
        __syncthreads();
#pragma unroll
        for (int m = 0; m < MOST_CHANNELS / STEP; m++) {
            int i = threadIdx.x / START_COLUMNS + m * STEP;
            float sum = 0;
            if (i >= c.nk || column >= c.nv) continue;
            const float *turn = cut.turns + (here * c.nk + i) * c.nk;
            if (c.erase)
                for (int k = 0; k < c.nk; k++) sum += turn[k] * x[k][j];
            else
                sum = fades == 0.0f ? 0.0f : fades * x[i][j];
            next[m] = sum + own[i * c.nv + column];
            own[i * c.nv + column] = x[i][j];
        }
        __syncthreads();
#pragma unroll
        for (int m = 0; m < MOST_CHANNELS / STEP; m++) {
            int i = threadIdx.x / START_COLUMNS + m * STEP;
            if (i < c.nk && column < c.nv) x[i][j] = next[m];
        }
    }
}

void cuda_start_stretches(const lmoe_args *a, const Steps *c, const Cut *cut, const float *first,
                          int backwards)
{
    dim3 grid(blocks(c->nv, START_COLUMNS), (unsigned)chunk_heads(c));
    start_stretches<<<grid, THREADS, 0, stream_of(a)>>>(*c, *cut, first, backwards != 0);
}

/* ---- forwards: three groups of tiles, each asked for again when it was used ---- */

template <int P> struct ForwardsShared {
    bf16 k[CHUNK * (P + 8)], q[CHUNK * (P + 8)], a[CHUNK * (P + 8)];
    bf16 v[CHUNK * PITCH_64], p[CHUNK * PITCH_64], t[CHUNK * PITCH_64], rest[CHUNK * PITCH_64];
    bf16 x[CHUNK * PITCH_64], x_end[CHUNK * PITCH_64], m[P * PITCH_64];
    float factors[2][4 * CHUNK];
};

/* z = a M and, OUT, y = q M, a warp's 16 x 32. */
template <int P, bool OUT>
static __device__ inline void read_state(const ForwardsShared<P> *s, int row, int column,
                                         float (&z)[4][4], float (&y)[4][4])
{
#pragma unroll 4
    for (int k = 0; k < P; k += 16) {
        uint32_t a[4], q[4], m[4];
        load_left<false>(a, s->a, P + 8, row, k);
        if (OUT) load_left<false>(q, s->q, P + 8, row, k);
#pragma unroll
        for (int n = 0; n < 4; n += 2) {
            load_right<true>(m, s->m, PITCH_64, k, column + 8 * n);
            multiply_add(z[n], a, m[0], m[1]);
            multiply_add(z[n + 1], a, m[2], m[3]);
            if (OUT) multiply_add(y[n], q, m[0], m[1]);
            if (OUT) multiply_add(y[n + 1], q, m[2], m[3]);
        }
    }
}

/* OUT: y is wanted, and nothing else. */
template <int P, bool OUT>
static __global__ void __launch_bounds__(WALK_THREADS, 1)
    walk_forwards(Steps c, Cut cut, Forwards w)
{
    extern __shared__ __align__(16) char memory[];
    ForwardsShared<P> *s = (ForwardsShared<P> *)memory;
    Stretch part = stretch_of(c, cut, w.first, w.last, false);
    Place at = {part.b, blockIdx.y, 0}, coming = at;
    int row = threadIdx.x / WARP % 4 * 16, column = threadIdx.x / WARP / 4 * 32;
    int64_t size = (int64_t)c.nk * c.nv;
    bf16 *begins = OUT || !w.begins ? NULL : w.begins + part.lane * (c.chunks + 1) * size;
    StatePart<P> m;
    /* what reads the state; T; what writes it */
    auto ask_reads = [&](int64_t chunk) {
        coming.first = chunk * CHUNK;
        if (chunk < part.end) {
            copy_tile<false, P, WALK_THREADS>(c, coming, c.a, c.nk, 0, s->a);
            if (OUT) copy_tile<true, P, WALK_THREADS>(c, coming, c.q, c.nk, 0, s->q);
            copy_tile<false, COLUMNS, WALK_THREADS>(c, coming, c.v, part.turns ? 0 : c.nv,
                                                    part.first, s->v);
            copy_factors<WALK_THREADS>(c.factors + chunk_number(c, coming) * FACTORS * CHUNK, 4,
                                       s->factors[chunk % 2]);
        }
        copies_commit();
    };
    auto ask_inverse = [&](int64_t chunk) {
        coming.first = chunk * CHUNK;
        if (chunk < part.end)
            copy_square<WALK_THREADS>(c.t + chunk_number(c, coming) * CHUNK * CHUNK, s->t);
        copies_commit();
    };
    auto ask_writes = [&](int64_t chunk) {
        coming.first = chunk * CHUNK;
        copy_tile<false, P, WALK_THREADS>(c, coming, c.k, c.nk, 0, s->k);
        if (OUT) copy_square<WALK_THREADS>(c.p + chunk_number(c, coming) * CHUNK * CHUNK, s->p);
        copies_commit();
    };
    ask_reads(part.begin);
    ask_inverse(part.begin);
    enter_state<P>(c, part, m);
    show_state<P>(m, s->m);
    for (int64_t chunk = part.begin; chunk < part.end; chunk++) {
        const float *f = s->factors[chunk % 2];
        float z[4][4] = {}, y[4][4] = {};
        at.first = chunk * CHUNK;
        copies_wait<1>();
        __syncthreads();
        ask_writes(chunk);
        if (begins) put_state<P>(c, s->m, begins + chunk * size, part.first);
        read_state<P, OUT>(s, row, column, z, y);
        each_pair(z, row, column, [&](int t, int j, float *p) {
            uint32_t v = *(const uint32_t *)(s->v + t * PITCH_64 + j);
            float factor = f[READ_A * CHUNK + t];
            *(uint32_t *)(s->rest + t * PITCH_64 + j) =
                two(low(v) - factor * p[0], high(v) - factor * p[1]);
        });
        copies_wait<1>();
        __syncthreads();
        ask_reads(chunk + 1);
        clear(z);
        multiply_tiles<4, false, true>(z, s->t, PITCH_64, row, s->rest, PITCH_64, column, row + 16);
        each_pair(z, row, column, [&](int t, int j, float *p) {
            float factor = f[TO_END * CHUNK + t];
            *(uint32_t *)(s->x + t * PITCH_64 + j) = two(p[0], p[1]);
            *(uint32_t *)(s->x_end + t * PITCH_64 + j) = two(factor * p[0], factor * p[1]);
        });
        if (begins) put_rows<false, 4>(c, at, row, part.first + column, z, w.x, c.nv);
        copies_wait<1>();
        __syncthreads();
        ask_inverse(chunk + 1);
        if (OUT) {
            scale_rows<4>(y, row, f + READ_Q * CHUNK, 1);
            multiply_tiles<4, false, true>(y, s->p, PITCH_64, row, s->x, PITCH_64, column,
                                           row + 16);
            if (w.y) put_rows<true, 4>(c, at, row, part.first + column, y, w.y, c.nv);
        }
        fade(m.x, f[END * CHUNK]);
        multiply_tiles<StatePart<P>::N, true, true>(m.x, s->k, P + 8, m.row(), s->x_end, PITCH_64,
                                                    m.column(), CHUNK);
        show_state<P>(m, s->m);
    }
    leave_state<P>(c, part, m);
    if (!begins || part.end < c.chunks) return;
    __syncthreads();
    put_state<P>(c, s->m, begins + c.chunks * size, part.first);
}

template <int P, bool OUT>
static void run_forwards(const lmoe_args *a, const Steps &c, const Cut &cut, const Forwards &w)
{
    allow_shared(walk_forwards<P, OUT>, sizeof(ForwardsShared<P>));
    walk_forwards<P, OUT>
        <<<walk_grid(c, cut), WALK_THREADS, sizeof(ForwardsShared<P>), stream_of(a)>>>(c, cut, w);
}

void cuda_erase_forwards(const lmoe_args *a, const Steps *c, const Cut *cut, const Forwards *w)
{
    bool out = !w->begins && !cut->sum;
    if (c->nk > 64)
        out ? run_forwards<128, true>(a, *c, *cut, *w) : run_forwards<128, false>(a, *c, *cut, *w);
    else
        out ? run_forwards<64, true>(a, *c, *cut, *w) : run_forwards<64, false>(a, *c, *cut, *w);
}

void cuda_forwards(const lmoe_args *a, const Steps *c, const Cut *cut, const Forwards *w)
{
    auto walk = c->erase ? cuda_erase_forwards : cuda_plain_forwards;
    Forwards none = {};
    Cut sum = *cut;
    if (cut->count > 1) {
        sum.sum = true;
        walk(a, c, &sum, &none);
        cuda_start_stretches(a, c, cut, w->first, 0);
    }
    walk(a, c, cut, w);
}

/* ---- the kernel ---- */

enum { Q, K, V, A, B, DECAY, RESET, SKIP, CARRY };

static Steps describe(const lmoe_args *a)
{
    float scale = (float)((const lmoe_scan_delta_attrs *)a->attrs)->scale;
    return describe_steps(a, scale, K, V, A, DECAY);
}

static int can(const lmoe_args *a)
{
    return can_steps(a, DECAY, CARRY) && cuda_is_bf16(&a->in[A]) &&
           !lmoe_buf_present(cuda_at(a->in, a->n_in, B));
}

static size_t cut_work(Steps *c, Cut *cut, char *memory)
{
    char *cursor = memory;
    cuda_chunk_take(c, &cursor);
    cut_take(c, cut, &cursor);
    return (size_t)(cursor - memory);
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

CUDA_FAST_KERNEL(scan_delta, 1, chunk, can, workspace, launch)
