/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/optim.cu: sum_squares/1, accumulate/1, adamw/1. Norm, learning rate and step
 * lie in the memory of the device.
 */
#include "kernel.cuh"

/* ---- sum_squares: blocks of 32768 elements, then their sums ---- */

enum { BLOCK = 32768 };

template <class In> static __global__ void squares(int64_t n, In x, float *partial)
{
    int64_t begin = (int64_t)blockIdx.x * BLOCK, end = min(n, begin + BLOCK);
    float sum = 0;
#pragma unroll 4
    for (int64_t i = begin + threadIdx.x * PACK; i < end; i += THREADS * PACK) {
        Pack p = x.pack(i, (int)min((int64_t)PACK, end - i));
        for (int k = 0; k < PACK; k++) sum += p.x[k] * p.x[k];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

/* One block. */
static __global__ void sum_all(int64_t n, const float *x, float *y)
{
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *y = (float)sum;
}

static size_t squares_workspace(const lmoe_args *a)
{
    return cuda_words(cuda_pieces(lmoe_buf_count(&a->in[0]), BLOCK));
}

static lmoe_status launch_squares(const lmoe_args *a)
{
    int64_t n = lmoe_buf_count(&a->in[0]), parts = cuda_pieces(n, BLOCK);
    float *partial = (float *)a->workspace;
    unsigned grid = (unsigned)parts;
    if (n % PACK == 0 && cuda_is_bf16(&a->in[0]))
        squares<<<grid, THREADS, 0, stream_of(a)>>>(n, in_of<NarrowType>(a, 0), partial);
    else
        squares<<<grid, THREADS, 0, stream_of(a)>>>(n, floats(a, 0), partial);
    sum_all<<<1, THREADS, 0, stream_of(a)>>>(parts, partial, output<float>(a, 0));
    return cuda_launched(a);
}

CUDA_KERNEL(sum_squares, 1, cuda_floats, squares_workspace, launch_squares)

/* ---- accumulate ---- */

struct Accumulate {
    Floats buffer, x;
    Results to;

    __device__ void operator()(int64_t i, int m) const
    {
        Pack p = buffer.pack(i, m), q = x.pack(i, m);
        for (int k = 0; k < PACK; k++) p.x[k] += q.x[k];
        to.pack(i, m, p);
    }
};

static lmoe_status launch_accumulate(const lmoe_args *a)
{
    return launch_packs(a, lmoe_buf_count(&a->in[0]),
                        Accumulate{floats(a, 0), floats(a, 1), results_of(&a->in[0])});
}

CUDA_KERNEL(accumulate, 1, cuda_floats, NULL, launch_accumulate)

/* ---- adamw ---- */

enum { PARAM, GRAD, M, V, NORM, LR, STEP, MASTER };

/* What is read and written at the same place: an operand that is changed. */
template <class Type> struct Changed {
    typename Type::In from;
    typename Type::Out to;
};

/* f32 in two halves of 16 bits: the upper one rounded, so that it is the parameter in bf16. */
struct Halves {
    uint16_t *upper, *lower;

    __device__ static void load(const uint16_t *p, int64_t i, int n, uint16_t *x)
    {
        if (n == PACK && i % PACK == 0)
            *(uint4 *)x = *(const uint4 *)(p + i);
        else
            for (int k = 0; k < PACK; k++) x[k] = k < n ? p[i + k] : 0;
    }
    __device__ static void store(uint16_t *p, int64_t i, int n, const uint16_t *x)
    {
        if (n == PACK && i % PACK == 0)
            *(uint4 *)(p + i) = *(const uint4 *)x;
        else
            for (int k = 0; k < n; k++) p[i + k] = x[k];
    }
    __device__ Pack pack(int64_t i, int n) const
    {
        alignas(16) uint16_t u[PACK], l[PACK];
        Pack p;
        load(upper, i, n, u);
        load(lower, i, n, l);
        for (int k = 0; k < PACK; k++)
            p.x[k] = __uint_as_float((((uint32_t)u[k] << 16) | l[k]) -
                                     ((uint32_t)(l[k] >> 15) << 16));
        return p;
    }
    __device__ void pack(int64_t i, int n, const Pack &p) const
    {
        alignas(16) uint16_t u[PACK], l[PACK];
        for (int k = 0; k < PACK; k++) {
            uint32_t w = __float_as_uint(p.x[k]);
            u[k] = (uint16_t)((w + 0x8000u) >> 16);
            l[k] = (uint16_t)w;
        }
        store(upper, i, n, u);
        store(lower, i, n, l);
    }
};

struct HalvesType {
    typedef Halves In, Out;
};

/* Ways of access to the gradient and the rounded parameter, to the means, to what is exact. */
template <class Grad, class Mean, class Exact> struct Adam {
    int64_t n;
    double beta1, beta2, clip;
    float log_beta1, log_beta2, eps, weight_decay;
    Changed<Exact> exact; /* the master, or else the parameter */
    Changed<Mean> m, v;
    typename Grad::Out rounded; /* the parameter beside a master */
    typename Grad::In grad;
    const float *norm, *lr, *step;
};

template <class Grad, class Mean, class Exact>
static __global__ void adamw(Adam<Grad, Mean, Exact> o)
{
    float norm = *o.norm;
    if (!isfinite(norm)) return;
    int64_t i = item() * PACK;
    if (i >= o.n) return;
    int n = (int)min((int64_t)PACK, o.n - i);
    float scale = o.clip > 0 && norm > o.clip ? (float)(o.clip / norm) : 1.0f, lr = *o.lr;
    float beta1 = (float)o.beta1, rest1 = (float)(1.0 - o.beta1);
    float beta2 = (float)o.beta2, rest2 = (float)(1.0 - o.beta2);
    /* 1 - beta^step, without cancellation where beta lies near 1 */
    float m_part = -expm1f(*o.step * o.log_beta1), v_part = -expm1f(*o.step * o.log_beta2);
    Pack g = o.grad.pack(i, n), p = o.exact.from.pack(i, n);
    Pack m = o.m.from.pack(i, n), v = o.v.from.pack(i, n);
    for (int k = 0; k < PACK; k++) {
        float gradient = g.x[k] * scale;
        m.x[k] = beta1 * m.x[k] + rest1 * gradient;
        v.x[k] = beta2 * v.x[k] + rest2 * gradient * gradient;
        float update = m.x[k] / m_part / (sqrtf(v.x[k] / v_part) + o.eps) + o.weight_decay * p.x[k];
        p.x[k] -= lr * update;
    }
    o.m.to.pack(i, n, m);
    o.v.to.pack(i, n, v);
    o.exact.to.pack(i, n, p);
    if (o.rounded) o.rounded.pack(i, n, p);
}

template <class Type> static Changed<Type> changed(const lmoe_args *a, int i)
{
    return {in_of<Type>(a, i), access<typename Type::Out>(&a->in[i])};
}

/* The master, or else the parameter. */
template <class Type> static Changed<Type> exact(const lmoe_args *a)
{
    return changed<Type>(a, (bool)floats(a, MASTER) ? MASTER : PARAM);
}

template <> Changed<HalvesType> exact<HalvesType>(const lmoe_args *a)
{
    Halves h = {(uint16_t *)a->in[PARAM].data, (uint16_t *)a->in[MASTER].data};
    return {h, h};
}

template <class Grad, class Mean, class Exact> static lmoe_status run_adamw(const lmoe_args *a)
{
    const lmoe_adamw_attrs *o = (const lmoe_adamw_attrs *)a->attrs;
    Adam<Grad, Mean, Exact> w = {lmoe_buf_count(&a->in[PARAM]),
                                 o->beta1,
                                 o->beta2,
                                 o->clip,
                                 (float)log(o->beta1),
                                 (float)log(o->beta2),
                                 (float)o->eps,
                                 (float)o->weight_decay};
    bool rounds = cuda_at(a->in, a->n_in, MASTER)->dtype == LMOE_F32;
    w.exact = exact<Exact>(a);
    w.m = changed<Mean>(a, M);
    w.v = changed<Mean>(a, V);
    if (rounds) w.rounded = access<typename Grad::Out>(&a->in[PARAM]);
    w.grad = in_of<Grad>(a, GRAD);
    w.norm = input<float>(a, NORM);
    w.lr = input<float>(a, LR);
    w.step = input<float>(a, STEP);
    adamw<<<blocks(cuda_pieces(w.n, PACK), THREADS), THREADS, 0, stream_of(a)>>>(w);
    return cuda_launched(a);
}

static lmoe_status launch_adamw(const lmoe_args *a)
{
    bool packs = lmoe_buf_count(&a->in[PARAM]) % PACK == 0, master = (bool)floats(a, MASTER);
    bool halves = cuda_at(a->in, a->n_in, MASTER)->dtype == LMOE_U16;
    bool narrow = packs && master && cuda_is_bf16(&a->in[PARAM]) && cuda_is_bf16(&a->in[GRAD]);
    if (halves && narrow && cuda_is_bf16(&a->in[M]) && cuda_is_bf16(&a->in[V]))
        return run_adamw<NarrowType, NarrowType, HalvesType>(a);
    if (halves) return run_adamw<AnyType, AnyType, HalvesType>(a);
    if (narrow && cuda_is_bf16(&a->in[M]) && cuda_is_bf16(&a->in[V]))
        return run_adamw<NarrowType, NarrowType, WideType>(a);
    if (narrow && cuda_is_f32(&a->in[M]) && cuda_is_f32(&a->in[V]))
        return run_adamw<NarrowType, WideType, WideType>(a);
    if (packs && !master && all_are(a, LMOE_F32)) return run_adamw<WideType, WideType, WideType>(a);
    return run_adamw<AnyType, AnyType, AnyType>(a);
}

CUDA_KERNEL(adamw, 1, cuda_floats, NULL, launch_adamw)
