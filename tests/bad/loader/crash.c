/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/crash.c: dies in load().
 */
#include "good.h"

#include <signal.h>

static lmoe_status load(const lmoe_host *host)
{
    raise(SIGSEGV);
    return LMOE_OK;
}

static const lmoe_layer layer = {.base = {GOOD_CLASS}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .classes = classes, .load = load)
