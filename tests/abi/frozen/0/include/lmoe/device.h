/* SPDX-License-Identifier: Apache-2.0
 * lmoe/device.h: devices: memory, order of work, capture, and the kernels that they bring.
 */
#ifndef LMOE_DEVICE_H
#define LMOE_DEVICE_H

#include <lmoe/kernel.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LMOE_KIND_DEVICE "lmoe.device/1"

typedef struct lmoe_device_info {
    size_t size;
    char name[128]; /* what a person would call it */
    double
        peak_flops; /* fp32 FLOP/s of the matrix unit, measured or of the data sheet; 0: unknown */
    int64_t memory; /* bytes in all; 0: unknown */
    int64_t memory_used; /* bytes in use now, as the device counts them; 0: unknown */
} lmoe_device_info;

/* A device's life: open - alloc, upload, launch kernels on stream(), download, synchronize - close.
 * The ctx of open() stays valid until close(): what fails in between says so there.
 * All work given to a device is done in order. With capture, the host records the launches of a
 * plan once between capture_begin and capture_end and then replays them. */
typedef struct lmoe_device {
    lmoe_class base;
    const char *device;                /* the word that kernels name: "cpu", "cuda" */
    const lmoe_kernel *const *kernels; /* NULL-terminated */
    lmoe_status (*open)(lmoe_ctx *ctx, const void *options, void **dev);
    void (*close)(void *dev);
    lmoe_status (*info)(void *dev, lmoe_device_info *info);
    void *(*stream)(void *dev);                              /* NULL on the CPU */
    lmoe_status (*alloc)(void *dev, size_t bytes, void **p); /* at least 64-byte aligned */
    void (*free)(void *dev, void *p);
    lmoe_status (*upload)(void *dev, void *dst, const void *src,
                          size_t bytes); /* ordered; src may be reused after */
    lmoe_status (*download)(void *dev, void *dst, const void *src,
                            size_t bytes); /* done on return */
    lmoe_status (*zero)(void *dev, void *dst, size_t bytes);
    lmoe_status (*synchronize)(void *dev);
    lmoe_status (*capture_begin)(void *dev); /* all three NULL: cannot capture */
    lmoe_status (*capture_end)(void *dev, void **graph);
    lmoe_status (*replay)(void *dev, void *graph);
    void (*release)(void *dev, void *graph);
    int32_t (*threads)(const void *options); /* CPU threads that the run should use; NULL: 1 */
} lmoe_device;

#ifdef __cplusplus
}
#endif
#endif
