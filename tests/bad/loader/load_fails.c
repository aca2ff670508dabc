/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/load_fails.c: its load() refuses.
 */
#include "good.h"

static lmoe_status load(const lmoe_host *host)
{
    return LMOE_E_DEVICE;
}

static const lmoe_layer layer = {.base = {GOOD_CLASS}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .classes = classes, .load = load)
