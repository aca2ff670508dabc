/* SPDX-License-Identifier: Apache-2.0
 * core/check/numerics.c: whether what a layer or a router computes are the right numbers.
 *
 * Measures: the same in float64 by the ops' references; differences of the loss for gradients; the
 * error of the references in the same dtype for fast kernels (FlashAttention's rule).
 */
#include "core/check/lab.h"

#include <math.h>
#include <stdlib.h>

#define KINDS LMOE_KIND_LAYER " " LMOE_KIND_ROUTER

/* How many forms besides the one with defaults. */
static int more_forms(const lmoe__exam *x)
{
    return x->level == LMOE__QUICK ? 1 : x->level == LMOE__FULL ? 3 : 16;
}

/* ---- gradients ---- */

enum { GRAD_BATCH = 2, GRAD_SEQ = 9 };

/* sum(y dy) + the auxiliary losses */
static double loss_of(lmoe__lab *l, const lmoe__sheet *s)
{
    double sum = 0, aux;
    for (int64_t i = 0; i < s->batch * s->seq * s->embed; i++) sum += s->y[i] * s->dy[i];
    for (int i = 0; i < l->e.store.count; i++) {
        const char *name = l->e.store.buffers[i].name;
        if (strncmp(name, "aux:", 4) == 0 && lmoe__engine_read(&l->e, name, &aux, 1) == 1)
            sum += aux;
    }
    return sum;
}

typedef struct slope {
    lmoe__lab *l;
    lmoe__program *p;
    lmoe__sheet *s;
    int weight; /* -1: x */
    int64_t n;
    double *at, *moved, *direction; /* of what is moved */
} slope;

static bool loss_at(slope *v, double step, double *loss)
{
    for (int64_t i = 0; i < v->n; i++) v->moved[i] = v->at[i] + step * v->direction[i];
    if (v->weight >= 0) {
        if (!lmoe__lab_write(v->l, v->weight, v->moved)) return false;
    } else {
        memcpy(v->s->x, v->moved, sizeof(double) * (size_t)v->n);
    }
    if (!lmoe__lab_run(v->l, v->p, v->s)) return false;
    *loss = loss_of(v->l, v->s);
    return true;
}

/* The derivative along the direction, by differences of the fourth order. */
static bool numeric_slope(slope *v, double h, double *out)
{
    static const double steps[4] = {-2, -1, 1, 2};
    double f[4];
    for (int k = 0; k < 4; k++) {
        if (!loss_at(v, steps[k] * h, &f[k])) return false;
    }
    *out = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h);
    return true;
}

/* Over a kink (a relu, another expert) differences mean nothing, so the best of several widths
 * counts: a wrong gradient is wrong at all of them. Returns the error in units of the gradient. */
static bool slope_error(slope *v, const double *grad, double loss, double *error)
{
    static const double widths[] = {1e-3, 1e-4, 1e-5, 1e-6};
    double want = 0, size = lmoe__norm(grad, v->n), numeric;
    for (int64_t i = 0; i < v->n; i++) want += grad[i] * v->direction[i];
    *error = INFINITY;
    for (int k = 0; k < 4 && !(*error < 1e-7); k++) {
        if (!numeric_slope(v, widths[k], &numeric)) return false;
        double noise = 1e-14 * (fabs(loss) + 1) / widths[k]; /* of the differences themselves */
        double e = fmax(0, fabs(numeric - want) - noise) / (size + fabs(want) + 1e-9);
        *error = fmin(*error, e);
    }
    double back;
    return loss_at(v, 0, &back);
}

static const double gradient_bar = 2e-6;

