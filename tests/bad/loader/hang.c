/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/hang.c: never returns from load().
 */
#include "good.h"

#include <unistd.h>

static lmoe_status load(const lmoe_host *host)
{
    for (;;) pause();
    return LMOE_OK;
}

static const lmoe_layer layer = {.base = {GOOD_CLASS}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .classes = classes, .load = load)
