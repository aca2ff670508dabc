/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/tensor_map.c: descriptions of tensors for the copy engine of Hopper and later
 * GPUs. The driver makes them; its function is looked for, not linked.
 */
#include "device.h"

void cuda_find_tensor_maps(cuda_device *d)
{
    void *function = NULL;
    enum cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    cudaDeviceGetAttribute(&d->multiprocessors, cudaDevAttrMultiProcessorCount, d->index);
    cudaDeviceGetAttribute(&d->major, cudaDevAttrComputeCapabilityMajor, d->index);
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                         cudaEnableDefault, &found) != cudaSuccess ||
        found != cudaDriverEntryPointSuccess)
        function = NULL;
    cudaGetLastError(); /* without it, kernels that need no such maps are used */
    memcpy(&d->encode, &function, sizeof function);
}

/* The code for matrix units is of that one generation. */
int cuda_has_tensor_maps(const lmoe_args *a)
{
    const cuda_device *d = a->dev;
    return d->encode != NULL && d->major == 9;
}

int cuda_multiprocessors(const lmoe_args *a)
{
    return ((const cuda_device *)a->dev)->multiprocessors;
}

lmoe_status cuda_tensor_map(const lmoe_args *a, const cuda_box *b, CUtensorMap *map)
{
    const cuda_device *d = a->dev;
    cuuint64_t dim[3], step[3], bytes = 2;
    cuuint32_t box[3], one[3] = {1, 1, 1};
    void *data;
    memcpy(&data, &b->data, sizeof data); /* the driver's function takes what may be written */
    for (int i = 0; i < b->rank; i++) {
        dim[i] = (cuuint64_t)b->dim[i];
        box[i] = (cuuint32_t)b->box[i];
        bytes *= dim[i];
        step[i] = bytes;
    }
    CUresult result =
        d->encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, (cuuint32_t)b->rank, data, dim, step, box,
                  one, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result == CUDA_SUCCESS) return LMOE_OK;
    return lmoe_error(a->ctx, LMOE_E_DEVICE,
                      "device/cuda: a tensor cannot be described to the copy engine (CUDA's error "
                      "%d)",
                      (int)result);
}