static bool check_gradients(lmoe__exam *x, const lmoe__form *f, uint64_t seed, double *worst)
{
    lmoe__lab l;
    lmoe__sheet s = lmoe__sheet_new(x, f, GRAD_BATCH, GRAD_SEQ, seed, 1);
    const lmoe__lab_weights w = {seed, 0.2, LMOE_F64};
    lmoe__sheet_start(&s, 0, 0);
    lmoe__sheet_start(&s, 0, 4);
    if (!lmoe__lab_open(&l, x, f, LMOE_F64, 0)) return false;
    lmoe__program *p =
        lmoe__lab_program(&l, GRAD_BATCH, GRAD_SEQ, LMOE__RUN_GRADIENTS | LMOE__RUN_RESETS, 0);
    bool ok = p && lmoe__lab_bind(&l, &w) && lmoe__lab_run(&l, p, &s);
    double loss = ok ? loss_of(&l, &s) : 0;
    double **grad = LMOE_NEW_N(x->arena, double *, l.e.n_weights + 2);
    int64_t *n = LMOE_NEW_N(x->arena, int64_t, l.e.n_weights + 2);
    for (int i = 0; ok && i < l.e.n_weights; i++) {
        bool state = l.e.weights[i].flags & LMOE_PARAM_STATE;
        grad[i] = state ? NULL : lmoe__lab_grad(&l, i, &n[i]);
    }
    for (int i = -1; ok && i < l.e.n_weights; i++) {
        slope v = {&l, p, &s, i, GRAD_BATCH * GRAD_SEQ * s.embed, NULL, NULL, NULL};
        const char *name = i < 0 ? "x" : l.e.weights[i].name;
        double error;
        if (i >= 0 && !grad[i]) continue;
        if (i >= 0) v.n = n[i];
        v.at = LMOE_NEW_N(x->arena, double, v.n);
        v.moved = LMOE_NEW_N(x->arena, double, v.n);
        v.direction = LMOE_NEW_N(x->arena, double, v.n);
        double *g = LMOE_NEW_N(x->arena, double, v.n);
        memcpy(g, i < 0 ? s.dx : grad[i], sizeof *g * (size_t)v.n);
        memcpy(v.at, i < 0 ? s.x : lmoe__lab_read(&l, name, &v.n), sizeof *g * (size_t)v.n);
        for (int64_t k = 0; k < v.n; k++)
            v.direction[k] = lmoe__normal(seed, 1000 + (uint64_t)i, (uint64_t)k);
        lmoe__check_case(x, "gradient of %s, %s", name, f->text);
        ok = slope_error(&v, g, loss, &error);
        *worst = fmax(*worst, error);
        if (ok && !(error < gradient_bar)) {
            lmoe__check_fail(x,
                             "the gradient of %s differs from differences of the loss by %.2g of "
                             "its size; allowed is %.2g (float64, %s)",
                             name, error, gradient_bar, f->text);
            ok = false;
        }
    }
    lmoe__lab_close(&l);
    return ok;
}

static void gradcheck(lmoe__exam *x)
{
    double worst = 0;
    int forms = 0;
    for (int i = 0; i <= more_forms(x); i++) {
        lmoe__form f;
        if (!lmoe__form_make(x, i, &f)) {
            if (i == 0) return;
            continue;
        }
        forms++;
        if (!check_gradients(x, &f, x->seed + (uint64_t)i, &worst)) return;
    }
    lmoe__check_note(x, "worst error %.1e of %.1e allowed, %d sets of options", worst, gradient_bar,
                     forms);
}

/* ---- dtypes ---- */

typedef struct outcome {
    double *y, *dx, **grad;
    int64_t *n;
    int n_weights;
    const char **names;
} outcome;

static bool run_once(lmoe__exam *x, const lmoe__form *f, lmoe_dtype dtype, int lab_flags,
                     int run_flags, const lmoe__lab_weights *w, const lmoe__sheet *in, outcome *o)
{
    lmoe__lab l;
    lmoe__sheet s = *in;
    if (!lmoe__lab_open(&l, x, f, dtype, lab_flags)) return false;
    s.y = LMOE_NEW_N(x->arena, double, s.batch *s.seq *s.embed);
    s.dx = LMOE_NEW_N(x->arena, double, s.batch *s.seq *s.embed);
    lmoe__program *p = lmoe__lab_program(&l, s.batch, s.seq, run_flags, 0);
    bool ok = p && lmoe__lab_bind(&l, w) && lmoe__lab_run(&l, p, &s);
    *o = (outcome){.y = s.y, .dx = s.dx, .n_weights = l.e.n_weights};
    o->grad = LMOE_NEW_N(x->arena, double *, l.e.n_weights + 1);
    o->n = LMOE_NEW_N(x->arena, int64_t, l.e.n_weights + 1);
    o->names = LMOE_NEW_N(x->arena, const char *, l.e.n_weights + 1);
    for (int i = 0; ok && i < l.e.n_weights && (run_flags & LMOE__RUN_GRADIENTS); i++) {
        o->names[i] = lmoe__arena_strdup(x->arena, l.e.weights[i].name);
        o->grad[i] = lmoe__lab_grad(&l, i, &o->n[i]);
    }
    lmoe__lab_close(&l);
    return ok;
}

