/* SPDX-License-Identifier: Apache-2.0
 * core/cli/cli_plan.c: lmoe plan FILE: what a run will need, without running it: parameters, FLOPs,
 * memory by kind, the largest nodes. Nothing is allocated, so it works for models that do not fit.
 */
#include "core/cli/plan.h"

#include <stdlib.h>

static const char *const flags[] = {"--set", "--plugin-path", "--explain", "--help", NULL};
const char *const lmoe__plan_kinds[LMOE__MEM_KINDS] = {
    "weights", "gradients", "optimiser", "activations", "workspace", "inputs", "carries"};

typedef struct big_node {
    double bytes, flops;
    const lmoe__step *step;
} big_node;

static int by_bytes(const void *a, const void *b)
{
    double x = ((const big_node *)a)->bytes, y = ((const big_node *)b)->bytes;
    return x < y ? 1 : x > y ? -1 : 0;
}

static void print_largest(const lmoe__plan *p)
{
    char where[160], bytes[32];
    big_node *n = calloc((size_t)p->n_steps + 1, sizeof *n);
    for (int i = 0; i < p->n_steps; i++) {
        n[i].step = &p->steps[i];
        for (int k = 0; k < p->steps[i].args.n_out; k++) {
            const lmoe_buf *b = &p->steps[i].args.out[k];
            if (lmoe_buf_present(b))
                n[i].bytes += (double)lmoe_buf_count(b) * (double)lmoe_dtype_bytes(b->dtype);
        }
    }
    qsort(n, (size_t)p->n_steps, sizeof *n, by_bytes);
    printf("largest results\n");
    for (int i = 0; i < p->n_steps && i < 8; i++)
        printf("  %10s  %-24s %s%s\n", lmoe__bytes_text(bytes, sizeof bytes, n[i].bytes),
               n[i].step->node->op->base.name,
               lmoe__node_where(n[i].step->node, where, sizeof where),
               n[i].step->node->forward >= 0 ? " (backward)" : "");
    free(n);
}

