/* SPDX-License-Identifier: Apache-2.0
 * core/op/swiglu/swiglu_ref.c: y = g s(g) u with s the sigmoid;
 *   dg = dy u (s(g) + g s(g) s(-g)),   du = dy g s(g).
 */
#include "core/op/op.h"
#include "core/op/silu.h"

lmoe_status lmoe__swiglu_reference(const lmoe_args *args);
lmoe_status lmoe__swiglu_grad_reference(const lmoe_args *args);

lmoe_status lmoe__swiglu_reference(const lmoe_args *args)
{
    for (int64_t i = 0; i < lmoe_buf_count(&args->in[0]); i++) {
        double g = lmoe_get(&args->in[0], i), u = lmoe_get(&args->in[1], i);
        lmoe_put(&args->out[0], i, lmoe__silu(g) * u);
    }
    return LMOE_OK;
}

lmoe_status lmoe__swiglu_grad_reference(const lmoe_args *args)
{
    const lmoe_buf *dgate = &args->out[0], *dup = &args->out[1];
    for (int64_t i = 0; i < lmoe_buf_count(&args->in[0]); i++) {
        double g = lmoe_get(&args->in[0], i), u = lmoe_get(&args->in[1], i);
        double dy = lmoe_get(&args->in[2], i);
        if (lmoe_buf_present(dgate)) lmoe_put(dgate, i, dy * u * lmoe__silu_slope(g));
        if (lmoe_buf_present(dup)) lmoe_put(dup, i, dy * lmoe__silu(g));
    }
    return LMOE_OK;
}