/* The first of y, dx, the gradients. */
static const double *part_of(const outcome *o, int i, int64_t tokens, int64_t *n, const char **name)
{
    *n = i < 2 ? tokens : o->n[i - 2];
    *name = i == 0 ? "y" : i == 1 ? "dx" : o->names[i - 2];
    return i == 0 ? o->y : i == 1 ? o->dx : o->grad[i - 2];
}

/* Lengths 1 to 65, and those around 128. */
enum { LENGTHS = 68 };

static int64_t length_at(int i)
{
    return i < 65 ? i + 1 : 127 + (i - 65);
}

/* Whether the length is looked at: each at soak, some, drawn anew with each seed, below. */
static bool chosen(const lmoe__exam *x, int i)
{
    uint64_t of = x->level == LMOE__QUICK ? 20 : x->level == LMOE__FULL ? 9 : 1;
    return i == LENGTHS - 1 || lmoe__below(x->seed, 91, (uint64_t)i, of) == 0;
}

/* The kernels' error is at most so many times the references', which round to float32 between ops
 * but add in double within one, plus a few roundings. Gradients may cancel down to what rounding
 * leaves, so only of y is a number of digits asked for. */
static const double times_y = 20, times_grad = 30, floor32 = 1e-5, at_most32 = 1e-3;

/* What is wrong with one draw of numbers (exam's memory); NULL: nothing. False: the check has failed. */
static bool compare32(lmoe__exam *x, const lmoe__form *f, const lmoe__sheet *s, uint64_t seed,
                      double *worst, const char **wrong)
{
    const lmoe__lab_weights w = {seed, 0.1, LMOE_F32};
    const int run = LMOE__RUN_GRADIENTS;
    outcome want, plain, fast;
    *wrong = NULL;
    *worst = 0;
    if (!run_once(x, f, LMOE_F64, LMOE__LAB_REFERENCES | LMOE__LAB_ONE, run, &w, s, &want) ||
        !run_once(x, f, LMOE_F32, LMOE__LAB_REFERENCES | LMOE__LAB_ONE, run, &w, s, &plain) ||
        !run_once(x, f, LMOE_F32, LMOE__LAB_ONE, run, &w, s, &fast))
        return false;
    for (int i = 0; i < want.n_weights + 2 && !*wrong; i++) {
        int64_t n;
        const char *name;
        const double *a = part_of(&want, i, s->batch * s->seq * s->embed, &n, &name);
        if (!a) continue;
        double reference = lmoe__apart(part_of(&plain, i, n, &n, &name), a, n);
        double error = lmoe__apart(part_of(&fast, i, n, &n, &name), a, n);
        double size = lmoe__norm(a, n) / sqrt((double)n + 1);
        double allowed = floor32 + (i ? times_grad : times_y) * reference;
        if (size < 1e-6) continue; /* sums that cancel: relative errors mean nothing */
        *worst = fmax(*worst, error / allowed);
        if (i == 0 && reference > at_most32)
            *wrong = lmoe__arena_printf(x->arena,
                                        "%s in float32 is off by %.2g of its size by the "
                                        "references alone; the way in which "
                                        "it is computed loses more than %.0e (seq %d, %s)",
                                        name, reference, at_most32, (int)s->seq, f->text);
        else if (!(error <= allowed))
            *wrong = lmoe__arena_printf(
                x->arena,
                "%s in float32 is off by %.2g of its size; the references' error is %.2g, so %.2g "
                "is allowed (seq %d, %s)",
                name, error, reference, allowed, (int)s->seq, f->text);
    }
    return true;
}

/* A draw may be badly conditioned (a norm of what nearly cancels), so what is wrong must be so at
 * each of several. */
