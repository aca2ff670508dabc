/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/class_size.c: its layer says the size of the class header.
 */
#include "good.h"

static const lmoe_layer layer = {.base = {GOOD_CLASS, .size = sizeof(lmoe_class)}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .classes = classes)
