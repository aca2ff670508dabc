/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/plugin_size.c: its descriptor is shorter than the first revision's.
 */
#include "good.h"

static const lmoe_layer layer = {.base = {GOOD_CLASS}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .size = 64, .classes = classes)
