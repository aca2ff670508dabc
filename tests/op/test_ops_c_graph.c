/* SPDX-License-Identifier: Apache-2.0
 * tests/op/test_ops_c_graph.c: the ops that choose (top_k, moe), grouped products, the optimiser
 * and collectives: samples agree with shapes, rules and references; derivatives with differences.
 */
#include "core/bench/bench.h"
#include "machine.h"

#include <check.h>
#include <math.h>

static const lmoe_op *const ops[] = {
    &lmoe__op_top_k,          &lmoe__op_gather_last,
    &lmoe__op_scatter_last,   &lmoe__op_histogram,
    &lmoe__op_moe_sort,       &lmoe__op_moe_gather,
    &lmoe__op_moe_combine,    &lmoe__op_moe_combine_grad,
    &lmoe__op_grouped_linear, &lmoe__op_grouped_weight_grad,
    &lmoe__op_sum_squares,    &lmoe__op_accumulate,
    &lmoe__op_adamw,          &lmoe__op_all_reduce,
    &lmoe__op_all_gather,     &lmoe__op_shard,
};
enum { N_OPS = sizeof ops / sizeof *ops };

/* ---- samples ---- */

static double rounding(lmoe_dtype d)
{
    return d == LMOE_BF16 ? 0x1p-8 : d == LMOE_F32 ? 0x1p-23 : 0x1p-52;
}

/* Every element that the reference writes is near the one it writes in f64. */
static void check_near(const lmoe__run *narrow, const lmoe__run *wide, lmoe_dtype dtype, int i)
{
    lmoe_buf a = lmoe__run_buf(narrow, i), b = lmoe__run_buf(wide, i);
    double norm = 0, error = 0;
    for (int64_t k = 0; lmoe_buf_present(&a) && k < lmoe_buf_count(&a); k++) {
        double x = lmoe_get(&a, k), y = lmoe_get(&b, k);
        ck_assert_msg(isfinite(x), "tensor %d is %g at %lld", i, x, (long long)k);
        norm += y * y;
        error += (x - y) * (x - y);
    }
    ck_assert_double_le(sqrt(error), 4 * rounding(dtype) * sqrt(norm));
}

static void check_sample(const lmoe__trial *t, lmoe_dtype dtype)
{
    static const lmoe__bench_device host = {NULL, NULL};
    lmoe_ctx ctx;
    lmoe__run wide, narrow;
    char text[256];
    lmoe__ctx_init(&ctx);
    ck_assert_int_eq(lmoe__run_new(&ctx, t, NULL, host, true, -1, -1, &wide), LMOE_OK);
    ck_assert_int_eq(lmoe__run_new(&ctx, t, NULL, host, false, -1, -1, &narrow), LMOE_OK);
    ck_assert_msg(lmoe__run_once(&wide) == LMOE_OK, "%s", ctx.message);
    ck_assert_msg(lmoe__run_once(&narrow) == LMOE_OK, "%s", ctx.message);
    const char *damage = lmoe__run_damage(&narrow, text, sizeof text);
    ck_assert_msg(!damage, "%s: %s", t->op->base.name, damage ? damage : "");
    for (int i = 0; i < t->n_in; i++)
        if (t->op->inputs[i].flags & LMOE_PORT_MUTATES) check_near(&narrow, &wide, dtype, i);
    for (int i = t->n_in; i < t->n_in + t->n_out; i++) check_near(&narrow, &wide, dtype, i);
    lmoe__run_free(&wide);
    lmoe__run_free(&narrow);
}

/* A rule has a term for each tensor, with as many dimensions. */
static void check_rule(const lmoe__trial *t)
{
    lmoe_ctx ctx;
    lmoe__rule r;
    lmoe__ctx_init(&ctx);
    ck_assert_msg(lmoe__rule_of(&ctx, t->op, t->c.attrs.bytes, t->in, t->n_in, &r) == LMOE_OK, "%s",
                  ctx.message);
    ck_assert_int_eq(r.n_in, t->n_in);
    for (int i = 0; i < t->n_out; i++) {
        ck_assert_int_lt(i, r.n_out);
        ck_assert_int_eq(r.out[i].rank, t->out[i].rank);
    }
}

START_TEST(samples_are_legal)
{
    static const lmoe_dtype dtypes[] = {LMOE_F64, LMOE_F32, LMOE_BF16};
    const lmoe_op *op = ops[_i];
    int cases = 0, benches = 0, gradchecks = 0;
    bool more = true;
    while (more) {
        for (int k = 0; k < 3; k++) {
            lmoe_ctx ctx;
            lmoe__trial t;
            lmoe__ctx_init(&ctx);
            lmoe_status status = lmoe__trial_sample(&ctx, op, cases, dtypes[k], &t, &more);
            ck_assert_msg(status == LMOE_OK, "%s", ctx.message);
            if (!more) break;
            check_rule(&t);
            if (k == 0) benches += (t.c.flags & LMOE_CASE_BENCH) != 0;
            if (k == 0) gradchecks += (t.c.flags & LMOE_CASE_GRADCHECK) != 0;
            if (!(t.c.flags & LMOE_CASE_BENCH)) check_sample(&t, dtypes[k]);
            lmoe__trial_free(&t);
        }
        cases += more;
    }
    ck_assert_int_ge(cases, 5);
    ck_assert_int_ge(benches, 1);
    ck_assert_int_eq(gradchecks > 0, op->vjp != NULL);
}
END_TEST

/* ---- derivatives ---- */

