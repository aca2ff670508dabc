/* SPDX-License-Identifier: Apache-2.0
 * breaks: descriptor/flags
 * Sets a flag that means nothing yet.
 */
#include "layer.h"

ZOO_LAYER(.base.flags = 1u << 17)
