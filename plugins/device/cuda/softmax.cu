/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/softmax.cu: softmax/1, its derivative, logsumexp/1 over the last axis; a warp
 * does a row. With m the row's maximum:
 *
 *   logsumexp = m + log(sum exp(x - m)),   y = exp(x - m) / sum,   dx = y (dy - sum(y dy))
 */
#include "kernel.cuh"

struct Rows {
    int64_t rows, width;
};

static __device__ float exp_sum(Floats x, int64_t width, float *most)
{
    float m = -INFINITY, sum = 0;
    for (int64_t i = threadIdx.x; i < width; i += WARP) m = fmaxf(m, x[i]);
    *most = warp_max(m);
    for (int64_t i = threadIdx.x; i < width; i += WARP) sum += expf(x[i] - *most);
    return warp_sum(sum);
}

static __global__ void softmax(Rows r, Floats x, Results y)
{
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.y, at = row * r.width;
    if (row >= r.rows) return;
    float most, sum = exp_sum(x + at, r.width, &most);
    for (int64_t i = threadIdx.x; i < r.width; i += WARP)
        y.put(at + i, expf(x[at + i] - most) / sum);
}

static __global__ void softmax_grad(Rows r, Floats y, Floats dy, Results dx)
{
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.y, at = row * r.width;
    if (row >= r.rows) return;
    float dot = 0;
    for (int64_t i = threadIdx.x; i < r.width; i += WARP) dot += y[at + i] * dy[at + i];
    dot = warp_sum(dot);
    for (int64_t i = threadIdx.x; i < r.width; i += WARP)
        dx.put(at + i, y[at + i] * (dy[at + i] - dot));
}

static __global__ void logsumexp(Rows r, Floats x, Results y)
{
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.y;
    if (row >= r.rows) return;
    float most, sum = exp_sum(x + row * r.width, r.width, &most);
    if (threadIdx.x == 0) y.put(row, most + logf(sum));
}

static Rows rows_of(const lmoe_args *a)
{
    const lmoe_buf *x = &a->in[0];
    Rows r = {0, x->dim[x->rank - 1]};
    r.rows = lmoe_buf_count(x) / r.width;
    return r;
}

static lmoe_status launch(const lmoe_args *a)
{
    Rows r = rows_of(a);
    softmax<<<blocks(r.rows, ROWS), dim3(WARP, ROWS), 0, stream_of(a)>>>(r, floats(a, 0),
                                                                         results(a, 0));
    return cuda_launched(a);
}

static lmoe_status launch_grad(const lmoe_args *a)
{
    Rows r = rows_of(a);
    softmax_grad<<<blocks(r.rows, ROWS), dim3(WARP, ROWS), 0, stream_of(a)>>>(
        r, floats(a, 0), floats(a, 1), results(a, 0));
    return cuda_launched(a);
}

static lmoe_status launch_logsumexp(const lmoe_args *a)
{
    Rows r = rows_of(a);
    logsumexp<<<blocks(r.rows, ROWS), dim3(WARP, ROWS), 0, stream_of(a)>>>(r, floats(a, 0),
                                                                           results(a, 0));
    return cuda_launched(a);
}

CUDA_KERNEL(softmax, 1, cuda_floats, NULL, launch)
CUDA_KERNEL(softmax_grad, 1, cuda_floats, NULL, launch_grad)
CUDA_KERNEL(logsumexp, 1, cuda_floats, NULL, launch_logsumexp)
