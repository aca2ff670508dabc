/* SPDX-License-Identifier: Apache-2.0
 * breaks: routers/ties
 * also: routers/all_to_one (never)
 * Where experts are equal, the choice changes from run to run.
 */
#include "router.h"
#include "through.h"

static lmoe_status reference(const lmoe_args *a)
{
    static int runs;
    const lmoe_buf *x = &a->in[0];
    int64_t n = lmoe_buf_count(x), experts = x->dim[2];
    int equal = n > 100;
    for (int64_t i = 1; i < n && equal; i++) equal = lmoe_get(x, i) == lmoe_get(x, 0);
    for (int64_t i = 0; i < n; i++)
        lmoe_put(&a->out[0], i, lmoe_get(x, i) + 1e-6 * equal * (double)((i + runs) % experts));
    runs++;
    return LMOE_OK;
}
ZOO_THROUGH(.reference = reference)

static lmoe_status route(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x,
                         lmoe_routing *out)
{
    return good_choose(t, through(t, good_logits(t, params, x)), out);
}

ZOO_ROUTER_THROUGH(route)
