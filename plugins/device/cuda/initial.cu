/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/initial.cu: initial/1 of the kinds that need no library's logarithm or power.
 * This file is compiled without fused multiply-adds, so that its bits are those of the reference.
 */
#include "kernel.cuh"

#include <lmoe/layer.h>
#include <lmoe/random.h>

static __device__ double value(const lmoe_initial_attrs &o, int64_t i)
{
    const uint64_t seed = (uint64_t)o.seed, stream = (uint64_t)o.stream;
    switch (o.kind) {
    case LMOE_INIT_CONST: return o.a;
    case LMOE_INIT_UNIFORM:
        return o.a + (o.b - o.a) * lmoe_uniform(seed, stream, (uint64_t)i);
    case LMOE_INIT_RAMP: return o.a + o.b * (double)(i % o.columns);
    case LMOE_INIT_EYE: return i % o.columns == i / o.columns % o.rows ? 1.0 : 0.0;
    default: return o.a + o.b * lmoe_normal(seed, stream, (uint64_t)i);
    }
}

static __global__ void initial(lmoe_initial_attrs o, int64_t n, Results y)
{
    for (int64_t i = item(); i < n; i += (int64_t)gridDim.x * blockDim.x) {
        float x = (float)value(o, o.first + i);
        uint32_t bits = __float_as_uint(x);
        if (o.part == LMOE_INITIAL_WHOLE)
            y.put(i, x);
        else
            ((uint16_t *)y.data)[i] =
                (uint16_t)(o.part == LMOE_INITIAL_UPPER ? (bits + 0x8000u) >> 16 : bits);
    }
}

static int can(const lmoe_args *a)
{
    const lmoe_initial_attrs *o = (const lmoe_initial_attrs *)a->attrs;
    bool plain = o->kind == LMOE_INIT_NORMAL || o->kind == LMOE_INIT_CONST ||
                 o->kind == LMOE_INIT_UNIFORM || o->kind == LMOE_INIT_EYE ||
                 o->kind == LMOE_INIT_RAMP;
    return plain && cuda_is_floats(&a->out[0]);
}

static lmoe_status launch(const lmoe_args *a)
{
    const int64_t n = lmoe_buf_count(&a->out[0]);
    initial<<<(unsigned)cuda_min(blocks(n, THREADS), 1 << 16), THREADS, 0, stream_of(a)>>>(
        *(const lmoe_initial_attrs *)a->attrs, n, results(a, 0));
    return cuda_launched(a);
}

CUDA_KERNEL(initial, 1, can, NULL, launch)
