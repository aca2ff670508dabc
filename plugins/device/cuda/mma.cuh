/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/mma.cuh: products of tiles of bf16 in shared memory by the matrix units, a warp
 * by itself: c (16, 8) += a (16, 16) b (16, 8) in f32. GPUs from Ampere on.
 *
 * Lane l has of every c: (l / 4, 2 (l % 4)), the element behind it, and both eight rows below. Lines
 * of a tile in shared memory lie `pitch` elements apart; with an odd number of 16-byte pieces in a
 * pitch, no two of a matrix's lines lie in the same banks.
 */
#ifndef CUDA_MMA_CUH
#define CUDA_MMA_CUH

#include "kernel.cuh"

static __device__ inline uint32_t shared_of(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* Four matrices of 8 x 8, whose lines begin at the addresses of lanes 0-7, 8-15, 16-23, 24-31. */
template <bool TURNED> static __device__ inline void load_matrices(uint32_t (&r)[4], const bf16 *p)
{
    if (TURNED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(shared_of(p))
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(shared_of(p))
                     : "memory");
}

/* a: 16 rows from `row`, depth from k. In memory (row, depth), or TURNED (depth, row). */
template <bool TURNED>
static __device__ inline void load_left(uint32_t (&r)[4], const bf16 *a, int pitch, int row, int k)
{
    int lane = threadIdx.x % WARP, i = lane / 8, line = lane % 8;
    int m = row + (i & 1) * 8, d = k + (i >> 1) * 8;
    load_matrices<TURNED>(r, TURNED ? a + (d + line) * pitch + m : a + (m + line) * pitch + d);
}

/* b: depth from k, 16 columns from `column`: r[0], r[1] for the first eight, r[2], r[3] for the
 * others. In memory (column, depth), or TURNED (depth, column). */
template <bool TURNED>
static __device__ inline void load_right(uint32_t (&r)[4], const bf16 *b, int pitch, int k,
                                         int column)
{
    int lane = threadIdx.x % WARP, i = lane / 8, line = lane % 8;
    int n = column + (i >> 1) * 8, d = k + (i & 1) * 8;
    load_matrices<TURNED>(r, TURNED ? b + (d + line) * pitch + n : b + (n + line) * pitch + d);
}

static __device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                           uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* c (16, 8 N) += a b over `depth`, a multiple of 16, from row `row` of a and column `column` of b. */
template <int N, bool A_TURNED, bool B_TURNED>
static __device__ inline void multiply_tiles(float (&c)[N][4], const bf16 *a, int a_pitch, int row,
                                             const bf16 *b, int b_pitch, int column, int depth)
{
#pragma unroll 4
    for (int k = 0; k < depth; k += 16) {
        uint32_t left[4], right[4];
        load_left<A_TURNED>(left, a, a_pitch, row, k);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            load_right<B_TURNED>(right, b, b_pitch, k, column + 8 * n);
            multiply_add(c[n], left, right[0], right[1]);
            multiply_add(c[n + 1], left, right[2], right[3]);
        }
    }
}

/* Sixteen bytes from device memory to shared memory while others are worked on; zeros if not there. */
static __device__ inline void copy_16(void *to, const void *from, bool there)
{
    int n = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_of(to)), "l"(from),
                 "r"(n)
                 : "memory");
}

static __device__ inline void copies_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int PENDING> static __device__ inline void copies_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/* Four neighbouring lanes have word i of line `lane` each; then each has a line's four words. */
static __device__ inline void trade(uint32_t (&u)[4])
{
    int lane = threadIdx.x & 3;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        uint32_t got = __shfl_xor_sync(~0u, lane & 1 ? u[i] : u[i + 1], 1);
        if (lane & 1)
            u[i] = got;
        else
            u[i + 1] = got;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t got = __shfl_xor_sync(~0u, lane & 2 ? u[i] : u[i + 2], 2);
        if (lane & 2)
            u[i] = got;
        else
            u[i + 2] = got;
    }
}

#endif
