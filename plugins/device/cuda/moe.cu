/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/moe.cu: tokens to rows grouped by expert, and back: moe_sort/1, moe_gather/1,
 * moe_combine/1, moe_combine_grad/1.
 */
#include "kernel.cuh"

/* ---- moe_sort, by counting: slots come in chunks. counts: (chunk, expert); first it says how
 * often an expert occurs in the chunk, then which row the first of these gets. ---- */

enum { CHUNK = THREADS };

struct Sort {
    int64_t slots, experts, chunks;
    const int32_t *index;
    int32_t *counts, *order, *offsets, *position; /* the last three may be NULL */
};

/* The chunk's slots into shared memory; a router's expert is one of 0 ... experts - 1, and what is
 * not must not write elsewhere. */
static __device__ int load_chunk(const Sort &s, int32_t *expert)
{
    int64_t first = (int64_t)blockIdx.x * CHUNK;
    int n = (int)min((int64_t)CHUNK, s.slots - first);
    if (threadIdx.x < n)
        expert[threadIdx.x] = max(0, min(s.index[first + threadIdx.x], (int32_t)s.experts - 1));
    __syncthreads();
    return n;
}

static __global__ void count_chunks(Sort s)
{
    __shared__ int32_t expert[CHUNK];
    int n = load_chunk(s, expert);
    for (int64_t x = threadIdx.x; x < s.experts; x += CHUNK) {
        int32_t count = 0;
        for (int i = 0; i < n; i++) count += expert[i] == x;
        s.counts[blockIdx.x * s.experts + x] = count;
    }
}

