/* SPDX-License-Identifier: Apache-2.0
 * breaks: descriptor/options
 * An option has a choice twice.
 */
#include "layer.h"

typedef struct options {
    good_options good;
    int32_t mode;
} options;

static const lmoe_option table[] = {
    {"heads", LMOE_OPTION_INT, offsetof(options, good.heads), "2", 1, 1024, NULL, NULL, "Heads."},
    {"mode", LMOE_OPTION_ENUM, offsetof(options, mode), "fast", 0, 0, "fast slow fast", NULL,
     "How."},
    LMOE_OPTION_END};

ZOO_LAYER(.base.options = table, .base.options_size = sizeof(options))
