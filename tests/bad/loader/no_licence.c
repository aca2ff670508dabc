/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/no_licence.c: gives no licence.
 */
#include "good.h"

static const lmoe_layer layer = {.base = {GOOD_CLASS}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .licence = NULL, .classes = classes)
