/* SPDX-License-Identifier: Apache-2.0
 * breaks: numerics/fuzz
 * also: numerics/extremes (an input of size 1e4 overflows too)
 * A decay of -log(1 + exp(z)), computed as written: exp overflows.
 */
#include "layer.h"

static lmoe_tensor forward(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x)
{
    const good_params *w = params;
    lmoe_tensor q = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->q);
    lmoe_tensor k = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->k);
    lmoe_tensor v = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->v);
    lmoe_tensor z = lmoe_f32(t, lmoe_einsum(t, "b s e, e h -> b s h", x, w->decay));
    lmoe_tensor g = lmoe_map(t, lmoe_affine(t, lmoe_exp(t, z), 1.0, 1.0), LMOE_MAP_LOG);
    g = lmoe_mul_scalar(t, g, -1.0);
    lmoe_tensor y = lmoe_scan_diag(t, q, k, v, g, lmoe_key_scale(t, q));
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

ZOO_LAYER(.forward = forward)
