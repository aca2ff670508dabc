/* SPDX-License-Identifier: Apache-2.0
 * core/check/endurance.c: group endurance: memory stays as it is, however often a class is used. A
 * run traces once, but a process may trace, open and launch for days.
 *
 * What is measured is the memory that malloc has given out, before and after many rounds; a first
 * few rounds may fill caches.
 */
#include "core/check/call.h"
#include "core/check/kernels.h"
#include "core/check/lab.h"

#include <malloc.h>
#include <math.h>
#include <stdlib.h>

enum { WARM = 8 };

/* Bytes in use; 0: it cannot be told here (another malloc, as under sanitizers). */
static size_t in_use(void)
{
    struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
}

static int rounds(const lmoe__exam *x, int quick, int full, int soak)
{
    return x->level == LMOE__QUICK ? quick : x->level == LMOE__FULL ? full : soak;
}

/* Calls fn `n` times and more; fails if what is in use grows in each of four equal parts: what grows
 * in some of them is malloc's own sorting, which fits requests into other chunks now and then. */
static void stays(lmoe__exam *x, int n, const char *what, bool (*fn)(lmoe__exam *x, void *arg),
                  void *arg)
{
    enum { PARTS = 4 };
    double least = INFINITY;
    if (in_use() == 0) {
        lmoe__check_skip(x, "the memory in use cannot be told here");
        return;
    }
    for (int i = 0; i < WARM; i++) {
        if (!fn(x, arg)) return;
    }
    for (int part = 0; part < PARTS; part++) {
        double before = (double)in_use();
        for (int i = 0; i < n / PARTS; i++) {
            if (!fn(x, arg)) return;
        }
        least = fmin(least, ((double)in_use() - before) / (n / PARTS));
    }
    lmoe__check_note(x, "%d rounds, at least %+.3g bytes each", n, least);
    if (least >= 1)
        lmoe__check_fail(x, "%s leaves %.3g bytes or more behind each time, in %d rounds", what,
                         least, n);
}

/* ---- traces ---- */

static bool trace_once(lmoe__exam *x, void *arg)
{
    static const int layers[LMOE__LAB_LAYERS] = {0, 1};
    const lmoe__form *f = arg;
    bool router = strcmp(x->class->kind, LMOE_KIND_ROUTER) == 0;
    lmoe_trace t;
    const lmoe__layer_shape s = {.shape = {.batch = 2, .seq = 5, .loss = true, .training = true},
                                 .layers = layers,
                                 .count = router ? 1 : LMOE__LAB_LAYERS};
    lmoe__trace_init(&t, x->ctx, &f->model.ops, LMOE_F32);
    bool good = lmoe__check_ok(x, lmoe__layer_trace(&t, &f->model, &s), "recording it");
    lmoe__trace_free(&t);
    return good;
}

static void traces(lmoe__exam *x)
{
    lmoe__form f;
    if (!lmoe__form_make(x, 0, &f)) return;
    stays(x, rounds(x, 100, 1000, 10000), "a trace", trace_once, &f);
}

/* ---- steps ---- */

typedef struct stepping {
    lmoe__lab lab;
    lmoe__program *program;
    lmoe__sheet sheet;
} stepping;

static bool step_once(lmoe__exam *x, void *arg)
{
    stepping *s = arg;
    return lmoe__check_ok(x, lmoe__program_run(&s->lab.e, s->program), "a step");
}

static void steps(lmoe__exam *x)
{
    static const lmoe__lab_weights weights = {.seed = 1};
    lmoe__form f;
    stepping s;
    if (!lmoe__form_make(x, 0, &f) || !lmoe__lab_open(&s.lab, x, &f, LMOE_F32, 0)) return;
    s.sheet = lmoe__sheet_new(x, &f, 2, 17, x->seed, 1);
    s.program = lmoe__lab_program(&s.lab, 2, 17, LMOE__RUN_GRADIENTS, 0);
    if (s.program && lmoe__lab_bind(&s.lab, &weights) && lmoe__lab_run(&s.lab, s.program, &s.sheet))
        stays(x, rounds(x, 20, 100, 10000), "a training step", step_once, &s);
    lmoe__lab_close(&s.lab);
}

/* ---- kernels and references ---- */

typedef struct launching {
    const lmoe_kernel *kernel; /* NULL: the reference */
    lmoe__trial trial;
} launching;

