/* SPDX-License-Identifier: Apache-2.0
 * breaks: devices/capture
 * Replays captured work only once.
 */
#include "device.h"

static lmoe_status replay(void *dev, void *graph)
{
    good_dev *d = dev;
    if (d->dst) memset(d->dst, 0, d->bytes);
    d->dst = NULL;
    return LMOE_OK;
}

ZOO_DEVICE(.replay = replay)
