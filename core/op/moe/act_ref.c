/* SPDX-License-Identifier: Apache-2.0
 * core/op/moe/act_ref.c: references of expert_act/1 and expert_act_grad/1; the equations stand in
 * act.c. Each element is read before it is written: results may lie over operands.
 */
#include "core/op/op.h"
#include "core/op/silu.h"

lmoe_status lmoe__expert_act_reference(const lmoe_args *args);
lmoe_status lmoe__expert_act_grad_reference(const lmoe_args *args);

/* f(x) and its slope. gelu: x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3). */
static double function(int32_t fn, double x, double *slope)
{
    const double a = 0.79788456080286535588, b = 0.044715;
    if (fn == LMOE_ACT_SILU) {
        *slope = lmoe__silu_slope(x);
        return lmoe__silu(x);
    }
    if (fn == LMOE_ACT_RELU2) {
        *slope = x > 0 ? 2 * x : 0;
        return x > 0 ? x * x : 0;
    }
    double u = 2 * a * (x + b * x * x * x), s = lmoe__sigmoid(u), opposite = lmoe__sigmoid(-u);
    *slope = s + x * s * opposite * 2 * a * (1 + 3 * b * x * x);
    return x * s;
}

lmoe_status lmoe__expert_act_reference(const lmoe_args *args)
{
    const lmoe_expert_act_attrs *o = args->attrs;
    const lmoe_buf *gate = &args->in[0], *up = &args->in[1], *scale = &args->in[2];
    int64_t hidden = gate->dim[1];
    for (int64_t i = 0; i < lmoe_buf_count(gate); i++) {
        double slope, y = function(o->fn, lmoe_get(gate, i), &slope);
        double u = lmoe_buf_present(up) ? lmoe_get(up, i) : 1;
        lmoe_put(&args->out[0], i, lmoe_get(scale, i / hidden) * y * u);
    }
    return LMOE_OK;
}

lmoe_status lmoe__expert_act_grad_reference(const lmoe_args *args)
{
    const lmoe_expert_act_attrs *o = args->attrs;
    const lmoe_buf *gate = &args->in[0], *up = &args->in[1], *scale = &args->in[2];
    const lmoe_buf *dh = &args->in[3];
    int64_t hidden = gate->dim[1];
    for (int64_t r = 0; r < gate->dim[0]; r++) {
        double sum = 0, w = lmoe_get(scale, r);
        for (int64_t i = r * hidden; i < (r + 1) * hidden; i++) {
            double slope, y = function(o->fn, lmoe_get(gate, i), &slope);
            double u = lmoe_buf_present(up) ? lmoe_get(up, i) : 1, d = lmoe_get(dh, i);
            sum += y * u * d;
            if (lmoe_buf_present(&args->out[0])) lmoe_put(&args->out[0], i, w * slope * u * d);
            if (lmoe_buf_present(&args->out[1])) lmoe_put(&args->out[1], i, w * y * d);
        }
        if (lmoe_buf_present(&args->out[2])) lmoe_put(&args->out[2], r, sum);
    }
    return LMOE_OK;
}
