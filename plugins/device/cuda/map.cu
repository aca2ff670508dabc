/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/map.cu: element-wise functions and their derivatives: map/1, map_grad/1,
 * swiglu/1, swiglu_grad/1. Results may lie over operands.
 */
#include "kernel.cuh"

/* The tanh form of gelu is x sigmoid(2 u), u = sqrt(2/pi) (x + 0.044715 x^3). */
static __device__ float gelu_argument(float x)
{
    return 1.59576912f * (x + 0.044715f * x * x * x);
}

static __device__ float gelu_slope(float x)
{
    float u = gelu_argument(x), s = sigmoid(u);
    return s + x * s * sigmoid(-u) * (1.59576912f * (1.0f + 0.134145f * x * x));
}

/* 1 / cosh^2 */
static __device__ float tanh_slope(float x)
{
    float e = expf(-2.0f * fabsf(x)), d = 1.0f + e;
    return 4.0f * e / (d * d);
}

static __device__ float function(int fn, float x)
{
    switch (fn) {
    case LMOE_MAP_SILU: return silu(x);
    case LMOE_MAP_SIGMOID: return sigmoid(x);
    case LMOE_MAP_LOGSIGMOID: return fminf(x, 0.0f) - log1pf(expf(-fabsf(x)));
    case LMOE_MAP_EXP: return expf(x);
    case LMOE_MAP_LOG: return logf(x);
    case LMOE_MAP_RELU: return x > 0.0f ? x : 0.0f;
    case LMOE_MAP_ELU1: return x > 0.0f ? x + 1.0f : expf(x);
    case LMOE_MAP_SOFTPLUS: return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x)));
    case LMOE_MAP_TANH: return tanhf(x);
    case LMOE_MAP_SQUARE: return x * x;
    case LMOE_MAP_GELU: return x * sigmoid(gelu_argument(x));
    case LMOE_MAP_SQRT: return sqrtf(x);
    case LMOE_MAP_ONEMEXP: return -expm1f(x);
    default: return x > -0.7f ? logf(-expm1f(x)) : log1pf(-expf(x)); /* LMOE_MAP_LOG1MEXP */
    }
}

static __device__ float slope(int fn, float x)
{
    switch (fn) {
    case LMOE_MAP_SILU: return silu_slope(x);
    case LMOE_MAP_SIGMOID: return sigmoid(x) * sigmoid(-x);
    case LMOE_MAP_LOGSIGMOID: return sigmoid(-x);
    case LMOE_MAP_EXP: return expf(x);
    case LMOE_MAP_LOG: return 1.0f / x;
    case LMOE_MAP_RELU: return x > 0.0f ? 1.0f : 0.0f;
    case LMOE_MAP_ELU1: return x > 0.0f ? 1.0f : expf(x);
    case LMOE_MAP_SOFTPLUS: return sigmoid(x);
    case LMOE_MAP_TANH: return tanh_slope(x);
    case LMOE_MAP_SQUARE: return 2.0f * x;
    case LMOE_MAP_GELU: return gelu_slope(x);
    case LMOE_MAP_SQRT: return 0.5f / sqrtf(x);
    case LMOE_MAP_ONEMEXP: return -expf(x);
    default: return -1.0f / expm1f(-x); /* LMOE_MAP_LOG1MEXP */
    }
}

static __global__ void map(int64_t n, int fn, const float *x, float *y)
{
    int64_t i = item();
    if (i < n) y[i] = function(fn, x[i]);
}

static __global__ void map_grad(int64_t n, int fn, const float *x, const float *dy, float *dx)
{
    int64_t i = item();
    if (i < n) dx[i] = dy[i] * slope(fn, x[i]);
}

static int can(const lmoe_args *a)
{
    int fn = ((const lmoe_map_attrs *)a->attrs)->fn;
    return cuda_all_f32(a) && fn >= 0 && fn <= LMOE_MAP_LOG1MEXP;
}

static lmoe_status launch(const lmoe_args *a)
{
    int64_t n = lmoe_buf_count(&a->in[0]);
    map<<<blocks(n, THREADS), THREADS, 0, stream_of(a)>>>(n, ((const lmoe_map_attrs *)a->attrs)->fn,
                                                          input<float>(a, 0), output<float>(a, 0));
    return cuda_launched(a);
}

static lmoe_status launch_grad(const lmoe_args *a)
{
    int64_t n = lmoe_buf_count(&a->in[0]);
    map_grad<<<blocks(n, THREADS), THREADS, 0, stream_of(a)>>>(
        n, ((const lmoe_map_attrs *)a->attrs)->fn, input<float>(a, 0), input<float>(a, 1),
        output<float>(a, 0));
    return cuda_launched(a);
}

CUDA_KERNEL(map, 1, can, NULL, launch)
CUDA_KERNEL(map_grad, 1, can, NULL, launch_grad)

/* ---- y = silu(gate) up ---- */

static __global__ void swiglu(int64_t n, const float *gate, const float *up, float *y)
{
    int64_t i = item();
    if (i < n) y[i] = silu(gate[i]) * up[i];
}

/* dgate and dup may each be NULL. */
static __global__ void swiglu_grad(int64_t n, const float *gate, const float *up, const float *dy,
                                   float *dgate, float *dup)
{
    int64_t i = item();
    if (i >= n) return;
    float g = gate[i], u = up[i], d = dy[i];
    if (dgate) dgate[i] = d * u * silu_slope(g);
    if (dup) dup[i] = d * silu(g);
}

static lmoe_status launch_swiglu(const lmoe_args *a)
{
    int64_t n = lmoe_buf_count(&a->in[0]);
    swiglu<<<blocks(n, THREADS), THREADS, 0, stream_of(a)>>>(
        n, input<float>(a, 0), input<float>(a, 1), output<float>(a, 0));
    return cuda_launched(a);
}

static lmoe_status launch_swiglu_grad(const lmoe_args *a)
{
    int64_t n = lmoe_buf_count(&a->in[0]);
    swiglu_grad<<<blocks(n, THREADS), THREADS, 0, stream_of(a)>>>(
        n, input<float>(a, 0), input<float>(a, 1), input<float>(a, 2), output<float>(a, 0),
        output<float>(a, 1));
    return cuda_launched(a);
}

CUDA_KERNEL(swiglu, 1, cuda_all_f32, NULL, launch_swiglu)
CUDA_KERNEL(swiglu_grad, 1, cuda_all_f32, NULL, launch_swiglu_grad)
