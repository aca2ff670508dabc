/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/kernel.cuh: what kernels share: grids, sums over threads, functions.
 */
#ifndef CUDA_KERNEL_CUH
#define CUDA_KERNEL_CUH

#include "cuda.h"

#include <math.h>

enum { WARP = 32, THREADS = 256, ROWS = 8 /* rows of a block, where a warp does a row */ };

static inline cudaStream_t stream_of(const lmoe_args *a)
{
    return (cudaStream_t)a->stream;
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
    return 1.0f / (1.0f + expf(-x));
}

static __device__ inline float silu(float x)
{
    return x * sigmoid(x);
}

static __device__ inline float silu_slope(float x)
{
    float s = sigmoid(x);
    return s + x * s * sigmoid(-x);
}

#endif
