/* SPDX-License-Identifier: Apache-2.0
 * core/op/histogram/histogram_ref.c: reference of histogram/1: counts each value by itself, so that
 * counts are exact whatever the dtype of the result is.
 */
#include "core/op/op.h"

lmoe_status lmoe__histogram_reference(const lmoe_args *args);

lmoe_status lmoe__histogram_reference(const lmoe_args *args)
{
    const lmoe_buf *index = &args->in[0];
    const lmoe_histogram_attrs *o = args->attrs;
    int64_t slots = lmoe_buf_count(index);
    for (int64_t x = 0; x < o->n; x++) {
        int64_t count = 0;
        for (int64_t i = 0; i < slots; i++) count += (int64_t)lmoe_get(index, i) == x;
        lmoe_put(&args->out[0], x, (double)count);
    }
    return LMOE_OK;
}
