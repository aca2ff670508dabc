/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/map.cu: element-wise functions and their derivatives: map/1, map_grad/1,
 * swiglu/1, swiglu_grad/1. Results may lie over operands.
 */
#include "functions.cuh"

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
    case LMOE_MAP_SIN: return cosf(x);
    case LMOE_MAP_COS: return -sinf(x);
    case LMOE_MAP_GELU_ERF: return normcdff(x) + x * 0.39894228f * expf(-0.5f * x * x);
    default: return -1.0f / fmaxf(expm1f(-x), 1e-30f); /* LMOE_MAP_LOG1MEXP */
    }
}

template <class Type> struct Map {
    int fn;
    typename Type::In x;
    typename Type::Out y;

    __device__ void operator()(int64_t i, int m) const
    {
        Pack p = x.pack(i, m);
        for (int k = 0; k < PACK; k++) p.x[k] = map_function(fn, p.x[k]);
        y.pack(i, m, p);
    }
};

template <class Type> struct MapGrad {
    int fn;
    typename Type::In x, dy;
    typename Type::Out dx;

    __device__ void operator()(int64_t i, int m) const
    {
        Pack p = x.pack(i, m), d = dy.pack(i, m);
        for (int k = 0; k < PACK; k++) d.x[k] *= slope(fn, p.x[k]);
        dx.pack(i, m, d);
    }
};

static int fn_of(const lmoe_args *a)
{
    return ((const lmoe_map_attrs *)a->attrs)->fn;
}

static int can(const lmoe_args *a)
{
    return cuda_floats(a) && fn_of(a) >= 0 && fn_of(a) <= LMOE_MAP_GELU_ERF;
}

template <class Type> static lmoe_status run(const lmoe_args *a)
{
    return launch_packs(a, lmoe_buf_count(&a->in[0]),
                        Map<Type>{fn_of(a), in_of<Type>(a, 0), out_of<Type>(a, 0)});
}

template <class Type> static lmoe_status run_grad(const lmoe_args *a)
{
    return launch_packs(
        a, lmoe_buf_count(&a->in[0]),
        MapGrad<Type>{fn_of(a), in_of<Type>(a, 0), in_of<Type>(a, 1), out_of<Type>(a, 0)});
}

static lmoe_status launch(const lmoe_args *a)
{
    return LAUNCH_BY_TYPE(a, lmoe_buf_count(&a->in[0]), run);
}

static lmoe_status launch_grad(const lmoe_args *a)
{
    return LAUNCH_BY_TYPE(a, lmoe_buf_count(&a->in[0]), run_grad);
}

CUDA_KERNEL(map, 1, can, NULL, launch)
CUDA_KERNEL(map_grad, 1, can, NULL, launch_grad)

/* ---- y = silu(gate) up ---- */

template <class Type> struct Swiglu {
    typename Type::In gate, up;
    typename Type::Out y;

    __device__ void operator()(int64_t i, int m) const
    {
        Pack g = gate.pack(i, m), u = up.pack(i, m);
        for (int k = 0; k < PACK; k++) u.x[k] *= silu(g.x[k]);
        y.pack(i, m, u);
    }
};

/* dgate and dup may each be absent. */
template <class Type> struct SwigluGrad {
    typename Type::In gate, up, dy;
    typename Type::Out dgate, dup;

    __device__ void operator()(int64_t i, int m) const
    {
        Pack g = gate.pack(i, m), u = up.pack(i, m), d = dy.pack(i, m);
        for (int k = 0; k < PACK; k++) {
            float slope = u.x[k] * d.x[k] * silu_slope(g.x[k]);
            u.x[k] = d.x[k] * silu(g.x[k]);
            g.x[k] = slope;
        }
        if (dgate) dgate.pack(i, m, g);
        if (dup) dup.pack(i, m, u);
    }
};

template <class Type> static lmoe_status run_swiglu(const lmoe_args *a)
{
    return launch_packs(a, lmoe_buf_count(&a->in[0]),
                        Swiglu<Type>{in_of<Type>(a, 0), in_of<Type>(a, 1), out_of<Type>(a, 0)});
}

template <class Type> static lmoe_status run_swiglu_grad(const lmoe_args *a)
{
    return launch_packs(a, lmoe_buf_count(&a->in[0]),
                        SwigluGrad<Type>{in_of<Type>(a, 0), in_of<Type>(a, 1), in_of<Type>(a, 2),
                                         out_of<Type>(a, 0), out_of<Type>(a, 1)});
}

static lmoe_status launch_swiglu(const lmoe_args *a)
{
    return LAUNCH_BY_TYPE(a, lmoe_buf_count(&a->in[0]), run_swiglu);
}

static lmoe_status launch_swiglu_grad(const lmoe_args *a)
{
    return LAUNCH_BY_TYPE(a, lmoe_buf_count(&a->in[0]), run_swiglu_grad);
}

CUDA_KERNEL(swiglu, 1, cuda_floats, NULL, launch_swiglu)
CUDA_KERNEL(swiglu_grad, 1, cuda_floats, NULL, launch_swiglu_grad)
