/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/no_slot.c: a layer without a forward pass.
 */
#include "good.h"

static const lmoe_layer layer = {.base = {GOOD_CLASS}, .params = params};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .classes = classes)
