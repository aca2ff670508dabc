/* SPDX-License-Identifier: Apache-2.0
 * core/op/map/map_ref.c: the functions of map/1 and their derivatives, in forms that neither
 * overflow nor cancel at either end.
 */
#include "core/op/op.h"
#include "core/op/silu.h"

#include <math.h>

lmoe_status lmoe__map_reference(const lmoe_args *args);
lmoe_status lmoe__map_grad_reference(const lmoe_args *args);

static const double gelu_scale = 0.79788456080286535588, gelu_cube = 0.044715; /* sqrt(2/pi) */
static const double half_root = 0.70710678118654752440, bell = 0.39894228040143267794;

static double function(int fn, double x)
{
    switch ((lmoe_map_fn)fn) {
    case LMOE_MAP_SILU: return lmoe__silu(x);
    case LMOE_MAP_SIGMOID: return lmoe__sigmoid(x);
    case LMOE_MAP_LOGSIGMOID: return fmin(x, 0) - log1p(exp(-fabs(x)));
    case LMOE_MAP_EXP: return exp(x);
    case LMOE_MAP_LOG: return log(x);
    case LMOE_MAP_RELU: return x > 0 ? x : 0;
    case LMOE_MAP_ELU1: return x > 0 ? x + 1 : exp(x);
    case LMOE_MAP_SOFTPLUS: return fmax(x, 0) + log1p(exp(-fabs(x)));
    case LMOE_MAP_TANH: return tanh(x);
    case LMOE_MAP_SQUARE: return x * x;
    case LMOE_MAP_GELU: return 0.5 * x * (1 + tanh(gelu_scale * (x + gelu_cube * x * x * x)));
    case LMOE_MAP_SQRT: return sqrt(x);
    case LMOE_MAP_ONEMEXP: return -expm1(x);
    case LMOE_MAP_LOG1MEXP: return x > -0.7 ? log(-expm1(x)) : log1p(-exp(x));
    case LMOE_MAP_SIN: return sin(x);
    case LMOE_MAP_COS: return cos(x);
    case LMOE_MAP_GELU_ERF: return 0.5 * x * erfc(-half_root * x);
    }
    return 0;
}

static double derivative(int fn, double x)
{
    double s = lmoe__sigmoid(x);
    switch ((lmoe_map_fn)fn) {
    case LMOE_MAP_SILU: return lmoe__silu_slope(x);
    case LMOE_MAP_SIGMOID: return s * lmoe__sigmoid(-x);
    case LMOE_MAP_LOGSIGMOID: return lmoe__sigmoid(-x);
    case LMOE_MAP_EXP: return exp(x);
    case LMOE_MAP_LOG: return 1 / x;
    case LMOE_MAP_RELU: return x > 0;
    case LMOE_MAP_ELU1: return x > 0 ? 1 : exp(x);
    case LMOE_MAP_SOFTPLUS: return s;
    case LMOE_MAP_TANH: return 1 / (cosh(x) * cosh(x));
    case LMOE_MAP_SQUARE: return 2 * x;
    case LMOE_MAP_GELU: {
        double th = tanh(gelu_scale * (x + gelu_cube * x * x * x));
        return 0.5 * (1 + th) + 0.5 * x * (1 - th * th) * gelu_scale * (1 + 3 * gelu_cube * x * x);
    }
    case LMOE_MAP_SQRT: return 0.5 / sqrt(x);
    case LMOE_MAP_ONEMEXP: return -exp(x);
    /* at 0, where the logarithm is -inf, large but finite: what follows is multiplied by 0 */
    case LMOE_MAP_LOG1MEXP: return -1 / fmax(expm1(-x), 1e-30);
    case LMOE_MAP_SIN: return cos(x);
    case LMOE_MAP_COS: return -sin(x);
    case LMOE_MAP_GELU_ERF: return 0.5 * erfc(-half_root * x) + x * bell * exp(-0.5 * x * x);
    }
    return 0;
}

lmoe_status lmoe__map_reference(const lmoe_args *args)
{
    const lmoe_map_attrs *o = args->attrs;
    for (int64_t i = 0; i < lmoe_buf_count(&args->in[0]); i++)
        lmoe_put(&args->out[0], i, function(o->fn, lmoe_get(&args->in[0], i)));
    return LMOE_OK;
}

lmoe_status lmoe__map_grad_reference(const lmoe_args *args)
{
    const lmoe_map_attrs *o = args->attrs;
    for (int64_t i = 0; i < lmoe_buf_count(&args->in[0]); i++) {
        double x = lmoe_get(&args->in[0], i), dy = lmoe_get(&args->in[1], i);
        lmoe_put(&args->out[0], i, dy * derivative(o->fn, x));
    }
    return LMOE_OK;
}
