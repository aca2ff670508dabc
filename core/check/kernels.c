/* SPDX-License-Identifier: Apache-2.0
 * core/check/kernels.c: group kernels: a fast way of doing an op, alone or as part of a device,
 * against the op's reference.
 */
#include "core/check/call.h"
#include "core/check/kernels.h"
#include "core/check/spy.h"

#include <math.h>
#include <stdlib.h>

static const lmoe_dtype dtypes[] = {LMOE_F32, LMOE_BF16, LMOE_F64};
static const char *const words[] = {"f32", "bf16", "f64"};
enum { DTYPES = 3, MOST = 64 };

/* ---- the device that a kernel is for ---- */

bool lmoe__kernels_device(lmoe__exam *x, const char *word)
{
    lmoe_ctx quiet;
    const lmoe_class *c = NULL;
    char name[64];
    lmoe__ctx_init(&quiet);
    if (strcmp(word, "cpu") == 0) return lmoe__check_device(x);
    snprintf(name, sizeof name, "device/%s", word);
    if (lmoe__registry_find(x->registry, &quiet, LMOE_KIND_DEVICE, name, &c) == LMOE_OK) {
        void *options = lmoe__arena_alloc(x->arena, c->options_size + 1);
        lmoe__options_default(c->options, options, x->arena);
        x->device = (const lmoe_device *)(const void *)c;
        if (x->device->open(&quiet, options, &x->dev) == LMOE_OK) return true;
        x->dev = NULL;
    }
    lmoe__check_skip(x, "%s cannot be opened here: %s", name, quiet.message);
    return false;
}

/* Several threads, if the device is the CPU: results must not depend on their number. */
static lmoe__team *enter_team(lmoe__exam *x)
{
    bool cpu = strcmp(x->device->device, "cpu") == 0;
    return x->ctx->team = cpu ? lmoe__team_new(2) : NULL;
}

static void leave_team(lmoe__exam *x, lmoe__team *team)
{
    x->ctx->team = NULL;
    lmoe__team_free(team);
}

/* ---- against the reference ---- */

/* The first line of a report that tells of a failure. */
static const char *first_failure(FILE *f, char *line, int n)
{
    rewind(f);
    while (fgets(line, n, f)) {
        if (strncmp(line, "FAIL ", 5) != 0) continue;
        line[strcspn(line, "\n")] = 0;
        return line + 5;
    }
    return "a kernel failed";
}

/* Whether one of the kernels takes a case of the op in this dtype. */
static bool any_takes(lmoe__exam *x, const lmoe_op *op, const lmoe_kernel *const *kernels,
                      lmoe_dtype dtype)
{
    lmoe__bench b = {.ctx = x->ctx, .kernels = kernels};
    const lmoe_kernel *list[MOST];
    bool more = true, taken = false;
    for (int i = 0; more && !taken; i++) {
        lmoe__trial t;
        if (lmoe__trial_sample(x->ctx, op, i, dtype, &t, &more) != LMOE_OK) break;
        if (!more) break;
        taken = lmoe__bench_kernels(&b, &t, list, MOST) > 0;
        lmoe__trial_free(&t);
    }
    lmoe__ctx_clear(x->ctx);
    return taken;
}

bool lmoe__kernels_agree(lmoe__exam *x, const lmoe_op *op, const lmoe_kernel *const *kernels,
                         int vary)
{
    char line[1024];
    lmoe__team *team = enter_team(x);
    for (int d = 0; d < DTYPES && !lmoe__check_failed(x); d++) {
        lmoe__bench b = {.ctx = x->ctx,
                         .on = {x->device, x->dev},
                         .kernels = kernels,
                         .dtype = dtypes[d],
                         .vary = d == 0 ? vary : 0,
                         .out = tmpfile()};
        lmoe__check_case(x, "%s, %s", op->base.name, words[d]);
        if (!b.out) break;
        if (!any_takes(x, op, kernels, dtypes[d])) {
            fclose(b.out);
            continue;
        }
        if (lmoe__check_ok(x, lmoe__bench_op(&b, op), op->base.name) && b.failed)
            lmoe__check_fail(x, "%s", first_failure(b.out, line, sizeof line));
        fclose(b.out);
    }
    leave_team(x, team);
    return !lmoe__check_failed(x);
}

