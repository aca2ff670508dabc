/* SPDX-License-Identifier: Apache-2.0
 * breaks: endurance/openings
 * Closing a device does not give back what opening it took.
 */
#include "device.h"

static void close(void *dev)
{
}

ZOO_DEVICE(.close = close)
