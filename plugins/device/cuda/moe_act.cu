/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/moe_act.cu: expert_act/1, scale f(gate) up row by row, and its derivative; a
 * warp does a row. Results may lie over operands: an element is read before it is written.
 */
#include "functions.cuh"

enum { GATE, UP, SCALE, DH };

enum { STEP = WARP * PACK };

static __device__ inline int left(int64_t hidden, int64_t i)
{
    return (int)min((int64_t)PACK, hidden - i);
}

static __device__ inline Pack ones()
{
    return {{1, 1, 1, 1, 1, 1, 1, 1}};
}

/* A warp does a row. */
template <int FN, class In, class Out>
static __global__ void act(int64_t rows, int64_t hidden, In gate, In up, Floats scale, Out h)
{
    int64_t r = (int64_t)blockIdx.x * ROWS + threadIdx.y, at = r * hidden;
    if (r >= rows) return;
    float weight = scale[r];
    for (int64_t i = threadIdx.x * PACK; i < hidden; i += STEP) {
        int n = left(hidden, i);
        Pack g = gate.pack(at + i, n), u = up ? up.pack(at + i, n) : ones();
        for (int k = 0; k < PACK; k++) {
            float slope, y = activation<FN>(g.x[k], &slope);
            u.x[k] *= weight * y;
        }
        h.pack(at + i, n, u);
    }
}

template <int FN, class In, class Out>
static __global__ void act_grad(int64_t rows, int64_t hidden, In gate, In up, Floats scale, In dh,
                                Out dgate, Out dup, Results dscale)
{
    int64_t r = (int64_t)blockIdx.x * ROWS + threadIdx.y, at = r * hidden;
    if (r >= rows) return;
    float sum = 0, weight = scale[r];
    for (int64_t i = threadIdx.x * PACK; i < hidden; i += STEP) {
        int n = left(hidden, i);
        Pack g = gate.pack(at + i, n), u = up ? up.pack(at + i, n) : ones();
        Pack d = dh.pack(at + i, n);
        for (int k = 0; k < PACK; k++) {
            float slope, y = activation<FN>(g.x[k], &slope);
            sum += y * u.x[k] * d.x[k];
            g.x[k] = weight * d.x[k] * u.x[k] * slope;
            u.x[k] = weight * d.x[k] * y;
        }
        if (dgate) dgate.pack(at + i, n, g);
        if (dup) dup.pack(at + i, n, u);
    }
    sum = warp_sum(sum);
    if (dscale && threadIdx.x == 0) dscale.put(r, sum);
}

template <int FN, class Type> static void launch_one(const lmoe_args *a, int backward)
{
    int64_t rows = a->in[GATE].dim[0], hidden = a->in[GATE].dim[1];
    auto gate = in_of<Type>(a, GATE), up = in_of<Type>(a, UP);
    dim3 block(WARP, ROWS);
    if (backward)
        act_grad<FN><<<blocks(rows, ROWS), block, 0, stream_of(a)>>>(
            rows, hidden, gate, up, floats(a, SCALE), in_of<Type>(a, DH), out_of<Type>(a, 0),
            out_of<Type>(a, 1), results(a, 2));
    else
        act<FN><<<blocks(rows, ROWS), block, 0, stream_of(a)>>>(
            rows, hidden, gate, up, floats(a, SCALE), out_of<Type>(a, 0));
}

/* The scale is f32 beside rows of either kind. */
template <int FN> static void launch_type(const lmoe_args *a, int backward)
{
    bool narrow = a->in[GATE].dim[1] % PACK == 0;
    for (int i = 0; i < a->n_in; i++)
        narrow &= i == SCALE || !lmoe_buf_present(&a->in[i]) || cuda_is_bf16(&a->in[i]);
    for (int i = 0; i < a->n_out && i < 2; i++)
        narrow &= !lmoe_buf_present(&a->out[i]) || cuda_is_bf16(&a->out[i]);
    narrow ? launch_one<FN, NarrowType>(a, backward) : launch_one<FN, AnyType>(a, backward);
}

static lmoe_status launch_any(const lmoe_args *a, int backward)
{
    switch (((const lmoe_expert_act_attrs *)a->attrs)->fn) {
    case LMOE_ACT_SILU: launch_type<LMOE_ACT_SILU>(a, backward); break;
    case LMOE_ACT_GELU: launch_type<LMOE_ACT_GELU>(a, backward); break;
    default: launch_type<LMOE_ACT_RELU2>(a, backward); break;
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

CUDA_KERNEL(expert_act, 1, cuda_floats, NULL, launch_act)
CUDA_KERNEL(expert_act_grad, 1, cuda_floats, NULL, launch_act_grad)