static void float32(lmoe__exam *x)
{
    enum { DRAWS = 4 };
    lmoe__form f;
    double most = 0;
    if (!lmoe__form_make(x, 0, &f)) return;
    for (int i = 0; i < LENGTHS; i++) {
        const char *wrong = "";
        double least = INFINITY;
        if (!chosen(x, i)) continue;
        lmoe__check_case(x, "seq %d, %s", (int)length_at(i), f.text);
        for (int draw = 0; wrong && draw < DRAWS; draw++) {
            uint64_t seed = x->seed + (uint64_t)(i * DRAWS + draw);
            double worst;
            lmoe__sheet s = lmoe__sheet_new(x, &f, 2, length_at(i), seed, 1);
            if (!compare32(x, &f, &s, seed, &worst, &wrong)) return;
            least = fmin(least, worst);
        }
        most = fmax(most, least);
        if (wrong) lmoe__check_fail(x, "%s", wrong);
        if (wrong) return;
    }
    lmoe__check_note(x, "worst error %.2f of what is allowed", most);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The error of the token in the middle, by size of error: choices may come out otherwise for some. */
static double median_apart(lmoe__exam *x, const double *a, const double *b, int64_t tokens,
                           int64_t embed)
{
    double *e = LMOE_NEW_N(x->arena, double, tokens);
    for (int64_t i = 0; i < tokens; i++) e[i] = lmoe__apart(a + i * embed, b + i * embed, embed);
    qsort(e, (size_t)tokens, sizeof *e, ascending);
    return e[tokens / 2];
}

static void bfloat16(lmoe__exam *x)
{
    const int64_t seq = x->level == LMOE__QUICK ? 17 : 33, batch = 2;
    const lmoe__lab_weights w = {x->seed, 0.1, LMOE_BF16};
    const double bar = 0.15;
    lmoe__form f;
    outcome want, got;
    if (!lmoe__form_make(x, 0, &f)) return;
    lmoe__check_case(x, "seq %d, %s", (int)seq, f.text);
    lmoe__sheet s = lmoe__sheet_new(x, &f, batch, seq, x->seed, 1);
    for (int64_t i = 0; i < batch * seq * s.embed; i++) {
        s.x[i] = lmoe__rounded(s.x[i], LMOE_BF16);
        s.dy[i] = lmoe__rounded(s.dy[i], LMOE_BF16);
    }
    const int run = LMOE__RUN_GRADIENTS;
    if (!run_once(x, &f, LMOE_F64, LMOE__LAB_REFERENCES | LMOE__LAB_ONE, run, &w, &s, &want) ||
        !run_once(x, &f, LMOE_BF16, LMOE__LAB_ONE, run, &w, &s, &got))
        return;
    for (int i = 0; i < want.n_weights + 2; i++) {
        int64_t n;
        const char *name;
        const double *a = part_of(&got, i, batch * seq * s.embed, &n, &name);
        if (a && lmoe__not_finite(a, n) >= 0)
            lmoe__check_fail(x, "in bf16, %s is not finite at element %lld (%s)", name,
                             (long long)lmoe__not_finite(a, n), f.text);
    }
    double e = median_apart(x, got.y, want.y, batch * seq, s.embed);
    if (!(e < bar))
        lmoe__check_fail(x,
                         "in bf16, y is off by %.2g of its size at half of the tokens or more; "
                         "allowed is %.2g (%s)",
                         e, bar, f.text);
    lmoe__check_note(x, "y off by %.1e of %.2f allowed", e, bar);
}

/* ---- extreme numbers ---- */

static bool all_finite(lmoe__exam *x, const outcome *o, int64_t tokens, const char *what)
{
    for (int i = 0; i < o->n_weights + 2; i++) {
        int64_t n, at;
        const char *name;
        const double *a = part_of(o, i, tokens, &n, &name);
        if (!a || (at = lmoe__not_finite(a, n)) < 0) continue;
        lmoe__check_fail(x, "%s: element %lld of %s is %g", what, (long long)at,
                         i > 1 ? lmoe__arena_printf(x->arena, "the gradient of %s", name) : name,
                         a[at]);
        return false;
    }
    return true;
}

static void extremes(lmoe__exam *x)
{
    static const struct {
        const char *what;
        double scale;
    } kinds[] = {{"x is zero", 0},
                 {"x is of size 1e4", 1e4},
                 {"x is of size 1e-4", 1e-4},
                 {"x is denormal", 1e-40},
                 {"x is zero but for one token", -1}};
    const lmoe__lab_weights w = {x->seed, 0.1, LMOE_F32};
    const int64_t batch = 2, seq = 19;
    lmoe__form f;
    if (!lmoe__form_make(x, 0, &f)) return;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        outcome o;
        double scale = kinds[k].scale;
        lmoe__sheet s = lmoe__sheet_new(x, &f, batch, seq, x->seed, scale < 0 ? 1 : scale);
        for (int64_t i = 0; i < batch * seq * s.embed && scale < 0; i++)
            if (i / s.embed != 7) s.x[i] = 0;
        lmoe__check_case(x, "%s, %s", kinds[k].what, f.text);
        if (!run_once(x, &f, LMOE_F32, LMOE__LAB_ONE, LMOE__RUN_GRADIENTS, &w, &s, &o) ||
            !all_finite(x, &o, batch * seq * s.embed,
                        lmoe__arena_printf(x->arena, "%s (%s)", kinds[k].what, f.text)))
            return;
    }
}

