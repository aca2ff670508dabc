/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/grouped_tensor.cu: grouped_linear/1 and grouped_weight_grad/1 in bf16 on
 * Hopper's matrix units.
 *
 * A block stays on its multiprocessor and takes one tile of the result after another, 128 rows by
 * WIDTH columns. One warp of it asks the copy engine for slices of both operands, 64 of depth, into a
 * ring of STAGES; two groups of four warps multiply, 64 rows each. While these write a tile, the ring
 * fills with the next one's slices.
 *
 *   linear        y (row f) = x (row e) weight_x:    rows of a group, depth e
 *   weight_grad   y_x (e f) = x^T (e row) dy (row f):  rows e, depth the rows of group x
 *
 * Where groups begin is known to the device alone: blocks find their tiles by the offsets. The last
 * rows of a tile may belong to the next group; they are computed and not written. The last slice of
 * depth in weight_grad may, too: these lines of x are set to zero.
 */
#include "mma.cuh"
#include "wgmma.cuh"

enum { HEIGHT = 128, DEPTH = 64, STAGES = 4, GROUPS = 2, BLOCK_THREADS = 128 * (1 + GROUPS) };

enum Form { LINEAR, LINEAR_TRANSPOSED, WEIGHT_GRAD };

struct Grouped {
    int rows, experts, e, f; /* the result has f columns */
    const int32_t *offsets;
    bf16 *y;
};

/* A tile of the result. */
struct Tile {
    int expert, row, end,
        column;      /* rows row ... of the result's, of which those before end count */
    int first, last; /* depth, as the copy engine counts it */
};

/* The tiles of a block, in order. */
template <Form FORM, int WIDTH> struct Tiles {
    Grouped w;
    int across, next, expert, before, begin, end; /* the group at hand: tiles before, its rows */

    __device__ Tiles(const Grouped &g) : w(g)
    {
        across = (g.f + WIDTH - 1) / WIDTH;
        next = blockIdx.x;
        expert = -1;
        before = begin = end = 0;
    }
    __device__ int down() const
    {
        return ((FORM == WEIGHT_GRAD ? w.e : end - begin) + HEIGHT - 1) / HEIGHT;
    }
    /* Group `experts` of linear: what belongs to nobody, which is zero. */
    __device__ void enter(int x)
    {
        expert = x;
        begin = w.offsets[x];
        end = x < w.experts ? w.offsets[x + 1] : w.rows;
    }
    __device__ bool take(Tile *t)
    {
        const int groups = w.experts + (FORM != WEIGHT_GRAD);
        if (expert < 0) enter(0);
        while (next - before >= down() * across) {
            before += down() * across;
            if (expert + 1 >= groups) return false;
            enter(expert + 1);
        }
        int at = next - before, row = at % down() * HEIGHT;
        next += gridDim.x;
        t->expert = expert;
        t->column = at / down() * WIDTH;
        t->row = FORM == WEIGHT_GRAD ? row : begin + row;
        t->end = FORM == WEIGHT_GRAD ? w.e : end;
        t->first = FORM == WEIGHT_GRAD ? begin : 0;
        t->last = FORM == WEIGHT_GRAD ? end : expert < w.experts ? w.e : 0;
        return true;
    }
};

/* Blocks of 64 columns that a slice of the right operand has, and its bytes. */
template <Form FORM, int WIDTH> struct Slice {
    static const int RIGHT_BLOCKS = FORM == LINEAR_TRANSPOSED ? 0 : (WIDTH + 63) / 64;
    static const int LEFT = 2 * BLOCK_BYTES;
    static const int RIGHT = FORM == LINEAR_TRANSPOSED ? WIDTH * 128 : RIGHT_BLOCKS * BLOCK_BYTES;
    static const int BYTES = LEFT + RIGHT;
};

#if CUDA_HAS_WGMMA

struct Ring {
    char *data;
    uint64_t *full, *empty; /* of each stage */
    int stage;
    uint32_t phase;

