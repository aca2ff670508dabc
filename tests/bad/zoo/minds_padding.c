/* SPDX-License-Identifier: Apache-2.0
 * breaks: layers/skip
 * Takes padding for tokens.
 */
#include "layer.h"

static lmoe_tensor forward(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x)
{
    const good_params *w = params;
    lmoe_tensor q = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->q);
    lmoe_tensor k = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->k);
    lmoe_tensor v = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->v);
    lmoe_tensor given = lmoe_ambient_value(t, LMOE_AMBIENT_SKIP);
    lmoe_scan_diag_in in = {.q = q, .k = k, .v = v, .decay = good_decay(t, options, w, x)};
    if (!lmoe_is_absent(given)) in.skip = lmoe_fill_like(t, given, 0.0);
    lmoe_tensor y = lmoe_scan_diag_with(t, &in, 1.0);
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

ZOO_LAYER(.forward = forward)
