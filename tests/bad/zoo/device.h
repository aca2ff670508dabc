/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/zoo/device.h: a device in host memory with nothing wrong, and one kernel, of affine/1.
 * It can capture: what it is asked to zero meanwhile.
 *
 *   ZOO_DEVICE(.upload = upload)
 */
#ifndef LMOE_ZOO_DEVICE_H
#define LMOE_ZOO_DEVICE_H

#include <lmoe/device.h>
#include <lmoe/lmoe.h>

#include <stdlib.h>

typedef struct good_dev {
    lmoe_ctx *ctx;
    int capturing;
    void *dst; /* of the captured zero */
    size_t bytes;
} good_dev;

static lmoe_status good_open(lmoe_ctx *ctx, const void *options, void **dev)
{
    good_dev *d = calloc(1, sizeof *d);
    if (!d) return lmoe_error(ctx, LMOE_E_MEMORY, "no memory for a device");
    d->ctx = ctx;
    *dev = d;
    return LMOE_OK;
}

static void good_close(void *dev)
{
    free(dev);
}

static lmoe_status good_info(void *dev, lmoe_device_info *info)
{
    strncpy(info->name, "host memory", sizeof info->name - 1);
    return LMOE_OK;
}

static void *good_stream(void *dev)
{
    return NULL;
}

static lmoe_status good_alloc(void *dev, size_t bytes, void **p)
{
    *p = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    return *p ? LMOE_OK : LMOE_E_MEMORY;
}

static void good_free(void *dev, void *p)
{
    free(p);
}

static lmoe_status good_copy(void *dev, void *dst, const void *src, size_t bytes)
{
    memcpy(dst, src, bytes);
    return LMOE_OK;
}

static lmoe_status good_zero(void *dev, void *dst, size_t bytes)
{
    good_dev *d = dev;
    if (d->capturing) {
        d->dst = dst;
        d->bytes = bytes;
    } else {
        memset(dst, 0, bytes);
    }
    return LMOE_OK;
}

static lmoe_status good_synchronize(void *dev)
{
    return LMOE_OK;
}

static lmoe_status good_capture_begin(void *dev)
{
    ((good_dev *)dev)->capturing = 1;
    return LMOE_OK;
}

static lmoe_status good_capture_end(void *dev, void **graph)
{
    ((good_dev *)dev)->capturing = 0;
    *graph = dev;
    return LMOE_OK;
}

static lmoe_status good_replay(void *dev, void *graph)
{
    good_dev *d = dev;
    memset(d->dst, 0, d->bytes);
    return LMOE_OK;
}

static int good_score(const lmoe_args *a)
{
    return a->in[0].dtype == LMOE_F32 ? 10 : 0;
}

static lmoe_status good_launch(const lmoe_args *a)
{
    const lmoe_affine_attrs *o = a->attrs;
    const float *x = a->in[0].data;
    float *y = a->out[0].data;
    for (int64_t i = 0; i < lmoe_buf_count(&a->out[0]); i++)
        y[i] = (float)(o->scale * x[i] + o->shift);
    return LMOE_OK;
}

#define ZOO_AFFINE(...)                                                            \
    static const lmoe_kernel zoo_affine = {.base = {.size = sizeof(lmoe_kernel),   \
                                                    .kind = LMOE_KIND_KERNEL,      \
                                                    .name = ZOO "/affine",         \
                                                    .summary = "scale x + shift"}, \
                                           .op = "affine/1",                       \
                                           .device = ZOO,                          \
                                           .score = good_score,                    \
                                           .launch = good_launch,                  \
                                           ##__VA_ARGS__};                         \
    static const lmoe_kernel *const zoo_kernels[] = {&zoo_affine, NULL};

#define ZOO_DEVICE_CLASS(...)                                                          \
    static const lmoe_device zoo_device = {.base = {.size = sizeof(lmoe_device),       \
                                                    .kind = LMOE_KIND_DEVICE,          \
                                                    .name = "zoo.x/" ZOO,              \
                                                    .summary = "One thing is wrong."}, \
                                           .device = ZOO,                              \
                                           .kernels = zoo_kernels,                     \
                                           .open = good_open,                          \
                                           .close = good_close,                        \
                                           .info = good_info,                          \
                                           .stream = good_stream,                      \
                                           .alloc = good_alloc,                        \
                                           .free = good_free,                          \
                                           .upload = good_copy,                        \
                                           .download = good_copy,                      \
                                           .zero = good_zero,                          \
                                           .synchronize = good_synchronize,            \
                                           .capture_begin = good_capture_begin,        \
                                           .capture_end = good_capture_end,            \
                                           .replay = good_replay,                      \
                                           ##__VA_ARGS__};                             \
    static const lmoe_class *const zoo_classes[] = {&zoo_device.base, NULL};           \
    LMOE_PLUGIN(.id = "zoo.x/" ZOO, .version = "1.0", .licence = "Apache-2.0",         \
                .classes = zoo_classes)

#define ZOO_DEVICE(...) \
    ZOO_AFFINE()        \
    ZOO_DEVICE_CLASS(__VA_ARGS__)

#endif