    __device__ void step()
    {
        if (++stage == STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }
};

template <Form FORM, int WIDTH>
static __device__ void bring(Tiles<FORM, WIDTH> tiles, Ring ring, const CUtensorMap *left,
                             const CUtensorMap *right)
{
    typedef Slice<FORM, WIDTH> slice;
    Tile t;
    while (tiles.take(&t)) {
        for (int k = t.first; k < t.last; k += DEPTH, ring.step()) {
            uint64_t *full = &ring.full[ring.stage];
            char *a = ring.data + ring.stage * slice::BYTES, *b = a + slice::LEFT;
            barrier_wait(&ring.empty[ring.stage], ring.phase ^ 1);
            barrier_expect(full, slice::BYTES);
            if (FORM == WEIGHT_GRAD) {
                copy_box(a, left, full, t.row, k);
                copy_box(a + BLOCK_BYTES, left, full, t.row + 64, k);
            } else {
                copy_box(a, left, full, k, t.row);
            }
            if (FORM == LINEAR_TRANSPOSED) copy_box(b, right, full, k, t.column, t.expert);
            for (int i = 0; i < slice::RIGHT_BLOCKS; i++, b += BLOCK_BYTES) {
                if (FORM == LINEAR) copy_box(b, right, full, t.column + 64 * i, k, t.expert);
                if (FORM == WEIGHT_GRAD) copy_box(b, right, full, t.column + 64 * i, k);
            }
        }
    }
}

/* A group's 64 rows of a tile. */
template <int WIDTH>
static __device__ void write_tile(const Grouped &w, bf16 *y, int row, int end, int column,
                                  const float (&c)[WIDTH / 2])
{
    int lane = threadIdx.x % WARP;
    row += threadIdx.x % 128 / WARP * 16 + lane / 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int i = 0; i < WIDTH / 2; i += 16) {
            uint32_t u[4];
#pragma unroll
            for (int k = 0; k < 4; k++)
                u[k] = two(c[i + 4 * k + 2 * half], c[i + 4 * k + 2 * half + 1]);
            trade(u);
            int at = column + 2 * i + 8 * (lane & 3);
            if (row + 8 * half < end && at < w.f)
                *(uint4 *)(y + (int64_t)(row + 8 * half) * w.f + at) =
                    make_uint4(u[0], u[1], u[2], u[3]);
        }
    }
}

template <Form FORM, int WIDTH>
static __device__ void multiply(Tiles<FORM, WIDTH> tiles, Ring ring, int group)
{
    typedef Slice<FORM, WIDTH> slice;
    const bool A_BY_ROW = FORM == WEIGHT_GRAD, B_BY_ROW = FORM != LINEAR_TRANSPOSED;
    Tile t;
    while (tiles.take(&t)) {
        float c[WIDTH / 2];
#pragma unroll
        for (int i = 0; i < WIDTH / 2; i++) c[i] = 0;
        uint64_t *before = NULL; /* of the stage that the products under way read */
        for (int k = t.first; k < t.last; k += DEPTH, ring.step()) {
            char *left = ring.data + ring.stage * slice::BYTES + group * BLOCK_BYTES;
            char *right = ring.data + ring.stage * slice::BYTES + slice::LEFT;
            barrier_wait(&ring.full[ring.stage], ring.phase);
            if (FORM == WEIGHT_GRAD && t.last - k < DEPTH) {
                for (int i = (t.last - k) * 128 + threadIdx.x % 128 * 16; i < BLOCK_BYTES;
                     i += 128 * 16)
                    *(uint4 *)(left + i) = make_uint4(0, 0, 0, 0);
                fence_async();
                meet_group(1 + group);
            }
            uint64_t a = describe_operand(left), b = describe_operand(right);
            products_begin();
#pragma unroll
            for (int i = 0; i < DEPTH / 16; i++)
                Product<WIDTH, A_BY_ROW, B_BY_ROW>::add(c, a + i * depth_step<A_BY_ROW>(),
                                                        b + i * depth_step<B_BY_ROW>());
            products_commit();
            products_wait<1>();
            if (before && threadIdx.x % WARP == 0) barrier_arrive(before);
            before = &ring.empty[ring.stage];
        }
        products_wait<0>();
        if (before && threadIdx.x % WARP == 0) barrier_arrive(before);
        bf16 *y = tiles.w.y;
        if (FORM == WEIGHT_GRAD) y += (int64_t)t.expert * tiles.w.e * tiles.w.f;
        write_tile<WIDTH>(tiles.w, y, t.row + 64 * group, t.end, t.column, c);
    }
}

#endif

template <Form FORM, int WIDTH>
static __global__ void __launch_bounds__(BLOCK_THREADS, 1)
    grouped(Grouped w, const __grid_constant__ CUtensorMap left,
            const __grid_constant__ CUtensorMap right)
{
#if CUDA_HAS_WGMMA
    extern __shared__ __align__(1024) char shared[];
    __shared__ uint64_t full[STAGES], empty[STAGES];
    Ring ring = {(char *)(((uintptr_t)shared + 1023) & ~(uintptr_t)1023), full, empty, 0, 0};
    int group = threadIdx.x / 128;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&full[i], 1);
            barrier_init(&empty[i], 4 * GROUPS);
        }
        fence_async();
    }
    __syncthreads();
    Tiles<FORM, WIDTH> tiles(w);
    if (group == GROUPS) {
        give_registers<40>();
        if (threadIdx.x % 128 == 0) bring(tiles, ring, &left, &right);
    } else {
        take_registers<232>();
        multiply(tiles, ring, group);
    }
