/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/good.c: the control: nothing is wrong with it.
 */
#include "good.h"

static const lmoe_layer layer = {.base = {GOOD_CLASS}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .classes = classes)
