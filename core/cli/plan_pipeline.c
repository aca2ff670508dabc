/* SPDX-License-Identifier: Apache-2.0
 * core/cli/plan_pipeline.c: lmoe plan of a run with a pipeline: stages, how long ranks wait, memory of
 * each rank of the axis, what stages send to one another.
 */
#include "core/cli/plan.h"

#include "core/engine/pipeline.h"

#include <math.h>
#include <stdlib.h>

typedef struct planned {
    lmoe__engine engine;
    lmoe__pipeline *train, *eval;
} planned;

static lmoe_status make_rank(lmoe_ctx *ctx, const lmoe__setup *s, int axis, int rank, planned *p)
{
    lmoe__mesh mesh;
    lmoe__program *update;
    const lmoe__model_shape shape = lmoe__setup_shape(s);
    const lmoe__optimiser o = lmoe__setup_optimiser(s);
    lmoe__engine *e = &p->engine;
    int n = (int)s->train.accumulate;
    lmoe__setup_place(s, 0, &mesh);
    mesh.axis[axis].rank = rank;
    LMOE_TRY(lmoe__engine_init(e, ctx, &s->model, &mesh, s->device, NULL, lmoe__setup_dtype(s)));
    LMOE_TRY(lmoe__pipeline_new(e, &shape, n, true, &p->train));
    if (s->data.valid && s->data.valid[0])
        LMOE_TRY(lmoe__pipeline_new(e, &shape, n, false, &p->eval));
    LMOE_TRY(lmoe__engine_update_program(e, &o, &update));
    return lmoe__engine_bind(e);
}

static void print_stages(const lmoe__pipeline *p)
{
    printf("pipeline     %d stages on %d ranks: layers", p->stages.count, p->axis->ranks);
    for (int s = 0; s < p->stages.count; s++) {
        int layers = 0;
        for (int i = 0; i < p->stages.layers; i++) layers += p->stages.of_layer[i] == s;
        printf(" %d", layers);
    }
    printf(
        "\n             %d micro-batches a step; ranks wait %.0f %% of a step, if FLOPs are time",
        p->micro_batches, 100 * p->bubble);
    if (p->micro_batches < 2 * p->axis->ranks)
        printf(": fewer with more micro-batches ([train] accumulate)");
    printf("\n");
}

static double bytes_of(const planned *p, int kind)
{
    double sum = 0;
    for (int i = 0; i < LMOE__MEM_KINDS; i++)
        if (i == kind || kind == LMOE__MEM_KINDS) sum += (double)p->engine.store.bytes[i];
    return sum;
}

/* A column for each rank of the axis; the other axes' ranks need as much as these. */
static void print_memory(const planned *p, int ranks)
{
    char text[32];
    printf("memory of rank ");
    for (int r = 0; r < ranks; r++) printf("%10d ", r);
    for (int k = 0; k <= LMOE__MEM_KINDS; k++) {
        double most = 0;
        for (int r = 0; r < ranks; r++) most = fmax(most, bytes_of(&p[r], k));
        if (most == 0) continue;
        printf("\n  %-12s ", k < LMOE__MEM_KINDS ? lmoe__plan_kinds[k] : "in all");
        for (int r = 0; r < ranks; r++)
            printf("%10s ", lmoe__bytes_text(text, sizeof text, bytes_of(&p[r], k)));
    }
    printf("\n");
}

/* What each pair of stages exchanges in a micro-batch; with --explain, each value and its source. */
static void print_transfers(const lmoe__pipeline *p, bool explain)
{
    const lmoe__graph *g = p->cut->graph;
    int n = p->stages.count;
    char where[160], text[32];
    printf("sent from stage to stage, a micro-batch\n");
    for (int i = 0; i < p->cut->n_transfers; i++) {
        const lmoe__transfer *t = &p->cut->transfers[i], *next = t + 1;
        const lmoe__value *v = &g->values[t->value];
        double bytes = (double)lmoe_desc_bytes(&v->desc);
        while (!explain && i + 1 < p->cut->n_transfers && next->from == t->from &&
               next->to == t->to) {
            bytes += (double)lmoe_desc_bytes(&g->values[next->value].desc);
            next++;
            i++;
        }
        printf("  %-4s send %3d -> %-3d %10s  %s%s%s\n", p->axis->name,
               lmoe__unit_stage(n, t->from), lmoe__unit_stage(n, t->to),
               lmoe__bytes_text(text, sizeof text, bytes), t->from < n ? "forward" : "backward",
               explain ? ", " : "",
               explain ? lmoe__node_where(&g->nodes[v->node], where, sizeof where) : "");
    }
}

static void print_time(const lmoe__setup *s, const lmoe__pipeline *p)
{
    int n = p->chunks * 2;
    lmoe__planned_time *parts = calloc((size_t)n, sizeof *parts);
    for (int i = 0; i < n; i++) {
        parts[i].plan = p->chunk[i / 2].pass[i % 2].programs[0]->plan;
        parts[i].times = p->micro_batches;
    }
    lmoe__plan_print_time(s, parts, n, p->bubble);
    free(parts);
}

/* The kernels of the first rank's chunks, and what they exchange over the other axes. */
static void print_others(const lmoe__setup *s, const lmoe__pipeline *p, bool explain)
{
    const lmoe__plan **plans = calloc((size_t)p->chunks * 2, sizeof *plans);
    bool any = false;
    for (int i = 0; i < p->chunks * 2; i++) {
        plans[i] = p->chunk[i / 2].pass[i % 2].programs[0]->plan;
        any |= plans[i]->has_exchange;
    }
    lmoe__plan_print_kernels(s, plans, p->chunks * 2, explain);
    if (any) lmoe__plan_print_exchanges(s, "a micro-batch", plans, p->chunks * 2);
    free(plans);
}

lmoe_status lmoe__plan_pipeline(lmoe_ctx *ctx, const lmoe__setup *s, int axis, bool explain)
{
    int ranks = s->axis_size[axis];
    planned *p = calloc((size_t)ranks, sizeof *p);
    lmoe_status status = LMOE_OK;
    for (int r = 0; r < ranks && status == LMOE_OK; r++) status = make_rank(ctx, s, axis, r, &p[r]);
    if (status == LMOE_OK) {
        lmoe__plan_print_model(s, &p->engine, p->train->flops / ranks);
        print_stages(p->train);
        print_memory(p, ranks);
        print_time(s, p->train);
        print_transfers(p->train, explain);
        print_others(s, p->train, explain);
    }
    for (int r = 0; r < ranks; r++) {
        lmoe__pipeline_free(p[r].train);
        lmoe__pipeline_free(p[r].eval);
        if (p[r].engine.arena) lmoe__engine_free(&p[r].engine);
    }
    free(p);
    return status;
}
