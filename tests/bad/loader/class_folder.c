/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/class_folder.c: a layer with a router's name.
 */
#include "good.h"

static const lmoe_layer layer = {.base = {GOOD_CLASS, .name = "moe/class_folder"}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .classes = classes)
