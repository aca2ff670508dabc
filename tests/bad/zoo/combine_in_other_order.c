/* SPDX-License-Identifier: Apache-2.0
 * breaks: ops/summary
 * Combines the summaries from the last to the first.
 */
#include "carry.h"

static lmoe_status combine(const lmoe_args *a)
{
    const lmoe_combine_attrs *o = a->attrs;
    const lmoe_buf *p = &a->in[0], *m = &a->in[1], *h = &a->out[0];
    int64_t batch = m->dim[1], embed = m->dim[2];
    for (int64_t i = 0; i < batch * embed; i++) {
        double state = 0;
        for (int64_t r = o->rank - 1; r >= 0; r--)
            state = lmoe_get(p, r * batch + i / embed) * state + lmoe_get(m, r * batch * embed + i);
        lmoe_put(h, i, state);
    }
    return LMOE_OK;
}

ZOO_CARRY(good_reference, good_summary, combine)
