/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/cuda.c: class device/cuda: memory and one stream of an NVIDIA GPU, launches
 * captured into graphs, and the list of kernels.
 *
 * Loading the plugin touches no GPU; open() does. Every function makes the device the calling
 * thread's own first, as a process may have opened several.
 */
#include "device.h"

#include <lmoe/plugin.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct cuda_options {
    int64_t index;
    int32_t tf32;
} cuda_options;

static const lmoe_option options[] = {
    {"index", LMOE_OPTION_INT, offsetof(cuda_options, index), "0", 0, 1023, NULL, NULL,
     "Which of the GPUs that the process sees."},
    {"tf32", LMOE_OPTION_BOOL, offsetof(cuda_options, tf32), "no", 0, 0, NULL, NULL,
     "Matrix products of f32 with 10 bits of mantissa: several times faster, less exact."},
    LMOE_OPTION_END};

/* ---- errors ---- */

lmoe_status cuda_check(cuda_device *d, cudaError_t error, const char *what)
{
    if (error == cudaSuccess) return LMOE_OK;
    cudaGetLastError(); /* reported here: not again by the next launch */
    lmoe_status status = error == cudaErrorMemoryAllocation ? LMOE_E_MEMORY : LMOE_E_DEVICE;
    return lmoe_error(d->ctx, status, "device/cuda: %s: %s", what, cudaGetErrorString(error));
}

lmoe_status cuda_launched(const lmoe_args *a)
{
    cudaError_t error = cudaGetLastError();
    if (error == cudaSuccess) return LMOE_OK;
    return lmoe_error(a->ctx, LMOE_E_DEVICE,
                      "device/cuda: a kernel could not be started, or one before it failed: %s",
                      cudaGetErrorString(error));
}

/* ---- life ---- */

static lmoe_status find_gpu(lmoe_ctx *ctx, int64_t index)
{
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    cudaGetLastError();
    if (error != cudaSuccess || count == 0)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "device/cuda: no CUDA device is visible: %s; install NVIDIA's driver, "
                          "look at CUDA_VISIBLE_DEVICES, or use device/cpu",
                          error == cudaSuccess ? "there is none" : cudaGetErrorString(error));
    if (index < count) return LMOE_OK;
    return lmoe_error(ctx, LMOE_E_CONFIG,
                      "device/cuda: index = %lld, but %d GPU%s visible, numbered from 0",
                      (long long)index, count, count == 1 ? " is" : "s are");
}

static lmoe_status make_stages(cuda_device *d)
{
    LMOE_TRY(cuda_check(d, cudaMallocHost(&d->staged, (size_t)CUDA_STAGES * CUDA_STAGE_BYTES),
                        "page-locked memory of the host"));
    for (int i = 0; i < CUDA_STAGES; i++) {
        cuda_stage *s = &d->stage[i];
        s->memory = (char *)d->staged + (size_t)i * CUDA_STAGE_BYTES;
        LMOE_TRY(cuda_check(d, cudaEventCreateWithFlags(&s->free, cudaEventDisableTiming),
                            "making an event"));
    }
    return LMOE_OK;
}

static lmoe_status make(cuda_device *d, int tf32)
{
    LMOE_TRY(cuda_check(d, cudaSetDevice(d->index), "the GPU cannot be used"));
    LMOE_TRY(cuda_check(d, cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking),
                        "making a stream"));
    LMOE_TRY(make_stages(d));
    cuda_find_tensor_maps(d);
    return cuda_blas_open(d, tf32);
}

static void close_device(void *dev)
{
    cuda_device *d = dev;
    cudaSetDevice(d->index);
    if (d->stream) cudaStreamSynchronize(d->stream);
    cuda_blas_close(d);
    for (int i = 0; i < CUDA_STAGES; i++) {
        if (d->stage[i].free) cudaEventDestroy(d->stage[i].free);
    }
    cudaFreeHost(d->staged);
    if (d->stream) cudaStreamDestroy(d->stream);
    free(d);
}

static lmoe_status open_device(lmoe_ctx *ctx, const void *opt, void **dev)
{
    const cuda_options *o = opt;
    LMOE_TRY(find_gpu(ctx, o->index));
    cuda_device *d = calloc(1, sizeof *d);
    if (!d) return lmoe_error(ctx, LMOE_E_MEMORY, "device/cuda: out of memory");
    d->ctx = ctx;
    d->index = (int)o->index;
    lmoe_status status = make(d, o->tf32);
    if (status == LMOE_OK)
        *dev = d;
    else
        close_device(d);
    return status;
}

