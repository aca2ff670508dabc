/* SPDX-License-Identifier: Apache-2.0
 * core/graph/replay.c: runs a plan. On devices that can capture, the launches of the second replay
 * are captured and later replays are one launch; with eager or profile set, or exchanges in the
 * plan, nodes are launched one by one.
 */
#include "core/graph/graph.h"

#include <math.h>
#include <stdlib.h>

static lmoe_status launch(lmoe__plan *p, lmoe__step *s)
{
    if (s->exchange) return lmoe__exchange_start(p, s);
    return s->kernel ? s->kernel->launch(&s->args) : s->node->op->reference(&s->args);
}

static lmoe_status wait_for(lmoe__plan *p, const int *steps, int n)
{
    for (int i = 0; i < n; i++) LMOE_TRY(lmoe__exchange_wait(p, &p->steps[steps[i]]));
    return LMOE_OK;
}

/* The first element of an output that is not finite; -1 if all are (-inf is legal: it means
 * "nothing seen"). */
static int64_t first_bad(lmoe__plan *p, const lmoe_buf *b, bool counts)
{
    int64_t n = lmoe_buf_count(b), bad = -1;
    size_t bytes = (size_t)n * lmoe_dtype_bytes(b->dtype);
    lmoe_buf host = *b;
    host.data = lmoe__malloc(bytes ? bytes : 1);
    if (p->store->device->download(p->store->dev, host.data, b->data, bytes) == LMOE_OK) {
        for (int64_t i = 0; i < n && bad < 0; i++) {
            double x = lmoe_get(&host, i);
            if (isnan(x) || (isinf(x) && x > 0)) bad = i;
            if (counts && isfinite(x)) p->largest = fmax(p->largest, fabs(x));
        }
    }
    free(host.data);
    return bad;
}

static lmoe_status check_outputs(lmoe__plan *p, lmoe__step *s)
{
    char where[160];
    const lmoe_op *op = s->node->op;
    bool element_wise = op->inplace && op->inplace[0] && !op->carry;
    for (int k = 0; k < s->args.n_out; k++) {
        const lmoe_buf *b = &s->args.out[k];
        if (!lmoe_dtype_is_float(b->dtype)) continue;
        int64_t bad = first_bad(p, b, !element_wise);
        if (bad < 0) continue;
        return lmoe_error(
            p->ctx, LMOE_E_NUMERIC, "%s: %s of %s%s is NaN or infinite at element %lld",
            lmoe__node_where(s->node, where, sizeof where), s->node->op->outputs[k].name,
            s->node->op->base.name, s->node->forward >= 0 ? " (backward)" : "", (long long)bad);
    }
    return LMOE_OK;
}

static lmoe_status one_by_one(lmoe__plan *p)
{
    char where[160];
    for (int i = 0; i < p->n_steps; i++) {
        lmoe__step *s = &p->steps[i];
        double start = p->profile ? lmoe__now() : 0;
        LMOE_TRY(wait_for(p, s->waits, s->n_waits));
        lmoe_status status = launch(p, s);
        bool now = p->profile || p->eager;
        if (status == LMOE_OK && s->exchange && now) status = lmoe__exchange_wait(p, s);
        if (status != LMOE_OK)
            return lmoe_error(p->ctx, status, "%s: %s failed",
                              lmoe__node_where(s->node, where, sizeof where),
                              s->node->op->base.name);
        if (p->profile) {
            p->store->device->synchronize(p->store->dev);
            s->seconds += lmoe__now() - start;
            s->launches++;
        }
        if (p->eager) LMOE_TRY(check_outputs(p, s));
    }
    return wait_for(p, p->last_waits, p->n_last_waits);
}

lmoe_status lmoe__plan_replay(lmoe__plan *p)
{
    const lmoe_device *device = p->store->device;
    void *dev = p->store->dev;
    bool capture = device->capture_begin && !p->eager && !p->profile && !p->has_exchange;
    p->replays++;
    if (p->captured && !p->eager && !p->profile) return device->replay(dev, p->captured);
    if (!capture || p->replays < 2) return one_by_one(p);
    LMOE_TRY(device->capture_begin(dev));
    lmoe_status status = one_by_one(p);
    lmoe_status ended = device->capture_end(dev, &p->captured);
    LMOE_TRY(status);
    LMOE_TRY(ended);
    return device->replay(dev, p->captured);
}
