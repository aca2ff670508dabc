/* SPDX-License-Identifier: Apache-2.0
 * breaks: routers/ranks
 * also: ops/rule (the rule is that of an op)
 * A rule lets the batch be split, but the op numbers the rows that it sees.
 */
#include "router.h"
#include "through.h"

static lmoe_status reference(const lmoe_args *a)
{
    int64_t n = lmoe_buf_count(&a->in[0]), row = n / a->in[0].dim[0];
    for (int64_t i = 0; i < n; i++)
        lmoe_put(&a->out[0], i, lmoe_get(&a->in[0], i) * (1 + 0.01 * (double)(i / row)));
    return LMOE_OK;
}

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    v->din[0] = lmoe_apply_at(t, LMOE_HERE, "zoo.x/" ZOO "_op/1", v->dout, 1, NULL, 0, NULL, 0);
    return LMOE_OK;
}
ZOO_THROUGH(.reference = reference, .vjp = vjp)

static lmoe_status route(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x,
                         lmoe_routing *out)
{
    return good_choose(t, through(t, good_logits(t, params, x)), out);
}

ZOO_ROUTER_THROUGH(route)
