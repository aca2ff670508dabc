/* SPDX-License-Identifier: Apache-2.0
 * breaks: descriptor/accepted
 * A layer without a forward pass. (tests/bad/loader has a plugin for each reason to refuse one.)
 */
#include "layer.h"

ZOO_LAYER(.forward = NULL)
