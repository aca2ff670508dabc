/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/abi_major.c: says another ABI than its entry's name.
 */
#include "good.h"

static const lmoe_layer layer = {.base = {GOOD_CLASS}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .abi_major = 2, .classes = classes)
