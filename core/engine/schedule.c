/* SPDX-License-Identifier: Apache-2.0
 * core/engine/schedule.c: asks a strategy for the order of every rank's passes, and looks whether
 * the ranks can work in it: a pass waits for the unit before it (of the same micro-batch), a rank
 * for its own pass before. With the passes' costs as times this also tells how long ranks wait.
 */
#include "core/engine/pipeline.h"

#include <math.h>
#include <stdlib.h>

typedef struct schedule {
    lmoe_ctx *ctx;
    const lmoe__mesh_axis *axis;
    const lmoe_pipeline *shape;
    lmoe_stage_action **actions;
    int stages, n; /* actions of a rank */
} schedule;

static int unit_of(const schedule *s, int rank, const lmoe_stage_action *a)
{
    return lmoe__unit_of(s->stages, a->chunk * s->shape->ranks + rank, a->backward);
}

static lmoe_status wrong(const schedule *s, int rank, int i, const char *what)
{
    const lmoe_stage_action *a = &s->actions[rank][i];
    return lmoe_error(
        s->ctx, LMOE_E_CONFIG,
        "mesh axis '%s' (%s): the order of rank %d of %d is wrong: pass %d (%s, chunk "
        "%d, micro-batch %d) %s",
        s->axis->name, s->axis->strategy->base.name, rank, s->shape->ranks, i,
        a->backward ? "backward" : "forward", a->chunk, a->micro_batch, what);
}

/* Each pass once, and micro-batches in order. As many actions as passes, so none is left out. */
static lmoe_status check_rank(const schedule *s, int rank)
{
    int *next = calloc((size_t)s->shape->chunks * 2, sizeof *next);
    lmoe_status status = LMOE_OK;
    for (int i = 0; i < s->n && status == LMOE_OK; i++) {
        const lmoe_stage_action *a = &s->actions[rank][i];
        bool known = a->chunk >= 0 && a->chunk < s->shape->chunks && (a->backward | 1) == 1;
        if (!known || a->micro_batch < 0 || a->micro_batch >= s->shape->micro_batches)
            status = wrong(s, rank, i, "does not exist");
        else if (a->micro_batch != next[a->chunk * 2 + a->backward]++)
            status = wrong(s, rank, i, "is out of the order of micro-batches");
    }
    free(next);
    return status;
}

/* done[unit * micro-batches + i]: when it is finished; below 0: not yet. Runs what can run. */
static bool advance(const schedule *s, int rank, int *at, double *clock, double *done,
                    const double *cost)
{
    bool any = false;
    for (; *at < s->n; (*at)++, any = true) {
        const lmoe_stage_action *a = &s->actions[rank][*at];
        int unit = unit_of(s, rank, a), m = s->shape->micro_batches;
        double ready = unit > 0 ? done[(unit - 1) * m + a->micro_batch] : 0;
        if (ready < 0) break;
        *clock = fmax(*clock, ready) + cost[unit];
        done[unit * m + a->micro_batch] = *clock;
    }
    return any;
}

static lmoe_status try_out(const schedule *s, const double *cost, double *bubble)
{
    int ranks = s->shape->ranks, m = s->shape->micro_batches;
    int *at = calloc((size_t)ranks, sizeof *at);
    double *clock = calloc((size_t)ranks, sizeof *clock), end = 0, busy = 0;
    double *done = lmoe__malloc(sizeof *done * 2 * (size_t)s->stages * (size_t)m);
    lmoe_status status = LMOE_OK;
    bool any = true;
    for (int i = 0; i < 2 * s->stages * m; i++) done[i] = -1;
    while (any) {
        any = false;
        for (int r = 0; r < ranks; r++) any |= advance(s, r, &at[r], &clock[r], done, cost);
    }
    for (int r = 0; r < ranks; r++) {
        end = fmax(end, clock[r]);
        if (at[r] < s->n && status == LMOE_OK)
            status =
                wrong(s, r, at[r],
                      "can never run: what it waits for stands behind passes that wait for it");
    }
    for (int u = 0; u < 2 * s->stages; u++) busy += cost[u] * m;
    *bubble = end > 0 ? 1 - busy / (ranks * end) : 0;
    free(at);
    free(clock);
    free(done);
    return status;
}

lmoe_status lmoe__schedule(lmoe_ctx *ctx, lmoe__arena *arena, const lmoe__mesh_axis *axis,
                           const lmoe_pipeline *shape, const double *cost,
                           lmoe_stage_action **actions, double *bubble)
{
    schedule s = {ctx,
                  axis,
                  shape,
                  actions,
                  shape->ranks * shape->chunks,
                  2 * shape->chunks * shape->micro_batches};
    for (int r = 0; r < shape->ranks; r++) {
        actions[r] = LMOE_NEW_N(arena, lmoe_stage_action, s.n);
        for (int i = 0; i < s.n; i++) actions[r][i].micro_batch = -1; /* not given */
        lmoe_status status = axis->strategy->schedule(axis->options, shape, r, actions[r]);
        if (status != LMOE_OK)
            return lmoe_error(ctx, status, "mesh axis '%s': %s gives no order of work for rank %d",
                              axis->name, axis->strategy->base.name, r);
        LMOE_TRY(check_rank(&s, r));
    }
    return try_out(&s, cost, bubble);
}