/* The sum of what the threads before this one have; *all: of all threads of the block. */
static __device__ int32_t sum_before(int32_t x, int32_t *all)
{
    __shared__ int32_t sums[THREADS];
    int32_t sum = x;
    for (int step = 1; step < THREADS; step *= 2) {
        sums[threadIdx.x] = sum;
        __syncthreads();
        if ((int)threadIdx.x >= step) sum += sums[threadIdx.x - step];
        __syncthreads();
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    *all = sums[THREADS - 1];
    __syncthreads();
    return sum - x;
}

/* One block: experts in turn, a thread each. */
static __global__ void place_chunks(Sort s)
{
    int32_t begin = 0;
    for (int64_t first = 0; first < s.experts; first += THREADS) {
        int64_t x = first + threadIdx.x;
        int32_t rows = 0, all;
        for (int64_t c = 0; c < s.chunks && x < s.experts; c++) rows += s.counts[c * s.experts + x];
        int32_t row = begin + sum_before(rows, &all);
        if (x < s.experts && s.offsets) s.offsets[x] = row;
        for (int64_t c = 0; c < s.chunks && x < s.experts; c++) {
            int32_t n = s.counts[c * s.experts + x];
            s.counts[c * s.experts + x] = row;
            row += n;
        }
        begin += all;
    }
    if (threadIdx.x == 0 && s.offsets) s.offsets[s.experts] = begin;
}

static __global__ void place_slots(Sort s)
{
    __shared__ int32_t expert[CHUNK];
    int n = load_chunk(s, expert);
    if (threadIdx.x >= n) return;
    int32_t x = expert[threadIdx.x], row = s.counts[blockIdx.x * s.experts + x];
    for (int i = 0; i < threadIdx.x; i++) row += expert[i] == x;
    int64_t slot = (int64_t)blockIdx.x * CHUNK + threadIdx.x;
    if (s.order) s.order[row] = (int32_t)slot;
    if (s.position) s.position[slot] = row;
}

static int can_sort(const lmoe_args *a)
{
    return a->in[0].dtype == LMOE_I32;
}

static size_t sort_workspace(const lmoe_args *a)
{
    int64_t experts = ((const lmoe_moe_sort_attrs *)a->attrs)->experts;
    return cuda_words(cuda_pieces(lmoe_buf_count(&a->in[0]), CHUNK) * experts);
}

static lmoe_status launch_sort(const lmoe_args *a)
{
    Sort s = {lmoe_buf_count(&a->in[0]), ((const lmoe_moe_sort_attrs *)a->attrs)->experts};
    s.chunks = cuda_pieces(s.slots, CHUNK);
    s.index = input<int32_t>(a, 0);
    s.counts = (int32_t *)a->workspace;
    s.order = output<int32_t>(a, 0);
    s.offsets = output<int32_t>(a, 1);
    s.position = output<int32_t>(a, 2);
    count_chunks<<<(unsigned)s.chunks, CHUNK, 0, stream_of(a)>>>(s);
    place_chunks<<<1, THREADS, 0, stream_of(a)>>>(s);
    place_slots<<<(unsigned)s.chunks, CHUNK, 0, stream_of(a)>>>(s);
    return cuda_launched(a);
}

CUDA_KERNEL(moe_sort, 1, can_sort, sort_workspace, launch_sort)

/* ---- moe_gather: a warp a row ---- */

static __global__ void gather(int64_t rows, int64_t choice, int64_t embed, const float *x,
                              const int32_t *order, float *to)
{
    int64_t r = (int64_t)blockIdx.x * ROWS + threadIdx.y;
    if (r >= rows) return;
    const float *from = x + order[r] / choice * embed;
    for (int64_t e = threadIdx.x; e < embed; e += WARP) to[r * embed + e] = from[e];
}

static lmoe_status launch_gather(const lmoe_args *a)
{
    int64_t rows = a->in[1].dim[0];
    gather<<<blocks(rows, ROWS), dim3(WARP, ROWS), 0, stream_of(a)>>>(
        rows, a->in[2].dim[2], a->in[0].dim[2], input<float>(a, 0), input<int32_t>(a, 1),
        output<float>(a, 0));
    return cuda_launched(a);
}

CUDA_KERNEL(moe_gather, 1, cuda_all_f32, NULL, launch_gather)

/* ---- moe_combine: a warp a token ---- */

static __global__ void combine(int64_t tokens, int64_t choice, int64_t embed, const float *rows,
                               const int32_t *position, const float *weight, float *y)
{
    int64_t token = (int64_t)blockIdx.x * ROWS + threadIdx.y;
    if (token >= tokens) return;
    for (int64_t e = threadIdx.x; e < embed; e += WARP) {
        float sum = 0;
        for (int64_t slot = token * choice; slot < (token + 1) * choice; slot++)
            sum += (weight ? weight[slot] : 1.0f) * rows[position[slot] * embed + e];
        y[token * embed + e] = sum;
    }
}

static lmoe_status launch_combine(const lmoe_args *a)
{
    const lmoe_buf *position = &a->in[2];
    int64_t tokens = position->dim[0] * position->dim[1];
    combine<<<blocks(tokens, ROWS), dim3(WARP, ROWS), 0, stream_of(a)>>>(
        tokens, position->dim[2], a->in[0].dim[1], input<float>(a, 0), input<int32_t>(a, 2),
        input<float>(a, 3), output<float>(a, 0));
    return cuda_launched(a);
}

CUDA_KERNEL(moe_combine, 1, cuda_all_f32, NULL, launch_combine)

/* ---- moe_combine_grad: a warp a slot; drows and dweight may each be NULL ---- */

static __global__ void combine_grad(int64_t slots, int64_t choice, int64_t embed, const float *rows,
                                    const int32_t *position, const float *weight, const float *dy,
                                    float *drows, float *dweight)
{
    int64_t slot = (int64_t)blockIdx.x * ROWS + threadIdx.y;
    if (slot >= slots) return;
    int64_t row = position[slot] * embed, token = slot / choice * embed;
    float sum = 0, scale = weight[slot];
    for (int64_t e = threadIdx.x; e < embed; e += WARP) {
        float d = dy[token + e];
        sum += rows[row + e] * d;
        if (drows) drows[row + e] = scale * d;
    }
    sum = warp_sum(sum);
    if (dweight && threadIdx.x == 0) dweight[slot] = sum;
}

static lmoe_status launch_combine_grad(const lmoe_args *a)
{
    const lmoe_buf *position = &a->in[2];
    int64_t slots = lmoe_buf_count(position);
    combine_grad<<<blocks(slots, ROWS), dim3(WARP, ROWS), 0, stream_of(a)>>>(
        slots, position->dim[2], a->in[0].dim[1], input<float>(a, 0), input<int32_t>(a, 2),
        input<float>(a, 3), input<float>(a, 4), output<float>(a, 0), output<float>(a, 1));
    return cuda_launched(a);
}

CUDA_KERNEL(moe_combine_grad, 1, cuda_all_f32, NULL, launch_combine_grad)
