/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/kernel.cuh: what kernels share: grids, sums over threads, functions.
 */
#ifndef CUDA_KERNEL_CUH
#define CUDA_KERNEL_CUH

#include "cuda.h"

#include <cuda_bf16.h>
#include <math.h>

enum { WARP = 32, THREADS = 256, ROWS = 8 /* rows of a block, where a warp does a row */ };

static inline cudaStream_t stream_of(const lmoe_args *a)
{
    return cuda_stream(a);
}

/* Data of operand or result i; NULL if it is absent. */
template <class T> static inline const T *input(const lmoe_args *a, int i)
{
    return (const T *)cuda_at(a->in, a->n_in, i)->data;
}

template <class T> static inline T *output(const lmoe_args *a, int i)
{
    return (T *)cuda_at(a->out, a->n_out, i)->data;
}

/* ---- tensors of f32 or bf16, read and written as f32 ----
 * The dtype is asked for at each access: all threads take the same way, and kernels that move
 * memory have the time. PACK neighbours at a time are one access of 16 bytes, or two. */

typedef __nv_bfloat16 bf16;

enum { PACK = 8 };

/* Two neighbours in one word, the first in its lower half. */
static __device__ inline uint32_t two(float a, float b)
{
    __nv_bfloat162 h = __floats2bfloat162_rn(a, b);
    uint32_t u;
    memcpy(&u, &h, sizeof u);
    return u;
}

static __device__ inline float low(uint32_t u)
{
    return __uint_as_float(u << 16);
}

static __device__ inline float high(uint32_t u)
{
    return __uint_as_float(u & 0xffff0000u);
}

struct Pack {
    float x[PACK];
};

struct Floats {
    const void *data; /* NULL: absent */
    bool narrow;      /* bf16 */

    __device__ float operator[](int64_t i) const
    {
        return narrow ? (float)((const bf16 *)data)[i] : ((const float *)data)[i];
    }
    __device__ Floats operator+(int64_t n) const
    {
        return {(const char *)data + n * (narrow ? 2 : 4), narrow};
    }
    __host__ __device__ explicit operator bool() const
    {
        return data != NULL;
    }
    /* Elements i ... i + n - 1 (n <= PACK), the rest 0; fast where i is a multiple of PACK. */
    __device__ Pack pack(int64_t i, int n) const
    {
        Pack p;
        if (n < PACK || i % PACK != 0) {
            for (int k = 0; k < PACK; k++) p.x[k] = k < n ? (*this)[i + k] : 0.0f;
        } else if (narrow) {
            uint4 u = *(const uint4 *)((const bf16 *)data + i);
            p = {{low(u.x), high(u.x), low(u.y), high(u.y), low(u.z), high(u.z), low(u.w),
                  high(u.w)}};
        } else {
            float4 u = *(const float4 *)((const float *)data + i);
            float4 v = *(const float4 *)((const float *)data + i + 4);
            p = {{u.x, u.y, u.z, u.w, v.x, v.y, v.z, v.w}};
        }
        return p;
    }
};

struct Results {
    void *data; /* NULL: not wanted */
    bool narrow;

    __device__ void put(int64_t i, float x) const
    {
        if (narrow)
            ((bf16 *)data)[i] = __float2bfloat16_rn(x);
        else
            ((float *)data)[i] = x;
    }
    __device__ Results operator+(int64_t n) const
    {
        return {(char *)data + n * (narrow ? 2 : 4), narrow};
    }
    __host__ __device__ explicit operator bool() const
    {
        return data != NULL;
    }
    /* As Floats::pack. */
    __device__ void pack(int64_t i, int n, const Pack &p) const
    {
        if (n < PACK || i % PACK != 0) {
            for (int k = 0; k < n; k++) put(i + k, p.x[k]);
        } else if (narrow) {
            *(uint4 *)((bf16 *)data + i) = make_uint4(two(p.x[0], p.x[1]), two(p.x[2], p.x[3]),
                                                      two(p.x[4], p.x[5]), two(p.x[6], p.x[7]));
        } else {
            *(float4 *)((float *)data + i) = make_float4(p.x[0], p.x[1], p.x[2], p.x[3]);
            *(float4 *)((float *)data + i + 4) = make_float4(p.x[4], p.x[5], p.x[6], p.x[7]);
        }
    }
};

/* The same for tensors that are known to be bf16 (Narrow) or f32 (Wide), in packs of which none is
 * cut: nothing is asked at an access, so several are under way before the first one is waited for. */
struct Narrow {
    bf16 *data;

    __device__ float operator[](int64_t i) const
    {
        return (float)data[i];
    }
    __device__ void put(int64_t i, float x) const
    {
        data[i] = __float2bfloat16_rn(x);
    }
    __host__ __device__ explicit operator bool() const
    {
        return data != NULL;
    }
    __device__ Pack pack(int64_t i, int) const
    {
        uint4 u = *(const uint4 *)(data + i);
        return {
            {low(u.x), high(u.x), low(u.y), high(u.y), low(u.z), high(u.z), low(u.w), high(u.w)}};
    }
    __device__ void pack(int64_t i, int, const Pack &p) const
    {
        *(uint4 *)(data + i) = make_uint4(two(p.x[0], p.x[1]), two(p.x[2], p.x[3]),
                                          two(p.x[4], p.x[5]), two(p.x[6], p.x[7]));
    }
};

struct Wide {
    float *data;

