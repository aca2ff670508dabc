/* SPDX-License-Identifier: Apache-2.0
 * core/cli/cli_step.c: lmoe bench step FILE: a training step on random tokens: its time, tokens/s,
 * FLOP/s, and where the time goes, by op.
 */
#include "core/bench/bench.h"
#include "core/cli/cli.h"
#include "core/cli/step.h"

#include <math.h>
#include <stdlib.h>

static const char *const flags[] = {"--set", "--plugin-path", "--steps", "--help", NULL};

typedef struct op_time {
    const char *name;
    double seconds, flops;
    int nodes;
} op_time;

static int by_seconds(const void *a, const void *b)
{
    double x = ((const op_time *)a)->seconds, y = ((const op_time *)b)->seconds;
    return x < y ? 1 : x > y ? -1 : 0;
}

static double node_flops(const lmoe__graph *g, const lmoe__node *n)
{
    lmoe_desc in[LMOE_MAX_IO], out[LMOE_MAX_IO];
    if (!n->op->flops) return 0;
    for (int k = 0; k < n->n_in; k++) in[k] = g->values[n->in[k]].desc;
    for (int k = 0; k < n->n_out; k++) out[k] = g->values[n->out[k]].desc;
    return n->op->flops(n->attrs, in, n->n_in, out, n->n_out);
}

static void add_plan(op_time *t, int *n, const lmoe__plan *p)
{
    for (int i = 0; i < p->n_steps; i++) {
        const lmoe__step *s = &p->steps[i];
        int k = 0;
        char *name = lmoe__arena_printf(p->arena, "%s%s", s->node->op->base.name,
                                        s->kernel ? "" : "  (reference)");
        if (s->launches == 0) continue;
        while (k < *n && strcmp(t[k].name, name) != 0) k++;
        if (k == *n) t[(*n)++] = (op_time){.name = name};
        t[k].seconds += s->seconds / (double)s->launches;
        t[k].flops += node_flops(p->graph, s->node);
        t[k].nodes++;
    }
}

void lmoe__step_print_table(lmoe__engine *e)
{
    op_time *t = calloc(256, sizeof *t);
    double all = 0;
    int n = 0;
    for (int i = 0; i < e->n_programs; i++) add_plan(t, &n, e->programs[i]->plan);
    for (int i = 0; i < n; i++) all += t[i].seconds;
    qsort(t, (size_t)n, sizeof *t, by_seconds);
    printf("%-32s %6s %10s %7s %10s\n", "op", "nodes", "ms", "share", "GFLOP/s");
    for (int i = 0; i < n; i++)
        printf("%-32s %6d %10.3f %6.1f%% %10.1f\n", t[i].name, t[i].nodes, 1e3 * t[i].seconds,
               100 * t[i].seconds / all, t[i].flops / t[i].seconds * 1e-9);
    free(t);
}

static lmoe_status set_random(lmoe__engine *e, const lmoe__setup *s, lmoe__program *p)
{
    lmoe__model_shape shape = lmoe__setup_shape(s);
    size_t n = (size_t)(shape.batch * shape.seq);
    int32_t *tokens = calloc(n, 4), *positions = calloc(n, 4), *zero = calloc(n, 4);
    for (size_t i = 0; i < n; i++) {
        tokens[i] = (int32_t)lmoe__below(1, 2, i, (uint64_t)s->model.o.vocab_size);
        positions[i] = (int32_t)(i % (size_t)shape.seq);
    }
    lmoe_status status = lmoe__program_set(e, p, "in:tokens", tokens);
    if (status == LMOE_OK) status = lmoe__program_set(e, p, "in:labels", tokens);
    if (status == LMOE_OK) status = lmoe__program_set(e, p, "in:positions", positions);
    if (status == LMOE_OK) status = lmoe__program_set(e, p, "in:document", zero);
    if (status == LMOE_OK) status = lmoe__program_set(e, p, "in:reset", zero);
    if (status == LMOE_OK) status = lmoe__program_set_scalar(e, p, "in:factor", 1.0 / (double)n);
    if (status == LMOE_OK) status = lmoe__program_set_scalar(e, p, "in:aux_scale", 1);
    free(tokens);
    free(positions);
    free(zero);
    return status;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y ? 1 : 0;
}

/* What was planned, and what the device says of all its users. */
void lmoe__step_print_memory(const lmoe__engine *e)
{
    lmoe_device_info info = {0};
    char a[32], b[32];
    double planned = 0;
    for (int i = 0; i < LMOE__MEM_KINDS; i++) planned += (double)e->store.bytes[i];
    if (!e->device->info || e->device->info(e->dev, &info) != LMOE_OK) return;
    printf("memory: %s planned, %s in use on %s\n", lmoe__bytes_text(a, sizeof a, planned),
           lmoe__bytes_text(b, sizeof b, (double)info.memory_used), info.name);
}

/* Seconds from the beginning to the end of the first step: opening the device, plans, memory and
 * kernels, weights, the step. */
typedef struct start_times {
    double at[5];
} start_times;

static void print_start(const start_times *t)
{
    printf("start: first step done after %.2f s: device %.2f, plans and memory %.2f, weights %.2f, "
           "step %.2f\n",
           t->at[4] - t->at[0], t->at[1] - t->at[0], t->at[2] - t->at[1], t->at[3] - t->at[2],
           t->at[4] - t->at[3]);
}

