/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/needs.c: is linked to a library (meson.build chooses which).
 */
#include "good.h"

int needed(void);
static lmoe_status load(const lmoe_host *host)
{
    return needed();
}

static const lmoe_layer layer = {.base = {GOOD_CLASS}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .classes = classes, .load = load)