/* ---- random cases ---- */

/* Numbers up to here leave room for squares and sums in float32; up to huge in float64. */
static const double large = 1e15, huge = 1e100;

typedef struct fuzzed {
    const lmoe__form *f;
    lmoe__sheet s;
    lmoe__lab_weights w;
    double largest; /* number of the passes in float64 */
} fuzzed;

/* 0: as it should be; 1: numbers beyond what the dtype holds; -1: failed. */
static int fuzz_run(lmoe__exam *x, fuzzed *c, lmoe_dtype dtype)
{
    lmoe__lab l;
    if (!lmoe__lab_open(&l, x, c->f, dtype, LMOE__LAB_ONE | LMOE__LAB_EAGER)) return -1;
    lmoe__program *p =
        lmoe__lab_program(&l, c->s.batch, c->s.seq, LMOE__RUN_GRADIENTS | LMOE__RUN_RESETS, 0);
    int result = p && lmoe__lab_bind(&l, &c->w) ? 0 : -1;
    if (result == 0) {
        lmoe_status status = lmoe__lab_try(&l, p, &c->s);
        bool wide = dtype == LMOE_F64;
        if (wide) c->largest = p->plan->largest;
        if (wide ? c->largest > huge : c->largest > large) {
            lmoe__ctx_clear(x->ctx);
            result = 1;
        } else if (!lmoe__check_ok(x, status, dtype == LMOE_F64 ? "in float64" : "in float32")) {
            result = -1;
        }
    }
    lmoe__lab_close(&l);
    return result;
}

static double one_of(const double *list, uint64_t n, uint64_t seed, uint64_t what)
{
    return list[lmoe__below(seed, 5, what, n)];
}

static void fuzz(lmoe__exam *x)
{
    static const double spreads[] = {0, -0.3, -1, -3, -10, 1, 3, 10}; /* exp of them is a number */
    static const double scales[] = {1e-3, 0.1, 1, 1, 10, 100};
    const int cases = x->level == LMOE__QUICK ? 10 : x->level == LMOE__FULL ? 100 : 1000;
    const int per_form = x->level == LMOE__SOAK ? 25 : 10;
    int beyond = 0;
    lmoe__form f;
    if (!lmoe__form_make(x, 0, &f) || !lmoe__check_device(x)) return;
    lmoe__arena *whole = x->arena; /* each case gives its memory back */
    lmoe__form other = f;
    for (int i = 0; i - beyond < cases && i < 2 * cases; i++) {
        uint64_t seed = x->seed * 100003 + (uint64_t)i;
        if (i > 0 && i % per_form == 0 && !lmoe__form_make(x, i / per_form, &other)) other = f;
        fuzzed c = {.f = &other};
        int64_t seq = 1 + (int64_t)lmoe__below(seed, 5, 0, lmoe__below(seed, 5, 1, 8) ? 24 : 80);
        int64_t batch = 1 + (int64_t)lmoe__below(seed, 5, 2, 2);
        double scale = one_of(scales, 6, seed, 3);
        c.w = (lmoe__lab_weights){seed, one_of(spreads, 8, seed, 4), LMOE_F32};
        x->arena = lmoe__arena_new();
        c.s = lmoe__sheet_new(x, &other, batch, seq, seed, scale);
        for (int64_t t = 0; t < batch * seq; t++)
            if (lmoe__below(seed, 6, (uint64_t)t, 12) == 0)
                lmoe__sheet_start(&c.s, t / seq, t % seq);
        lmoe__check_case(x, "case %d: batch %d, seq %d, x times %g, weights spread by %g, %s", i,
                         (int)batch, (int)seq, scale, fabs(c.w.spread), other.text);
        int result = fuzz_run(x, &c, LMOE_F64);
        if (result == 0) result = fuzz_run(x, &c, LMOE_F32);
        lmoe__arena_free(x->arena);
        x->arena = whole;
        if (result < 0) return;
        beyond += result;
    }
    if (beyond >= cases)
        lmoe__check_warn(x, "of %d cases, %d made numbers beyond %g and say nothing", 2 * cases,
                         beyond, large);
    lmoe__check_note(x, "%d cases; %d more made numbers beyond %g",
                     beyond < cases ? cases : 2 * cases - beyond, beyond, large);
}

