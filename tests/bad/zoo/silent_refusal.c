/* SPDX-License-Identifier: Apache-2.0
 * breaks: build/errors
 * Refuses an odd embed without a word.
 */
#include "layer.h"

static lmoe_status declare(lmoe_trace *t, const void *options, void *params)
{
    if (lmoe_size(t, "embed") % 2 != 0) return LMOE_E_CONFIG;
    return good_declare(t, options, params);
}

ZOO_LAYER(.params = declare)
