/* SPDX-License-Identifier: Apache-2.0
 * breaks: ops/reset
 * also: ops/carry (a piece that starts behind a reset does not see it)
 * also: ops/summary (so does a segment)
 * A reset of the first token of a document is read one token late.
 */
#include "carry.h"

static lmoe_status reference(const lmoe_args *a)
{
    const lmoe_buf *x = &a->in[X], *y = &a->out[0], *last = &a->out[1];
    int64_t batch = x->dim[0], seq = x->dim[1], embed = x->dim[2];
    for (int64_t i = 0; i < batch * embed; i++) {
        int64_t b = i / embed, e = i % embed;
        double h = lmoe_buf_present(&a->in[H]) ? lmoe_get(&a->in[H], i) : 0;
        for (int64_t s = 0; s < seq; s++) {
            int64_t token = b * seq + s, at = token * embed + e;
            if (s > 0 && flag(a, RESET, token - 1)) h = lmoe_get(x, at - embed);
            int skipped = flag(a, SKIP, token);
            if (!skipped) h = decay * h + lmoe_get(x, at);
            if (lmoe_buf_present(y)) lmoe_put(y, at, skipped ? 0 : h);
        }
        if (lmoe_buf_present(last)) lmoe_put(last, i, h);
    }
    return LMOE_OK;
}

ZOO_CARRY(reference, good_summary, good_combine)
