/* SPDX-License-Identifier: Apache-2.0
 * breaks: build/declared
 * An axis has a name that no rule, file or message expects.
 */
#include "layer.h"

static lmoe_status declare(lmoe_trace *t, const void *options, void *params)
{
    good_params *w = params;
    int64_t e = lmoe_size(t, "embed"), h = ((const good_options *)options)->heads;
    LMOE_TRY(good_declare(t, options, params));
    lmoe_tensor more = lmoe_cube(t, "more.weight", "embed heads Head.K", e, h, e / h, 0);
    w->decay = lmoe_add(t, w->decay, lmoe_sum(t, "e h k -> e h", more));
    return LMOE_OK;
}

ZOO_LAYER(.params = declare)
