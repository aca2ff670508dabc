/* SPDX-License-Identifier: Apache-2.0
 * core/op/fill/fill_ref.c: every element is the value.
 */
#include "core/op/op.h"

lmoe_status lmoe__fill_reference(const lmoe_args *args);

lmoe_status lmoe__fill_reference(const lmoe_args *args)
{
    const lmoe_fill_attrs *o = args->attrs;
    for (int64_t i = 0; i < lmoe_buf_count(&args->out[0]); i++)
        lmoe_put(&args->out[0], i, o->value);
    return LMOE_OK;
}