/* Multiply-adds of f32 that a multiprocessor does in a cycle; 0: not known. */
static int cores(const struct cudaDeviceProp *p)
{
    if (p->major == 8 && p->minor == 0) return 64;
    return p->major >= 8 ? 128 : 0;
}

static lmoe_status info(void *dev, lmoe_device_info *out)
{
    cuda_device *d = dev;
    struct cudaDeviceProp p;
    size_t free_bytes = 0, all = 0;
    int kilohertz = 0;
    LMOE_TRY(cuda_check(d, cudaSetDevice(d->index), "the GPU cannot be used"));
    LMOE_TRY(cuda_check(d, cudaGetDeviceProperties(&p, d->index), "asking for its properties"));
    LMOE_TRY(cuda_check(d, cudaMemGetInfo(&free_bytes, &all), "asking for its memory"));
    if (cudaDeviceGetAttribute(&kilohertz, cudaDevAttrClockRate, d->index) != cudaSuccess)
        cudaGetLastError();
    snprintf(out->name, sizeof out->name, "%.127s", p.name);
    out->peak_flops = 2e3 * p.multiProcessorCount * cores(&p) * kilohertz;
    out->memory = (int64_t)all;
    out->memory_used = (int64_t)(all - free_bytes);
    return LMOE_OK;
}

/* Of the host's, which draws initial weights. */
static int32_t threads(const void *opt)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > 64 ? 64 : (int32_t)n;
}

static void *stream(void *dev)
{
    return ((cuda_device *)dev)->stream;
}

/* ---- memory ---- */

static lmoe_status alloc_memory(void *dev, size_t bytes, void **p)
{
    cuda_device *d = dev;
    cudaSetDevice(d->index);
    cudaError_t error = cudaMalloc(p, bytes);
    if (error == cudaErrorMemoryAllocation) { /* the caller knows what it was for, and says so */
        cudaGetLastError();
        return LMOE_E_MEMORY;
    }
    return cuda_check(d, error, "memory cannot be allocated");
}

static void free_memory(void *dev, void *p)
{
    cudaSetDevice(((cuda_device *)dev)->index);
    cudaFree(p);
}

/* Through page-locked memory, so that the caller's own is free on return while the copy still
 * waits for its turn on the stream. */
static lmoe_status upload(void *dev, void *dst, const void *src, size_t bytes)
{
    cuda_device *d = dev;
    cudaSetDevice(d->index);
    while (bytes > 0) {
        cuda_stage *s = &d->stage[d->next_stage];
        size_t n = bytes < CUDA_STAGE_BYTES ? bytes : CUDA_STAGE_BYTES;
        cudaError_t error = cudaEventQuery(s->free);
        if (error == cudaErrorNotReady) { /* all stages are on their way */
            cudaGetLastError();
            error = cudaEventSynchronize(s->free);
        }
        LMOE_TRY(cuda_check(d, error, "copying to the GPU"));
        memcpy(s->memory, src, n);
        LMOE_TRY(cuda_check(d,
                            cudaMemcpyAsync(dst, s->memory, n, cudaMemcpyHostToDevice, d->stream),
                            "copying to the GPU"));
        LMOE_TRY(cuda_check(d, cudaEventRecord(s->free, d->stream), "copying to the GPU"));
        d->next_stage = (d->next_stage + 1) % CUDA_STAGES;
        dst = (char *)dst + n;
        src = (const char *)src + n;
        bytes -= n;
    }
    return LMOE_OK;
}

static lmoe_status synchronize(void *dev)
{
    cuda_device *d = dev;
    cudaSetDevice(d->index);
    return cuda_check(d, cudaStreamSynchronize(d->stream), "the GPU reports a failure");
}

static lmoe_status download(void *dev, void *dst, const void *src, size_t bytes)
{
    cuda_device *d = dev;
    cudaSetDevice(d->index);
    LMOE_TRY(cuda_check(d, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, d->stream),
                        "copying from the GPU"));
    return synchronize(dev);
}

