/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/rmsnorm.cu: rmsnorm/1 and its derivative; a warp does a row.
 *
 *   r = 1 / sqrt(mean(x^2) + eps), n = x r, s = silu(gate)       y = n weight s
 *   dx = r (d - n mean(d n)) with d = dy weight s     dgate = dy n weight silu'(gate)
 *   dweight = sum over rows of dy n s
 *
 * The two terms of dx nearly cancel in short rows, so rows are worked on in double. For dweight,
 * rows are cut into parts by their number alone, whose sums are then added up in order.
 */
#include "kernel.cuh"

enum { X, WEIGHT, GATE, DY };
enum { MOST_PARTS = 128, PART_ROWS = 64 };

struct Norm {
    int64_t rows, width;
    double eps;
    const float *x, *weight, *gate, *dy;
};

static __device__ double scale_of(const Norm &w, const float *x)
{
    double sum = 0;
    for (int64_t i = threadIdx.x; i < w.width; i += WARP) sum += (double)x[i] * x[i];
    return rsqrt(warp_sum(sum) / (double)w.width + w.eps);
}

static __global__ void normalise(Norm w, float *y)
{
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.y, at = row * w.width;
    if (row >= w.rows) return;
    float r = (float)scale_of(w, w.x + at);
    for (int64_t i = threadIdx.x; i < w.width; i += WARP) {
        float n = w.x[at + i] * r;
        if (w.weight) n *= w.weight[i];
        if (w.gate) n *= silu(w.gate[at + i]);
        y[at + i] = n;
    }
}

/* dx, dgate (NULL: not wanted), and r of every row. */
static __global__ void row_grad(Norm w, float *dx, float *dgate, float *scale)
{
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.y, at = row * w.width;
    if (row >= w.rows) return;
    double r = scale_of(w, w.x + at), sum = 0;
    if (threadIdx.x == 0) scale[row] = (float)r;
    for (int64_t i = threadIdx.x; i < w.width; i += WARP) {
        double n = w.x[at + i] * r, d = w.dy[at + i];
        if (w.weight) d *= w.weight[i];
        if (w.gate) {
            float g = w.gate[at + i];
            if (dgate) dgate[at + i] = (float)(d * n) * silu_slope(g);
            d *= silu(g);
        }
        sum += d * n;
    }
    if (!dx) return;
    double mean = warp_sum(sum) / (double)w.width;
    for (int64_t i = threadIdx.x; i < w.width; i += WARP) {
        double d = w.dy[at + i];
        if (w.weight) d *= w.weight[i];
        if (w.gate) d *= silu(w.gate[at + i]);
        dx[at + i] = (float)(r * (d - w.x[at + i] * r * mean));
    }
}

/* partial: (part, width). A block does 32 columns of a part. */
static __global__ void weight_grad(Norm w, const float *scale, int64_t part_rows, float *partial)
{
    __shared__ float sums[ROWS][WARP];
    int64_t column = (int64_t)blockIdx.x * WARP + threadIdx.x;
    int64_t begin = blockIdx.y * part_rows, end = min(w.rows, begin + part_rows);
    float sum = 0;
    for (int64_t row = begin + threadIdx.y; row < end && column < w.width; row += ROWS) {
        int64_t at = row * w.width + column;
        float d = w.dy[at] * w.x[at] * scale[row];
        sum += w.gate ? d * silu(w.gate[at]) : d;
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || column >= w.width) return;
    for (int i = 1; i < ROWS; i++) sum += sums[i][threadIdx.x];
    partial[blockIdx.y * w.width + column] = sum;
}

static Norm describe(const lmoe_args *a)
{
    const lmoe_buf *x = &a->in[X];
    Norm w = {0,
              x->rank > 0 ? x->dim[x->rank - 1] : 1,
              ((const lmoe_rmsnorm_attrs *)a->attrs)->eps,
              input<float>(a, X),
              input<float>(a, WEIGHT),
              input<float>(a, GATE),
              input<float>(a, DY)};
    w.rows = lmoe_buf_count(x) / w.width;
    return w;
}

static lmoe_status launch(const lmoe_args *a)
{
    Norm w = describe(a);
    normalise<<<blocks(w.rows, ROWS), dim3(WARP, ROWS), 0, stream_of(a)>>>(w, output<float>(a, 0));
    return cuda_launched(a);
}

static int64_t part_rows_of(int64_t rows)
{
    return cuda_max(PART_ROWS, cuda_pieces(rows, MOST_PARTS));
}

static size_t grad_workspace(const lmoe_args *a)
{
    Norm w = describe(a);
    return cuda_words(w.rows) + cuda_words(cuda_pieces(w.rows, part_rows_of(w.rows)) * w.width);
}

static lmoe_status launch_grad(const lmoe_args *a)
{
    Norm w = describe(a);
    char *cursor = (char *)a->workspace;
    float *scale = (float *)cuda_take(&cursor, w.rows), *partial = (float *)cursor;
    float *dweight = output<float>(a, 1);
    int64_t part_rows = part_rows_of(w.rows), parts = cuda_pieces(w.rows, part_rows);
    dim3 block(WARP, ROWS);
    row_grad<<<blocks(w.rows, ROWS), block, 0, stream_of(a)>>>(w, output<float>(a, 0),
                                                               output<float>(a, 2), scale);
    if (dweight) {
        dim3 grid(blocks(w.width, WARP), (unsigned)parts);
        weight_grad<<<grid, block, 0, stream_of(a)>>>(w, scale, part_rows, partial);
        cuda_add_parts(stream_of(a), partial, parts, w.width, dweight);
    }
    return cuda_launched(a);
}

CUDA_KERNEL(rmsnorm, 1, cuda_all_f32, NULL, launch)
CUDA_KERNEL(rmsnorm_grad, 1, cuda_all_f32, grad_workspace, launch_grad)
