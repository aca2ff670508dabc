/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/functions.cuh: the functions of map/1 and the activations of experts.
 */
#ifndef CUDA_FUNCTIONS_CUH
#define CUDA_FUNCTIONS_CUH

#include "kernel.cuh"

/* The tanh form of gelu is x sigmoid(2 u), u = sqrt(2/pi) (x + 0.044715 x^3). */
static __device__ inline float gelu_argument(float x)
{
    return 1.59576912f * (x + 0.044715f * x * x * x);
}

static __device__ inline float map_function(int fn, float x)
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
    case LMOE_MAP_SIN: return sinf(x);
    case LMOE_MAP_COS: return cosf(x);
    case LMOE_MAP_GELU_ERF: return x * normcdff(x);
    default: return x > -0.7f ? logf(-expm1f(x)) : log1pf(-expf(x)); /* LMOE_MAP_LOG1MEXP */
    }
}

/* f(x) and its slope */
template <int FN> static __device__ inline float activation(float x, float *slope)
{
    if (FN == LMOE_ACT_RELU2) {
        float y = fmaxf(x, 0.0f);
        *slope = 2.0f * y;
        return y * y;
    }
    if (FN == LMOE_ACT_SILU) {
        *slope = silu_slope(x);
        return silu(x);
    }
    float u = 1.59576912f * (x + 0.044715f * x * x * x), s = sigmoid(u);
    *slope = s + x * s * sigmoid(-u) * (1.59576912f * (1.0f + 0.134145f * x * x));
    return x * s;
}

#endif
