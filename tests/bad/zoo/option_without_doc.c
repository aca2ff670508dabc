/* SPDX-License-Identifier: Apache-2.0
 * breaks: descriptor/texts
 * An option has no sentence of its own.
 */
#include "layer.h"

static const lmoe_option table[] = {
    {"heads", LMOE_OPTION_INT, offsetof(good_options, heads), "2", 1, 1024, NULL, NULL, NULL},
    LMOE_OPTION_END};

ZOO_LAYER(.base.options = table)
