/* SPDX-License-Identifier: Apache-2.0
 * breaks: ops/rule
 * Divides by a sum over embed, which its rule says may be split.
 */
#include "op.h"

static lmoe_status reference(const lmoe_args *a)
{
    const lmoe_buf *x = &a->in[0], *w = &a->in[1], *y = &a->out[0];
    int64_t e = w->dim[0];
    for (int64_t row = 0; row < lmoe_buf_count(y) / e; row++) {
        double sum = 1;
        for (int64_t i = 0; i < e; i++) sum += lmoe_get(x, row * e + i) * lmoe_get(x, row * e + i);
        for (int64_t i = 0; i < e; i++)
            lmoe_put(y, row * e + i, lmoe_get(x, row * e + i) * lmoe_get(w, i) / sum);
    }
    return LMOE_OK;
}

ZOO_OP(.reference = reference, .vjp = NULL)
