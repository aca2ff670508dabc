/* SPDX-License-Identifier: Apache-2.0
 * breaks: devices/memory
 * Copies an upload when it has to, from a source that may be gone.
 */
#include "device.h"

typedef struct late {
    good_dev good;
    void *dst;
    const void *src;
    size_t bytes;
} late;

static lmoe_status open(lmoe_ctx *ctx, const void *options, void **dev)
{
    *dev = calloc(1, sizeof(late));
    return *dev ? LMOE_OK : lmoe_error(ctx, LMOE_E_MEMORY, "no memory for a device");
}

static lmoe_status finish(void *dev)
{
    late *d = dev;
    if (d->dst) memcpy(d->dst, d->src, d->bytes);
    d->dst = NULL;
    return LMOE_OK;
}

static lmoe_status upload(void *dev, void *dst, const void *src, size_t bytes)
{
    late *d = dev;
    finish(dev);
    d->dst = dst;
    d->src = src;
    d->bytes = bytes;
    return LMOE_OK;
}

static lmoe_status download(void *dev, void *dst, const void *src, size_t bytes)
{
    finish(dev);
    memcpy(dst, src, bytes);
    return LMOE_OK;
}

static lmoe_status zero(void *dev, void *dst, size_t bytes)
{
    finish(dev);
    return good_zero(dev, dst, bytes);
}

static lmoe_status replay(void *dev, void *graph)
{
    finish(dev);
    return good_replay(dev, graph);
}

ZOO_DEVICE(.open = open, .upload = upload, .download = download, .zero = zero,
           .synchronize = finish, .replay = replay)
