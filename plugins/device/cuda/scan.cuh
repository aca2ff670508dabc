/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/scan.cuh: linear recurrences with diagonal decay, token by token; what
 * scan_diag/1 (scan.cu) and its derivative (scan_grad.cu) share.
 *
 *   forwards    X_s = decayed(X_{s-1}) + r_s o_s^T       out_s = scale X_s^T z_s
 *   backwards   X_s = decayed_{s+1}(X_{s+1}) + r_s o_s^T
 *
 * X is the state of a head, M or its gradient G, as (reduced own): a thread holds some elements of
 * one column of the `own` axis, and out is summed over the `reduced` one. Columns know nothing of
 * each other, so a block has OWN of them. With own = head_v, reduced = head_k the decay lies along
 * the reduced axis; with own = head_k along the own one. Four uses:
 *
 *            direction   own   reduced   r          o           z
 *   y        forwards    v     k         k          v           q
 *   dq       forwards    k     v         v          k           dy
 *   dk       backwards   k     v         dy         q           v       (scale goes with q)
 *   dv       backwards   v     k         q          dy          k
 *
 * Tokens come in groups of TOKENS, which the block first loads into shared memory. A reset is a
 * decay of 0 there, a skipped token one of 1 with nothing to add and nothing to read.
 */
#ifndef CUDA_SCAN_CUH
#define CUDA_SCAN_CUH

#include "kernel.cuh"

enum { OWN = WARP, LANES = 8 /* threads of a column */ };

/* Tokens of a group, for a thread of `R` elements. */
static constexpr int tokens_of(int R)
{
    return R <= 16 ? 16 : 4;
}

struct Scan {
    int64_t seq, heads, nk, nv;
    const float *decay; /* NULL: none; else its steps by token, head, row */
    int64_t decay_token, decay_head, decay_row;
    const uint8_t *reset, *skip;
};

/* What a thread works on. */
struct Lane {
    int64_t b, h, n_own, n_reduced, own;
    int64_t state, state_step, elements; /* where its elements lie in (batch heads head_k head_v) */
};

template <int R, bool DECAY_OWN> struct Group {
    static const int TOKENS = tokens_of(R), REDUCED = LANES * R;
    float own[TOKENS][OWN], reduced[TOKENS][REDUCED], read[TOKENS][REDUCED];
    float decay[TOKENS][DECAY_OWN ? OWN : REDUCED];
    float part[TOKENS][LANES][OWN];
};

static __device__ inline Lane lane_of(const Scan &c, bool own_is_k)
{
    Lane l = {blockIdx.z, blockIdx.y, own_is_k ? c.nk : c.nv, own_is_k ? c.nv : c.nk};
    l.own = (int64_t)blockIdx.x * OWN + threadIdx.x;
    int64_t k = own_is_k ? l.own : threadIdx.y, v = own_is_k ? threadIdx.y : l.own;
    l.state = ((l.b * c.heads + l.h) * c.nk + k) * c.nv + v;
    l.state_step = LANES * (own_is_k ? 1 : c.nv);
    l.elements = l.own < l.n_own ? (l.n_reduced - (int64_t)threadIdx.y + LANES - 1) / LANES : 0;
    return l;
}

/* Number of a token in the tensors; -1 past the ends. */
static __device__ inline int64_t token_of(const Scan &c, const Lane &l, int64_t s)
{
    return s >= 0 && s < c.seq ? l.b * c.seq + s : -1;
}

static __device__ inline bool counts(const Scan &c, int64_t token)
{
    return token >= 0 && !(c.skip && c.skip[token]);
}

/* Factor of row i before the token is added: exp(decay), 0 at a reset. */
static __device__ inline float factor_of(const Scan &c, const Lane &l, int64_t token, int64_t i)
{
    if (token >= 0 && c.reset && c.reset[token]) return 0.0f;
    if (!counts(c, token) || !c.decay || i >= c.nk) return 1.0f;
    return expf(c.decay[token * c.decay_token + l.h * c.decay_head + i * c.decay_row]);
}

/* Rows of a tensor (token head n), from element `first` on, into shared memory. */
template <int TOKENS, int WIDTH>
static __device__ void load_rows(const Scan &c, const Lane &l, int64_t s, int step, Floats x,
                                 int64_t n, int64_t first, float scale, float (*to)[WIDTH])
{
    int thread = threadIdx.y * OWN + threadIdx.x;
    for (int at = thread; at < TOKENS * WIDTH; at += OWN * LANES) {
        int64_t i = first + at % WIDTH, token = token_of(c, l, s + step * (at / WIDTH));
        bool there = i < n && counts(c, token);
        to[at / WIDTH][at % WIDTH] = there ? scale * x[(token * c.heads + l.h) * n + i] : 0.0f;
    }
}

template <int TOKENS, int WIDTH>
static __device__ void load_decay(const Scan &c, const Lane &l, int64_t s, int step, int64_t first,
                                  float (*to)[WIDTH])
{
    int thread = threadIdx.y * OWN + threadIdx.x;
    for (int at = thread; at < TOKENS * WIDTH; at += OWN * LANES)
        to[at / WIDTH][at % WIDTH] =
            factor_of(c, l, token_of(c, l, s + step * (at / WIDTH)), first + at % WIDTH);
}

