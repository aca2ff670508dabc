/* SPDX-License-Identifier: Apache-2.0
 * breaks: build/initial
 * A parameter starts uniform from 0.1 to -0.1.
 */
#include "layer.h"

static lmoe_status declare(lmoe_trace *t, const void *options, void *params)
{
    good_params *w = params;
    int64_t e = lmoe_size(t, "embed"), h = ((const good_options *)options)->heads;
    LMOE_TRY(good_declare(t, options, params));
    lmoe_param_def bias = {.size = sizeof bias,
                           .name = "more.weight",
                           .axes = "embed heads",
                           .dim = {e, h},
                           .init = LMOE_INIT_UNIFORM,
                           .a = 0.1,
                           .b = -0.1};
    w->decay = lmoe_add(t, w->decay, lmoe_param(t, &bias));
    return LMOE_OK;
}

ZOO_LAYER(.params = declare)
