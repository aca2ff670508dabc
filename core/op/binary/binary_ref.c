/* SPDX-License-Identifier: Apache-2.0
 * core/op/binary/binary_ref.c: y[i] = a[i] op b[the same place without the axes that b lacks].
 */
#include "core/op/op.h"

lmoe_status lmoe__add_reference(const lmoe_args *args);
lmoe_status lmoe__multiply_reference(const lmoe_args *args);
lmoe_status lmoe__divide_reference(const lmoe_args *args);

/* Element i of a pairs with element (i / inner) mod n of b: `inner` elements follow b's last axis
 * in a, and what lies before b's first axis repeats. */
static lmoe_status each(const lmoe_args *args, double (*op)(double a, double b))
{
    const lmoe_binary_attrs *o = args->attrs;
    const lmoe_buf *a = &args->in[0], *b = &args->in[1];
    int64_t inner = 1, n = lmoe_buf_count(b);
    for (int d = (int)o->start + b->rank; d < a->rank; d++) inner *= a->dim[d];
    for (int64_t i = 0; i < lmoe_buf_count(a); i++)
        lmoe_put(&args->out[0], i, op(lmoe_get(a, i), lmoe_get(b, i / inner % n)));
    return LMOE_OK;
}

static double add(double a, double b)
{
    return a + b;
}

static double multiply(double a, double b)
{
    return a * b;
}

static double divide(double a, double b)
{
    return a / b;
}

lmoe_status lmoe__add_reference(const lmoe_args *args)
{
    return each(args, add);
}

lmoe_status lmoe__multiply_reference(const lmoe_args *args)
{
    return each(args, multiply);
}

lmoe_status lmoe__divide_reference(const lmoe_args *args)
{
    return each(args, divide);
}
