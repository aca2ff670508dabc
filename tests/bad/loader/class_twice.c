/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/class_twice.c: offers the same class twice.
 */
#include "good.h"

static const lmoe_layer layer = {.base = {GOOD_CLASS}, GOOD_SLOTS};
static const lmoe_layer again = {.base = {GOOD_CLASS}, GOOD_SLOTS};
static const lmoe_class *const classes[] = {&layer.base, &again.base, NULL};
LMOE_PLUGIN(GOOD_PLUGIN, .classes = classes)
