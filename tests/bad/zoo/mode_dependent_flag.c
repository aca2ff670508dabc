/* SPDX-License-Identifier: Apache-2.0
 * breaks: build/modes
 * A parameter is another one in evaluation than in training: it has another flag.
 */
#include "layer.h"

static lmoe_status declare(lmoe_trace *t, const void *options, void *params)
{
    good_params *w = params;
    int64_t e = lmoe_size(t, "embed"), h = ((const good_options *)options)->heads;
    LMOE_TRY(good_declare(t, options, params));
    lmoe_param_def gain = {.size = sizeof gain,
                           .name = "gain",
                           .axes = "heads",
                           .dim = {h},
                           .init = LMOE_INIT_CONST,
                           .a = 1,
                           .flags = lmoe_size(t, "training") == 1 ? LMOE_PARAM_NO_DECAY : 0};
    w->decay = lmoe_mul(t, w->decay, lmoe_param(t, &gain));
    return e > 0 ? LMOE_OK : LMOE_E_CONFIG;
}

ZOO_LAYER(.params = declare)
