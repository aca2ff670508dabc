/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/scan_grad.cu: scan_diag_grad/1. With M as in the op:
 *
 *   G_s = diag(exp(decay_{s+1})) G_{s+1} + scale q_s dy_s^T                  G = dloss / dM
 *   dq_s = scale M_s dy_s   dk_s = G_s v_s   dv_s = G_s^T k_s
 *   ddecay_s = exp(decay_s) rowsum(G_s * M_{s-1}), summed to decay's shape
 *
 * dq, dk and dv are scans of their own (scan.cuh). ddecay needs M and G of the same token, of which
 * one is known from the front and the other from the end: the state is kept at the beginning of
 * each stretch of tokens; from the last stretch to the first it is made again from there, token by
 * token, and then met by G. Both the beginnings and the states of a stretch lie in the workspace;
 * with stretches of about sqrt(seq) tokens these are 2 sqrt(seq) states.
 */
#include "scan.cuh"

enum { Q, K, V, DECAY, RESET, SKIP, DY, CARRY, DCARRY };

/* ---- ddecay: own = head_k, reduced = head_v; to: (batch seq heads head_k) ---- */

/* Where this thread keeps its elements of state number `n`, R of them, THREADS apart. */
template <int R> static __device__ float *kept(float *states, int64_t count, int64_t n)
{
    int64_t block = ((int64_t)blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    return states + ((block * count + n) * R * LANES + threadIdx.y) * OWN + threadIdx.x;
}

template <int R> static __device__ void keep(float *at, const float *x)
{
#pragma unroll
    for (int i = 0; i < R; i++) at[i * LANES * OWN] = x[i];
}

template <int R> struct Decay {
    Scan c;
    Floats q, k, v, dy;
    const float *carry, *dcarry;
    float scale, *to;
    int64_t stretch, stretches; /* tokens of one (a multiple of a group's), and how many */
    float *begins, *states;     /* (block, stretches, ...), (block, stretch, ...) */
};

/* Loads a group of tokens of one direction: o and r as in scan.cuh. */
template <int R>
static __device__ void load_group(const Decay<R> &w, const Lane &l, int64_t s, int step, Floats o,
                                  float o_scale, Floats r, Group<R, true> &g)
{
    const int TOKENS = Group<R, true>::TOKENS;
    int64_t block_own = (int64_t)blockIdx.x * OWN;
    __syncthreads();
    load_rows<TOKENS>(w.c, l, s, step, r, l.n_reduced, 0, 1.0f, g.reduced);
    load_rows<TOKENS>(w.c, l, s, step, o, l.n_own, block_own, o_scale, g.own);
    load_decay<TOKENS>(w.c, l, s, step, block_own, g.decay);
    __syncthreads();
}

/* M over the tokens begin ... end-1; states, unless NULL: M before each of them is kept there. */
template <int R>
static __device__ void forwards(const Decay<R> &w, const Lane &l, int64_t begin, int64_t end,
                                float *x, float *states, Group<R, true> &g)
{
    const int TOKENS = Group<R, true>::TOKENS;
    for (int64_t s = begin; s < end; s += TOKENS) {
        load_group(w, l, s, 1, w.k, 1.0f, w.v, g);
#pragma unroll 1
        for (int t = 0; t < TOKENS && s + t < end; t++) {
            if (states) keep<R>(kept<R>(states, w.stretch, s - begin + t), x);
#pragma unroll
            for (int i = 0; i < R; i++)
                x[i] = faded(g.decay[t][threadIdx.x], x[i]) +
                       g.reduced[t][threadIdx.y + LANES * i] * g.own[t][threadIdx.x];
        }
    }
}

/* G over the same tokens from the end; meets the states. */
template <int R>
static __device__ void backwards(const Decay<R> &w, const Lane &l, int64_t begin, int64_t end,
                                 float *x, float *states, Group<R, true> &g)
{
    const int TOKENS = Group<R, true>::TOKENS;
    for (int64_t s = end - 1; s >= begin; s -= TOKENS) {
        load_group(w, l, s, -1, w.q, w.scale, w.dy, g);
#pragma unroll 1
        for (int t = 0; t < TOKENS; t++) {
            float sum = 0, factor = g.decay[t][threadIdx.x];
            if (s - t >= begin) {
                const float *before = kept<R>(states, w.stretch, s - t - begin);
                bool there = counts(w.c, token_of(w.c, l, s - t));
#pragma unroll
                for (int i = 0; i < R; i++) {
                    x[i] += g.reduced[t][threadIdx.y + LANES * i] * g.own[t][threadIdx.x];
                    if (there) sum += x[i] * faded(factor, before[i * LANES * OWN]);
                    x[i] = faded(factor, x[i]);
                }
            }
            g.part[t][threadIdx.y][threadIdx.x] = sum;
        }
        __syncthreads();
        /* groups are counted from the end of the stretch; the one at its beginning may be short */
        for (int t = threadIdx.y; t < TOKENS; t += LANES) {
            float sum = 0;
            for (int i = 0; i < LANES; i++) sum += g.part[t][i][threadIdx.x];
            int64_t token = s - t >= begin ? token_of(w.c, l, s - t) : -1;
            if (token >= 0 && l.own < l.n_own)
                w.to[(token * w.c.heads + l.h) * l.n_own + l.own] = sum;
        }
    }
}

template <int R> static __global__ void __launch_bounds__(OWN *LANES) decay_grad(Decay<R> w)
{
    __shared__ Group<R, true> g;
    Lane l = lane_of(w.c, true);
    float x[R], gradient[R];
    load_state<R>(l, w.carry, x);
    for (int64_t n = 0; n < w.stretches; n++) {
        keep<R>(kept<R>(w.begins, w.stretches, n), x);
        forwards<R>(w, l, n * w.stretch, min(w.c.seq, (n + 1) * w.stretch), x, NULL, g);
    }
    load_state<R>(l, w.dcarry, gradient);
    for (int64_t n = w.stretches - 1; n >= 0; n--) {
        int64_t begin = n * w.stretch, end = min(w.c.seq, begin + w.stretch);
        const float *at = kept<R>(w.begins, w.stretches, n);
#pragma unroll
        for (int i = 0; i < R; i++) x[i] = at[i * LANES * OWN];
        forwards<R>(w, l, begin, end, x, w.states, g);
        backwards<R>(w, l, begin, end, gradient, w.states, g);
    }
}

/* ---- ddecay in decay's shape: a block a sum over `terms` rows of n, `step` elements apart ---- */

static __global__ void add_decay(const float *x, int64_t n, int64_t terms, int64_t step, float *y)
{
    const float *from = x + blockIdx.x * n;
    double sum = 0;
    for (int64_t i = threadIdx.x; i < terms * n; i += blockDim.x) sum += from[i / n * step + i % n];
    sum = block_sum(sum);
    if (threadIdx.x == 0) y[blockIdx.x] = (float)sum;
}

void cuda_add_decays(const lmoe_args *a, const float *x, int64_t rows, int64_t heads,
                     int64_t tokens, const lmoe_buf *y)
{
    bool by_head = y->rank == 1; /* else by token and head */
    add_decay<<<(unsigned)lmoe_buf_count(y), by_head ? THREADS : WARP, 0, stream_of(a)>>>(
        x, rows, by_head ? tokens : 1, heads * rows, (float *)y->data);
}

/* ---- the kernel ---- */

/* What ddecay needs of the workspace. */
struct Room {
    int64_t stretch, stretches, begins, states, whole; /* of elements */
};

static Room room_of(const lmoe_args *a, const Scan &c, int R)
{
    Room o = {};
    if (!lmoe_buf_present(cuda_at(a->out, a->n_out, 3))) return o;
    int64_t group = tokens_of(R), root = 1;
    while (root * root < c.seq) root++;
    o.stretch = cuda_pieces(root, group) * group;
    o.stretches = cuda_pieces(c.seq, o.stretch);
    int64_t state = cuda_pieces(c.nk, OWN) * c.heads * a->in[K].dim[0] * R * LANES * OWN;
    o.begins = state * o.stretches;
    o.states = state * o.stretch;
    o.whole = a->out[3].rank == 4 ? 0 : lmoe_buf_count(&a->in[K]);
    return o;
}

static size_t workspace(const lmoe_args *a)
{
    Scan c = describe_scan(a, DECAY);
    Room o = room_of(a, c, elements_of(c.nv));
    return cuda_words(o.begins) + cuda_words(o.states) + cuda_words(o.whole);
}

template <int R> static void run_decay(const lmoe_args *a, const Scan &c, float scale)
{
    Room o = room_of(a, c, R);
    char *cursor = (char *)a->workspace;
    int64_t batch = a->in[K].dim[0];
    float *ddecay = output<float>(a, 3);
    Decay<R> w = {c,
                  floats(a, Q),
                  floats(a, K),
                  floats(a, V),
                  floats(a, DY),
                  input<float>(a, CARRY),
                  input<float>(a, DCARRY),
                  scale};
    w.stretch = o.stretch;
    w.stretches = o.stretches;
    w.begins = (float *)cuda_take(&cursor, o.begins);
    w.states = (float *)cuda_take(&cursor, o.states);
    w.to = o.whole ? (float *)cursor : ddecay;
    decay_grad<R><<<scan_grid(c, batch, c.nk), dim3(OWN, LANES), 0, stream_of(a)>>>(w);
    if (o.whole) cuda_add_decays(a, w.to, c.nk, c.heads, batch * c.seq, &a->out[3]);
}

/* Scans whose reduced axis is head_v. */
template <int R> static void run_over_v(const lmoe_args *a, const Scan &c, float scale)
{
    Results dq = results(a, 0), dk = results(a, 1);
    float *dcarry = output<float>(a, 4);
    Floats q = floats(a, Q), k = floats(a, K), v = floats(a, V), dy = floats(a, DY);
    dim3 grid = scan_grid(c, a->in[K].dim[0], c.nk), block(OWN, LANES);
    if (dq)
        scan<R, true, false><<<grid, block, 0, stream_of(a)>>>(c, v, k, 1.0f, dy, scale,
                                                               input<float>(a, CARRY), dq, NULL);
    if (lmoe_buf_present(cuda_at(a->out, a->n_out, 3))) run_decay<R>(a, c, scale);
    if (dk || dcarry)
        scan<R, true, true><<<grid, block, 0, stream_of(a)>>>(c, dy, q, scale, v, 1.0f,
                                                              input<float>(a, DCARRY), dk, dcarry);
}

template <int R> static void run_over_k(const lmoe_args *a, const Scan &c, float scale)
{
    Results dv = results(a, 2);
    if (!dv) return;
    scan<R, false, true>
        <<<scan_grid(c, a->in[K].dim[0], c.nv), dim3(OWN, LANES), 0, stream_of(a)>>>(
            c, floats(a, Q), floats(a, DY), scale, floats(a, K), 1.0f, input<float>(a, DCARRY), dv,
            NULL);
}

static int can(const lmoe_args *a)
{
    int values = a->n_in > DCARRY + 1 && lmoe_buf_present(&a->in[DCARRY + 1]); /* that decay */
    return can_scan(a, DECAY, CARRY) && elements_of(a->in[K].dim[3]) > 0 &&
           elements_of(a->in[V].dim[3]) > 0 && !values;
}

/* dcarry may lie over the one that is read: what writes it comes last. */
static lmoe_status launch(const lmoe_args *a)
{
    Scan c = describe_scan(a, DECAY);
    float scale = (float)((const lmoe_scan_diag_attrs *)a->attrs)->scale;
    switch (elements_of(c.nk)) {
    case 2: run_over_k<2>(a, c, scale); break;
    case 8: run_over_k<8>(a, c, scale); break;
    case 16: run_over_k<16>(a, c, scale); break;
    case 32: run_over_k<32>(a, c, scale); break;
    default: run_over_k<64>(a, c, scale); break;
    }
    switch (elements_of(c.nv)) {
    case 2: run_over_v<2>(a, c, scale); break;
    case 8: run_over_v<8>(a, c, scale); break;
    case 16: run_over_v<16>(a, c, scale); break;
    case 32: run_over_v<32>(a, c, scale); break;
    default: run_over_v<64>(a, c, scale); break;
    }
    return cuda_launched(a);
}

CUDA_KERNEL(scan_diag_grad, 1, can, workspace, launch)
