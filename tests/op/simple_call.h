/* SPDX-License-Identifier: Apache-2.0
 * tests/op/simple_call.h: one call of an op's shape function and reference, its operands and
 * results held as doubles: for tests that state values, derivatives and refusals of ops without a
 * carry.
 *
 *     call k = new_call(&lmoe__op_affine, &attrs);
 *     operand(&k, 0, LMOE_F64, "seq", DIMS(5));        values are drawn; k.x[0] may be overwritten
 *     run(&k);                                         k.out[0] is its description, k.y[0] values
 *     release(&k);                                     or refused(&k, "words"), instead of both
 */
#ifndef LMOE_TESTS_OP_SIMPLE_CALL_H
#define LMOE_TESTS_OP_SIMPLE_CALL_H

#include "core/graph/graph.h"
#include "core/op/op.h"
#include "core/op/shape.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

typedef struct call {
    const lmoe_op *op;
    lmoe_case c; /* descriptions of the inputs, and attributes */
    lmoe_desc out[LMOE_MAX_IO];
    double *x[LMOE_MAX_IO]; /* values of the inputs and, once it ran, of the outputs; */
    double *y[LMOE_MAX_IO]; /* NULL: absent */
} call;

#define DIMS(...) ((const int64_t[]){__VA_ARGS__})

/* attrs: NULL for an op without attributes, or one whose zeros are meant. */
static inline call new_call(const lmoe_op *op, const void *attrs)
{
    call k = {.op = op, .c = {.size = sizeof k.c}};
    if (attrs) memcpy(k.c.attrs.bytes, attrs, op->base.options_size);
    return k;
}

/* Gives input i and returns its values: floats from a normal distribution, a function of (i,
 * element), so an op and its derivative are given the same; integers 0. Axes are blank-separated.
 */
static inline double *operand(call *k, int i, lmoe_dtype dtype, const char *axes,
                              const int64_t *dim)
{
    lmoe__case_input(&k->c, i, dtype, axes, dim, LMOE_FILL_NORMAL, 0, 1);
    int64_t n = lmoe_desc_count(&k->c.in[i]);
    free(k->x[i]);
    k->x[i] = lmoe__malloc((size_t)n * sizeof(double));
    for (int64_t e = 0; e < n; e++)
        k->x[i][e] = lmoe_dtype_is_float(dtype) ? lmoe__normal(5, (uint64_t)i, (uint64_t)e) : 0;
    return k->x[i];
}

static inline void release(call *k)
{
    for (int i = 0; i < LMOE_MAX_IO; i++) {
        free(k->x[i]);
        free(k->y[i]);
        k->x[i] = k->y[i] = NULL;
    }
}

/* ---- running ---- */

/* A buffer in the dtype of d, every bit set: floats that nobody writes are NaN. */
static inline lmoe_buf new_buf(const lmoe_desc *d)
{
    lmoe_buf b = {.dtype = d->dtype};
    if (d->dtype == LMOE_NONE) return b;
    size_t bytes = (size_t)lmoe_desc_bytes(d);
    b.data = memset(lmoe__malloc(bytes), 0xff, bytes);
    b.rank = d->rank;
    memcpy(b.dim, d->dim, sizeof b.dim);
    return b;
}

/* Sets out and y from c and x: values are rounded to the dtypes of the inputs, and results read in
 * the dtypes that the shape function gives them. May be repeated. */