static int by_alive(const void *a, const void *b)
{
    int64_t x = ((const lmoe__alive *)a)->bytes, y = ((const lmoe__alive *)b)->bytes;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* What holds the activations when they are most. */
static void print_peak(const lmoe__plan *p)
{
    enum { MOST = 256, SHOWN = 16 };
    lmoe__alive *list = calloc(MOST, sizeof *list);
    const lmoe__node *at;
    char where[160], bytes[32];
    int n = p->n_steps ? lmoe__plan_peak(p, &at, list, MOST) : 0;
    if (n) {
        qsort(list, (size_t)n, sizeof *list, by_alive);
        printf("most activations are alive at %s, %s%s\n", at->op->base.name,
               lmoe__node_where(at, where, sizeof where), at->forward >= 0 ? " (backward)" : "");
    }
    for (int i = 0; i < n && i < SHOWN; i++)
        printf("  %10s  %4d %-24s %s:%d%s\n",
               lmoe__bytes_text(bytes, sizeof bytes, (double)list[i].bytes), list[i].count,
               list[i].op->base.name, list[i].file ? list[i].file : "-", list[i].line,
               list[i].backward ? " (backward)" : "");
    free(list);
}

static double print_exchanges_of(const lmoe__setup *s, const lmoe__plan *p)
{
    char where[160], bytes[32];
    double total = 0;
    for (int i = 0; i < p->n_steps; i++) {
        const lmoe__step *x = &p->steps[i];
        if (!x->exchange) continue;
        const lmoe_collective_attrs *a = x->node->attrs;
        double b = (double)lmoe__exchange_bytes(x);
        total += b;
        printf("  %-4s %-16s %10s  %s%s\n", s->axis_name[a->mesh], x->node->op->base.name,
               lmoe__bytes_text(bytes, sizeof bytes, b),
               lmoe__node_where(x->node, where, sizeof where),
               x->node->forward >= 0 ? " (backward)" : "");
    }
    return total;
}

void lmoe__plan_print_exchanges(const lmoe__setup *s, const char *what,
                                const lmoe__plan *const *plans, int n)
{
    char bytes[32];
    double total = 0;
    printf("exchanges of %s, bytes that each rank receives\n", what);
    for (int i = 0; i < n; i++) total += print_exchanges_of(s, plans[i]);
    printf("  in all %s\n", lmoe__bytes_text(bytes, sizeof bytes, total));
}

/* Whether this step is the first of its kernel and op in the plans, and how many there are. */
static int count_steps(const lmoe__plan *const *plans, int n, int plan, int step)
{
    const lmoe__step *x = &plans[plan]->steps[step];
    int count = 0;
    for (int p = 0; p < n; p++) {
        for (int i = 0; i < plans[p]->n_steps; i++) {
            const lmoe__step *y = &plans[p]->steps[i];
            if (y->kernel != x->kernel || y->node->op != x->node->op) continue;
            if (count == 0 && y != x) return 0;
            count++;
        }
    }
    return count;
}

void lmoe__plan_print_kernels(const lmoe__setup *s, const lmoe__plan *const *plans, int n, bool all)
{
    int lines = 0;
    for (int p = 0; p < n; p++) {
        for (int i = 0; i < plans[p]->n_steps; i++) {
            const lmoe__step *x = &plans[p]->steps[i];
            const lmoe__plugin *owner =
                x->kernel ? lmoe__registry_owner(s->registry, &x->kernel->base) : NULL;
            int count = x->exchange || (!owner && !all) ? 0 : count_steps(plans, n, p, i);
            if (count == 0) continue;
            if (lines++ == 0) printf(all ? "kernels\n" : "kernels of plugins\n");
            printf("  %6d  %-28s %s%s%s\n", count, x->node->op->base.name,
                   x->kernel ? x->kernel->base.name : "(reference)", owner ? "  of " : "",
                   owner ? owner->info.id : "");
        }
    }
}

typedef struct programs {
    lmoe__program *first, *next, *update;
} programs;

static lmoe_status make(lmoe_ctx *ctx, const lmoe__setup *s, lmoe__engine *e, programs *p)
{
    lmoe__mesh mesh;
    lmoe__program *eval;
    lmoe__model_shape shape = lmoe__setup_shape(s);
    const lmoe__optimiser o = lmoe__setup_optimiser(s);
    lmoe__setup_place(s, 0, &mesh);
    LMOE_TRY(lmoe__engine_init(e, ctx, &s->model, &mesh, s->device, NULL, lmoe__setup_dtype(s)));
    LMOE_TRY(lmoe__engine_program(e, LMOE__TRAIN_FIRST, &shape, &p->first));
    if (s->train.accumulate > 1)
        LMOE_TRY(lmoe__engine_program(e, LMOE__TRAIN_NEXT, &shape, &p->next));
    if (s->data.valid && s->data.valid[0])
        LMOE_TRY(lmoe__engine_program(e, LMOE__EVAL, &shape, &eval));
    LMOE_TRY(lmoe__engine_update_program(e, &o, &p->update));
    return lmoe__engine_bind(e);
}

void lmoe__plan_print_model(const lmoe__setup *s, const lmoe__engine *e, double flops)
{
    char a[32], b[32], c[32], d[32];
    double tokens = (double)(s->train.batch / s->train.accumulate * s->train.seq);
    printf("parameters   %s, of which a token uses %s (%s in products); embedding %s\n",
           lmoe__count_text(a, sizeof a, (double)e->count.total),
           lmoe__count_text(b, sizeof b, (double)e->count.active),
           lmoe__count_text(c, sizeof c, (double)e->count.active_matrix),
           lmoe__count_text(d, sizeof d, (double)e->count.embedding));
    printf("FLOPs        %s a token, forward and backward\n",
           lmoe__count_text(a, sizeof a, flops * s->world / tokens));
}

static void print_plan(const lmoe__setup *s, const lmoe__engine *e, const programs *x, bool explain)
{
    char a[32];
    double all = 0;
    const lmoe__plan *train = x->first->plan, *update = x->update->plan;
    const lmoe__planned_time parts[] = {
        {train, 1},
        {x->next ? x->next->plan : train, (double)s->train.accumulate - 1},
        {update, 1}};
    lmoe__plan_print_model(s, e, train->flops);
    printf("memory%s\n", s->world > 1 ? " of rank 0" : "");
    for (int i = 0; i < LMOE__MEM_KINDS; i++) {
        all += (double)e->store.bytes[i];
        if (e->store.bytes[i] > 0)
            printf("  %-12s %10s\n", lmoe__plan_kinds[i],
                   lmoe__bytes_text(a, sizeof a, (double)e->store.bytes[i]));
    }
    printf("  %-12s %10s\n", "in all", lmoe__bytes_text(a, sizeof a, all));
    print_largest(train);
    if (explain) print_peak(train);
    const lmoe__plan *both[] = {train, update};
    lmoe__plan_print_kernels(s, both, 2, explain);
    lmoe__plan_print_time(s, parts, 3, 0);
    if (explain || s->world > 1) {
        lmoe__plan_print_exchanges(s, "a micro-batch", &train, 1);
        lmoe__plan_print_exchanges(s, "the update", &update, 1);
    }
}

static lmoe_status plan_whole(lmoe_ctx *ctx, const lmoe__setup *s, bool explain)
{
    lmoe__engine e = {0};
    programs p = {0};
    lmoe_status status = make(ctx, s, &e, &p);
    if (status == LMOE_OK) print_plan(s, &e, &p, explain);
    if (e.arena) lmoe__engine_free(&e);
    return status;
}

static lmoe_status plan(lmoe_ctx *ctx, const lmoe__setup *s, bool explain)
{
    for (int i = 0; i < s->n_axes; i++) {
        if (s->axis_strategy[i]->stages && s->axis_size[i] > 1)
            return lmoe__plan_pipeline(ctx, s, i, explain);
    }
    return plan_whole(ctx, s, explain);
}

int lmoe__cli_plan(lmoe_ctx *ctx, int argc, char **argv)
{
    lmoe__arguments a = {0};
    lmoe__setup s = {0};
    bool explain = false;
    for (int i = 1; i < argc;) {
        if (strcmp(argv[i], "--help") == 0) {
            printf("usage: lmoe plan FILE [--set section.key=value]... [--plugin-path FOLDERS] "
                   "[--explain]\n"
                   "Parameters, FLOPs, memory and plugins' kernels of a run; --explain lists every "
                   "kernel, what is alive when memory is fullest, and each exchange between "
                   "ranks.\n");
            return 0;
        }
        if (strcmp(argv[i], "--explain") == 0) {
            explain = true;
            i++;
            continue;
        }
        int used = lmoe__arguments_take(ctx, &a, argc, argv, i);
        if (used < 0) return lmoe__cli_report(ctx);
        if (used == 0) return lmoe__arguments_unknown("plan", argv[i], flags);
        i += used;
    }
    if (!a.file) return lmoe__arguments_no_file("plan");
    s.conf = lmoe__arguments_read(ctx, &a);
    int code = 0;
    if (!s.conf || lmoe__setup_read(ctx, &s, a.plugin_path, 0) != LMOE_OK ||
        plan(ctx, &s, explain) != LMOE_OK)
        code = lmoe__cli_report(ctx);
    lmoe__setup_free(&s);
    return code;
}
