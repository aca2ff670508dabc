/* SPDX-License-Identifier: Apache-2.0
 * core/op/rope/rope_ref.c: pair (i, i + k/2) of each head is multiplied by the rotation matrix.
 */
#include "core/op/op.h"

#include <math.h>

lmoe_status lmoe__rope_reference(const lmoe_args *args);

lmoe_status lmoe__rope_reference(const lmoe_args *args)
{
    const lmoe_rope_attrs *o = args->attrs;
    const lmoe_buf *x = &args->in[0], *y = &args->out[0];
    int64_t heads = x->dim[2], width = x->dim[3], half = width / 2;
    for (int64_t row = 0; row < x->dim[0] * x->dim[1] * heads; row++) {
        double position = lmoe_get(&args->in[1], row / heads);
        for (int64_t i = 0; i < half; i++) {
            double angle = position * pow(o->base, -2.0 * (double)i / (double)width);
            double c = cos(angle), s = o->inverse ? -sin(angle) : sin(angle);
            double a = lmoe_get(x, row * width + i), b = lmoe_get(x, row * width + i + half);
            lmoe_put(y, row * width + i, a * c - b * s);
            lmoe_put(y, row * width + i + half, a * s + b * c);
        }
    }
    return LMOE_OK;
}
