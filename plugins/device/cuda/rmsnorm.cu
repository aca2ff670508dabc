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
enum {
    MOST_PARTS = 256,
    PART_ROWS = 64,
    STEP = WARP * PACK /* columns that a warp has at a time */
};

template <class Type> struct Norm {
    int64_t rows, width;
    double eps;
    typename Type::In x, weight, gate, dy;

    __device__ int left(int64_t i) const
    {
        return (int)min((int64_t)PACK, width - i);
    }
};

template <class Type> static __device__ double scale_of(const Norm<Type> &w, int64_t at)
{
    double sum = 0;
    for (int64_t i = threadIdx.x * PACK; i < w.width; i += STEP) {
        Pack x = w.x.pack(at + i, w.left(i));
        for (int k = 0; k < PACK; k++) sum += (double)x.x[k] * x.x[k];
    }
    return rsqrt(warp_sum(sum) / (double)w.width + w.eps);
}

template <class Type> static __global__ void normalise(Norm<Type> w, typename Type::Out y)
{
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.y, at = row * w.width;
    if (row >= w.rows) return;
    float r = (float)scale_of(w, at);
    for (int64_t i = threadIdx.x * PACK; i < w.width; i += STEP) {
        int n = w.left(i);
        Pack x = w.x.pack(at + i, n), z;
        for (int k = 0; k < PACK; k++) x.x[k] *= r;
        if (w.weight) {
            z = w.weight.pack(i, n);
            for (int k = 0; k < PACK; k++) x.x[k] *= z.x[k];
        }
        if (w.gate) {
            z = w.gate.pack(at + i, n);
            for (int k = 0; k < PACK; k++) x.x[k] *= silu(z.x[k]);
        }
        y.pack(at + i, n, x);
    }
}

/* d = dy weight s; gate: silu's operand, if there is one. */
template <class Type>
static __device__ Pack weighted(const Norm<Type> &w, int64_t at, int64_t i, const Pack *gate)
{
    Pack d = w.dy.pack(at + i, w.left(i));
    if (w.weight) {
        Pack z = w.weight.pack(i, w.left(i));
        for (int k = 0; k < PACK; k++) d.x[k] *= z.x[k];
    }
    if (gate)
        for (int k = 0; k < PACK; k++) d.x[k] *= silu(gate->x[k]);
    return d;
}

/* dx, dgate (absent: not wanted), and r of every row. */
template <class Type>
static __global__ void row_grad(Norm<Type> w, typename Type::Out dx, typename Type::Out dgate,
                                float *scale)
{
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.y, at = row * w.width;
    if (row >= w.rows) return;
    double r = scale_of(w, at), sum = 0;
    if (threadIdx.x == 0) scale[row] = (float)r;
    for (int64_t i = threadIdx.x * PACK; i < w.width; i += STEP) {
        int n = w.left(i);
        Pack x = w.x.pack(at + i, n), gate;
        if (w.gate) gate = w.gate.pack(at + i, n);
        if (dgate) {
            Pack d = weighted(w, at, i, NULL);
            for (int k = 0; k < PACK; k++) d.x[k] *= x.x[k] * (float)r * silu_slope(gate.x[k]);
            dgate.pack(at + i, n, d);
        }
        Pack d = weighted(w, at, i, w.gate ? &gate : NULL);
        for (int k = 0; k < PACK; k++) sum += (double)d.x[k] * (x.x[k] * r);
    }
    if (!dx) return;
    double mean = warp_sum(sum) / (double)w.width;
    for (int64_t i = threadIdx.x * PACK; i < w.width; i += STEP) {
        int n = w.left(i);
        Pack x = w.x.pack(at + i, n), gate;
        if (w.gate) gate = w.gate.pack(at + i, n);
        Pack d = weighted(w, at, i, w.gate ? &gate : NULL);
        for (int k = 0; k < PACK; k++) d.x[k] = (float)(r * (d.x[k] - x.x[k] * r * mean));
        dx.pack(at + i, n, d);
    }
}

