/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/optim.cu: sum_squares/1, accumulate/1, adamw/1. Norm, learning rate and step
 * lie in the memory of the device.
 */
#include "kernel.cuh"

/* ---- sum_squares: blocks of 4096 elements, then their sums ---- */

enum { BLOCK = 4096 };

static __global__ void squares(int64_t n, const float *x, float *partial)
{
    int64_t begin = (int64_t)blockIdx.x * BLOCK, end = min(n, begin + BLOCK);
    float sum = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) sum += x[i] * x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

/* One block. */
static __global__ void sum_all(int64_t n, const float *x, float *y)
{
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *y = (float)sum;
}

static size_t squares_workspace(const lmoe_args *a)
{
    return cuda_words(cuda_pieces(lmoe_buf_count(&a->in[0]), BLOCK));
}

static lmoe_status launch_squares(const lmoe_args *a)
{
    int64_t n = lmoe_buf_count(&a->in[0]), parts = cuda_pieces(n, BLOCK);
    float *partial = (float *)a->workspace;
    squares<<<(unsigned)parts, THREADS, 0, stream_of(a)>>>(n, input<float>(a, 0), partial);
    sum_all<<<1, THREADS, 0, stream_of(a)>>>(parts, partial, output<float>(a, 0));
    return cuda_launched(a);
}

CUDA_KERNEL(sum_squares, 1, cuda_all_f32, squares_workspace, launch_squares)

/* ---- accumulate ---- */

static __global__ void accumulate(int64_t n, float *buffer, const float *x)
{
    int64_t i = item();
    if (i < n) buffer[i] += x[i];
}

static lmoe_status launch_accumulate(const lmoe_args *a)
{
    int64_t n = lmoe_buf_count(&a->in[0]);
    accumulate<<<blocks(n, THREADS), THREADS, 0, stream_of(a)>>>(n, (float *)a->in[0].data,
                                                                 input<float>(a, 1));
    return cuda_launched(a);
}

CUDA_KERNEL(accumulate, 1, cuda_all_f32, NULL, launch_accumulate)

/* ---- adamw ---- */

enum { PARAM, GRAD, M, V, NORM, LR, STEP };

struct Adam {
    int64_t n;
    double beta1, beta2, clip;
    float eps, weight_decay;
    float *param, *m, *v;
    const float *grad, *norm, *lr, *step;
};

/* 1 - beta^step takes double: beta lies near 1. */
static __global__ void adamw(Adam o)
{
    __shared__ float m_part, v_part;
    float norm = *o.norm;
    if (!isfinite(norm)) return;
    if (threadIdx.x == 0) {
        m_part = (float)(1.0 - pow(o.beta1, (double)*o.step));
        v_part = (float)(1.0 - pow(o.beta2, (double)*o.step));
    }
    __syncthreads();
    int64_t i = item();
    if (i >= o.n) return;
    float scale = o.clip > 0 && norm > o.clip ? (float)(o.clip / norm) : 1.0f;
    float g = o.grad[i] * scale, p = o.param[i];
    float m = (float)o.beta1 * o.m[i] + (float)(1.0 - o.beta1) * g;
    float v = (float)o.beta2 * o.v[i] + (float)(1.0 - o.beta2) * g * g;
    float update = m / m_part / (sqrtf(v / v_part) + o.eps) + o.weight_decay * p;
    o.m[i] = m;
    o.v[i] = v;
    o.param[i] = p - *o.lr * update;
}

static lmoe_status launch_adamw(const lmoe_args *a)
{
    const lmoe_adamw_attrs *o = (const lmoe_adamw_attrs *)a->attrs;
    Adam w = {lmoe_buf_count(&a->in[PARAM]), o->beta1, o->beta2, o->clip, (float)o->eps,
              (float)o->weight_decay};
    w.param = (float *)a->in[PARAM].data;
    w.m = (float *)a->in[M].data;
    w.v = (float *)a->in[V].data;
    w.grad = input<float>(a, GRAD);
    w.norm = input<float>(a, NORM);
    w.lr = input<float>(a, LR);
    w.step = input<float>(a, STEP);
    adamw<<<blocks(w.n, THREADS), THREADS, 0, stream_of(a)>>>(w);
    return cuda_launched(a);
}

CUDA_KERNEL(adamw, 1, cuda_all_f32, NULL, launch_adamw)
