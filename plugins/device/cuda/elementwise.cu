/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/elementwise.cu: add/1, multiply/1, divide/1, affine/1, cast/1, fill/1,
 * iota/1: a thread a pack of elements. Results may lie over operands: an element is read before it
 * is written, and by the same thread.
 */
#include "kernel.cuh"

/* ---- y = a op b, b broadcast over a ---- */

enum Op { ADD, MULTIPLY, DIVIDE };

/* Element i of a pairs with element (i / inner) mod n of b. Divisions of 32 bits are several times
 * faster. */
template <Op OP> static __device__ inline float combine(float x, float z)
{
    return OP == ADD ? x + z : OP == MULTIPLY ? x * z : x / z;
}

/* Without a broadcast. */
template <Op OP, class Type> struct Same {
    typename Type::In a, b;
    typename Type::Out y;

    __device__ void operator()(int64_t i, int m) const
    {
        Pack x = a.pack(i, m), z = b.pack(i, m);
        for (int k = 0; k < PACK; k++) x.x[k] = combine<OP>(x.x[k], z.x[k]);
        y.pack(i, m, x);
    }
};

template <Op OP, class Index> struct Binary {
    Floats a, b;
    Results y;
    Index inner, n;

    __device__ Pack other(int64_t i, int m) const
    {
        if (inner == 1 && n % PACK == 0) return b.pack((Index)i % n, m);
        Pack z;
        if (inner % PACK == 0) {
            float same = b[(Index)i / inner % n];
            for (int k = 0; k < PACK; k++) z.x[k] = same;
        } else {
            for (int k = 0; k < PACK; k++) z.x[k] = k < m ? b[(Index)(i + k) / inner % n] : 1.0f;
        }
        return z;
    }
    __device__ void operator()(int64_t i, int m) const
    {
        Pack x = a.pack(i, m), z = other(i, m);
        for (int k = 0; k < PACK; k++) x.x[k] = combine<OP>(x.x[k], z.x[k]);
        y.pack(i, m, x);
    }
};

template <Op OP, class Type> static lmoe_status launch_same(const lmoe_args *a)
{
    return launch_packs(a, lmoe_buf_count(&a->in[0]),
                        Same<OP, Type>{in_of<Type>(a, 0), in_of<Type>(a, 1), out_of<Type>(a, 0)});
}

template <Op OP> static lmoe_status launch_binary(const lmoe_args *a)
{
    const lmoe_binary_attrs *o = (const lmoe_binary_attrs *)a->attrs;
    const lmoe_buf *x = &a->in[0], *b = &a->in[1];
    int64_t count = lmoe_buf_count(x), inner = 1, n = lmoe_buf_count(b);
    if (n == count && count % PACK == 0 && all_are(a, LMOE_BF16))
        return launch_same<OP, NarrowType>(a);
    if (n == count && count % PACK == 0 && all_are(a, LMOE_F32))
        return launch_same<OP, WideType>(a);
    for (int d = (int)o->start + b->rank; d < x->rank; d++) inner *= x->dim[d];
    if (count <= UINT32_MAX)
        return launch_packs(a, count,
                            Binary<OP, uint32_t>{floats(a, 0), floats(a, 1), results(a, 0),
                                                 (uint32_t)inner, (uint32_t)n});
    return launch_packs(a, count,
                        Binary<OP, uint64_t>{floats(a, 0), floats(a, 1), results(a, 0),
                                             (uint64_t)inner, (uint64_t)n});
}

CUDA_KERNEL(add, 1, cuda_floats, NULL, launch_binary<ADD>)
CUDA_KERNEL(multiply, 1, cuda_floats, NULL, launch_binary<MULTIPLY>)
CUDA_KERNEL(divide, 1, cuda_floats, NULL, launch_binary<DIVIDE>)

/* ---- affine, fill, iota: floats, and i32 where results may be ids ---- */

static int is_floats_or_i32(const lmoe_args *a)
{
    return cuda_floats(a) && (lmoe_dtype_is_float(a->out[0].dtype) || a->out[0].dtype == LMOE_I32);
}

