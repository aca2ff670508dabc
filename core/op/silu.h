/* SPDX-License-Identifier: Apache-2.0
 * core/op/silu.h: the sigmoid and what is made of it, for reference kernels: forms that do not
 * overflow at either end.
 */
#ifndef LMOE_CORE_OP_SILU_H
#define LMOE_CORE_OP_SILU_H

#include <math.h>

static inline double lmoe__sigmoid(double x)
{
    return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x));
}

static inline double lmoe__silu(double x)
{
    return x * lmoe__sigmoid(x);
}

/* Derivative of silu. */
static inline double lmoe__silu_slope(double x)
{
    return lmoe__sigmoid(x) + x * lmoe__sigmoid(x) * lmoe__sigmoid(-x);
}

#endif
