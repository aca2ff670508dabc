/* SPDX-License-Identifier: Apache-2.0
 * plugins/parallel/pp/balance.c: layers to stages by cost.
 *
 *   best(k, n) = min over m of join(best(k - 1, m), cost of layers m ... n-1)
 *
 * is the best that k stages can do with the first n layers. It is solved twice: with join = max it
 * gives the cost of the dearest stage, which sets the pace; with join(a, b) = a + b^2, where no stage
 * may cost more than that, it gives the most even of the cuts that keep the pace. What lies before
 * the first layer costs the first stage, what lies after the last one the last stage.
 */
#include "pp.h"

#include <math.h>
#include <stdlib.h>

typedef struct table {
    int32_t stages, layers;
    double *sum;   /* [n]: cost of the first n layers */
    double *best;  /* [k * (layers + 1) + n] */
    int32_t *from; /* m of the best */
} table;

static double join(double before, double own, double pace)
{
    if (pace < 0) return fmax(before, own);
    return own <= pace ? before + own * own : INFINITY;
}

static double solve(table *t, double pace)
{
    size_t row = (size_t)t->layers + 1;
    for (size_t n = 1; n < row; n++) t->best[n] = INFINITY; /* no stages for n layers */
    t->best[0] = 0;
    for (int32_t k = 1; k <= t->stages; k++) {
        for (int32_t n = 0; n <= t->layers; n++) {
            size_t at = (size_t)k * row + (size_t)n;
            t->best[at] = INFINITY;
            for (int32_t m = n - 1; m >= 0; m--) {
                double own = t->sum[n] - t->sum[m];
                double x = join(t->best[(size_t)(k - 1) * row + (size_t)m], own, pace);
                if (!(x < t->best[at])) continue;
                t->best[at] = x;
                t->from[at] = m;
            }
        }
    }
    return t->best[(size_t)t->stages * row + (size_t)t->layers];
}

lmoe_status pp_balance(const lmoe_stages *s, int32_t stages, int32_t *count)
{
    size_t row = (size_t)s->layers + 1, cells = row * ((size_t)stages + 1);
    table t = {stages, s->layers, calloc(row, sizeof(double)), calloc(cells, sizeof(double)),
               calloc(cells, sizeof(int32_t))};
    lmoe_status status = t.sum && t.best && t.from ? LMOE_OK : LMOE_E_MEMORY;
    for (int32_t n = 1; status == LMOE_OK && n <= s->layers; n++) {
        t.sum[n] = t.sum[n - 1] + s->cost[n - 1];
        if (n == 1) t.sum[n] += s->cost_before;
        if (n == s->layers) t.sum[n] += s->cost_after;
    }
    if (status == LMOE_OK) solve(&t, solve(&t, -1) * (1 + 1e-9)); /* sums are rounded */
    for (int32_t k = stages, n = s->layers; status == LMOE_OK && k > 0; k--) {
        int32_t m = t.from[(size_t)k * row + (size_t)n];
        count[k - 1] = n - m;
        n = m;
    }
    free(t.sum);
    free(t.best);
    free(t.from);
    return status;
}
