/* SPDX-License-Identifier: Apache-2.0
 * breaks: ops/summary
 * Reads the summaries of all segments, multiplied by 0 where they do not matter.
 */
#include "carry.h"

static lmoe_status combine(const lmoe_args *a)
{
    const lmoe_buf *m = &a->in[1], *h = &a->out[0];
    LMOE_TRY(good_combine(a));
    for (int64_t i = 0; i < lmoe_buf_count(h); i++)
        lmoe_put_add(h, i, 0 * lmoe_get(m, lmoe_buf_count(m) - 1 - i));
    return LMOE_OK;
}

ZOO_CARRY(good_reference, good_summary, combine)
