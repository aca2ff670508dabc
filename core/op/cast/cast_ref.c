/* SPDX-License-Identifier: Apache-2.0
 * core/op/cast/cast_ref.c: element by element; double holds every value of every dtype but i64.
 */
#include "core/op/op.h"

lmoe_status lmoe__cast_reference(const lmoe_args *args);

lmoe_status lmoe__cast_reference(const lmoe_args *args)
{
    for (int64_t i = 0; i < lmoe_buf_count(&args->in[0]); i++)
        lmoe_put(&args->out[0], i, lmoe_get(&args->in[0], i));
    return LMOE_OK;
}
