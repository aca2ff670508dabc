/* SPDX-License-Identifier: Apache-2.0
 * breaks: ops/reference
 * Clears its output first, which it says may lie over its input.
 */
#include "op.h"

static lmoe_status reference(const lmoe_args *a)
{
    const lmoe_buf *x = &a->in[0], *w = &a->in[1], *y = &a->out[0];
    for (int64_t i = 0; i < lmoe_buf_count(y); i++) lmoe_put(y, i, 0);
    for (int64_t i = 0, e = w->dim[0]; i < lmoe_buf_count(y); i++)
        lmoe_put_add(y, i,
                     ((const good_attrs *)a->attrs)->scale * lmoe_get(x, i) * lmoe_get(w, i % e));
    return LMOE_OK;
}

ZOO_OP(.reference = reference)