template <class Type> struct Affine {
    typename Type::In x;
    typename Type::Out y;
    float scale, shift;

    __device__ void operator()(int64_t i, int m) const
    {
        Pack p = x.pack(i, m);
        for (int k = 0; k < PACK; k++) p.x[k] = fmaf(scale, p.x[k], shift);
        y.pack(i, m, p);
    }
};

static __global__ void affine_ids(int64_t n, const int32_t *x, double scale, double shift,
                                  int32_t *y)
{
    int64_t i = item();
    if (i < n) y[i] = (int32_t)(scale * x[i] + shift);
}

template <class Type> static lmoe_status launch_affine_floats(const lmoe_args *a)
{
    const lmoe_affine_attrs *o = (const lmoe_affine_attrs *)a->attrs;
    return launch_packs(a, lmoe_buf_count(&a->out[0]),
                        Affine<Type>{in_of<Type>(a, 0), out_of<Type>(a, 0), (float)o->scale,
                                     (float)o->shift});
}

static lmoe_status launch_affine(const lmoe_args *a)
{
    const lmoe_affine_attrs *o = (const lmoe_affine_attrs *)a->attrs;
    int64_t n = lmoe_buf_count(&a->out[0]);
    if (a->out[0].dtype != LMOE_I32) return LAUNCH_BY_TYPE(a, n, launch_affine_floats);
    affine_ids<<<blocks(n, THREADS), THREADS, 0, stream_of(a)>>>(
        n, input<int32_t>(a, 0), o->scale, o->shift, output<int32_t>(a, 0));
    return cuda_launched(a);
}

CUDA_KERNEL(affine, 1, is_floats_or_i32, NULL, launch_affine)

struct Ramp {
    Results y;
    double start, step;

    __device__ void operator()(int64_t i, int m) const
    {
        Pack p;
        for (int k = 0; k < PACK; k++) p.x[k] = (float)(start + step * (double)(i + k));
        y.pack(i, m, p);
    }
};

static __global__ void ramp_ids(int64_t n, double start, double step, int32_t *y)
{
    int64_t i = item();
    if (i < n) y[i] = (int32_t)(start + step * (double)i);
}

static lmoe_status launch_ramp(const lmoe_args *a, double start, double step)
{
    int64_t n = lmoe_buf_count(&a->out[0]);
    if (a->out[0].dtype != LMOE_I32) return launch_packs(a, n, Ramp{results(a, 0), start, step});
    ramp_ids<<<blocks(n, THREADS), THREADS, 0, stream_of(a)>>>(n, start, step,
                                                               output<int32_t>(a, 0));
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

CUDA_KERNEL(fill, 1, is_floats_or_i32, NULL, launch_fill)
CUDA_KERNEL(iota, 1, is_floats_or_i32, NULL, launch_iota)

/* ---- cast: between f32 and bf16, and between f32 and others ---- */

struct Cast {
    Floats x;
    Results y;

    __device__ void operator()(int64_t i, int m) const
    {
        y.pack(i, m, x.pack(i, m));
    }
};

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

static lmoe_status launch_floats(const lmoe_args *a)
{
    return launch_packs(a, lmoe_buf_count(&a->out[0]), Cast{floats(a, 0), results(a, 0)});
}

typedef lmoe_status (*converter)(const lmoe_args *a);

static converter find_converter(const lmoe_args *a)
{
    bool from_f32 = cuda_is_f32(&a->in[0]);
    if (cuda_floats(a) && lmoe_dtype_is_float(a->in[0].dtype) &&
        lmoe_dtype_is_float(a->out[0].dtype))
        return launch_floats;
    if (!from_f32 && !cuda_is_f32(&a->out[0])) return NULL;
    switch (from_f32 ? a->out[0].dtype : a->in[0].dtype) {
    case LMOE_F64: return from_f32 ? launch_convert<float, double> : launch_convert<double, float>;
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
