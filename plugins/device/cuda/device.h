/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/device.h: an opened device, and cuBLAS, which is found when one is opened.
 */
#ifndef CUDA_DEVICE_H
#define CUDA_DEVICE_H

#include "cuda.h"
#include "sequence.h"

#include <cublas_v2.h>
#include <cuda.h>

/* So many that the inputs of several steps can be on their way: the host need not wait for a step to
 * prepare the next ones. */
enum { CUDA_STAGES = 512, CUDA_STAGE_BYTES = 1 << 16 };

/* Page-locked memory through which the host's data goes; `free` passes when it was copied. */
typedef struct cuda_stage {
    void *memory;
    cudaEvent_t free;
} cuda_stage;

/* The functions that are used of cuBLAS. */
typedef struct cuda_blas {
    void *library;
    cublasHandle_t handle;
    void *workspace;
    cublasStatus_t (*create)(cublasHandle_t *);
    cublasStatus_t (*destroy)(cublasHandle_t);
    cublasStatus_t (*set_stream)(cublasHandle_t, cudaStream_t);
    cublasStatus_t (*set_workspace)(cublasHandle_t, void *, size_t);
    cublasStatus_t (*set_math_mode)(cublasHandle_t, cublasMath_t);
    cublasStatus_t (*gemm)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int64_t, int64_t,
                           int64_t, const void *, const void *, cudaDataType_t, int64_t, long long,
                           const void *, cudaDataType_t, int64_t, long long, const void *, void *,
                           cudaDataType_t, int64_t, long long, int64_t, cublasComputeType_t,
                           cublasGemmAlgo_t);
    const char *(*text)(cublasStatus_t);
} cuda_blas;

typedef struct cuda_device {
    lmoe_ctx *ctx; /* of open() */
    int index;
    cudaStream_t stream;
    void *staged; /* the memory of all stages */
    cuda_stage stage[CUDA_STAGES];
    int next_stage;
    cuda_blas blas;
    int capturing;
    /* what was collected while capturing: one of the two at a time */
    cuda_sequence small;
    cuda_vectors vectors;
    int multiprocessors, major;
    /* the driver's cuTensorMapEncodeTiled; NULL: there is none */
    CUresult (*encode)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                       const cuuint64_t *, const cuuint32_t *, const cuuint32_t *,
                       CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                       CUtensorMapFloatOOBfill);
} cuda_device;

/* Fills multiprocessors, major and encode. */
void cuda_find_tensor_maps(cuda_device *d);

/* Opens the library and makes a handle on the device's stream. cuda_blas_close also after a
 * failure. */
lmoe_status cuda_blas_open(cuda_device *d, int tf32);
void cuda_blas_close(cuda_device *d);

/* LMOE_OK, or the failure of `what` with CUDA's own words. */
lmoe_status cuda_check(cuda_device *d, cudaError_t error, const char *what);

#endif
