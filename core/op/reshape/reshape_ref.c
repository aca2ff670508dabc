/* SPDX-License-Identifier: Apache-2.0
 * core/op/reshape/reshape_ref.c: a copy; plans share the buffer instead.
 */
#include "core/op/op.h"

lmoe_status lmoe__reshape_reference(const lmoe_args *args);

lmoe_status lmoe__reshape_reference(const lmoe_args *args)
{
    const lmoe_buf *x = &args->in[0];
    size_t bytes = (size_t)lmoe_buf_count(x) * lmoe_dtype_bytes(x->dtype);
    if (args->out[0].data != x->data) memcpy(args->out[0].data, x->data, bytes);
    return LMOE_OK;
}
