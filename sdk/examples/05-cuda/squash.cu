/* SPDX-License-Identifier: Apache-2.0
 * sdk/examples/05-cuda/squash.cu: kernels of vendor.example/squash/1 and its derivative, f32.
 */
#include "squash.h"

__global__ static void squash(const float *x, float *y, int64_t n)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x)
        y[i] = x[i] * rsqrtf(1 + x[i] * x[i]);
}

__global__ static void squash_grad(const float *x, const float *dy, float *dx, int64_t n)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x) {
        float r = rsqrtf(1 + x[i] * x[i]);
        dx[i] = dy[i] * r * r * r;
    }
}

static int blocks(int64_t n)
{
    int64_t b = (n + 255) / 256;
    return (int)(b < 4096 ? b : 4096);
}

/* No allocation, no waiting: the launch goes to the stream it is given, so that a step can be
 * captured. Each launch asks for its own error, which the host may not see. */
static lmoe_status launched(const lmoe_args *a)
{
    cudaError_t e = cudaGetLastError();
    if (e == cudaSuccess) return LMOE_OK;
    return lmoe_error(a->ctx, LMOE_E_DEVICE, "vendor.example/squash: %s", cudaGetErrorString(e));
}

lmoe_status squash_launch(const lmoe_args *a)
{
    int64_t n = lmoe_buf_count(&a->in[0]);
    if (n == 0) return LMOE_OK;
    squash<<<blocks(n), 256, 0, (cudaStream_t)a->stream>>>((const float *)a->in[0].data,
                                                           (float *)a->out[0].data, n);
    return launched(a);
}

lmoe_status squash_grad_launch(const lmoe_args *a)
{
    int64_t n = lmoe_buf_count(&a->in[0]);
    if (n == 0) return LMOE_OK;
    squash_grad<<<blocks(n), 256, 0, (cudaStream_t)a->stream>>>(
        (const float *)a->in[0].data, (const float *)a->in[1].data, (float *)a->out[0].data, n);
    return launched(a);
}
