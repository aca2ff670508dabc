/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/longer.c: a control: its class is longer than this host knows, as of a later
 * minor.
 */
#include "good.h"

static const struct {
    lmoe_layer layer;
    void (*later)(void);
} longer = {.layer = {.base = {GOOD_CLASS, .size = sizeof longer}, GOOD_SLOTS}};

static const lmoe_class *const classes[] = {&longer.layer.base, NULL};
LMOE_PLUGIN(GOOD_PLUGIN, .size = sizeof(lmoe_plugin) + 64, .classes = classes)
