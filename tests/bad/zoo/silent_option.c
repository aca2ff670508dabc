/* SPDX-License-Identifier: Apache-2.0
 * breaks: build/options
 * Refuses three heads without a word.
 */
#include "layer.h"

static lmoe_status declare(lmoe_trace *t, const void *options, void *params)
{
    if (((const good_options *)options)->heads == 3) return LMOE_E_CONFIG;
    return good_declare(t, options, params);
}

ZOO_LAYER(.params = declare)