/* What is forgotten is gone, whatever it was. */
static __device__ inline float faded(float factor, float x)
{
    return factor == 0.0f ? 0.0f : factor * x;
}

template <int R> static __device__ void load_state(const Lane &l, const float *state, float *x)
{
#pragma unroll
    for (int i = 0; i < R; i++)
        x[i] = state && i < l.elements ? state[l.state + i * l.state_step] : 0.0f;
}

template <int R> static __device__ void store_state(const Lane &l, const float *x, float *state)
{
#pragma unroll
    for (int i = 0; i < R; i++)
        if (i < l.elements) state[l.state + i * l.state_step] = x[i];
}

/* Sums the parts of every column, and writes rows of out (token head n_own). */
template <int R, bool DECAY_OWN>
static __device__ void write_rows(const Scan &c, const Lane &l, int64_t s, int step, float scale,
                                  const Group<R, DECAY_OWN> &g, Results out)
{
    for (int t = threadIdx.y; t < Group<R, DECAY_OWN>::TOKENS; t += LANES) {
        int64_t token = token_of(c, l, s + step * t);
        float sum = 0;
        for (int i = 0; i < LANES; i++) sum += g.part[t][i][threadIdx.x];
        if (token >= 0 && l.own < l.n_own)
            out.put((token * c.heads + l.h) * l.n_own + l.own, scale * sum);
    }
}

/* One of the four uses. r, o, z: (token head n); first and last state: may be NULL, and the same
 * memory; out: may be NULL. */
template <int R, bool DECAY_OWN, bool BACKWARDS>
static __global__ void __launch_bounds__(OWN *LANES)
    scan(Scan c, Floats r, Floats o, float o_scale, Floats z, float z_scale, const float *first,
         Results out, float *last)
{
    typedef Group<R, DECAY_OWN> group;
    const int TOKENS = group::TOKENS, step = BACKWARDS ? -1 : 1;
    __shared__ group g;
    Lane l = lane_of(c, DECAY_OWN);
    int64_t block_own = (int64_t)blockIdx.x * OWN;
    float x[R];
    load_state<R>(l, first, x);
    for (int64_t done = 0; done < c.seq; done += TOKENS) {
        int64_t s = BACKWARDS ? c.seq - 1 - done : done;
        load_rows<TOKENS>(c, l, s, step, r, l.n_reduced, 0, 1.0f, g.reduced);
        load_rows<TOKENS>(c, l, s, step, z, l.n_reduced, 0, 1.0f, g.read);
        load_rows<TOKENS>(c, l, s, step, o, l.n_own, block_own, o_scale, g.own);
        load_decay<TOKENS>(c, l, s, step, DECAY_OWN ? block_own : 0, g.decay);
        __syncthreads();
#pragma unroll 1 /* large enough already */
        for (int t = 0; t < TOKENS; t++) {
            float own = g.own[t][threadIdx.x], sum = 0;
#pragma unroll
            for (int i = 0; i < R; i++) {
                int at = threadIdx.y + LANES * i;
                float factor = g.decay[t][DECAY_OWN ? threadIdx.x : at];
                if (!BACKWARDS) x[i] = faded(factor, x[i]);
                x[i] += g.reduced[t][at] * own;
                sum += g.read[t][at] * x[i];
                if (BACKWARDS) x[i] = faded(factor, x[i]);
            }
            g.part[t][threadIdx.y][threadIdx.x] = sum;
        }
        __syncthreads();
        if (out) write_rows(c, l, s, step, z_scale, g, out);
    }
    if (last) store_state<R>(l, x, last);
}

/* Elements of a thread, for a reduced axis of n; 0: too many. */
static inline int elements_of(int64_t n)
{
    static const int sizes[] = {2, 8, 16, 32, 64};
    for (int i = 0; i < 5; i++)
        if (n <= LANES * sizes[i]) return sizes[i];
    return 0;
}

/* Decays and states are f32 beside floats of either kind. */
static inline int can_scan(const lmoe_args *a, int decay, int carry)
{
    for (int i = carry; i < a->n_in; i++)
        if (lmoe_buf_present(&a->in[i]) && !cuda_is_f32(&a->in[i])) return 0;
    const lmoe_buf *d = cuda_at(a->in, a->n_in, decay);
    return cuda_floats(a) && (!lmoe_buf_present(d) || cuda_is_f32(d));
}

/* Operand `decay` of the call, and the flags behind it. */
static inline Scan describe_scan(const lmoe_args *a, int decay)
{
    const lmoe_buf *k = &a->in[1], *v = &a->in[2], *d = &a->in[decay];
    Scan c = {k->dim[1], k->dim[2], k->dim[3], v->dim[3], input<float>(a, decay)};
    bool by_token = d->rank > 1, by_row = d->rank == 4;
    c.decay_row = by_row;
    c.decay_head = by_row ? c.nk : 1;
    c.decay_token = by_token ? c.heads * c.decay_head : 0;
    c.reset = input<uint8_t>(a, decay + 1);
    c.skip = input<uint8_t>(a, decay + 2);
    return c;
}

static inline dim3 scan_grid(const Scan &c, int64_t batch, int64_t n_own)
{
    return dim3(blocks(n_own, OWN), (unsigned)c.heads, (unsigned)batch);
}

#endif
