/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/unary.c: affine/1, fill/1, cast/1.
 */
#include "cpu.h"

/* ---- affine: scale * x + shift ---- */

typedef struct affine_work {
    float scale, shift;
    const float *x;
    float *y;
} affine_work;

static void run_affine(void *arg, int64_t begin, int64_t end, int thread)
{
    const affine_work *w = arg;
    const float scale = w->scale, shift = w->shift, *x = w->x;
    float *y = w->y;
    CPU_SIMD
    for (int64_t i = begin; i < end; i++) y[i] = scale * x[i] + shift;
}

static int can_affine(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[0]);
}

static lmoe_status launch_affine(const lmoe_args *a)
{
    const lmoe_affine_attrs *o = a->attrs;
    affine_work w = {(float)o->scale, (float)o->shift, a->in[0].data, a->out[0].data};
    return lmoe_parallel(a->ctx, lmoe_buf_count(&a->in[0]), cpu_grain(1), run_affine, &w);
}

/* ---- fill: any dtype that lmoe_put writes ---- */

typedef struct fill_work {
    size_t size; /* of an element */
    unsigned char value[8];
    unsigned char *y;
} fill_work;

static void run_fill(void *arg, int64_t begin, int64_t end, int thread)
{
    const fill_work *w = arg;
    unsigned char block[256];
    for (size_t i = 0; i < sizeof block; i += w->size) memcpy(block + i, w->value, w->size);
    size_t at = (size_t)begin * w->size, last = (size_t)end * w->size;
    for (; at + sizeof block <= last; at += sizeof block) memcpy(w->y + at, block, sizeof block);
    memcpy(w->y + at, block, last - at);
}

static int can_fill(const lmoe_args *a)
{
    return a->out[0].dtype != LMOE_F16;
}

static lmoe_status launch_fill(const lmoe_args *a)
{
    const lmoe_fill_attrs *o = a->attrs;
    fill_work w = {.size = lmoe_dtype_bytes(a->out[0].dtype), .y = a->out[0].data};
    lmoe_buf cell = {.data = w.value, .dtype = a->out[0].dtype};
    lmoe_put(&cell, 0, o->value);
    return lmoe_parallel(a->ctx, lmoe_buf_count(&a->out[0]), cpu_grain(1), run_fill, &w);
}

/* ---- cast ---- */

typedef void (*cast_fn)(const void *x, void *y, int64_t begin, int64_t end);

#define CAST(name, from, to, value)                                        \
    static void name(const void *px, void *py, int64_t begin, int64_t end) \
    {                                                                      \
        const from *x = px;                                                \
        to *y = py;                                                        \
        CPU_SIMD                                                           \
        for (int64_t i = begin; i < end; i++) y[i] = value;                \
    }

CAST(f32_to_bf16, float, uint16_t, lmoe_float_to_bf16(x[i]))
CAST(bf16_to_f32, uint16_t, float, lmoe_bf16_to_float(x[i]))
CAST(i32_to_f32, int32_t, float, (float)x[i])
CAST(u8_to_f32, uint8_t, float, x[i])
CAST(same, uint32_t, uint32_t, x[i]) /* f32 to f32, i32 to i32 */

static cast_fn cast_of(lmoe_dtype from, lmoe_dtype to)
{
    if (from == to) return lmoe_dtype_bytes(from) == 4 ? same : NULL;
    if (from == LMOE_F32 && to == LMOE_BF16) return f32_to_bf16;
    if (to != LMOE_F32) return NULL;
    return from == LMOE_BF16  ? bf16_to_f32
           : from == LMOE_I32 ? i32_to_f32
           : from == LMOE_U8  ? u8_to_f32
                              : NULL;
}

typedef struct cast_work {
    cast_fn fn;
    const void *x;
    void *y;
} cast_work;

static void run_cast(void *arg, int64_t begin, int64_t end, int thread)
{
    const cast_work *w = arg;
    w->fn(w->x, w->y, begin, end);
}

static int can_cast(const lmoe_args *a)
{
    return cast_of(a->in[0].dtype, a->out[0].dtype) != NULL;
}

static lmoe_status launch_cast(const lmoe_args *a)
{
    cast_work w = {cast_of(a->in[0].dtype, a->out[0].dtype), a->in[0].data, a->out[0].data};
    return lmoe_parallel(a->ctx, lmoe_buf_count(&a->in[0]), cpu_grain(1), run_cast, &w);
}

CPU_KERNEL(affine, 1, can_affine, NULL, launch_affine)
CPU_KERNEL(fill, 1, can_fill, NULL, launch_fill)
CPU_KERNEL(cast, 1, can_cast, NULL, launch_cast)
