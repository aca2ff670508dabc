/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/plugin_id.c: its id has a space.
 */
#include "good.h"

static const lmoe_layer layer = {.base = {GOOD_CLASS}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .id = "vendor.t/my layer", .classes = classes)
