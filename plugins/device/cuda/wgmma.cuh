/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/wgmma.cuh: Hopper's matrix units: tiles that the copy engine brings to shared
 * memory, barriers that say when, and products of tiles by a group of four warps.
 *
 * A tile of 64 x n bf16 lies in shared memory in lines of 128 bytes, whose 16-byte pieces are
 * permuted (piece i of line r lies at i xor r mod 8): the copy engine writes them so, and the
 * products read them so. Lines run along the summed axis ("by depth": depth 64, a line for each row
 * of the result) or along the result's axis ("by row": a line for each step of depth, 64 rows wide;
 * wider operands are several such blocks).
 */
#ifndef CUDA_WGMMA_CUH
#define CUDA_WGMMA_CUH

#include "kernel.cuh"

#include <cuda.h>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)
#define CUDA_HAS_WGMMA 1
#else
#define CUDA_HAS_WGMMA 0
#endif

enum { LINES_BYTES = 8 * 128, BLOCK_BYTES = 64 * 128 }; /* of eight lines, of 64 */

#if CUDA_HAS_WGMMA

static __device__ inline uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* ---- barriers in shared memory ---- */

static __device__ inline void barrier_init(uint64_t *b, int count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count));
}

static __device__ inline void barrier_arrive(uint64_t *b)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}

/* One arrival, and bytes that must come besides. */
static __device__ inline void barrier_expect(uint64_t *b, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)),
                 "r"(bytes)
                 : "memory");
}

/* Until the phase of this parity is over. */
static __device__ inline void barrier_wait(uint64_t *b, uint32_t parity)
{
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@done bra over;\n"
                 "bra again;\n"
                 "over:\n"
                 "}" ::"r"(shared_address(b)),
                 "r"(parity)
                 : "memory");
}

/* What threads wrote becomes visible to the copy engine and to products. */
static __device__ inline void fence_async()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- the copy engine; what lies outside of the tensor comes as zero ---- */

static __device__ inline void copy_box(void *to, const CUtensorMap *map, uint64_t *b, int x, int y)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(to)),
                 "l"(map), "r"(shared_address(b)), "r"(x), "r"(y)
                 : "memory");
}

static __device__ inline void copy_box(void *to, const CUtensorMap *map, uint64_t *b, int x, int y,
                                       int z)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(to)),
                 "l"(map), "r"(shared_address(b)), "r"(x), "r"(y), "r"(z)
                 : "memory");
}

/* ---- products ---- */

/* An operand from address p on: eight lines are LINES_BYTES apart, blocks of 64 rows BLOCK_BYTES. */
static __device__ inline uint64_t describe_operand(const void *p)
{
    uint64_t address = (shared_address(p) & 0x3ffff) >> 4;
    return address | (uint64_t)(BLOCK_BYTES >> 4) << 16 | (uint64_t)(LINES_BYTES >> 4) << 32 |
           (uint64_t)1 << 62;
}

/* From one step of 16 of depth to the next, in an operand's description. */
template <bool BY_ROW> static __device__ constexpr uint64_t depth_step()
{
    return BY_ROW ? 2 * LINES_BYTES >> 4 : 32 >> 4;
}

static __device__ inline void products_begin()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ inline void products_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until at most PENDING commits are under way. */
template <int PENDING> static __device__ inline void products_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/* c += a b for 64 rows, N columns and 16 of depth. Thread t of the group has, for i = t mod 32 / 4 +
 * 16 (t / 32) and j = 2 (t mod 4): elements (i, 8 n + j), (i, 8 n + j + 1), (i + 8, 8 n + j), (i + 8,
 * 8 n + j + 1) of c at c[4 n ...]. */
template <int N, bool A_BY_ROW, bool B_BY_ROW> struct Product;

#define C8(i)                                                                                   \
    "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), \
        "+f"(c[i + 6]), "+f"(c[i + 7])
#define C32(i) C8(i), C8(i + 8), C8(i + 16), C8(i + 24)
#define C64    C32(0), C32(32)
#define C112   C64, C32(64), C8(96), C8(104)
#define C128   C64, C32(64), C32(96)
#define NAMES_64                                                                       \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"             \
    ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31" \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
    ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NAMES_112                                                                      \
    NAMES_64                                                                           \
    ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
    ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95" \
    ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define NAMES_128                                                                                  \
    NAMES_112                                                                                      \
    ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, " \
    "%127"

#define PRODUCT(N, COUNT, A, B, A_TURNED, B_TURNED)                                                \
    template <bool A_BY_ROW, bool B_BY_ROW> struct Product<N, A_BY_ROW, B_BY_ROW> {                \
        static __device__ inline void add(float (&c)[COUNT], uint64_t a, uint64_t b)               \
        {                                                                                          \
            asm volatile("wgmma.mma_async.sync.aligned.m64n" #N                                    \
                         "k16.f32.bf16.bf16 {" NAMES_##COUNT "}, " A ", " B ", 1, 1, 1, " A_TURNED \
                                                             ", " B_TURNED ";"                     \
                         : C##COUNT                                                                \
                         : "l"(a), "l"(b), "n"((int)A_BY_ROW), "n"((int)B_BY_ROW));                \
        }                                                                                          \
    };

PRODUCT(128, 64, "%64", "%65", "%66", "%67")
PRODUCT(224, 112, "%112", "%113", "%114", "%115")
PRODUCT(256, 128, "%128", "%129", "%130", "%131")

#undef PRODUCT

/* Registers from the warps that need few to those that need many. */
template <int COUNT> static __device__ inline void give_registers()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

template <int COUNT> static __device__ inline void take_registers()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

/* Meets the other threads of a group of four warps; 1 <= group <= 15. */
static __device__ inline void meet_group(int group)
{
    asm volatile("bar.sync %0, 128;" ::"r"(group) : "memory");
}

#endif
#endif