static lmoe_status zero(void *dev, void *dst, size_t bytes)
{
    cuda_device *d = dev;
    cudaSetDevice(d->index);
    return cuda_check(d, cudaMemsetAsync(dst, 0, bytes, d->stream), "clearing memory");
}

/* ---- capture ---- */

static void launch_small(cuda_device *d)
{
    if (d->small.count == 0) return;
    cuda_launch_sequence(d->stream, d->major >= 9, &d->small);
    d->small.count = 0;
}

static void launch_vectors(cuda_device *d)
{
    if (d->vectors.count == 0) return;
    cuda_launch_vectors(d->stream, d->major >= 9, &d->vectors);
    d->vectors.count = 0;
}

static void launch_collected(cuda_device *d)
{
    launch_small(d);
    launch_vectors(d);
}

cudaStream_t cuda_stream(const lmoe_args *a)
{
    launch_collected(a->dev);
    return a->stream;
}

lmoe_status cuda_collect(const lmoe_args *a, const cuda_small *op)
{
    cuda_device *d = a->dev;
    launch_vectors(d);
    if (d->small.count == CUDA_MOST_SMALL) launch_small(d);
    d->small.op[d->small.count++] = *op;
    if (!d->capturing) launch_small(d);
    return cuda_launched(a);
}

/* Nobody writes a weight, so a product may join others that read the same x. */
static int joins(const cuda_vectors *list, const cuda_vector *v)
{
    const cuda_vector *first = &list->v[0];
    return list->count > 0 && list->count < CUDA_MOST_VECTORS && v->constant && v->x == first->x &&
           v->k == first->k && v->rows == first->rows && v->experts == first->experts &&
           v->offsets == first->offsets;
}

lmoe_status cuda_collect_vector(const lmoe_args *a, const cuda_vector *v)
{
    cuda_device *d = a->dev;
    launch_small(d);
    if (!joins(&d->vectors, v)) launch_vectors(d);
    d->vectors.v[d->vectors.count++] = *v;
    if (!d->capturing) launch_vectors(d);
    return cuda_launched(a);
}

static lmoe_status capture_begin(void *dev)
{
    cuda_device *d = dev;
    cudaSetDevice(d->index);
    d->capturing = 1;
    return cuda_check(d, cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal),
                      "launches cannot be captured");
}

static lmoe_status capture_end(void *dev, void **graph)
{
    cuda_device *d = dev;
    cudaGraph_t recorded = NULL;
    cudaGraphExec_t made = NULL;
    launch_collected(d);
    d->capturing = 0;
    LMOE_TRY(cuda_check(d, cudaStreamEndCapture(d->stream, &recorded),
                        "launches could not be captured"));
    lmoe_status status = cuda_check(d, cudaGraphInstantiate(&made, recorded, 0),
                                    "the captured launches do not make a graph");
    cudaGraphDestroy(recorded);
    *graph = made;
    return status;
}

static lmoe_status replay(void *dev, void *graph)
{
    cuda_device *d = dev;
    cudaSetDevice(d->index);
    return cuda_check(d, cudaGraphLaunch(graph, d->stream), "a graph could not be started");
}

static void release(void *dev, void *graph)
{
    cudaSetDevice(((cuda_device *)dev)->index);
    cudaGraphExecDestroy(graph);
}

/* ---- the class ---- */

#define CUDA_OP(op) &cuda_##op,

static const lmoe_kernel *const kernels[] = {
#include "kernels.def"
    NULL};

static const lmoe_device device_cuda = {
    .base = {.size = sizeof(lmoe_device),
             .kind = LMOE_KIND_DEVICE,
             .name = "device/cuda",
             .summary = "An NVIDIA GPU: a plan is one captured graph.",
             .options = options,
             .options_size = sizeof(cuda_options)},
    .device = "cuda",
    .kernels = kernels,
    .open = open_device,
    .close = close_device,
    .info = info,
    .stream = stream,
    .alloc = alloc_memory,
    .free = free_memory,
    .upload = upload,
    .download = download,
    .zero = zero,
    .synchronize = synchronize,
    .capture_begin = capture_begin,
    .capture_end = capture_end,
    .replay = replay,
    .release = release,
    .threads = threads,
};

static const lmoe_class *const classes[] = {&device_cuda.base, NULL};

LMOE_PLUGIN(.id = "device/cuda", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
