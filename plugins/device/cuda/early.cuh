/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/early.cuh: kernels that begin before what was launched before them has ended.
 *
 * On Hopper such a kernel may be placed on the card, and read what nothing on the way changes
 * (weights), while the kernel before it runs. It calls wait_for_earlier() before it reads or writes
 * anything else; then all that came before is complete. Where a token takes several hundred short
 * launches, one after another, that hides most of what lies between them.
 */
#ifndef CUDA_EARLY_CUH
#define CUDA_EARLY_CUH

#include "kernel.cuh"

/* Every thread calls it, and first lets the next kernel begin. */
static __device__ inline void let_next_begin()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

static __device__ inline void wait_for_earlier()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

template <class... Of>
static void launch_early(void (*kernel)(Of...), dim3 grid, dim3 block, cudaStream_t stream,
                         int allowed, Of... arguments)
{
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute[1] = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.stream = stream;
    config.attrs = attribute;
    config.numAttrs = allowed ? 1 : 0;
    attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[0].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchKernelEx(&config, kernel, arguments...);
}

#endif
