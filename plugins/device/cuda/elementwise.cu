/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/elementwise.cu: add/1, multiply/1, divide/1, affine/1, cast/1, fill/1,
 * iota/1: a thread an element. Results may lie over operands: an element is read before it is
 * written, and by the same thread.
 */
#include "kernel.cuh"

#include <cuda_bf16.h>

/* ---- y = a op b, b broadcast over a ---- */

enum Op { ADD, MULTIPLY, DIVIDE };

/* Element i of a pairs with element (i / inner) mod n of b. */
template <Op OP, class Index>
static __global__ void binary(Index count, const float *a, const float *b, Index inner, Index n,
                              float *y)
{
    int64_t i = item();
    if (i >= (int64_t)count) return;
    float x = a[i], z = b[(Index)i / inner % n];
    y[i] = OP == ADD ? x + z : OP == MULTIPLY ? x * z : x / z;
}

template <Op OP> static lmoe_status launch_binary(const lmoe_args *a)
{
    const lmoe_binary_attrs *o = (const lmoe_binary_attrs *)a->attrs;
    const lmoe_buf *x = &a->in[0], *b = &a->in[1];
    int64_t count = lmoe_buf_count(x), inner = 1, n = lmoe_buf_count(b);
    for (int d = (int)o->start + b->rank; d < x->rank; d++) inner *= x->dim[d];
    unsigned grid = blocks(count, THREADS);
    if (count <= UINT32_MAX) /* divisions of 32 bits are several times faster */
        binary<OP, uint32_t><<<grid, THREADS, 0, stream_of(a)>>>(
            (uint32_t)count, input<float>(a, 0), input<float>(a, 1), (uint32_t)inner, (uint32_t)n,
            output<float>(a, 0));
    else
        binary<OP, uint64_t><<<grid, THREADS, 0, stream_of(a)>>>(
            (uint64_t)count, input<float>(a, 0), input<float>(a, 1), (uint64_t)inner, (uint64_t)n,
            output<float>(a, 0));
    return cuda_launched(a);
}

CUDA_KERNEL(add, 1, cuda_all_f32, NULL, launch_binary<ADD>)
CUDA_KERNEL(multiply, 1, cuda_all_f32, NULL, launch_binary<MULTIPLY>)
CUDA_KERNEL(divide, 1, cuda_all_f32, NULL, launch_binary<DIVIDE>)

/* ---- affine, fill, iota: f32, and i32 where results may be ids ---- */

static int is_f32_or_i32(const lmoe_args *a)
{
    return cuda_is_f32(&a->out[0]) || a->out[0].dtype == LMOE_I32;
}

static __global__ void affine(int64_t n, const float *x, float scale, float shift, float *y)
{
    int64_t i = item();
    if (i < n) y[i] = fmaf(scale, x[i], shift);
}

static __global__ void affine_ids(int64_t n, const int32_t *x, double scale, double shift,
                                  int32_t *y)
{
    int64_t i = item();
    if (i < n) y[i] = (int32_t)(scale * x[i] + shift);
}

static lmoe_status launch_affine(const lmoe_args *a)
{
    const lmoe_affine_attrs *o = (const lmoe_affine_attrs *)a->attrs;
    int64_t n = lmoe_buf_count(&a->out[0]);
    unsigned grid = blocks(n, THREADS);
    if (cuda_is_f32(&a->out[0]))
        affine<<<grid, THREADS, 0, stream_of(a)>>>(n, input<float>(a, 0), (float)o->scale,
                                                   (float)o->shift, output<float>(a, 0));
    else
        affine_ids<<<grid, THREADS, 0, stream_of(a)>>>(n, input<int32_t>(a, 0), o->scale, o->shift,
                                                       output<int32_t>(a, 0));
    return cuda_launched(a);
}

CUDA_KERNEL(affine, 1, is_f32_or_i32, NULL, launch_affine)

template <class T> static __global__ void ramp(int64_t n, double start, double step, T *y)
{
    int64_t i = item();
    if (i < n) y[i] = (T)(start + step * (double)i);
}

static lmoe_status launch_ramp(const lmoe_args *a, double start, double step)
{
    int64_t n = lmoe_buf_count(&a->out[0]);
    unsigned grid = blocks(n, THREADS);
    if (cuda_is_f32(&a->out[0]))
        ramp<<<grid, THREADS, 0, stream_of(a)>>>(n, start, step, output<float>(a, 0));
    else
        ramp<<<grid, THREADS, 0, stream_of(a)>>>(n, start, step, output<int32_t>(a, 0));
    return cuda_launched(a);
}

static lmoe_status launch_fill(const lmoe_args *a)
{
    return launch_ramp(a, ((const lmoe_fill_attrs *)a->attrs)->value, 0);
}

static lmoe_status launch_iota(const lmoe_args *a)
{
    const lmoe_iota_attrs *o = (const lmoe_iota_attrs *)a->attrs;
    return launch_ramp(a, o->start, o->step);
}

CUDA_KERNEL(fill, 1, is_f32_or_i32, NULL, launch_fill)
CUDA_KERNEL(iota, 1, is_f32_or_i32, NULL, launch_iota)

/* ---- cast: one side is f32 ---- */

/* C's own conversions: to nearest even, and towards zero for integers. */
template <class From, class To> static __global__ void convert(int64_t n, const From *x, To *y)
{
    int64_t i = item();
    if (i < n) y[i] = (To)x[i];
}

template <class From, class To> static lmoe_status launch_convert(const lmoe_args *a)
{
    int64_t n = lmoe_buf_count(&a->out[0]);
    convert<<<blocks(n, THREADS), THREADS, 0, stream_of(a)>>>(n, input<From>(a, 0),
                                                              output<To>(a, 0));
    return cuda_launched(a);
}

typedef lmoe_status (*converter)(const lmoe_args *a);

static converter find_converter(const lmoe_args *a)
{
    bool from_f32 = cuda_is_f32(&a->in[0]);
    if (!from_f32 && !cuda_is_f32(&a->out[0])) return NULL;
    switch (from_f32 ? a->out[0].dtype : a->in[0].dtype) {
    case LMOE_F32: return launch_convert<float, float>;
    case LMOE_F64: return from_f32 ? launch_convert<float, double> : launch_convert<double, float>;
    case LMOE_BF16:
        return from_f32 ? launch_convert<float, __nv_bfloat16>
                        : launch_convert<__nv_bfloat16, float>;
    case LMOE_I32:
        return from_f32 ? launch_convert<float, int32_t> : launch_convert<int32_t, float>;
    case LMOE_U8: return from_f32 ? launch_convert<float, uint8_t> : launch_convert<uint8_t, float>;
    default: return NULL;
    }
}

static int can_cast(const lmoe_args *a)
{
    return find_converter(a) != NULL;
}

static lmoe_status launch_cast(const lmoe_args *a)
{
    return find_converter(a)(a);
}

CUDA_KERNEL(cast, 1, can_cast, NULL, launch_cast)