#endif
}

/* ---- the kernels ---- */

template <Form FORM, int WIDTH>
static lmoe_status run(const lmoe_args *a, const Grouped &w, cuda_box left, cuda_box right)
{
    CUtensorMap maps[2];
    right.box[FORM == LINEAR_TRANSPOSED] = FORM == LINEAR_TRANSPOSED ? WIDTH : 64;
    LMOE_TRY(cuda_tensor_map(a, &left, &maps[0]));
    LMOE_TRY(cuda_tensor_map(a, &right, &maps[1]));
    int bytes = STAGES * Slice<FORM, WIDTH>::BYTES + 1024;
    cudaFuncSetAttribute(grouped<FORM, WIDTH>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    grouped<FORM, WIDTH><<<(unsigned)cuda_multiprocessors(a), BLOCK_THREADS, bytes, stream_of(a)>>>(
        w, maps[0], maps[1]);
    return cuda_launched(a);
}

/* Of tiles so wide that the least of them lies outside of the result; narrow ones are slower. */
template <Form FORM>
static lmoe_status run_in_tiles(const lmoe_args *a, const Grouped &w, cuda_box left, cuda_box right)
{
    double cost[] = {(double)cuda_pieces(w.f, 256) * 256, (double)cuda_pieces(w.f, 224) * 226,
                     (double)cuda_pieces(w.f, 128) * 144};
    if (cost[0] <= cost[1] && cost[0] <= cost[2]) return run<FORM, 256>(a, w, left, right);
    if (cost[1] <= cost[2]) return run<FORM, 224>(a, w, left, right);
    return run<FORM, 128>(a, w, left, right);
}

/* The copy engine wants lines of a multiple of 16 bytes, and counts in 32 bits. */
static int can(const lmoe_args *a)
{
    for (int i = 0; i < 2; i++) {
        const lmoe_buf *b = &a->in[i];
        for (int d = 0; d < b->rank; d++)
            if (b->dim[d] > INT32_MAX || b->dim[d] < 1) return 0;
        if (!cuda_is_bf16(b) || b->dim[b->rank - 1] % 8 != 0) return 0;
    }
    const lmoe_buf *y = &a->out[0];
    return cuda_is_bf16(y) && y->dim[y->rank - 1] % 8 == 0 && a->in[2].dtype == LMOE_I32;
}

static lmoe_status launch_linear(const lmoe_args *a)
{
    const lmoe_buf *x = &a->in[0], *weight = &a->in[1];
    if (!cuda_has_tensor_maps(a)) return cuda_grouped_linear.launch(a);
    Grouped w = {(int)x->dim[0],        (int)weight->dim[0],  (int)x->dim[1],
                 (int)a->out[0].dim[1], input<int32_t>(a, 2), output<bf16>(a, 0)};
    cuda_box left = {x->data, 2, {w.e, w.rows}, {DEPTH, HEIGHT}};
    cuda_box right = {weight->data, 3, {weight->dim[2], weight->dim[1], w.experts}, {64, 64, 1}};
    if (((const lmoe_grouped_attrs *)a->attrs)->transpose)
        return run_in_tiles<LINEAR_TRANSPOSED>(a, w, left, right);
    return run_in_tiles<LINEAR>(a, w, left, right);
}

static lmoe_status launch_weight_grad(const lmoe_args *a)
{
    const lmoe_buf *x = &a->in[0], *dy = &a->in[1];
    if (!cuda_has_tensor_maps(a)) return cuda_grouped_weight_grad.launch(a);
    Grouped w = {(int)x->dim[0],  (int)a->out[0].dim[0], (int)x->dim[1],
                 (int)dy->dim[1], input<int32_t>(a, 2),  output<bf16>(a, 0)};
    cuda_box left = {x->data, 2, {w.e, w.rows}, {64, DEPTH}};
    cuda_box right = {dy->data, 2, {w.f, w.rows}, {64, DEPTH}};
    return run_in_tiles<WEIGHT_GRAD>(a, w, left, right);
}

CUDA_FAST_KERNEL(grouped_linear, 1, tensor, can, NULL, launch_linear)
CUDA_FAST_KERNEL(grouped_weight_grad, 1, tensor, can, NULL, launch_weight_grad)
