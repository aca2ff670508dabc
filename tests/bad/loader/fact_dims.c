/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/fact_dims.c: built with another LMOE_MAX_DIMS.
 */
#include "good.h"

static const lmoe_layer layer = {.base = {GOOD_CLASS}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .facts = {sizeof(void *) * 8, 6, LMOE_MAX_IO, LMOE_MAX_ATTRS, ""},
            .classes = classes)
