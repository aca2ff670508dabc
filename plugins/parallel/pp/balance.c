/* SPDX-License-Identifier: Apache-2.0
 * plugins/parallel/pp/balance.c: layers to stages by cost.
 *
 *   best(k, n) = min over m of max(best(k - 1, m), cost of layers m ... n-1)
 *
 * is the cost of the dearest of k stages that share the first n layers. What lies before the first
 * layer costs the first stage, what lies after the last one the last stage.
 */
#include "pp.h"

#include <stdlib.h>

/* sum[n]: cost of the first n layers, with what goes before them if n > 0, after if n is all. */
static double *sums(const lmoe_stages *s)
{
    double *sum = calloc((size_t)s->layers + 1, sizeof *sum);
    if (!sum) return NULL;
    for (int32_t n = 1; n <= s->layers; n++) {
        sum[n] = sum[n - 1] + s->cost[n - 1];
        if (n == 1) sum[n] += s->cost_before;
        if (n == s->layers) sum[n] += s->cost_after;
    }
    return sum;
}

lmoe_status pp_balance(const lmoe_stages *s, int32_t stages, int32_t *count)
{
    int32_t layers = s->layers;
    size_t row = (size_t)layers + 1;
    double *sum = sums(s), *best = calloc(row * ((size_t)stages + 1), sizeof *best);
    int32_t *from = calloc(row * ((size_t)stages + 1), sizeof *from); /* m of best(k, n) */
    lmoe_status status = sum && best && from ? LMOE_OK : LMOE_E_MEMORY;
    for (int32_t n = 0; status == LMOE_OK && n <= layers; n++) best[row + (size_t)n] = sum[n];
    for (int32_t k = 2; status == LMOE_OK && k <= stages; k++) {
        for (int32_t n = k; n <= layers; n++) {
            double *least = &best[(size_t)k * row + (size_t)n];
            for (int32_t m = n - 1; m >= k - 1; m--) { /* a tie: fewer layers on later stages */
                double before = best[(size_t)(k - 1) * row + (size_t)m], own = sum[n] - sum[m];
                double dearest = before > own ? before : own;
                if (m < n - 1 && dearest >= *least) continue;
                *least = dearest;
                from[(size_t)k * row + (size_t)n] = m;
            }
        }
    }
    for (int32_t k = stages, n = layers; status == LMOE_OK && k > 0; k--) {
        int32_t m = from[(size_t)k * row + (size_t)n];
        count[k - 1] = n - m;
        n = m;
    }
    free(sum);
    free(best);
    free(from);
    return status;
}
