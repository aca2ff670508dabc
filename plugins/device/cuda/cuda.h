/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/cuda.h: conventions of this plugin.
 *
 *   - cuda.c is the class device/cuda, blas.c its matrix products; every other file holds the
 *     kernels of a family of ops. Their files call nothing of the host: what needs the table of
 *     calls stands in cuda.c, so that the plugin can be built into the command, too.
 *   - A launch puts work on the stream and returns: it neither allocates nor waits, and reads only
 *     host memory. What the device decides (offsets, scalars) is read by the kernels themselves. So
 *     the launches of a plan can be captured into a graph.
 *   - Results are the same in every run: sums have an order that depends on shapes alone, and no
 *     float is added atomically.
 *   - A kernel ends its file: CUDA_KERNEL(op, revision, can, workspace, launch). Its name is added
 *     to kernels.def and its file to meson.build.
 */
#ifndef CUDA_H
#define CUDA_H

#include <lmoe/device.h>
#include <lmoe/ops.h>

#include <cuda_runtime_api.h>

struct CUtensorMap_st;

#ifdef __cplusplus
extern "C" {
#endif

/* The stream, for one launch: with all that was collected before on it (sequence.h). */
cudaStream_t cuda_stream(const lmoe_args *a);

/* The error of the launches of this call, if any, in words. */
lmoe_status cuda_launched(const lmoe_args *a);

/* Matrix products, row-major:  C = op(A) op(B) + beta C,  op(A): m x k, op(B): k x n, C: m x n; op
 * is the transpose where ta (tb) is not 0. lda, ldb, ldc are the distances of rows in memory, as
 * stored. `batch` of them, step_a, step_b and step_c elements apart. */
typedef struct cuda_product {
    int ta, tb;
    int64_t m, n, k, lda, ldb, ldc;
    float beta;
    lmoe_dtype from, to; /* of A and B: f32 or bf16; of C: the same, or f32 */
    const void *a, *b;
    void *c;
    int64_t batch, step_a, step_b, step_c;
} cuda_product;

lmoe_status cuda_gemm(const lmoe_args *a, const cuda_product *p);

/* y_i = the sum over parts of partial (part, n), in order. y: f32 or bf16. */
void cuda_add_parts(cudaStream_t stream, const float *partial, int64_t parts, int64_t n,
                    const lmoe_buf *y);

/* A decay's gradient from that of each row, x (tokens heads rows): summed over rows, to y (tokens
 * heads), or also over tokens, to y (heads). */
void cuda_add_decays(const lmoe_args *a, const float *x, int64_t rows, int64_t heads,
                     int64_t tokens, const lmoe_buf *y);

/* ---- what only some GPUs have ---- */

/* A dense tensor of bf16 and the boxes that the copy engine cuts from it, fastest axis first; lines of
 * a box have at most 64 elements. */
typedef struct cuda_box {
    const void *data;
    int rank;
    int64_t dim[3];
    int32_t box[3];
} cuda_box;

/* Does the GPU have a copy engine for boxes, and matrix units for whole groups of warps? */
int cuda_has_tensor_maps(const lmoe_args *a);
lmoe_status cuda_tensor_map(const lmoe_args *a, const cuda_box *box, struct CUtensorMap_st *map);
int cuda_multiprocessors(const lmoe_args *a);

#define CUDA_OP(op) extern const lmoe_kernel cuda_##op;
#include "kernels.def"
#undef CUDA_OP

/* can(a): 1 if the kernel can do these arguments. workspace may be NULL. */
#define CUDA_KERNEL(op_, revision_, can_, workspace_, launch_)                            \
    static int op_##_score(const lmoe_args *a)                                            \
    {                                                                                     \
        return can_(a) ? 10 : 0;                                                          \
    }                                                                                     \
    const lmoe_kernel cuda_##op_ = {{sizeof(lmoe_kernel), LMOE_KIND_KERNEL, "cuda/" #op_, \
                                     "f32 and bf16 on a GPU", NULL, 0, 0},                \
                                    #op_ "/" #revision_,                                  \
                                    "cuda",                                               \
                                    op_##_score,                                          \
                                    workspace_,                                           \
                                    NULL,                                                 \
                                    launch_,                                              \
                                    NULL};

/* A kernel for special operands, beside the op's general one, which it may call: cuda_OP_way. */
#define CUDA_FAST_KERNEL(op_, revision_, way_, can_, workspace_, launch_)                     \
    static int op_##_score(const lmoe_args *a)                                                \
    {                                                                                         \
        return can_(a) ? 20 : 0;                                                              \
    }                                                                                         \
    const lmoe_kernel cuda_##op_##_##way_ = {{sizeof(lmoe_kernel), LMOE_KIND_KERNEL,          \
                                              "cuda/" #op_ "-" #way_, "bf16 on matrix units", \
                                              NULL, 0, 0},                                    \
                                             #op_ "/" #revision_,                             \
                                             "cuda",                                          \
                                             op_##_score,                                     \
                                             workspace_,                                      \
                                             NULL,                                            \
                                             launch_,                                         \
                                             NULL};

/* Operand i is a weight that nothing in the plan changes. */
static inline int cuda_is_constant(const lmoe_args *a, int i)
{
    return a->size >= sizeof *a && (a->constant >> i & 1);
}

static inline int cuda_is_f32(const lmoe_buf *b)
{
    return b->dtype == LMOE_F32;
}

static inline int cuda_is_bf16(const lmoe_buf *b)
{
    return b->dtype == LMOE_BF16;
}

static inline int cuda_is_floats(const lmoe_buf *b)
{
    return cuda_is_f32(b) || cuda_is_bf16(b) || !lmoe_dtype_is_float(b->dtype);
}

/* True if every float operand and result that is present has dtype f32 or bf16. */
static inline int cuda_floats(const lmoe_args *a)
{
    for (int i = 0; i < a->n_in; i++)
        if (!cuda_is_floats(&a->in[i])) return 0;
    for (int i = 0; i < a->n_out; i++)
        if (!cuda_is_floats(&a->out[i])) return 0;
    return 1;
}

/* Operand or result i; an absent one when there are fewer. */
static inline const lmoe_buf *cuda_at(const lmoe_buf *bufs, int n, int i)
{
    static const lmoe_buf absent = {NULL, LMOE_NONE, 0, {0}};
    return i < n ? &bufs[i] : &absent;
}

/* Bytes of `count` words of four bytes in a workspace, whose pieces are 64-byte aligned. */
static inline size_t cuda_words(int64_t count)
{
    return ((size_t)count * 4 + 63) & ~(size_t)63;
}

static inline void *cuda_take(char **cursor, int64_t count)
{
    void *p = *cursor;
    *cursor += cuda_words(count);
    return p;
}

static inline int64_t cuda_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t cuda_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Pieces of `size` that n needs. */
static inline int64_t cuda_pieces(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}

#ifdef __cplusplus
}
#endif
#endif
