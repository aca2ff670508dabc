/* SPDX-License-Identifier: Apache-2.0
 * tests/host_device.h: a device without kernels: every op runs as its reference. For tests of what
 * is not a kernel.
 */
#ifndef LMOE_TESTS_HOST_DEVICE_H
#define LMOE_TESTS_HOST_DEVICE_H

#include "core/graph/graph.h"

#include <stdlib.h>

static lmoe_status host_alloc(void *dev, size_t bytes, void **p)
{
    *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    return *p ? LMOE_OK : LMOE_E_MEMORY;
}

static void host_free(void *dev, void *p)
{
    free(p);
}

static lmoe_status host_copy(void *dev, void *dst, const void *src, size_t bytes)
{
    memcpy(dst, src, bytes);
    return LMOE_OK;
}

static lmoe_status host_zero(void *dev, void *dst, size_t bytes)
{
    memset(dst, 0, bytes);
    return LMOE_OK;
}

static lmoe_status host_synchronize(void *dev)
{
    return LMOE_OK;
}

static const lmoe_device host_device = {
    .base = {sizeof(lmoe_device), LMOE_KIND_DEVICE, "device/host", "References only.", NULL, 0, 0},
    .device = "cpu",
    .alloc = host_alloc,
    .free = host_free,
    .upload = host_copy,
    .download = host_copy,
    .zero = host_zero,
    .synchronize = host_synchronize,
};
/* Any pointer but NULL: an opened device. */
#define HOST_DEV ((void *)(uintptr_t)&host_device)

#endif
