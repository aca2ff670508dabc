/* SPDX-License-Identifier: Apache-2.0
 * core/bench/check.c: is a kernel right?
 *
 *   error   = |kernel - reference in f64| / |reference in f64|, 2-norms over an output
 *   allowed = the larger of  factor * error of the reference run in the dtype under test, or with
 *                            its inputs moved by one rounding of that dtype (what no algorithm can
 *                            do without; factor 2, 3 for backward ops)
 *             and            op's tolerance * unit roundoff of that dtype
 *
 * Infinities and NaN must be where the reference has them, integers must be equal. Bits must not
 * depend on the launch, the number of threads, outputs left out, or outputs written over inputs.
 */
#include "core/bench/bench.h"

#include <math.h>

typedef struct deviation {
    double error, worst; /* relative 2-norm; largest distance of one element */
    int64_t at;          /* the worst element */
    double got, want;
    bool kind_differs; /* NaN, infinity or an integer is wrong there */
} deviation;

/* x as the dtype of `like` holds it: too large becomes infinite. */
static double rounded(const lmoe_buf *like, double x)
{
    unsigned char cell[8];
    lmoe_buf b = {.data = cell, .dtype = like->dtype};
    lmoe_put(&b, 0, x);
    return lmoe_get(&b, 0);
}

static deviation compare(const lmoe_buf *got, const lmoe_buf *want)
{
    deviation d = {.at = -1};
    double error = 0, norm = 0;
    bool exact = !lmoe_dtype_is_float(got->dtype);
    for (int64_t i = 0; i < lmoe_buf_count(got); i++) {
        double x = lmoe_get(got, i), y = lmoe_get(want, i), z = rounded(got, y);
        double distance = fabs(x - y);
        bool same_kind = isfinite(x) && isfinite(z);
        if (!same_kind) distance = 0;
        bool wrong = exact ? x != y : !same_kind && !(x == z || (isnan(x) && isnan(z)));
        if (same_kind) {
            error += distance * distance;
            norm += y * y;
        }
        if (d.kind_differs || (!wrong && distance <= d.worst && d.at >= 0)) continue;
        d.kind_differs = wrong;
        d.worst = distance;
        d.at = i;
        d.got = x;
        d.want = y;
    }
    d.error = sqrt(error) / (norm > 0 ? sqrt(norm) : 1);
    return d;
}

/* What a kernel's results are held against: the reference in f64, in the dtype under test, and in
 * f64 with moved inputs. */
typedef struct standard {
    lmoe__run wide, narrow, nudged;
    double allowed[2 * LMOE_MAX_IO];
} standard;

static double roundoff(lmoe_dtype d)
{
    return d == LMOE_BF16 ? 0x1p-9 : d == LMOE_F16 ? 0x1p-12 : 0x1p-24;
}

/* Tensors that a launch writes: outputs, and inputs that the op changes. */
static bool is_result(const lmoe__trial *t, int i)
{
    if (i >= t->n_in) return t->out[i - t->n_in].dtype != LMOE_NONE;
    return t->in[i].dtype != LMOE_NONE && (t->op->inputs[i].flags & LMOE_PORT_MUTATES);
}

static const char *result_name(const lmoe__trial *t, int i)
{
    return i < t->n_in ? t->op->inputs[i].name : t->op->outputs[i - t->n_in].name;
}

static double error_of(const lmoe__run *r, const lmoe__run *wide, int i)
{
    lmoe_buf got = lmoe__run_buf(r, i), want = lmoe__run_buf(wide, i);
    return compare(&got, &want).error;
}

static lmoe_status make_standard(lmoe__bench *b, const lmoe__trial *t, standard *s)
{
    lmoe__bench_device host = {NULL, NULL};
    double unit = roundoff(b->dtype);
    const int64_t few_elements = 8;
    bool few = false;
    LMOE_TRY(lmoe__run_new(b->ctx, t, NULL, host, true, -1, -1, &s->wide));
    LMOE_TRY(lmoe__run_new(b->ctx, t, NULL, host, true, -1, -1, &s->nudged));
    LMOE_TRY(lmoe__run_new(b->ctx, t, NULL, host, false, -1, -1, &s->narrow));
    LMOE_TRY(lmoe__run_once(&s->wide));
    LMOE_TRY(lmoe__run_once(&s->narrow));
    double factor = strstr(t->op->base.name, "_grad/") ? 3 : 2;
    double floor = (t->op->tolerance > 0 ? t->op->tolerance : 8) * unit;
    for (int i = 0; i < t->n_in + t->n_out; i++) {
        if (!is_result(t, i)) continue;
        s->allowed[i] = fmax(factor * error_of(&s->narrow, &s->wide, i), floor);
        few = few || lmoe_buf_count(&s->wide.buf[i]) <= few_elements;
    }
    /* An error of one element may be small by chance: several draws then. */
    for (int draw = 0; draw < (few ? 5 : 1); draw++) {
        lmoe__run_nudge(&s->nudged, unit, (uint64_t)draw);
        LMOE_TRY(lmoe__run_once(&s->nudged));
        for (int i = 0; i < t->n_in + t->n_out; i++) {
            if (!is_result(t, i) || !lmoe_dtype_is_float(s->wide.buf[i].dtype)) continue;
            s->allowed[i] = fmax(factor * error_of(&s->nudged, &s->wide, i), s->allowed[i]);
        }
    }
    return LMOE_OK;
}

