/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/top_k.cu: choices along the last axis: top_k/1, gather_last/1,
 * scatter_last/1, histogram/1.
 */
#include "kernel.cuh"

/* ---- top_k: a warp a row, one choice after another ---- */

/* Larger ones first, then lower indices; NaN after all numbers: a total order. */
static __device__ bool comes_before(float x, int64_t i, float y, int64_t j)
{
    if (isnan(x) != isnan(y)) return isnan(y);
    if (x > y || x < y) return x > y;
    return i < j;
}

static __device__ int64_t better(Floats x, int64_t i, int64_t j)
{
    if (i < 0 || j < 0) return i < 0 ? j : i;
    return comes_before(x[i], i, x[j], j) ? i : j;
}

/* The first element that comes after element `last` (-1: of all). */
static __device__ int64_t next_in_order(Floats x, int64_t n, int64_t last)
{
    int64_t best = -1;
    for (int64_t i = threadIdx.x; i < n; i += WARP)
        if (last < 0 || comes_before(x[last], last, x[i], i)) best = better(x, best, i);
    for (int step = WARP / 2; step > 0; step /= 2)
        best = better(x, best, __shfl_xor_sync(~0u, best, step));
    return best;
}

static __global__ void top_k(int64_t rows, int64_t n, int64_t k, Floats x, Results values,
                             int32_t *index)
{
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.y, chosen = -1;
    if (row >= rows) return;
    x = x + row * n;
    for (int64_t j = 0; j < k; j++) {
        chosen = next_in_order(x, n, chosen);
        if (threadIdx.x > 0) continue;
        if (values) values.put(row * k + j, x[chosen]);
        if (index) index[row * k + j] = (int32_t)chosen;
    }
}

static lmoe_status launch_top_k(const lmoe_args *a)
{
    const lmoe_buf *x = &a->in[0];
    int64_t n = x->dim[x->rank - 1], rows = lmoe_buf_count(x) / n;
    top_k<<<blocks(rows, ROWS), dim3(WARP, ROWS), 0, stream_of(a)>>>(
        rows, n, ((const lmoe_top_k_attrs *)a->attrs)->k, floats(a, 0), results(a, 0),
        output<int32_t>(a, 1));
    return cuda_launched(a);
}

CUDA_KERNEL(top_k, 1, cuda_floats, NULL, launch_top_k)

/* ---- gather_last, scatter_last: a thread an element of the result ---- */

static __global__ void gather(int64_t slots, int64_t n, int64_t k, Floats x, const int32_t *index,
                              Results y)
{
    int64_t slot = item();
    if (slot >= slots) return;
    int64_t i = index[slot];
    y.put(slot, i >= 0 && i < n ? x[slot / k * n + i] : 0.0f);
}

static __global__ void scatter(int64_t count, int64_t n, int64_t k, Floats x, const int32_t *index,
                               Results y)
{
    int64_t at = item(), row = at / n, i = at % n;
    if (at >= count) return;
    float sum = 0;
    for (int64_t slot = row * k; slot < (row + 1) * k; slot++)
        if (index[slot] == i) sum += x[slot];
    y.put(at, sum);
}

static lmoe_status launch_gather(const lmoe_args *a)
{
    const lmoe_buf *x = &a->in[0], *index = &a->in[1];
    int64_t slots = lmoe_buf_count(index);
    gather<<<blocks(slots, THREADS), THREADS, 0, stream_of(a)>>>(
        slots, x->dim[x->rank - 1], index->dim[index->rank - 1], floats(a, 0), input<int32_t>(a, 1),
        results(a, 0));
    return cuda_launched(a);
}

static lmoe_status launch_scatter(const lmoe_args *a)
{
    const lmoe_buf *index = &a->in[1], *y = &a->out[0];
    int64_t count = lmoe_buf_count(y);
    scatter<<<blocks(count, THREADS), THREADS, 0, stream_of(a)>>>(
        count, y->dim[y->rank - 1], index->dim[index->rank - 1], floats(a, 0), input<int32_t>(a, 1),
        results(a, 0));
    return cuda_launched(a);
}

CUDA_KERNEL(gather_last, 1, cuda_floats, NULL, launch_gather)
CUDA_KERNEL(scatter_last, 1, cuda_floats, NULL, launch_scatter)

/* ---- histogram: a block a number ---- */

static __global__ void count(int64_t slots, const int32_t *index, Results y)
{
    int64_t n = 0;
#pragma unroll 8
    for (int64_t i = threadIdx.x; i < slots; i += 1024) n += index[i] == (int32_t)blockIdx.x;
    n = block_sum(n);
    if (threadIdx.x == 0) y.put(blockIdx.x, (float)n);
}

static lmoe_status launch_histogram(const lmoe_args *a)
{
    int64_t n = ((const lmoe_histogram_attrs *)a->attrs)->n;
    count<<<(unsigned)n, 1024, 0, stream_of(a)>>>(lmoe_buf_count(&a->in[0]), input<int32_t>(a, 0),
                                                  results(a, 0));
    return cuda_launched(a);
}

CUDA_KERNEL(histogram, 1, cuda_floats, NULL, launch_histogram)
