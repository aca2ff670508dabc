/* SPDX-License-Identifier: Apache-2.0
 * breaks: devices/info
 * Does not say what it is.
 */
#include "device.h"

static lmoe_status info(void *dev, lmoe_device_info *info)
{
    return LMOE_OK;
}

ZOO_DEVICE(.info = info)
