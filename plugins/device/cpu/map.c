/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/map.c: map/1 and map_grad/1: element-wise functions, and dx = dy f'(x).
 */
#include "cpu.h"
#include "vec.h"

/* y = f(x), or dx = dy f'(x), for n elements. */
typedef void (*map_fn)(const float *x, const float *dy, float *y, int64_t n);

#define LOOPS(name, value, slope, simd)                                            \
    static void name(const float *px, const float *dy, float *y, int64_t n)        \
    {                                                                              \
        simd for (int64_t i = 0; i < n; i++)                                       \
        {                                                                          \
            float x = px[i];                                                       \
            y[i] = value;                                                          \
        }                                                                          \
    }                                                                              \
    static void name##_grad(const float *px, const float *dy, float *y, int64_t n) \
    {                                                                              \
        simd for (int64_t i = 0; i < n; i++)                                       \
        {                                                                          \
            float x = px[i];                                                       \
            y[i] = dy[i] * (slope);                                                \
        }                                                                          \
    }
#define FUNCTION(name, value, slope) LOOPS(name, value, slope, CPU_SIMD)
#define LIBRARY(name, value, slope)  LOOPS(name, value, slope, ) /* of libm: not vectorised */

static inline float log1mexp_slope(float x)
{
    float e = cpu_expm1f(-x);
    return -1.0f / (e < 1e-30f ? 1e-30f : e); /* at 0 large but finite */
}

/* 1 / cosh^2 */
static inline float tanh_slope(float x)
{
    float e = cpu_expf(-2.0f * fabsf(x)), d = 1.0f + e;
    return 4.0f * e / (d * d);
}

/* The tanh form of gelu is x sigmoid(2 u), u = sqrt(2/pi) (x + 0.044715 x^3). */
static inline float gelu_argument(float x)
{
    return 1.59576912f * (x + 0.044715f * x * x * x);
}

static inline float gelu_slope(float x)
{
    float t, s = cpu_sigmoid_pair(gelu_argument(x), &t);
    return s + x * (s * t) * (1.59576912f * (1.0f + 0.134145f * x * x));
}

static inline float normal(float x)
{
    return 0.5f * erfcf(-0.70710678f * x);
}

FUNCTION(silu, cpu_siluf(x), cpu_silu_slopef(x))
FUNCTION(sigmoid, cpu_sigmoidf(x), cpu_sigmoidf(x) * cpu_sigmoidf(-x))
FUNCTION(logsigmoid, -cpu_softplusf(-x), cpu_sigmoidf(-x))
FUNCTION(exponential, cpu_expf(x), cpu_expf(x))
FUNCTION(logarithm, cpu_logf(x), 1.0f / x)
FUNCTION(relu, x > 0.0f ? x : 0.0f, x > 0.0f ? 1.0f : 0.0f)
FUNCTION(elu1, x > 0.0f ? x + 1.0f : cpu_expf(x), x > 0.0f ? 1.0f : cpu_expf(x))
FUNCTION(softplus, cpu_softplusf(x), cpu_sigmoidf(x))
FUNCTION(hyperbolic, cpu_tanhf(x), tanh_slope(x))
FUNCTION(square, x *x, 2.0f * x)
FUNCTION(gelu, x *cpu_sigmoidf(gelu_argument(x)), gelu_slope(x))
FUNCTION(root, sqrtf(x), 0.5f / sqrtf(x))
FUNCTION(onemexp, -cpu_expm1f(x), -cpu_expf(x))
FUNCTION(log1mexp, cpu_log1mexpf(x), log1mexp_slope(x))
LIBRARY(sine, sinf(x), cosf(x)) /* of small tables: the library's own are good enough */
LIBRARY(cosine, cosf(x), -sinf(x))
LIBRARY(gelu_erf, x *normal(x), normal(x) + x * (0.39894228f * cpu_expf(-0.5f * x * x)))

static const struct {
    map_fn value, slope;
} functions[] = {
    [LMOE_MAP_SILU] = {silu, silu_grad},
    [LMOE_MAP_SIGMOID] = {sigmoid, sigmoid_grad},
    [LMOE_MAP_LOGSIGMOID] = {logsigmoid, logsigmoid_grad},
    [LMOE_MAP_EXP] = {exponential, exponential_grad},
    [LMOE_MAP_LOG] = {logarithm, logarithm_grad},
    [LMOE_MAP_RELU] = {relu, relu_grad},
    [LMOE_MAP_ELU1] = {elu1, elu1_grad},
    [LMOE_MAP_SOFTPLUS] = {softplus, softplus_grad},
    [LMOE_MAP_TANH] = {hyperbolic, hyperbolic_grad},
    [LMOE_MAP_SQUARE] = {square, square_grad},
    [LMOE_MAP_GELU] = {gelu, gelu_grad},
    [LMOE_MAP_SQRT] = {root, root_grad},
    [LMOE_MAP_ONEMEXP] = {onemexp, onemexp_grad},
    [LMOE_MAP_LOG1MEXP] = {log1mexp, log1mexp_grad},
    [LMOE_MAP_SIN] = {sine, sine_grad},
    [LMOE_MAP_COS] = {cosine, cosine_grad},
    [LMOE_MAP_GELU_ERF] = {gelu_erf, gelu_erf_grad},
};

typedef struct work {
    map_fn fn;
    const float *x, *dy;
    float *y;
} work;

static void run(void *arg, int64_t begin, int64_t end, int thread)
{
    const work *w = arg;
    w->fn(w->x + begin, w->dy ? w->dy + begin : NULL, w->y + begin, end - begin);
}

static int can(const lmoe_args *a)
{
    const lmoe_map_attrs *o = a->attrs;
    return cpu_is_f32(&a->in[0]) && o->fn >= 0 &&
           o->fn < (int)(sizeof functions / sizeof *functions);
}

static lmoe_status launch(const lmoe_args *a)
{
    const lmoe_map_attrs *o = a->attrs;
    work w = {functions[o->fn].value, a->in[0].data, NULL, a->out[0].data};
    return lmoe_parallel(a->ctx, lmoe_buf_count(&a->in[0]), cpu_grain(2), run, &w);
}

static lmoe_status launch_grad(const lmoe_args *a)
{
    const lmoe_map_attrs *o = a->attrs;
    work w = {functions[o->fn].slope, a->in[0].data, a->in[1].data, a->out[0].data};
    return lmoe_parallel(a->ctx, lmoe_buf_count(&a->in[0]), cpu_grain(2), run, &w);
}

CPU_KERNEL(map, 1, can, NULL, launch)
CPU_KERNEL(map_grad, 1, can, NULL, launch_grad)
