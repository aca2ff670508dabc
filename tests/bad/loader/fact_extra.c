/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/fact_extra.c: built for a fork.
 */
#include "good.h"

static const lmoe_layer layer = {.base = {GOOD_CLASS}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN,
            .facts = {sizeof(void *) * 8, LMOE_MAX_DIMS, LMOE_MAX_IO, LMOE_MAX_ATTRS, "acme"},
            .classes = classes)