/* ---- one kernel on one trial ---- */

/* What happened, for the report. */
typedef struct verdict {
    double error, share; /* largest error of an output, and the largest part of its allowance */
    char failure[512];   /* empty: passed */
} verdict;

static __attribute__((format(printf, 2, 3))) void fails(verdict *v, const char *format, ...)
{
    va_list args;
    if (v->failure[0]) return;
    va_start(args, format);
    vsnprintf(v->failure, sizeof v->failure, format, args);
    va_end(args);
}

static void judge(const lmoe__run *r, const standard *s, verdict *v)
{
    const lmoe__trial *t = r->trial;
    char text[256];
    const char *damage = lmoe__run_damage(r, text, sizeof text);
    if (damage) fails(v, "%s", damage);
    for (int i = 0; i < t->n_in + t->n_out; i++) {
        if (!is_result(t, i)) continue;
        lmoe_buf got = lmoe__run_buf(r, i), want = lmoe__run_buf(&s->wide, i);
        deviation d = compare(&got, &want);
        v->error = fmax(v->error, d.error);
        v->share = fmax(v->share, d.error / s->allowed[i]);
        if (d.kind_differs)
            fails(v, "%s is %.9g at element %lld and should be %.9g", result_name(t, i), d.got,
                  (long long)d.at, d.want);
        else if (!(d.error <= s->allowed[i]))
            fails(v, "%s: error %.3g where %.3g is allowed; element %lld is %.9g, should be %.9g",
                  result_name(t, i), d.error, s->allowed[i], (long long)d.at, d.got, d.want);
    }
}

/* Launches again in another way: results must have the same bits. */
static lmoe_status again(lmoe_ctx *ctx, const lmoe__run *first, int dropped, int inplace,
                         const char *way, verdict *v)
{
    const lmoe__trial *t = first->trial;
    lmoe__run r;
    char text[256];
    lmoe_status status =
        lmoe__run_new(ctx, t, first->kernel, first->on, false, dropped, inplace, &r);
    if (status == LMOE_OK) status = lmoe__run_once(&r);
    if (status != LMOE_OK) {
        fails(v, "%s: failed: %s", way, ctx->message);
        lmoe__ctx_clear(ctx);
    }
    const char *damage = status == LMOE_OK ? lmoe__run_damage(&r, text, sizeof text) : NULL;
    if (damage) fails(v, "%s: %s", way, damage);
    for (int i = 0; status == LMOE_OK && i < t->n_in + t->n_out; i++) {
        if (!is_result(t, i) || i == t->n_in + dropped) continue;
        lmoe_buf x = lmoe__run_buf(first, i), y = lmoe__run_buf(&r, i);
        size_t size = lmoe_dtype_bytes(x.dtype);
        const unsigned char *p = x.data, *q = y.data;
        if (memcmp(p, q, (size_t)lmoe_buf_count(&x) * size) == 0) continue;
        int64_t at = 0;
        while (memcmp(p + (size_t)at * size, q + (size_t)at * size, size) == 0) at++;
        fails(v, "%s: %s differs at element %lld: %.9g, before %.9g", way, result_name(t, i),
              (long long)at, lmoe_get(&y, at), lmoe_get(&x, at));
    }
    lmoe__run_free(&r);
    return LMOE_OK;
}

static lmoe_status in_all_ways(lmoe__bench *b, const lmoe__run *r, verdict *v)
{
    const lmoe__trial *t = r->trial;
    lmoe_ctx alone;
    char way[96];
    lmoe__ctx_init(&alone);
    LMOE_TRY(again(b->ctx, r, -1, -1, "second launch", v));
    if (lmoe_threads(b->ctx) > 1) LMOE_TRY(again(&alone, r, -1, -1, "one thread", v));
    for (int i = 0; i < t->n_out; i++) {
        if (t->out[i].dtype == LMOE_NONE) continue;
        if (t->n_out > 1) {
            snprintf(way, sizeof way, "without output %s", t->op->outputs[i].name);
            LMOE_TRY(again(b->ctx, r, i, -1, way, v));
        }
        int input = t->op->inplace ? t->op->inplace[i] - 1 : -1;
        if (input < 0 || t->in[input].dtype == LMOE_NONE ||
            lmoe_desc_bytes(&t->in[input]) != lmoe_desc_bytes(&t->out[i]))
            continue;
        snprintf(way, sizeof way, "%s over %s", t->op->outputs[i].name, t->op->inputs[input].name);
        LMOE_TRY(again(b->ctx, r, -1, i, way, v));
    }
    return LMOE_OK;
}