    __device__ float operator[](int64_t i) const
    {
        return data[i];
    }
    __device__ void put(int64_t i, float x) const
    {
        data[i] = x;
    }
    __host__ __device__ explicit operator bool() const
    {
        return data != NULL;
    }
    __device__ Pack pack(int64_t i, int) const
    {
        float4 u = *(const float4 *)(data + i), v = *(const float4 *)(data + i + 4);
        return {{u.x, u.y, u.z, u.w, v.x, v.y, v.z, v.w}};
    }
    __device__ void pack(int64_t i, int, const Pack &p) const
    {
        *(float4 *)(data + i) = make_float4(p.x[0], p.x[1], p.x[2], p.x[3]);
        *(float4 *)(data + i + 4) = make_float4(p.x[4], p.x[5], p.x[6], p.x[7]);
    }
};

/* Ways of access, as arguments of kernels. */
struct AnyType {
    typedef Floats In;
    typedef Results Out;
};

struct NarrowType {
    typedef Narrow In, Out;
};

struct WideType {
    typedef Wide In, Out;
};

static inline Floats floats_of(const lmoe_buf *b)
{
    return {b->data, cuda_is_bf16(b) != 0};
}

static inline Results results_of(const lmoe_buf *b)
{
    return {b->data, cuda_is_bf16(b) != 0};
}

static inline Floats floats(const lmoe_args *a, int i)
{
    return floats_of(cuda_at(a->in, a->n_in, i));
}

static inline Results results(const lmoe_args *a, int i)
{
    return results_of(cuda_at(a->out, a->n_out, i));
}

template <class Access> static inline Access access(const lmoe_buf *b)
{
    return {(decltype(Access::data))b->data};
}

template <> inline Floats access<Floats>(const lmoe_buf *b)
{
    return floats_of(b);
}

template <> inline Results access<Results>(const lmoe_buf *b)
{
    return results_of(b);
}

template <class Type> static inline typename Type::In in_of(const lmoe_args *a, int i)
{
    return access<typename Type::In>(cuda_at(a->in, a->n_in, i));
}

template <class Type> static inline typename Type::Out out_of(const lmoe_args *a, int i)
{
    return access<typename Type::Out>(cuda_at(a->out, a->n_out, i));
}

/* All float operands and results have this dtype. */
static inline bool all_are(const lmoe_args *a, lmoe_dtype dtype)
{
    for (int i = 0; i < a->n_in; i++)
        if (lmoe_dtype_is_float(a->in[i].dtype) && a->in[i].dtype != dtype) return false;
    for (int i = 0; i < a->n_out; i++)
        if (lmoe_dtype_is_float(a->out[i].dtype) && a->out[i].dtype != dtype) return false;
    return true;
}

/* launch<Type>(a) for the access that fits; n: what must be a multiple of a pack. */
#define LAUNCH_BY_TYPE(a, n, launch)                                   \
    ((n) % PACK == 0 && all_are(a, LMOE_BF16)  ? launch<NarrowType>(a) \
     : (n) % PACK == 0 && all_are(a, LMOE_F32) ? launch<WideType>(a)   \
                                               : launch<AnyType>(a))

/* Blocks of `size` for n items. */
static inline unsigned blocks(int64_t n, int64_t size)
{
    return (unsigned)cuda_max(1, cuda_pieces(n, size));
}

/* Number of the thread in the grid. */
static __device__ inline int64_t item()
{
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

/* Calls body(i, n) for packs of elements i ... i + n - 1 of `count`. */
template <class Body> static __global__ void packs(int64_t count, Body body)
{
    int64_t i = item() * PACK;
    if (i < count) body(i, (int)min((int64_t)PACK, count - i));
}

template <class Body> static lmoe_status launch_packs(const lmoe_args *a, int64_t count, Body body)
{
    packs<<<blocks(cuda_pieces(count, PACK), THREADS), THREADS, 0, stream_of(a)>>>(count, body);
    return cuda_launched(a);
}

/* Allows a kernel more shared memory than the 48 KiB that any may have. */
template <class Kernel> static inline void allow_shared(Kernel *kernel, size_t bytes)
{
    if (bytes > 48 << 10)
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
}

/* ---- sums and maxima; every thread gets the result ---- */

template <class T> static __device__ inline T warp_sum(T x)
{
    for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
    return x;
}

static __device__ inline float warp_max(float x)
{
    for (int step = WARP / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
    return x;
}

/* Over a block of one dimension, whole warps, at most 1024 threads. */
template <class T> static __device__ inline T block_sum(T x)
{
    __shared__ T part[WARP];
    int warps = blockDim.x / WARP, lane = threadIdx.x % WARP;
    x = warp_sum(x);
    __syncthreads(); /* part may still be read from the sum before */
    if (lane == 0) part[threadIdx.x / WARP] = x;
    __syncthreads();
    return warp_sum(lane < warps ? part[lane] : (T)0);
}

static __device__ inline float block_max(float x)
{
    __shared__ float part[WARP];
    int warps = blockDim.x / WARP, lane = threadIdx.x % WARP;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) part[threadIdx.x / WARP] = x;
    __syncthreads();
    return warp_max(lane < warps ? part[lane] : -INFINITY);
}

/* ---- functions, in forms that do not overflow at either end ---- */

static __device__ inline float sigmoid(float x)
{
    return __fdividef(1.0f, 1.0f + expf(-x));
}

static __device__ inline float silu(float x)
{
    return x * sigmoid(x);
}

static __device__ inline float silu_slope(float x)
{
    float s = sigmoid(x);
    return s + x * s * (1.0f - s);
}

#endif