/* ---- the same again ---- */

static bool same_bits(lmoe__exam *x, const outcome *a, const outcome *b, int64_t tokens,
                      const char *what)
{
    for (int i = 0; i < a->n_weights + 2; i++) {
        int64_t n, at;
        const char *name;
        const double *p = part_of(a, i, tokens, &n, &name), *q = part_of(b, i, tokens, &n, &name);
        if (!p || (at = lmoe__first_difference(p, q, n)) < 0) continue;
        lmoe__check_fail(x, "%s: element %lld of %s is %.9g and %.9g", what, (long long)at,
                         i > 1 ? lmoe__arena_printf(x->arena, "the gradient of %s", name) : name,
                         p[at], q[at]);
        return false;
    }
    return true;
}

static void compare_runs(lmoe__exam *x, int first, int second, const char *what)
{
    const lmoe__lab_weights w = {x->seed, 0.1, LMOE_F32};
    const int64_t batch = 2, seq = 37;
    for (int i = 0; i <= (x->level > LMOE__QUICK ? 2 : 0); i++) {
        lmoe__form f;
        outcome a, b;
        if (!lmoe__form_make(x, i, &f)) {
            if (i == 0) return;
            continue;
        }
        lmoe__sheet s = lmoe__sheet_new(x, &f, batch, seq, x->seed, 1);
        lmoe__check_case(x, "seq %d, %s", (int)seq, f.text);
        if (!run_once(x, &f, LMOE_F32, 0, first, &w, &s, &a) ||
            !run_once(x, &f, LMOE_F32, 0, second, &w, &s, &b) ||
            !same_bits(x, &a, &b, batch * seq * s.embed,
                       lmoe__arena_printf(x->arena, "%s (%s)", what, f.text)))
            return;
    }
}

static void repeat(lmoe__exam *x)
{
    compare_runs(x, LMOE__RUN_GRADIENTS, LMOE__RUN_GRADIENTS, "the same run twice");
}

static void recompute(lmoe__exam *x)
{
    compare_runs(x, LMOE__RUN_GRADIENTS, LMOE__RUN_GRADIENTS | LMOE__RUN_RECOMPUTE,
                 "kept, and made again for the backward pass");
}

const lmoe__check lmoe__checks_numerics[] = {
    {"numerics", "gradcheck",
     "Gradients of x and of each parameter agree with differences of the loss in float64.", KINDS,
     LMOE__QUICK, 300, gradcheck, 0},
    {"numerics", "float32",
     "float32 is as near to float64 as the references are, at lengths of any kind.", KINDS,
     LMOE__QUICK, 300, float32, 0},
    {"numerics", "bfloat16", "bf16 is finite, and near to float64.", KINDS, LMOE__QUICK, 120,
     bfloat16, 0},
    {"numerics", "extremes", "Zeros, denormals and large inputs give finite results and gradients.",
     KINDS, LMOE__QUICK, 120, extremes, 0},
    {"numerics", "fuzz",
     "No NaN with random options, lengths, weights of any scale: decays run from 0 to exactly 1.",
     KINDS, LMOE__QUICK, 1800, fuzz, 0},
    {"numerics", "repeat", "The same run gives the same bits.", KINDS, LMOE__QUICK, 120, repeat, 0},
    {"numerics", "recompute", "A forward pass that is made again gives the same bits.", KINDS,
     LMOE__QUICK, 120, recompute, 0},
    {NULL, NULL, NULL, NULL, 0, 0, NULL, 0}};
