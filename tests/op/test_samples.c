/* SPDX-License-Identifier: Apache-2.0
 * tests/op/test_samples.c: every case that a sampler draws runs in each dtype, leaves no output
 * unwritten and makes no NaN; and its op's axis rule fits its shapes.
 */
#include "core/bench/bench.h"

#include "tests/op/simple_call.h"

static const lmoe_op *const sampled[] = {
    &lmoe__op_einsum,         &lmoe__op_add,        &lmoe__op_multiply,
    &lmoe__op_divide,         &lmoe__op_affine,     &lmoe__op_map,
    &lmoe__op_map_grad,       &lmoe__op_swiglu,     &lmoe__op_swiglu_grad,
    &lmoe__op_cast,           &lmoe__op_fill,       &lmoe__op_rmsnorm,
    &lmoe__op_rmsnorm_grad,   &lmoe__op_softmax,    &lmoe__op_softmax_grad,
    &lmoe__op_logsumexp,      &lmoe__op_split_axis, &lmoe__op_merge_axes,
    &lmoe__op_slice,          &lmoe__op_pad,        &lmoe__op_embedding,
    &lmoe__op_embedding_grad, &lmoe__op_rope,       &lmoe__op_linear_cross_entropy};

static void rule_fits(const lmoe__trial *t, const lmoe_desc *out)
{
    lmoe_ctx ctx;
    lmoe__rule r;
    lmoe__ctx_init(&ctx);
    ck_assert_msg(lmoe__rule_of(&ctx, t->op, t->c.attrs.bytes, t->in, t->n_in, &r) == LMOE_OK,
                  "%s: %s", t->op->base.name, ctx.message);
    for (int i = 0; i < r.n_out && i < t->n_out; i++) {
        if (out[i].dtype != LMOE_NONE && !r.out[i].none)
            ck_assert_int_eq(r.out[i].rank, out[i].rank);
    }
}

static void case_runs(const lmoe_op *op, const lmoe_case *c, lmoe_dtype dtype)
{
    lmoe_ctx ctx;
    lmoe__trial t;
    lmoe__ctx_init(&ctx);
    ck_assert_msg(lmoe__trial_init(&ctx, op, c, dtype, &t) == LMOE_OK, "%s", ctx.message);
    call k = {.op = op, .c = *c};
    memcpy(k.c.in, t.in, sizeof k.c.in);
    for (int i = 0; i < t.n_in; i++) { /* the call owns the values from here on */
        k.x[i] = t.value[i];
        t.value[i] = NULL;
    }
    run(&k);
    rule_fits(&t, k.out);
    for (int i = 0; i < t.n_out; i++) {
        for (int64_t e = 0; k.y[i] && e < lmoe_desc_count(&k.out[i]); e++) {
            ck_assert_msg(isfinite(k.y[i][e]), "%s: %s[%d] is %g", op->base.name,
                          op->outputs[i].name, (int)e, k.y[i][e]);
        }
    }
    release(&k);
    lmoe__trial_free(&t);
}

START_TEST(samples_run)
{
    static const lmoe_dtype dtypes[] = {LMOE_F64, LMOE_F32, LMOE_BF16};
    const lmoe_op *op = sampled[_i];
    uint32_t flags = 0;
    lmoe_case c;
    for (int index = 0; memset(&c, 0, sizeof c), op->sample(index, &c); index++) {
        flags |= c.flags;
        for (int d = 0; d < 3 && !(c.flags & LMOE_CASE_BENCH); d++) case_runs(op, &c, dtypes[d]);
        if (c.flags & LMOE_CASE_BENCH) {
            lmoe_desc out[LMOE_MAX_IO] = {{LMOE_NONE, 0, {0}, {0}}};
            ck_assert_int_eq(op->shape(NULL, c.attrs.bytes, c.in, lmoe__ports(op->inputs), out),
                             LMOE_OK);
        }
    }
    ck_assert_msg(flags & LMOE_CASE_BENCH, "%s has no case to be timed", op->base.name);
    ck_assert_msg(!op->vjp || flags & LMOE_CASE_GRADCHECK, "%s has no case for a gradient check",
                  op->base.name);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("samples");
    TCase *c = tcase_create("samples");
    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, samples_run, 0, sizeof sampled / sizeof *sampled);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