static const lmoe_kernel *kernel_of(const lmoe__exam *x)
{
    return (const lmoe_kernel *)(const void *)x->class;
}

/* The kernel's op, and its device opened. NULL: failed or skipped. */
static const lmoe_op *ready(lmoe__exam *x)
{
    const lmoe_kernel *k = kernel_of(x);
    const lmoe_op *op = lmoe__check_op(x, k->op);
    if (!op)
        lmoe__check_fail(x, "it is a kernel of %s, an op that neither this file nor lmoe offers",
                         k->op);
    return op && lmoe__kernels_device(x, k->device) ? op : NULL;
}

static void reference(lmoe__exam *x)
{
    const lmoe_kernel *const list[] = {kernel_of(x), NULL};
    static const int vary[] = {10, 100, 1000};
    const lmoe_op *op = ready(x);
    if (op) lmoe__kernels_agree(x, op, list, vary[x->level]);
}

/* ---- score ---- */

/* What score and workspace see of a trial. */
static void describe(const lmoe__trial *t, lmoe_buf *bufs, lmoe_args *args, lmoe_ctx *ctx)
{
    memset(bufs, 0, sizeof *bufs * 2 * LMOE_MAX_IO);
    for (int i = 0; i < t->n_in + t->n_out; i++) {
        const lmoe_desc *d = i < t->n_in ? &t->in[i] : &t->out[i - t->n_in];
        bufs[i].dtype = d->dtype;
        bufs[i].rank = d->rank;
        memcpy(bufs[i].dim, d->dim, sizeof bufs[i].dim);
    }
    *args = (lmoe_args){.size = sizeof *args,
                        .attrs = t->c.attrs.bytes,
                        .n_in = t->n_in,
                        .n_out = t->n_out,
                        .in = bufs,
                        .out = bufs + t->n_in,
                        .ctx = ctx};
}

/* Returns the score; fails if it changes its mind or is below 0. */
static int score_of(lmoe__exam *x, const lmoe_kernel *k, const lmoe__trial *t)
{
    lmoe_buf bufs[2 * LMOE_MAX_IO];
    lmoe_args args;
    describe(t, bufs, &args, x->ctx);
    int first = k->score(&args), second = k->score(&args);
    if (first < 0) lmoe__check_fail(x, "its score is %d; 0 says that it cannot", first);
    if (first != second)
        lmoe__check_fail(x, "its score for the same arguments is %d and then %d", first, second);
    if (first <= 0 || !k->workspace) return first;
    size_t one = k->workspace(&args), two = k->workspace(&args);
    if (one != two)
        lmoe__check_fail(x, "its workspace for the same arguments is %zu bytes and then %zu", one,
                         two);
    return first;
}

static void score(lmoe__exam *x)
{
    const lmoe_op *op = ready(x);
    int taken = 0, asked = 0;
    bool more = op != NULL;
    for (int i = 0; more && !lmoe__check_failed(x); i++) {
        for (int d = 0; d < DTYPES && more && !lmoe__check_failed(x); d++) {
            lmoe__trial t;
            char text[200];
            if (!lmoe__check_ok(x, lmoe__trial_sample(x->ctx, op, i, dtypes[d], &t, &more),
                                "a sample"))
                return;
            if (!more) break;
            lmoe__check_case(x, "case %d %s, %s", i, lmoe__trial_text(text, sizeof text, &t),
                             words[d]);
            taken += score_of(x, kernel_of(x), &t) > 0;
            asked++;
            lmoe__trial_free(&t);
        }
    }
    lmoe__check_note(x, "takes %d of %d", taken, asked);
    if (op && taken == 0)
        lmoe__check_fail(x,
                         "it takes none of the cases of %s, in f32, bf16 or f64: nothing of it is "
                         "tested",
                         op->base.name);
}

/* ---- launch ---- */

