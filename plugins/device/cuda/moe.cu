/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/moe.cu: tokens to rows grouped by expert, and back: moe_sort/1, moe_gather/1,
 * moe_weight/1, moe_combine/1 and their derivatives. Below 0, order and position lead to nothing,
 * which counts as zero.
 */
#include "kernel.cuh"

/* ---- moe_sort, by counting: slots come in chunks. counts: (chunk, expert); first it says how
 * often an expert occurs in the chunk, then which row the first of these gets. ---- */

enum { CHUNK = THREADS };

struct Sort {
    int64_t slots, experts, chunks, rows;
    const int32_t *index;
    int32_t *counts, *order, *offsets, *position; /* the last three may be NULL */
};

/* The chunk's slots into shared memory: below 0 without an expert. Others than 0 ... experts - 1
 * must not write elsewhere. */
static __device__ int load_chunk(const Sort &s, int32_t *expert)
{
    int64_t first = (int64_t)blockIdx.x * CHUNK;
    int n = (int)min((int64_t)CHUNK, s.slots - first);
    if (threadIdx.x < n)
        expert[threadIdx.x] = min(s.index[first + threadIdx.x], (int32_t)s.experts - 1);
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
    int32_t x = expert[threadIdx.x], row = x < 0 ? -1 : s.counts[blockIdx.x * s.experts + x];
    for (int i = 0; x >= 0 && i < threadIdx.x; i++) row += expert[i] == x;
    int64_t slot = (int64_t)blockIdx.x * CHUNK + threadIdx.x;
    if (row >= s.rows) row = -1; /* more than the capacity promised */
    if (s.order && row >= 0) s.order[row] = (int32_t)slot;
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
    s.rows = lmoe_buf_present(&a->out[0]) ? a->out[0].dim[0] : s.slots;
    s.index = input<int32_t>(a, 0);
    s.counts = (int32_t *)a->workspace;
    s.order = output<int32_t>(a, 0);
    s.offsets = output<int32_t>(a, 1);
    s.position = output<int32_t>(a, 2);
    if (s.order) cudaMemsetAsync(s.order, 0xff, (size_t)s.rows * sizeof *s.order, stream_of(a));
    count_chunks<<<(unsigned)s.chunks, CHUNK, 0, stream_of(a)>>>(s);
    place_chunks<<<1, THREADS, 0, stream_of(a)>>>(s);
    place_slots<<<(unsigned)s.chunks, CHUNK, 0, stream_of(a)>>>(s);
    return cuda_launched(a);
}

CUDA_KERNEL(moe_sort, 1, can_sort, sort_workspace, launch_sort)

/* ---- moe_gather: a warp a row ---- */

enum { STEP = WARP * PACK, FEW = 4 };

static __device__ int left(int64_t embed, int64_t e)
{
    return (int)min((int64_t)PACK, embed - e);
}

template <class In, class Out>
static __global__ void gather(int64_t rows, int64_t choice, int64_t embed, In x,
                              const int32_t *order, Out to)
{
    int64_t r = (int64_t)blockIdx.x * ROWS + threadIdx.y;
    if (r >= rows) return;
    int32_t slot = order[r];
    int64_t from = max(slot, 0) / (int)choice * embed;
    for (int64_t e = threadIdx.x * PACK; e < embed; e += FEW * STEP) {
        Pack p[FEW] = {}; /* several loads before the first is waited for */
#pragma unroll
        for (int i = 0; i < FEW; i++)
            if (e + i * STEP < embed && slot >= 0)
                p[i] = x.pack(from + e + i * STEP, left(embed, e + i * STEP));
#pragma unroll
        for (int i = 0; i < FEW; i++)
            if (e + i * STEP < embed)
                to.pack(r * embed + e + i * STEP, left(embed, e + i * STEP), p[i]);
    }
}

template <class Type> static lmoe_status run_gather(const lmoe_args *a)
{
    int64_t rows = a->in[1].dim[0];
    gather<<<blocks(rows, ROWS), dim3(WARP, ROWS), 0, stream_of(a)>>>(
        rows, a->in[2].dim[2], a->in[0].dim[2], in_of<Type>(a, 0), input<int32_t>(a, 1),
        out_of<Type>(a, 0));
    return cuda_launched(a);
}

static lmoe_status launch_gather(const lmoe_args *a)
{
    return LAUNCH_BY_TYPE(a, a->in[0].dim[2], run_gather);
}

CUDA_KERNEL(moe_gather, 1, cuda_floats, NULL, launch_gather)

/* ---- moe_combine: a warp a token ---- */

template <class In, class Out>
static __global__ void combine(int64_t tokens, int64_t choice, int64_t embed, In rows,
                               const int32_t *position, Floats weight, Out y)
{
    int64_t token = (int64_t)blockIdx.x * ROWS + threadIdx.y;
    if (token >= tokens) return;
    for (int64_t e = threadIdx.x * PACK; e < embed; e += STEP) {
        Pack sum = {};
        for (int64_t slot = token * choice; slot < (token + 1) * choice; slot += FEW) {
            Pack row[FEW] = {};
            float scale[FEW] = {};
#pragma unroll
            for (int i = 0; i < FEW; i++) {
                bool there = slot + i < (token + 1) * choice;
                int64_t r = there ? position[slot + i] : -1;
                if (r >= 0) row[i] = rows.pack(r * embed + e, left(embed, e));
                if (r >= 0) scale[i] = weight ? weight[slot + i] : 1.0f;
            }
#pragma unroll
            for (int i = 0; i < FEW; i++)
                for (int k = 0; k < PACK; k++) sum.x[k] += scale[i] * row[i].x[k];
        }
        y.pack(token * embed + e, left(embed, e), sum);
    }
}

