/* SPDX-License-Identifier: Apache-2.0
 * breaks: nothing
 * The layer of which the others are made.
 */
#include "layer.h"

ZOO_LAYER()
