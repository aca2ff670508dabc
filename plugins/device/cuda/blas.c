/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/blas.c: matrix products by cuBLAS.
 *
 * The library is opened when a device is, not with the plugin: it takes a quarter of a second to
 * load, which `lmoe plan` and others need not wait for. Its scratch memory is ours, so that it
 * allocates none while launches are captured.
 */
#define _GNU_SOURCE /* dladdr */
#include "device.h"

#include <dlfcn.h>

enum { WORKSPACE = 32 << 20 }; /* what cuBLAS asks for on Hopper; less elsewhere */

#define STRING_(x) #x
#define STRING(x)  STRING_(x)
#define LIBRARY    "libcublas.so." STRING(CUBLAS_VER_MAJOR)

/* By its name, or from the folder of the CUDA runtime that the plugin is linked to. */
static void *open_library(void)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    Dl_info runtime;
    cudaError_t (*const symbol)(int *) = cudaGetDeviceCount;
    void *address;
    memcpy(&address, &symbol, sizeof address); /* ISO C has no cast from function to object */
    if (library || !dladdr(address, &runtime)) return library;
    char path[4096];
    const char *slash = strrchr(runtime.dli_fname, '/');
    int n = slash ? (int)(slash - runtime.dli_fname) : 0;
    if (n == 0 || (size_t)n + sizeof LIBRARY + 1 > sizeof path) return NULL;
    memcpy(path, runtime.dli_fname, (size_t)n);
    strcpy(path + n, "/" LIBRARY);
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

static lmoe_status check(cuda_device *d, cublasStatus_t status, const char *what)
{
    if (status == CUBLAS_STATUS_SUCCESS) return LMOE_OK;
    return lmoe_error(d->ctx, LMOE_E_DEVICE, "device/cuda: cuBLAS: %s: %s", what,
                      d->blas.text(status));
}

/* Fills a pointer to a function. */
static lmoe_status find(cuda_device *d, const char *name, void *function)
{
    void *symbol = dlsym(d->blas.library, name);
    memcpy(function, &symbol, sizeof symbol);
    if (symbol) return LMOE_OK;
    return lmoe_error(d->ctx, LMOE_E_CONFIG,
                      "device/cuda: " LIBRARY " lacks %s; install the cuBLAS that belongs to the "
                      "CUDA %d.%d which this plugin was built with",
                      name, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
}

static lmoe_status find_all(cuda_device *d)
{
    cuda_blas *b = &d->blas;
    LMOE_TRY(find(d, "cublasCreate_v2", &b->create));
    LMOE_TRY(find(d, "cublasDestroy_v2", &b->destroy));
    LMOE_TRY(find(d, "cublasSetStream_v2", &b->set_stream));
    LMOE_TRY(find(d, "cublasSetWorkspace_v2", &b->set_workspace));
    LMOE_TRY(find(d, "cublasSetMathMode", &b->set_math_mode));
    LMOE_TRY(find(d, "cublasGemmStridedBatchedEx_64", &b->gemm));
    return find(d, "cublasGetStatusString", &b->text);
}

lmoe_status cuda_blas_open(cuda_device *d, int tf32)
{
    cuda_blas *b = &d->blas;
    b->library = open_library();
    if (!b->library)
        return lmoe_error(d->ctx, LMOE_E_CONFIG,
                          "device/cuda: the library cuBLAS cannot be opened: %s; install it, or "
                          "add its folder to LD_LIBRARY_PATH",
                          dlerror());
    LMOE_TRY(find_all(d));
    LMOE_TRY(check(d, b->create(&b->handle), "a handle cannot be made"));
    LMOE_TRY(cuda_check(d, cudaMalloc(&b->workspace, WORKSPACE), "memory for cuBLAS"));
    /* in this order: another stream puts the scratch memory back to the library's own */
    LMOE_TRY(check(d, b->set_stream(b->handle, d->stream), "setting its stream"));
    LMOE_TRY(check(d, b->set_workspace(b->handle, b->workspace, WORKSPACE), "its scratch memory"));
    cublasMath_t mode = tf32 ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_DEFAULT_MATH;
    return check(d, b->set_math_mode(b->handle, mode), "setting its precision");
}

void cuda_blas_close(cuda_device *d)
{
    if (d->blas.handle) d->blas.destroy(d->blas.handle);
    cudaFree(d->blas.workspace);
    if (d->blas.library) dlclose(d->blas.library);
    memset(&d->blas, 0, sizeof d->blas);
}

static cudaDataType_t type_of(lmoe_dtype d)
{
    return d == LMOE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

/* cuBLAS sees every matrix column by column, that is, transposed: C^T = op(B)^T op(A)^T. */
lmoe_status cuda_gemm(const lmoe_args *a, const cuda_product *p)
{
    cuda_device *d = a->dev;
    cuda_stream(a);
    const float one = 1.0f;
    cudaDataType_t from = type_of(p->from);
    cublasStatus_t status = d->blas.gemm(
        d->blas.handle, p->tb ? CUBLAS_OP_T : CUBLAS_OP_N, p->ta ? CUBLAS_OP_T : CUBLAS_OP_N, p->n,
        p->m, p->k, &one, p->b, from, p->ldb, p->step_b, p->a, from, p->lda, p->step_a, &p->beta,
        p->c, type_of(p->to), p->ldc, p->step_c, p->batch, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    return check(d, status, "a matrix product");
}
