/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/no_summary.c: does not say what its class is.
 */
#include "good.h"

static const lmoe_layer layer = {.base = {GOOD_CLASS, .summary = NULL}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .classes = classes)
