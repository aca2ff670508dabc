/* SPDX-License-Identifier: Apache-2.0
 * breaks: devices/twice
 * Closing one that is open ends the other.
 */
#include "device.h"

static int shut;

static lmoe_status open(lmoe_ctx *ctx, const void *options, void **dev)
{
    shut = 0;
    return good_open(ctx, options, dev);
}

static void close(void *dev)
{
    shut = 1;
    good_close(dev);
}

static lmoe_status download(void *dev, void *dst, const void *src, size_t bytes)
{
    return shut ? LMOE_E_DEVICE : good_copy(dev, dst, src, bytes);
}

ZOO_DEVICE(.open = open, .close = close, .download = download)
