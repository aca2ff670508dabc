/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/option_offset.c: an option that lies outside of the option struct.
 */
#include "good.h"

static const lmoe_option table[] = {
    {"heads", LMOE_OPTION_INT, sizeof(good_options), "8", 1, 64, NULL, NULL, "Heads."},
    LMOE_OPTION_END};
static const lmoe_layer layer = {.base = {GOOD_CLASS, .options = table}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .classes = classes)
