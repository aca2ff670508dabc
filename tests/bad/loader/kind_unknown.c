/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/kind_unknown.c: its class is of a later revision of its kind.
 */
#include "good.h"

static const lmoe_layer layer = {.base = {GOOD_CLASS, .kind = "lmoe.layer/7"}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .classes = classes)
