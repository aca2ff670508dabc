/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/crash.c: dies in load().
 */
#include "good.h"

#include <stdlib.h>

static lmoe_status load(const lmoe_host *host)
{
    abort();
}

static const lmoe_layer layer = {.base = {GOOD_CLASS}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .classes = classes, .load = load)
