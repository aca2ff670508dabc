/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/reduce.cu: sums of parts, for kernels that cut long sums.
 */
#include "kernel.cuh"

/* A block has 32 columns; thread row y adds parts y, y + 8, ..., then the rows are added. */
static __global__ void add_parts(const float *partial, int64_t parts, int64_t n, Results y)
{
    __shared__ double sums[ROWS][WARP];
    int64_t i = (int64_t)blockIdx.x * WARP + threadIdx.x;
    double sum = 0;
    for (int64_t part = threadIdx.y; part < parts && i < n; part += ROWS)
        sum += partial[part * n + i];
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || i >= n) return;
    for (int row = 1; row < ROWS; row++) sum += sums[row][threadIdx.x];
    y.put(i, (float)sum);
}

void cuda_add_parts(cudaStream_t stream, const float *partial, int64_t parts, int64_t n,
                    const lmoe_buf *y)
{
    add_parts<<<blocks(n, WARP), dim3(WARP, ROWS), 0, stream>>>(partial, parts, n, results_of(y));
}
