/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/api_min.c: needs an API that this host lacks.
 */
#include "good.h"

static const lmoe_layer layer = {.base = {GOOD_CLASS}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .api_min = 99, .classes = classes)
