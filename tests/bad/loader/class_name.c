/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/class_name.c: its class would be looked for above the plugin folder.
 */
#include "good.h"

static const lmoe_layer layer = {.base = {GOOD_CLASS, .name = "vendor.t/../class_name"},
                                 GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .classes = classes)
