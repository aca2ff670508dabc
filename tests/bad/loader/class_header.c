/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/class_header.c: the size of its class was forgotten.
 */
#include "good.h"

static const lmoe_layer layer = {.base = {GOOD_CLASS, .size = 0}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .classes = classes)
