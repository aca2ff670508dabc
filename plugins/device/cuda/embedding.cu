/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/embedding.cu: embedding/1 and its derivative. In the derivative a block
 * belongs to a token: the first one of each id adds up the rows of all tokens of that id, in their
 * order, and the others have nothing to do.
 */
#include "kernel.cuh"

struct Table {
    int64_t tokens, rows, width;
    const int32_t *ids;
};

static __global__ void lookup(Table t, Floats table, Results y)
{
    int64_t token = blockIdx.x, id = t.ids[token];
    bool inside = id >= 0 && id < t.rows;
    for (int64_t e = threadIdx.x; e < t.width; e += blockDim.x)
        y.put(token * t.width + e, inside ? table[id * t.width + e] : 0.0f);
}

/* Does any of the ids begin ... end-1 equal this one? The whole block asks. */
static __device__ bool occurs(const int32_t *ids, int64_t begin, int64_t end, int32_t id)
{
    for (int64_t first = begin; first < end; first += blockDim.x) {
        int64_t i = first + threadIdx.x;
        if (__syncthreads_or(i < end && ids[i] == id)) return true;
    }
    return false;
}

/* Columns first ... first + THREADS - 1 of the table's row. */
static __device__ void add_rows(const Table &t, int64_t token, int64_t first, Floats dy,
                                Results row)
{
    __shared__ int32_t ids[THREADS];
    int64_t e = first + threadIdx.x;
    int32_t id = t.ids[token];
    float sum = 0;
    for (int64_t from = token; from < t.tokens; from += THREADS) {
        int n = (int)min((int64_t)THREADS, t.tokens - from);
        __syncthreads();
        if (threadIdx.x < n) ids[threadIdx.x] = t.ids[from + threadIdx.x];
        __syncthreads();
        for (int i = 0; i < n; i++)
            if (ids[i] == id && e < t.width) sum += dy[(from + i) * t.width + e];
    }
    if (e < t.width) row.put(e, sum);
}

static __global__ void gather_rows(Table t, Floats dy, Results dtable)
{
    int64_t token = blockIdx.x;
    int32_t id = t.ids[token];
    if (id < 0 || id >= t.rows || occurs(t.ids, 0, token, id)) return;
    for (int64_t first = 0; first < t.width; first += THREADS)
        add_rows(t, token, first, dy, dtable + id * t.width);
}

static int can(const lmoe_args *a)
{
    return cuda_floats(a) && a->in[1].dtype == LMOE_I32;
}

static lmoe_status launch(const lmoe_args *a)
{
    const lmoe_buf *table = &a->in[0];
    Table t = {lmoe_buf_count(&a->in[1]), table->dim[0], table->dim[1], input<int32_t>(a, 1)};
    lookup<<<(unsigned)t.tokens, THREADS, 0, stream_of(a)>>>(t, floats(a, 0), results(a, 0));
    return cuda_launched(a);
}

static int can_grad(const lmoe_args *a)
{
    return cuda_floats(a) && a->in[0].dtype == LMOE_I32;
}

static lmoe_status launch_grad(const lmoe_args *a)
{
    const lmoe_buf *dtable = &a->out[0];
    Table t = {lmoe_buf_count(&a->in[0]), dtable->dim[0], dtable->dim[1], input<int32_t>(a, 0)};
    Results to = results(a, 0);
    size_t bytes = (size_t)lmoe_buf_count(dtable) * lmoe_dtype_bytes(dtable->dtype);
    cudaMemsetAsync(to.data, 0, bytes, stream_of(a));
    gather_rows<<<(unsigned)t.tokens, THREADS, 0, stream_of(a)>>>(t, floats(a, 1), to);
    return cuda_launched(a);
}

CUDA_KERNEL(embedding, 1, can, NULL, launch)
CUDA_KERNEL(embedding_grad, 1, can_grad, NULL, launch_grad)
