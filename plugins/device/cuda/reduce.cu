/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/reduce.cu: sums of parts, for kernels that cut long sums.
 */
#include "kernel.cuh"

static __global__ void add_parts(const float *partial, int64_t parts, int64_t n, float *y)
{
    int64_t i = item();
    if (i >= n) return;
    double sum = 0;
    for (int64_t part = 0; part < parts; part++) sum += partial[part * n + i];
    y[i] = (float)sum;
}

void cuda_add_parts(cudaStream_t stream, const float *partial, int64_t parts, int64_t n, float *y)
{
    add_parts<<<blocks(n, THREADS), THREADS, 0, stream>>>(partial, parts, n, y);
}