/* The second launch of a prepared kernel: what it allocates, starts or waits for. */
static void watch(lmoe__exam *x, const lmoe__trial *t, const lmoe_kernel *k)
{
    lmoe__bench_device on = {x->device, x->dev};
    lmoe__run r;
    int64_t count;
    lmoe_status status = lmoe__run_new(x->ctx, t, k, on, false, -1, -1, &r);
    if (status == LMOE_OK) status = lmoe__run_once(&r);
    lmoe__spy_ask(&count);
    if (status == LMOE_OK) status = lmoe__run_launch(&r);
    const char *called = lmoe__spy_ask(&count);
    if (status == LMOE_OK) status = x->device->synchronize(x->dev);
    if (lmoe__check_ok(x, status, k->base.name) && called)
        lmoe__check_fail(x, "%s: its launch calls %s; ask for workspace() or do it in prepare()",
                         k->base.name, called);
    lmoe__run_free(&r);
}

void lmoe__kernels_watch(lmoe__exam *x, const lmoe_op *op, const lmoe_kernel *const *kernels)
{
    bool more = op->sample != NULL;
    for (int i = 0; more && !lmoe__check_failed(x); i++) {
        lmoe__trial t;
        char text[200];
        lmoe__bench b = {.ctx = x->ctx, .kernels = kernels};
        const lmoe_kernel *list[MOST];
        lmoe_case c = {.size = sizeof c};
        more = op->sample(i, &c);
        if (!more || (c.flags & LMOE_CASE_BENCH)) continue;
        for (int d = 0; d < 2 && !lmoe__check_failed(x); d++) {
            if (!lmoe__check_ok(x, lmoe__trial_init(x->ctx, op, &c, dtypes[d], &t), "a sample"))
                return;
            lmoe__check_case(x, "%s, case %d %s, %s", op->base.name, i,
                             lmoe__trial_text(text, sizeof text, &t), words[d]);
            int n = lmoe__bench_kernels(&b, &t, list, MOST);
            for (int k = 0; k < n && !lmoe__check_failed(x); k++) watch(x, &t, list[k]);
            lmoe__trial_free(&t);
        }
    }
}

static void launch(lmoe__exam *x)
{
    const lmoe_kernel *const list[] = {kernel_of(x), NULL};
    const lmoe_op *op = ready(x);
    if (!op) return;
    if (!lmoe__spy_on(x->path))
        lmoe__check_skip(x, "its calls cannot be watched on this machine");
    else
        lmoe__kernels_watch(x, op, list);
}

/* ---- speed ---- */

static void speed(lmoe__exam *x)
{
    const lmoe_kernel *const list[] = {kernel_of(x), NULL};
    const lmoe_op *op = ready(x);
    char line[512];
    FILE *f = op ? tmpfile() : NULL;
    if (!f) return;
    lmoe__bench b = {.ctx = x->ctx,
                     .on = {x->device, x->dev},
                     .kernels = list,
                     .dtype = LMOE_F32,
                     .all = true,
                     .out = f};
    if (lmoe__check_ok(x, lmoe__bench_time(&b, op), "timing it")) {
        rewind(f);
        while (fgets(line, sizeof line, f)) {
            line[strcspn(line, "\n")] = 0;
            if (strstr(line, kernel_of(x)->base.name)) lmoe__check_note(x, "%s", line);
        }
        if (!x->verdict->note[0])
            lmoe__check_skip(x, "it takes no case with the flag LMOE_CASE_BENCH in f32");
    }
    fclose(f);
}

const lmoe__check lmoe__checks_kernels[] = {
    {"kernels", "score",
     "scores and workspaces are the same for the same arguments, and a case of the op is taken",
     LMOE_KIND_KERNEL, LMOE__QUICK, 60, score, 0},
    {"kernels", "reference",
     "results are those of the reference within the rounding of the dtype, in every way that it "
     "may "
     "be launched, and nothing else is written",
     LMOE_KIND_KERNEL, LMOE__QUICK, 300, reference, 0},
    {"kernels", "launch", "a launch allocates nothing, starts no thread and waits for nothing",
     LMOE_KIND_KERNEL, LMOE__QUICK, 60, launch, 0},
    {"kernels", "speed", "how fast it is", LMOE_KIND_KERNEL, LMOE__QUICK, 120, speed,
     LMOE__CHECK_BENCH},
    {0},
};