static lmoe_status check_kernel(lmoe__bench *b, const lmoe__trial *t, const standard *s,
                                const lmoe_kernel *kernel, verdict *v)
{
    lmoe__run r;
    memset(v, 0, sizeof *v);
    lmoe_status status = lmoe__run_new(b->ctx, t, kernel, b->on, false, -1, -1, &r);
    if (status == LMOE_OK) status = lmoe__run_once(&r);
    if (status == LMOE_OK) {
        judge(&r, s, v);
        if (kernel) status = in_all_ways(b, &r, v);
    } else {
        fails(v, "failed: %s", b->ctx->message);
        lmoe__ctx_clear(b->ctx);
        status = LMOE_OK;
    }
    lmoe__run_free(&r);
    return status;
}

/* ---- all cases of an op ---- */

/* What is reported of one kernel over the cases. */
typedef struct tally {
    const lmoe_kernel *kernel;
    int cases, failed;
    double error, share;
} tally;

static tally *tally_of(tally *list, int *n, const lmoe_kernel *kernel)
{
    int i = 0;
    while (i < *n && list[i].kernel != kernel) i++;
    if (i == *n) list[(*n)++] = (tally){.kernel = kernel};
    return &list[i];
}

static void count(lmoe__bench *b, const lmoe__trial *t, int index, const verdict *v, tally *k)
{
    char text[256];
    k->cases++;
    k->error = fmax(k->error, v->error);
    k->share = fmax(k->share, v->share);
    if (!v->failure[0]) {
        b->passed++;
        return;
    }
    b->failed++;
    k->failed++;
    if (b->out)
        fprintf(b->out, "FAIL %s, %s, case %d %s: %s\n", t->op->base.name,
                k->kernel ? k->kernel->base.name : "reference", index,
                lmoe__trial_text(text, sizeof text, t), v->failure);
}

enum { MOST_KERNELS = 32 };

static lmoe_status check_case(lmoe__bench *b, const lmoe__trial *t, int index, tally *list, int *n)
{
    standard s;
    verdict v;
    const lmoe_kernel *kernels[MOST_KERNELS + 1] = {NULL}; /* first the reference itself */
    memset(&s, 0, sizeof s);
    lmoe_status status = make_standard(b, t, &s);
    int count_kernels = 1 + lmoe__bench_kernels(b, t, kernels + 1, MOST_KERNELS);
    for (int i = 0; status == LMOE_OK && i < count_kernels; i++) {
        status = check_kernel(b, t, &s, kernels[i], &v);
        if (status == LMOE_OK) count(b, t, index, &v, tally_of(list, n, kernels[i]));
    }
    lmoe__run_free(&s.wide);
    lmoe__run_free(&s.narrow);
    lmoe__run_free(&s.nudged);
    return status;
}

lmoe_status lmoe__bench_op(lmoe__bench *b, const lmoe_op *op)
{
    tally list[2 * MOST_KERNELS];
    int n = 0;
    bool more = true;
    for (int index = 0; more; index++) {
        lmoe__trial t;
        LMOE_TRY(lmoe__trial_sample(b->ctx, op, index, b->dtype, &t, &more));
        lmoe_status status = LMOE_OK;
        if (more && (b->large || !(t.c.flags & LMOE_CASE_BENCH)))
            status = check_case(b, &t, index, list, &n);
        if (more) lmoe__trial_free(&t);
        LMOE_TRY(status);
    }
    for (int index = 0; op->sample && index < b->vary; index++) {
        lmoe__trial t;
        if (lmoe__trial_vary(b->ctx, op, index, b->dtype, &t) != LMOE_OK) {
            lmoe__ctx_clear(b->ctx); /* another length needs other sizes elsewhere */
            continue;
        }
        lmoe_status status = check_case(b, &t, index, list, &n);
        lmoe__trial_free(&t);
        LMOE_TRY(status);
    }
    for (int i = 0; b->out && i < n; i++)
        fprintf(b->out, "%-28s %-32s %4d cases  error %8.2e  %5.1f %% of allowed  %s\n",
                op->base.name, list[i].kernel ? list[i].kernel->base.name : "reference",
                list[i].cases, list[i].error, 100 * list[i].share,
                list[i].failed ? "FAILED" : "ok");
    return LMOE_OK;
}
