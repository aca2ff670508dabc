/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/slice.cu: slice/1 and pad/1 along one axis. Tensors are seen as (outer, axis,
 * inner); place i of the result's axis is place i + shift of x's, or outside of it.
 */
#include "kernel.cuh"

struct Shift {
    int64_t count, x_axis, y_axis, inner, shift;
};

template <class T> static __global__ void move(Shift s, const T *x, T value, T *y)
{
    int64_t at = item();
    if (at >= s.count) return;
    int64_t row = at / s.inner, outer = row / s.y_axis, i = row % s.y_axis + s.shift;
    bool inside = i >= 0 && i < s.x_axis;
    y[at] = inside ? x[(outer * s.x_axis + i) * s.inner + at % s.inner] : value;
}

static int can(const lmoe_args *a)
{
    return cuda_is_f32(&a->in[0]) || cuda_is_bf16(&a->in[0]) || a->in[0].dtype == LMOE_I32;
}

static lmoe_status launch_move(const lmoe_args *a, int64_t axis, int64_t shift, double value)
{
    const lmoe_buf *x = &a->in[0], *y = &a->out[0];
    Shift s = {lmoe_buf_count(y), x->dim[axis], y->dim[axis], 1, shift};
    for (int d = (int)axis + 1; d < x->rank; d++) s.inner *= x->dim[d];
    unsigned grid = blocks(s.count, THREADS);
    if (x->dtype == LMOE_F32)
        move<<<grid, THREADS, 0, stream_of(a)>>>(s, input<float>(a, 0), (float)value,
                                                 output<float>(a, 0));
    else if (x->dtype == LMOE_BF16)
        move<<<grid, THREADS, 0, stream_of(a)>>>(
            s, input<bf16>(a, 0), __float2bfloat16_rn((float)value), output<bf16>(a, 0));
    else
        move<<<grid, THREADS, 0, stream_of(a)>>>(s, input<int32_t>(a, 0), (int32_t)value,
                                                 output<int32_t>(a, 0));
    return cuda_launched(a);
}

static lmoe_status launch_slice(const lmoe_args *a)
{
    const lmoe_slice_attrs *o = (const lmoe_slice_attrs *)a->attrs;
    return launch_move(a, o->axis, o->start, 0);
}

static lmoe_status launch_pad(const lmoe_args *a)
{
    const lmoe_pad_attrs *o = (const lmoe_pad_attrs *)a->attrs;
    return launch_move(a, o->axis, -o->before, o->value);
}

CUDA_KERNEL(slice, 1, can, NULL, launch_slice)
CUDA_KERNEL(pad, 1, can, NULL, launch_pad)