static lmoe_tensor enter(lmoe_trace *t, const char *name, const lmoe_desc *d)
{
    char axes[256] = "";
    for (int i = 0; i < d->rank; i++) {
        strcat(axes, i ? " " : "");
        strcat(axes, d->axis[i]);
    }
    return lmoe__trace_enter(t, LMOE_VALUE_INPUT, name, d->dtype, axes, d->dim);
}

/* Sum over all elements of y times a tensor that enters under `name`. */
static lmoe_tensor weighted_sum(lmoe_trace *t, lmoe_tensor y, const char *name)
{
    static const char *const texts[] = {" -> ", "a -> ", "a b -> ", "a b c -> "};
    lmoe_desc d;
    ck_assert_int_eq(lmoe_describe(t, y, &d), LMOE_OK);
    return lmoe_sum(t, texts[d.rank], lmoe_mul(t, y, enter(t, name, &d)));
}

static void fill_normals(const lmoe_buf *b, uint64_t stream)
{
    for (int64_t i = 0; i < lmoe_buf_count(b); i++)
        lmoe_put(b, i, lmoe__normal(3, stream, (uint64_t)i));
}

static void check_element(machine *m, const lmoe_buf *x, int64_t i, int32_t loss, double got,
                          const char *what)
{
    const double h = 1e-5, x0 = lmoe_get(x, i);
    double l[2];
    for (int k = 0; k < 2; k++) {
        lmoe_put(x, i, k ? x0 + h : x0 - h);
        compute(m);
        l[k] = lmoe_get(&m->value[0][loss], 0);
    }
    lmoe_put(x, i, x0);
    double want = (l[1] - l[0]) / (2 * h);
    ck_assert_msg(fabs(got - want) <= 1e-8 * fmax(1, fabs(want)), "%s, element %lld: %g, not %g",
                  what, (long long)i, got, want);
}

static void check_gradient(const lmoe__trial *c)
{
    lmoe__op_set set;
    lmoe_trace t;
    machine m = {.arena = lmoe__arena_new()};
    lmoe_tensor in[LMOE_MAX_IO] = {{0}}, out[LMOE_MAX_IO], d[LMOE_MAX_IO], wrt[LMOE_MAX_IO];
    lmoe_tensor loss = {0};
    int wanted = 0, port[LMOE_MAX_IO];
    lmoe__ctx_init(&m.ctx);
    lmoe__op_set_init(&set);
    lmoe__trace_init(&t, &m.ctx, &set, LMOE_F64);
    for (int i = 0; i < c->n_in; i++) {
        const char *name = c->op->inputs[i].name;
        if (c->in[i].dtype == LMOE_NONE) continue;
        in[i] = enter(&t, name, &c->in[i]);
        bool floats = lmoe_dtype_is_float(c->in[i].dtype);
        if (!floats || (c->op->inputs[i].flags & LMOE_PORT_NO_GRAD)) continue;
        port[wanted] = i;
        wrt[wanted++] = in[i];
    }
    lmoe_apply_at(&t, LMOE_HERE, c->op->base.name, in, c->n_in, c->c.attrs.bytes,
                  c->op->base.options_size, out, c->n_out);
    for (int i = 0; i < c->n_out; i++) {
        if (!lmoe_dtype_is_float(c->out[i].dtype)) continue;
        lmoe_tensor part = weighted_sum(&t, out[i], c->op->outputs[i].name);
        loss = lmoe_is_absent(loss) ? part : lmoe_add(&t, loss, part);
    }
    ck_assert_msg(lmoe__vjp(&t, loss, wrt, wanted, d) == LMOE_OK, "%s", m.ctx.message);
    machine_add(&m, t.graph);
    for (int v = 1; v < t.graph->n_values; v++)
        if (t.graph->values[v].name) fill_normals(&m.value[0][v], (uint64_t)v);
    for (int i = 0; i < c->n_in; i++) {
        const lmoe_buf *b = &m.value[0][in[i].id];
        for (int64_t k = 0; in[i].id && k < lmoe_buf_count(b); k++) lmoe_put(b, k, c->value[i][k]);
    }
    compute(&m);
    ck_assert_int_gt(wanted, 0);
    for (int w = 0; w < wanted; w++) {
        const lmoe_buf *x = &m.value[0][wrt[w].id], *g = &m.value[0][d[w].id];
        ck_assert_int_gt(d[w].id, 0);
        ck_assert_int_eq(lmoe_buf_count(x), lmoe_buf_count(g));
        for (int64_t i = 0; i < lmoe_buf_count(x); i++) {
            compute(&m);
            check_element(&m, x, i, loss.id, lmoe_get(g, i), c->op->inputs[port[w]].name);
        }
    }
    lmoe__trace_free(&t);
    lmoe__op_set_free(&set);
    lmoe__arena_free(m.arena);
}

START_TEST(derivatives_are_differences)
{
    const lmoe_op *op = ops[_i];
    bool more = true;
    for (int i = 0; more; i++) {
        lmoe_ctx ctx;
        lmoe__trial t;
        lmoe__ctx_init(&ctx);
        ck_assert_int_eq(lmoe__trial_sample(&ctx, op, i, LMOE_F64, &t, &more), LMOE_OK);
        if (more && (t.c.flags & LMOE_CASE_GRADCHECK)) check_gradient(&t);
        if (more) lmoe__trial_free(&t);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ops_c_graph");
    TCase *c = tcase_create("graphs");
    tcase_set_timeout(c, 30);
    tcase_add_loop_test(c, samples_are_legal, 0, N_OPS);
    tcase_add_loop_test(c, derivatives_are_differences, 0, N_OPS);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
