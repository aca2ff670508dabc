/* SPDX-License-Identifier: Apache-2.0
 * core/cli/plan_time.c: how long a step will take, by the alpha-beta model: an exchange of b bytes in
 * r rounds takes r * latency + b / bandwidth, computing takes FLOPs / rate.
 */
#include "core/cli/plan.h"

#include <math.h>

/* Messages one after another, by the algorithms that send least bytes. */
static double rounds(const lmoe__step *s)
{
    const lmoe_collective_attrs *a = s->node->attrs;
    switch (s->exchange) {
    case LMOE_SEND: return 0;
    case LMOE_RECV: return 1;
    case LMOE_ALL_REDUCE: return 2.0 * (double)(a->ranks - 1);
    default: return (double)(a->ranks - 1);
    }
}

void lmoe__plan_print_time(const lmoe__setup *s, const lmoe__planned_time *parts, int n,
                           double waiting)
{
    const lmoe__plan_options *o = &s->plan;
    double computing = 0, exchanging = 0, tokens = (double)(s->train.batch * s->train.seq);
    if (!(o->flops > 0)) return;
    for (int i = 0; i < n; i++) {
        const lmoe__plan *p = parts[i].plan;
        computing += parts[i].times * p->flops / o->flops;
        for (int k = 0; k < p->n_steps; k++) {
            const lmoe__step *x = &p->steps[k];
            if (!x->exchange) continue;
            double bytes = (double)lmoe__exchange_bytes(x);
            exchanging += parts[i].times *
                          (rounds(x) * o->latency + (o->bandwidth > 0 ? bytes / o->bandwidth : 0));
        }
    }
    computing /= 1 - waiting;
    double least = fmax(computing, exchanging), most = computing + exchanging;
    printf("a step       %.4g s to compute%s, %.4g s to exchange; %.4g s if exchanges are hidden, "
           "%.4g s if not (%.0f ... %.0f tokens/s)\n",
           computing, waiting > 0 ? " and to wait for stages" : "", exchanging, least, most,
           tokens / most, tokens / least);
}