/* partial: (part, width). A block does STEP columns of a part. */
template <class Type>
static __global__ void weight_grad(Norm<Type> w, const float *scale, int64_t part_rows,
                                   float *partial)
{
    __shared__ float sums[ROWS][STEP];
    int64_t column = (int64_t)blockIdx.x * STEP + threadIdx.x * PACK;
    int64_t begin = blockIdx.y * part_rows, end = min(w.rows, begin + part_rows);
    Pack sum = {};
    for (int64_t row = begin + threadIdx.y; row < end && column < w.width; row += ROWS) {
        int64_t at = row * w.width + column;
        int n = w.left(column);
        Pack x = w.x.pack(at, n), d = w.dy.pack(at, n), gate;
        float r = scale[row];
        if (w.gate) gate = w.gate.pack(at, n);
        for (int k = 0; k < PACK; k++)
            sum.x[k] += d.x[k] * x.x[k] * r * (w.gate ? silu(gate.x[k]) : 1.0f);
    }
    for (int k = 0; k < PACK; k++) sums[threadIdx.y][threadIdx.x * PACK + k] = sum.x[k];
    __syncthreads();
    int i = threadIdx.y * WARP + threadIdx.x;
    column = (int64_t)blockIdx.x * STEP + i;
    if (column >= w.width) return;
    float all = 0;
    for (int row = 0; row < ROWS; row++) all += sums[row][i];
    partial[blockIdx.y * w.width + column] = all;
}

template <class Type> static Norm<Type> describe(const lmoe_args *a)
{
    const lmoe_buf *x = &a->in[X];
    Norm<Type> w = {0,
                    x->rank > 0 ? x->dim[x->rank - 1] : 1,
                    ((const lmoe_rmsnorm_attrs *)a->attrs)->eps,
                    in_of<Type>(a, X),
                    in_of<Type>(a, WEIGHT),
                    in_of<Type>(a, GATE),
                    in_of<Type>(a, DY)};
    w.rows = lmoe_buf_count(x) / w.width;
    return w;
}

template <class Type> static lmoe_status run(const lmoe_args *a)
{
    Norm<Type> w = describe<Type>(a);
    normalise<Type>
        <<<blocks(w.rows, ROWS), dim3(WARP, ROWS), 0, stream_of(a)>>>(w, out_of<Type>(a, 0));
    return cuda_launched(a);
}

static int64_t part_rows_of(int64_t rows)
{
    return cuda_max(PART_ROWS, cuda_pieces(rows, MOST_PARTS));
}

static size_t grad_workspace(const lmoe_args *a)
{
    Norm<AnyType> w = describe<AnyType>(a);
    return cuda_words(w.rows) + cuda_words(cuda_pieces(w.rows, part_rows_of(w.rows)) * w.width);
}

template <class Type> static lmoe_status run_grad(const lmoe_args *a)
{
    Norm<Type> w = describe<Type>(a);
    char *cursor = (char *)a->workspace;
    float *scale = (float *)cuda_take(&cursor, w.rows), *partial = (float *)cursor;
    int64_t part_rows = part_rows_of(w.rows), parts = cuda_pieces(w.rows, part_rows);
    dim3 block(WARP, ROWS);
    row_grad<Type><<<blocks(w.rows, ROWS), block, 0, stream_of(a)>>>(w, out_of<Type>(a, 0),
                                                                     out_of<Type>(a, 2), scale);
    if (results(a, 1)) {
        dim3 grid(blocks(w.width, STEP), (unsigned)parts);
        weight_grad<Type><<<grid, block, 0, stream_of(a)>>>(w, scale, part_rows, partial);
        cuda_add_parts(stream_of(a), partial, parts, w.width, &a->out[1]);
    }
    return cuda_launched(a);
}

static int64_t width_of(const lmoe_args *a)
{
    const lmoe_buf *x = &a->in[X];
    return x->rank > 0 ? x->dim[x->rank - 1] : 1;
}

static lmoe_status launch(const lmoe_args *a)
{
    return LAUNCH_BY_TYPE(a, width_of(a), run);
}

static lmoe_status launch_grad(const lmoe_args *a)
{
    return LAUNCH_BY_TYPE(a, width_of(a), run_grad);
}

CUDA_KERNEL(rmsnorm, 1, cuda_floats, NULL, launch)
CUDA_KERNEL(rmsnorm_grad, 1, cuda_floats, grad_workspace, launch_grad)