template <class Type> static lmoe_status run_combine(const lmoe_args *a)
{
    const lmoe_buf *position = &a->in[2];
    int64_t tokens = position->dim[0] * position->dim[1];
    combine<<<blocks(tokens, ROWS), dim3(WARP, ROWS), 0, stream_of(a)>>>(
        tokens, position->dim[2], a->in[0].dim[1], in_of<Type>(a, 0), input<int32_t>(a, 2),
        floats(a, 3), out_of<Type>(a, 0));
    return cuda_launched(a);
}

/* The weight is f32 beside rows of either kind. */
static lmoe_status launch_combine(const lmoe_args *a)
{
    bool packs = a->in[0].dim[1] % PACK == 0;
    if (packs && cuda_is_bf16(&a->in[0]) && cuda_is_bf16(&a->out[0]))
        return run_combine<NarrowType>(a);
    if (packs && cuda_is_f32(&a->in[0]) && cuda_is_f32(&a->out[0])) return run_combine<WideType>(a);
    return run_combine<AnyType>(a);
}

CUDA_KERNEL(moe_combine, 1, cuda_floats, NULL, launch_combine)

/* ---- moe_combine_grad: a warp a row for drows, a warp a slot for dweight ---- */

static __global__ void combine_grad_rows(int64_t rows, int64_t choice, int64_t embed,
                                         const int32_t *order, Floats weight, Floats dy,
                                         Results drows)
{
    int64_t r = (int64_t)blockIdx.x * ROWS + threadIdx.y;
    if (r >= rows) return;
    int32_t slot = max(order[r], 0);
    int64_t token = slot / (int)choice * embed;
    float scale = order[r] < 0 ? 0.0f : weight[slot];
    for (int64_t e = threadIdx.x * PACK; e < embed; e += STEP) {
        Pack d = dy.pack(token + e, left(embed, e));
        for (int k = 0; k < PACK; k++) d.x[k] *= scale;
        drows.pack(r * embed + e, left(embed, e), d);
    }
}

static __global__ void combine_grad_weight(int64_t slots, int64_t choice, int64_t embed,
                                           Floats rows, const int32_t *position, Floats dy,
                                           Results dweight)
{
    int64_t slot = (int64_t)blockIdx.x * ROWS + threadIdx.y;
    if (slot >= slots) return;
    int64_t row = (int64_t)max(position[slot], 0) * embed, token = slot / choice * embed;
    float sum = 0;
    for (int64_t e = threadIdx.x * PACK; e < embed; e += STEP) {
        Pack x = rows.pack(row + e, left(embed, e)), d = dy.pack(token + e, left(embed, e));
        for (int k = 0; k < PACK; k++) sum += x.x[k] * d.x[k];
    }
    sum = warp_sum(sum);
    if (threadIdx.x == 0) dweight.put(slot, position[slot] < 0 ? 0.0f : sum);
}

static lmoe_status launch_combine_grad(const lmoe_args *a)
{
    const lmoe_buf *position = &a->in[2];
    int64_t slots = lmoe_buf_count(position), rows = a->in[0].dim[0];
    int64_t choice = position->dim[2], embed = a->in[0].dim[1];
    dim3 block(WARP, ROWS);
    if (results(a, 0))
        combine_grad_rows<<<blocks(rows, ROWS), block, 0, stream_of(a)>>>(
            rows, choice, embed, input<int32_t>(a, 1), floats(a, 3), floats(a, 4), results(a, 0));
    if (results(a, 1))
        combine_grad_weight<<<blocks(slots, ROWS), block, 0, stream_of(a)>>>(
            slots, choice, embed, floats(a, 0), input<int32_t>(a, 2), floats(a, 4), results(a, 1));
    return cuda_launched(a);
}

CUDA_KERNEL(moe_combine_grad, 1, cuda_floats, NULL, launch_combine_grad)

/* ---- moe_weight: slots to rows; moe_weight_grad: rows to slots ---- */

static __global__ void pick(int64_t n, Floats x, const int32_t *from, Results y)
{
    int64_t i = item();
    if (i < n) y.put(i, from[i] < 0 ? 0.0f : x[from[i]]);
}

static lmoe_status launch_pick(const lmoe_args *a)
{
    int64_t n = lmoe_buf_count(&a->out[0]);
    const int32_t *from = input<int32_t>(a, a->out[0].rank == 1 ? 1 : 2);
    pick<<<blocks(n, THREADS), THREADS, 0, stream_of(a)>>>(n, floats(a, 0), from, results(a, 0));
    return cuda_launched(a);
}

CUDA_KERNEL(moe_weight, 1, cuda_floats, NULL, launch_pick)
CUDA_KERNEL(moe_weight_grad, 1, cuda_floats, NULL, launch_pick)