static lmoe_status time_steps(lmoe__engine *e, const lmoe__setup *s, lmoe__program *train,
                              lmoe__program *update, int64_t steps, start_times *begun)
{
    double *seconds = calloc((size_t)steps, sizeof *seconds);
    lmoe__model_shape shape = lmoe__setup_shape(s);
    double tokens = (double)(shape.batch * shape.seq);
    lmoe_status status = LMOE_OK;
    for (int64_t i = -2; status == LMOE_OK && i < steps; i++) { /* two to warm up */
        double start = lmoe__now();
        status = lmoe__program_set_scalar(e, update, "in:step", (double)(i + 3));
        if (status == LMOE_OK) status = lmoe__program_set_scalar(e, update, "in:lr", 1e-4);
        if (status == LMOE_OK) status = lmoe__program_run(e, train);
        if (status == LMOE_OK) status = lmoe__program_run(e, update);
        if (status == LMOE_OK) status = e->device->synchronize(e->dev);
        if (i == -2) begun->at[4] = lmoe__now();
        if (i >= 0) seconds[i] = lmoe__now() - start;
    }
    if (status == LMOE_OK) {
        print_start(begun);
        qsort(seconds, (size_t)steps, sizeof *seconds, by_value);
        double median = seconds[steps / 2], model = train->plan->flops;
        printf("step: median %.1f ms of %lld (least %.1f), %.0f tokens/s, %.1f GFLOP/s of model "
               "arithmetic\n",
               1e3 * median, (long long)steps, 1e3 * seconds[0], tokens / median,
               model / median * 1e-9);
        lmoe__step_print_memory(e);
        for (int i = 0; i < e->n_programs; i++) e->programs[i]->plan->profile = true;
        for (int i = 0; status == LMOE_OK && i < 3; i++) {
            status = lmoe__program_run(e, train);
            if (status == LMOE_OK) status = lmoe__program_run(e, update);
        }
        if (status == LMOE_OK) lmoe__step_print_table(e);
    }
    free(seconds);
    return status;
}

static lmoe_status bench(lmoe_ctx *ctx, const lmoe__setup *s, int64_t steps)
{
    lmoe__engine e = {0};
    lmoe__program *train, *update;
    lmoe__model_shape shape = lmoe__setup_shape(s);
    const lmoe__optimiser o = lmoe__setup_optimiser(s);
    void *dev = NULL;
    start_times begun = {.at = {lmoe__now()}};
    ctx->team = lmoe__team_new(s->device->threads ? s->device->threads(s->device_options) : 1);
    lmoe_status status = s->device->open(ctx, s->device_options, &dev);
    begun.at[1] = lmoe__now();
    if (status == LMOE_OK)
        status = lmoe__engine_init(&e, ctx, &s->model, NULL, s->device, dev, lmoe__setup_dtype(s));
    if (status == LMOE_OK) status = lmoe__engine_program(&e, LMOE__TRAIN_FIRST, &shape, &train);
    if (status == LMOE_OK) status = lmoe__engine_update_program(&e, &o, &update);
    if (status == LMOE_OK) status = lmoe__engine_bind(&e);
    if (status == LMOE_OK) status = s->device->synchronize(dev);
    begun.at[2] = lmoe__now();
    if (status == LMOE_OK) status = lmoe__engine_init_weights(&e, 1);
    if (status == LMOE_OK) status = s->device->synchronize(dev);
    begun.at[3] = lmoe__now();
    if (status == LMOE_OK) status = set_random(&e, s, train);
    if (status == LMOE_OK && strcmp(s->device->device, "cpu") == 0) {
        lmoe__bench b = {.ctx = ctx,
                         .on = {s->device, dev},
                         .kernels = s->device->kernels,
                         .dtype = LMOE_F32,
                         .out = stdout};
        status = lmoe__bench_gemm(&b, 0, 0, 0);
    }
    if (status == LMOE_OK) status = time_steps(&e, s, train, update, steps, &begun);
    if (e.arena) lmoe__engine_free(&e);
    if (dev) s->device->close(dev);
    lmoe__team_free(ctx->team);
    ctx->team = NULL;
    return status;
}

int lmoe__cli_bench_step(lmoe_ctx *ctx, int argc, char **argv)
{
    lmoe__arguments a = {0};
    lmoe__setup s = {0};
    int64_t steps = 5;
    for (int i = 1; i < argc;) {
        if (strcmp(argv[i], "--steps") == 0 && i + 1 < argc && atoi(argv[i + 1]) > 0) {
            steps = atoi(argv[i + 1]);
            i += 2;
            continue;
        }
        int used = lmoe__arguments_take(ctx, &a, argc, argv, i);
        if (used < 0) return lmoe__cli_report(ctx);
        if (used == 0) return lmoe__arguments_unknown("bench step", argv[i], flags);
        i += used;
    }
    if (!a.file) return lmoe__arguments_no_file("bench step");
    s.conf = lmoe__arguments_read(ctx, &a);
    int code = 0;
    if (!s.conf || lmoe__setup_read(ctx, &s, a.plugin_path, 0) != LMOE_OK ||
        bench(ctx, &s, steps) != LMOE_OK)
        code = lmoe__cli_report(ctx);
    lmoe__setup_free(&s);
    return code;
}
