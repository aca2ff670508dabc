/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/moe_act.cu: expert_act/1, scale f(gate) up row by row, and its derivative; a
 * warp does a row. Results may lie over operands: an element is read before it is written.
 */
#include "kernel.cuh"

enum { GATE, UP, SCALE, DH };

/* f(x) and its slope */
template <int FN> static __device__ inline float function(float x, float *slope)
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

template <int FN>
static __global__ void act(int64_t rows, int64_t hidden, const float *gate, const float *up,
                           const float *scale, float *h)
{
    int64_t r = (int64_t)blockIdx.x * ROWS + threadIdx.y;
    if (r >= rows) return;
    for (int64_t i = r * hidden + threadIdx.x; i < (r + 1) * hidden; i += WARP) {
        float slope, y = function<FN>(gate[i], &slope);
        h[i] = scale[r] * (up ? y * up[i] : y);
    }
}

template <int FN>
static __global__ void act_grad(int64_t rows, int64_t hidden, const float *gate, const float *up,
                                const float *scale, const float *dh, float *dgate, float *dup,
                                float *dscale)
{
    int64_t r = (int64_t)blockIdx.x * ROWS + threadIdx.y;
    if (r >= rows) return;
    float sum = 0;
    for (int64_t i = r * hidden + threadIdx.x; i < (r + 1) * hidden; i += WARP) {
        float slope, y = function<FN>(gate[i], &slope), u = up ? up[i] : 1.0f, d = dh[i];
        sum += y * u * d;
        if (dgate) dgate[i] = scale[r] * d * u * slope;
        if (dup) dup[i] = scale[r] * d * y;
    }
    sum = warp_sum(sum);
    if (dscale && threadIdx.x == 0) dscale[r] = sum;
}

template <int FN> static void launch_one(const lmoe_args *a, int backward)
{
    int64_t rows = a->in[GATE].dim[0], hidden = a->in[GATE].dim[1];
    const float *gate = input<float>(a, GATE), *up = input<float>(a, UP);
    const float *scale = input<float>(a, SCALE);
    dim3 block(WARP, ROWS);
    if (backward)
        act_grad<FN><<<blocks(rows, ROWS), block, 0, stream_of(a)>>>(
            rows, hidden, gate, up, scale, input<float>(a, DH), output<float>(a, 0),
            output<float>(a, 1), output<float>(a, 2));
    else
        act<FN><<<blocks(rows, ROWS), block, 0, stream_of(a)>>>(rows, hidden, gate, up, scale,
                                                                output<float>(a, 0));
}

static lmoe_status launch_any(const lmoe_args *a, int backward)
{
    switch (((const lmoe_expert_act_attrs *)a->attrs)->fn) {
    case LMOE_ACT_SILU: launch_one<LMOE_ACT_SILU>(a, backward); break;
    case LMOE_ACT_GELU: launch_one<LMOE_ACT_GELU>(a, backward); break;
    default: launch_one<LMOE_ACT_RELU2>(a, backward); break;
    }
    return cuda_launched(a);
}

static lmoe_status launch_act(const lmoe_args *a)
{
    return launch_any(a, 0);
}

static lmoe_status launch_act_grad(const lmoe_args *a)
{
    return launch_any(a, 1);
}

CUDA_KERNEL(expert_act, 1, cuda_all_f32, NULL, launch_act)
CUDA_KERNEL(expert_act_grad, 1, cuda_all_f32, NULL, launch_act_grad)
