/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/print.c: prints in load().
 */
#include "good.h"

#include <stdio.h>

static lmoe_status load(const lmoe_host *host)
{
    printf("hello from a plugin\n");
    return LMOE_OK;
}

static const lmoe_layer layer = {.base = {GOOD_CLASS}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .classes = classes, .load = load)
