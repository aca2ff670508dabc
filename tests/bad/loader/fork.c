/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/fork.c: starts a process while it is loaded, which goes on beside it.
 */
#include "good.h"

#include <unistd.h>

static lmoe_status load(const lmoe_host *host)
{
    return fork() < 0 ? LMOE_E_INTERNAL : LMOE_OK;
}

static const lmoe_layer layer = {.base = {GOOD_CLASS}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .classes = classes, .load = load)
