/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/no_class.c: offers nothing.
 */
#include "good.h"

static const lmoe_layer layer = {.base = {GOOD_CLASS}, GOOD_SLOTS};
static const lmoe_class *const classes[] = {NULL, &layer.base};
LMOE_PLUGIN(GOOD_PLUGIN, .classes = classes)
