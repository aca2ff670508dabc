/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/grouped.cu: grouped_linear/1 and grouped_weight_grad/1: products of rows
 * grouped by expert, in tiles of 64 x 64 of the result.
 *
 * Where groups begin is known to the device alone. So the grid has room for the most row tiles that
 * any grouping needs, one for each group more than the rows fill, and a block finds its group by
 * the offsets. Rows past the last offset are a group of their own: their results are zero.
 */
#include "kernel.cuh"

/* A thread has SIDE x SIDE results. */
enum { TILE = 64, DEPTH = 16, SIDE = 4, ACROSS = TILE / SIDE };

/* ---- a tile of a product: result (TILE, TILE) += left (TILE, depth) right (depth, TILE) ---- */

struct Operands {
    float left[DEPTH][TILE + 4], right[DEPTH][TILE + 4]; /* both by depth first */
};

/* x: element (i, k) at x[i * step_i + k * step_k], zero from `rows` and `depth` on. Neighbouring
 * threads read neighbours: along k if its step is 1, else along i. */
static __device__ void load_tile(float (*to)[TILE + 4], Floats x, int64_t step_i, int64_t step_k,
                                 int64_t rows, int64_t depth)
{
    for (int at = threadIdx.x; at < TILE * DEPTH; at += THREADS) {
        int i = step_k == 1 ? at / DEPTH : at % TILE, k = step_k == 1 ? at % DEPTH : at / TILE;
        to[k][i] = i < rows && k < depth ? x[i * step_i + k * step_k] : 0.0f;
    }
}

static __device__ void multiply(const Operands &o, float sum[SIDE][SIDE])
{
    int row = threadIdx.x / ACROSS * SIDE, column = threadIdx.x % ACROSS * SIDE;
    for (int k = 0; k < DEPTH; k++) {
#pragma unroll
        for (int i = 0; i < SIDE; i++)
#pragma unroll
            for (int j = 0; j < SIDE; j++) sum[i][j] += o.left[k][row + i] * o.right[k][column + j];
    }
}

/* c: (rows, columns) of the tile that lie in the result, rows `pitch` apart. */
static __device__ void store_tile(Results c, int64_t pitch, int64_t rows, int64_t columns,
                                  float sum[SIDE][SIDE])
{
    int row = threadIdx.x / ACROSS * SIDE, column = threadIdx.x % ACROSS * SIDE;
#pragma unroll
    for (int i = 0; i < SIDE; i++)
#pragma unroll
        for (int j = 0; j < SIDE; j++)
            if (row + i < rows && column + j < columns)
                c.put((row + i) * pitch + column + j, sum[i][j]);
}

/* ---- grouped_linear ---- */

struct Linear {
    int64_t rows, experts, e, f;
    int transpose;
    Floats x, weight;
    const int32_t *offsets;
    Results y;
};

/* The group of row tile `tile`, and its rows begin ... end-1 that the tile has. Group `experts` is
 * what belongs to nobody; -1: there are fewer tiles. */
static __device__ int64_t find_group(const Linear &w, int64_t tile, int64_t *begin, int64_t *end)
{
    for (int64_t x = 0; x <= w.experts; x++) {
        int64_t from = w.offsets[x], to = x < w.experts ? w.offsets[x + 1] : w.rows;
        int64_t tiles = (to - from + TILE - 1) / TILE;
        if (tile < tiles) {
            *begin = from + tile * TILE;
            *end = min(to, *begin + TILE);
            return x;
        }
        tile -= tiles;
    }
    return -1;
}

/* Grid: (row tiles, column tiles). */
static __global__ void linear(Linear w)
{
    __shared__ Operands o;
    int64_t begin, end, x = find_group(w, blockIdx.x, &begin, &end);
    int64_t column = (int64_t)blockIdx.y * TILE, columns = w.f - column;
    float sum[SIDE][SIDE] = {};
    if (x < 0) return;
    int64_t step_e = w.transpose ? 1 : w.f, step_f = w.transpose ? w.e : 1;
    for (int64_t k = 0; k < w.e && x < w.experts; k += DEPTH) {
        Floats weight = w.weight + x * w.e * w.f + k * step_e + column * step_f;
        load_tile(o.left, w.x + begin * w.e + k, w.e, 1, end - begin, w.e - k);
        load_tile(o.right, weight, step_f, step_e, columns, w.e - k);
        __syncthreads();
        multiply(o, sum);
        __syncthreads();
    }
    store_tile(w.y + begin * w.f + column, w.f, end - begin, columns, sum);
}

static int can(const lmoe_args *a)
{
    return cuda_floats(a) && a->in[2].dtype == LMOE_I32;
}

static lmoe_status launch_linear(const lmoe_args *a)
{
    const lmoe_buf *rows = &a->in[0];
    Linear w = {rows->dim[0],
                a->in[1].dim[0],
                rows->dim[1],
                a->out[0].dim[1],
                ((const lmoe_grouped_attrs *)a->attrs)->transpose,
                floats(a, 0),
                floats(a, 1),
                input<int32_t>(a, 2),
                results(a, 0)};
    int64_t groups = cuda_min(w.experts + 1, w.rows); /* that are not empty */
    dim3 grid((unsigned)(w.rows / TILE + groups), blocks(w.f, TILE));
    linear<<<grid, THREADS, 0, stream_of(a)>>>(w);
    return cuda_launched(a);
}

CUDA_KERNEL(grouped_linear, 1, can, NULL, launch_linear)

/* ---- grouped_weight_grad: y_x = sum over the rows r of expert x of rows_r^T drows_r ---- */

/* Grid: (f tiles, e tiles, experts). */
static __global__ void weight_grad(int64_t e, int64_t f, Floats rows, Floats drows,
                                   const int32_t *offsets, Results y)
{
    __shared__ Operands o;
    int64_t row = (int64_t)blockIdx.y * TILE, column = (int64_t)blockIdx.x * TILE, x = blockIdx.z;
    int64_t end = offsets[x + 1];
    float sum[SIDE][SIDE] = {};
    for (int64_t r = offsets[x]; r < end; r += DEPTH) {
        load_tile(o.left, rows + r * e + row, 1, e, e - row, end - r);
        load_tile(o.right, drows + r * f + column, 1, f, f - column, end - r);
        __syncthreads();
        multiply(o, sum);
        __syncthreads();
    }
    store_tile(y + (x * e + row) * f + column, f, e - row, f - column, sum);
}

static lmoe_status launch_weight_grad(const lmoe_args *a)
{
    int64_t e = a->in[0].dim[1], f = a->in[1].dim[1], experts = a->out[0].dim[0];
    dim3 grid(blocks(f, TILE), blocks(e, TILE), (unsigned)experts);
    weight_grad<<<grid, THREADS, 0, stream_of(a)>>>(e, f, floats(a, 0), floats(a, 1),
                                                    input<int32_t>(a, 2), results(a, 0));
    return cuda_launched(a);
}

CUDA_KERNEL(grouped_weight_grad, 1, can, NULL, launch_weight_grad)
