/* SPDX-License-Identifier: Apache-2.0
 * tests/op/test_ops_c_samples.c: of the ops that choose (top_k, moe), grouped products, the
 * optimiser and collectives: samples agree with shapes and rules, and references stay within their
 * tensors.
 */
#include "core/bench/bench.h"
#include "core/graph/graph.h"

#include <check.h>
#include <math.h>

static const lmoe_op *const ops[] = {
    &lmoe__op_top_k,          &lmoe__op_gather_last,
    &lmoe__op_scatter_last,   &lmoe__op_histogram,
    &lmoe__op_moe_sort,       &lmoe__op_moe_gather,
    &lmoe__op_moe_combine,    &lmoe__op_moe_combine_grad,
    &lmoe__op_moe_weight,     &lmoe__op_moe_weight_grad,
    &lmoe__op_moe_capacity,   &lmoe__op_random,
    &lmoe__op_expert_act,     &lmoe__op_expert_act_grad,
    &lmoe__op_grouped_linear, &lmoe__op_grouped_weight_grad,
    &lmoe__op_sum_squares,    &lmoe__op_accumulate,
    &lmoe__op_adamw,          &lmoe__op_all_reduce,
    &lmoe__op_all_gather,     &lmoe__op_shard,
};
enum { N_OPS = sizeof ops / sizeof *ops };

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
    double unit = fmax(rounding(dtype), rounding(a.dtype)); /* means of AdamW may be bf16 */
    ck_assert_double_le(sqrt(error), 4 * unit * sqrt(norm));
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
static void check_rule(const lmoe_op *op, const lmoe_case *c)
{
    lmoe_ctx ctx;
    lmoe__rule r;
    lmoe_desc out[LMOE_MAX_IO] = {{0}};
    int n_in = lmoe__ports(op->inputs);
    lmoe__ctx_init(&ctx);
    ck_assert_int_eq(op->shape(NULL, c->attrs.bytes, c->in, n_in, out), LMOE_OK);
    ck_assert_msg(lmoe__rule_of(&ctx, op, c->attrs.bytes, c->in, n_in, &r) == LMOE_OK, "%s",
                  ctx.message);
    ck_assert_int_eq(r.n_in, n_in);
    for (int i = 0; i < lmoe__ports(op->outputs); i++) {
        ck_assert_int_lt(i, r.n_out);
        if (out[i].dtype != LMOE_NONE) ck_assert_int_eq(r.out[i].rank, out[i].rank);
    }
}

START_TEST(samples_are_legal)
{
    static const lmoe_dtype dtypes[] = {LMOE_F64, LMOE_F32, LMOE_BF16};
    const lmoe_op *op = ops[_i];
    int cases = 0, benches = 0;
    for (lmoe_case c;; cases++) {
        memset(&c, 0, sizeof c);
        c.size = sizeof c;
        if (!op->sample(cases, &c)) break;
        check_rule(op, &c);
        if (c.flags & LMOE_CASE_BENCH) {
            benches++;
            continue;
        }
        for (int k = 0; k < 3; k++) {
            lmoe_ctx ctx;
            lmoe__trial t;
            lmoe__ctx_init(&ctx);
            lmoe_status status = lmoe__trial_init(&ctx, op, &c, dtypes[k], &t);
            ck_assert_msg(status == LMOE_OK, "%s", ctx.message);
            check_sample(&t, dtypes[k]);
            lmoe__trial_free(&t);
        }
    }
    ck_assert_int_ge(cases, 5);
    ck_assert_int_ge(benches, 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ops_c_samples");
    TCase *c = tcase_create("samples");
    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, samples_are_legal, 0, N_OPS);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
