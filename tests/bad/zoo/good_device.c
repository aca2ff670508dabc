/* SPDX-License-Identifier: Apache-2.0
 * breaks: nothing
 * The device of which others are made.
 */
#include "device.h"

ZOO_DEVICE()