static bool launch_once(lmoe__exam *x, void *arg)
{
    const launching *l = arg;
    lmoe__bench_device on = {l->kernel ? x->device : NULL, l->kernel ? x->dev : NULL};
    lmoe__run r;
    lmoe_status status = lmoe__run_new(x->ctx, &l->trial, l->kernel, on, false, -1, -1, &r);
    if (status == LMOE_OK) status = lmoe__run_once(&r);
    lmoe__run_free(&r);
    return lmoe__check_ok(x, status, "a launch");
}

/* The first small case of the op that the kernel takes. */
static bool find_case(lmoe__exam *x, const lmoe_op *op, launching *l)
{
    const lmoe_kernel *list[2] = {l->kernel, NULL}, *found[1];
    lmoe__bench b = {.ctx = x->ctx, .kernels = list};
    bool more = true;
    for (int i = 0; more; i++) {
        lmoe_case c = {.size = sizeof c};
        more = op->sample && op->sample(i, &c);
        if (!more || (c.flags & LMOE_CASE_BENCH)) continue;
        if (lmoe__trial_init(x->ctx, op, &c, LMOE_F32, &l->trial) != LMOE_OK) break;
        if (!l->kernel || lmoe__bench_kernels(&b, &l->trial, found, 1) == 1) return true;
        lmoe__trial_free(&l->trial);
    }
    lmoe__ctx_clear(x->ctx);
    lmoe__check_skip(x, "it takes no small case in f32");
    return false;
}

static void launches(lmoe__exam *x)
{
    bool kernel = strcmp(x->class->kind, LMOE_KIND_KERNEL) == 0;
    launching l = {.kernel = kernel ? (const lmoe_kernel *)(const void *)x->class : NULL};
    const lmoe_op *op =
        kernel ? lmoe__check_op(x, l.kernel->op) : (const lmoe_op *)(const void *)x->class;
    if (!op) {
        lmoe__check_skip(x, "there is no op %s", l.kernel->op);
        return;
    }
    if (kernel && !lmoe__kernels_device(x, l.kernel->device)) return;
    if (!find_case(x, op, &l)) return;
    stays(x, rounds(x, 200, 1000, 100000), kernel ? "a launch" : "a run of the reference",
          launch_once, &l);
    lmoe__trial_free(&l.trial);
}

/* ---- devices ---- */

static bool open_once(lmoe__exam *x, void *arg)
{
    const lmoe_device *d = (const lmoe_device *)(const void *)x->class;
    void *dev = NULL, *block = NULL;
    if (!lmoe__check_ok(x, d->open(x->ctx, arg, &dev), "opening it")) return false;
    bool good = lmoe__check_ok(x, d->alloc(dev, 4096, &block), "alloc") &&
                lmoe__check_ok(x, d->zero(dev, block, 4096), "zero");
    if (block) d->free(dev, block);
    d->close(dev);
    return good;
}

static void openings(lmoe__exam *x)
{
    static char none[1];
    void *options = x->options ? x->options : none, *dev;
    const lmoe_device *d = (const lmoe_device *)(const void *)x->class;
    if (d->open(x->ctx, options, &dev) != LMOE_OK) {
        lmoe__check_skip(x, "it cannot be opened here: %s", x->ctx->message);
        lmoe__ctx_clear(x->ctx);
        return;
    }
    d->close(dev);
    stays(x, rounds(x, 20, 100, 1000), "opening and closing it", open_once, options);
}

const lmoe__check lmoe__checks_endurance[] = {
    {"endurance", "traces", "traces that are made and freed leave no memory behind",
     LMOE_KIND_LAYER " " LMOE_KIND_ROUTER, LMOE__QUICK, 120, traces, 0},
    {"endurance", "steps", "training steps leave no memory behind",
     LMOE_KIND_LAYER " " LMOE_KIND_ROUTER, LMOE__FULL, 120, steps, 0},
    {"endurance", "launches", "launches leave no memory behind", LMOE_KIND_OP " " LMOE_KIND_KERNEL,
     LMOE__QUICK, 120, launches, 0},
    {"endurance", "openings", "opening and closing a device leaves no memory behind",
     LMOE_KIND_DEVICE, LMOE__QUICK, 120, openings, 0},
    {0},
};
