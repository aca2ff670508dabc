/* SPDX-License-Identifier: Apache-2.0
 * core/op/initial/initial_ref.c: reference of initial/1, which a run on the CPU uses too.
 */
#include <lmoe/layer.h>
#include <lmoe/random.h>

#include "core/op/op.h"

lmoe_status lmoe__initial_reference(const lmoe_args *args);

static double value(const lmoe_initial_attrs *o, int64_t i)
{
    const uint64_t seed = (uint64_t)o->seed, stream = (uint64_t)o->stream, at = (uint64_t)i;
    switch (o->kind) {
    case LMOE_INIT_CONST: return o->a;
    case LMOE_INIT_UNIFORM: return o->a + (o->b - o->a) * lmoe_uniform(seed, stream, at);
    case LMOE_INIT_LOG: return log(o->a + (o->b - o->a) * lmoe_uniform(seed, stream, at));
    case LMOE_INIT_SOFTPLUS: {
        double y = exp(log(o->a) + log(o->b / o->a) * lmoe_uniform(seed, stream, at));
        return y + log(-expm1(-y));
    }
    case LMOE_INIT_POWER: return o->a + o->b * pow((double)i / (double)o->count, o->c);
    case LMOE_INIT_RAMP: return o->a + o->b * (double)(i % o->columns);
    case LMOE_INIT_LOG_RAMP: return log(o->a + o->b * (double)(i % o->columns));
    case LMOE_INIT_EYE: return i % o->columns == i / o->columns % o->rows ? 1.0 : 0.0;
    default: return o->a + o->b * lmoe_normal(seed, stream, at);
    }
}

lmoe_status lmoe__initial_reference(const lmoe_args *args)
{
    const lmoe_initial_attrs *o = args->attrs;
    const lmoe_buf *y = &args->out[0];
    for (int64_t i = 0; i < lmoe_buf_count(y); i++) {
        double x = value(o, o->first + i);
        if (o->part == LMOE_INITIAL_WHOLE)
            lmoe_put(y, i, x);
        else
            ((uint16_t *)y->data)[i] = o->part == LMOE_INITIAL_UPPER ? lmoe_upper_half((float)x)
                                                                     : lmoe_lower_half((float)x);
    }
    return LMOE_OK;
}