static inline void run(call *k)
{
    lmoe_ctx ctx;
    lmoe_buf in[LMOE_MAX_IO], out[LMOE_MAX_IO];
    int n_in = lmoe__ports(k->op->inputs), n_out = lmoe__ports(k->op->outputs);
    lmoe__ctx_init(&ctx);
    lmoe_trace t = {.ctx = &ctx};
    memset(k->out, 0, sizeof k->out);
    ck_assert_msg(k->op->shape(&t, k->c.attrs.bytes, k->c.in, n_in, k->out) == LMOE_OK,
                  "%s refuses: %s", k->op->base.name, ctx.message);
    for (int i = 0; i < n_in; i++) {
        in[i] = new_buf(&k->c.in[i]);
        for (int64_t e = 0; in[i].data && e < lmoe_buf_count(&in[i]); e++)
            lmoe_put(&in[i], e, k->x[i][e]);
    }
    for (int i = 0; i < n_out; i++) out[i] = new_buf(&k->out[i]);
    lmoe_args a = {.size = sizeof a,
                   .attrs = k->c.attrs.bytes,
                   .n_in = n_in,
                   .n_out = n_out,
                   .in = in,
                   .out = out,
                   .ctx = &ctx};
    ck_assert_msg(k->op->reference(&a) == LMOE_OK, "%s: %s", k->op->base.name, ctx.message);
    for (int i = 0; i < n_in; i++) free(in[i].data);
    for (int i = 0; i < n_out; i++) {
        free(k->y[i]);
        k->y[i] = NULL;
        if (!lmoe_buf_present(&out[i])) continue;
        int64_t n = lmoe_buf_count(&out[i]);
        k->y[i] = lmoe__malloc((size_t)n * sizeof(double));
        for (int64_t e = 0; e < n; e++) k->y[i][e] = lmoe_get(&out[i], e);
        free(out[i].data);
    }
}

/* The shape function fails, with and without a trace, and says these words. Releases the call. */
static inline void refused(call *k, const char *words)
{
    lmoe_ctx ctx;
    int n_in = lmoe__ports(k->op->inputs);
    lmoe__ctx_init(&ctx);
    lmoe_trace t = {.ctx = &ctx};
    lmoe_status said = k->op->shape(&t, k->c.attrs.bytes, k->c.in, n_in, k->out);
    ck_assert_msg(said != LMOE_OK, "%s accepts what it should refuse: '%s'", k->op->base.name,
                  words);
    ck_assert_msg(strstr(ctx.message, words) != NULL, "%s: '%s' does not say '%s'",
                  k->op->base.name, ctx.message, words);
    ck_assert_int_eq(k->op->shape(NULL, k->c.attrs.bytes, k->c.in, n_in, k->out), said);
    release(k);
}

/* ---- comparing ---- */

/* Equal but for the rounding of a few operations in f64; NaN never is. */
static inline void near_at(const char *file, int line, double x, double want)
{
    ck_assert_msg(x == want || fabs(x - want) <= 1e-12 * (1 + fabs(want)),
                  "%s:%d: %.17g should be %.17g", file, line, x, want);
}
#define near(x, want) near_at(__FILE__, __LINE__, x, want)

/* "(batch 2, seq 3)", or "a scalar". */
static inline void axes_are(const lmoe_desc *d, const char *want)
{
    char text[256];
    ck_assert_str_eq(lmoe__desc_text(text, sizeof text, d), want);
}

/* dx = d/dx_i <dy, y_0>, by central differences; only the values y of f are lost. */
static inline void slope_is(call *f, int i, const double *dy, const double *dx)
{
    ck_assert_msg(dx && f->x[i], "%s: there is nothing to compare for input %d", f->op->base.name,
                  i);
    for (int64_t e = 0; e < lmoe_desc_count(&f->c.in[i]); e++) {
        double at = f->x[i][e], h = 1e-5 * (1 + fabs(at)), slope = 0;
        f->x[i][e] = at + h;
        run(f);
        double *above = f->y[0];
        f->y[0] = NULL;
        f->x[i][e] = at - h;
        run(f);
        for (int64_t o = 0; o < lmoe_desc_count(&f->out[0]); o++)
            slope += dy[o] * (above[o] - f->y[0][o]) / (2 * h);
        free(above);
        f->x[i][e] = at;
        ck_assert_msg(fabs(dx[e] - slope) <= 1e-7 * (1 + fabs(slope)),
                      "%s: derivative %d by input %d is %.17g and should be %.17g",
                      f->op->base.name, (int)e, i, dx[e], slope);
    }
}

/* ---- the program ---- */

/* Returns the exit code. */
static inline int run_tests(const char *name, const TTest *const *tests, int n)
{
    Suite *s = suite_create(name);
    TCase *c = tcase_create(name);
    tcase_set_timeout(c, 60);
    for (int i = 0; i < n; i++) tcase_add_test(c, tests[i]);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}

#endif
