/* SPDX-License-Identifier: Apache-2.0
 * tests/op/test_norms.c: rmsnorm, softmax, logsumexp: values by hand, derivatives against central
 * differences, and what is refused.
 */
#include "tests/op/simple_call.h"

START_TEST(rmsnorm_by_hand)
{
    lmoe_rmsnorm_attrs o = {0};
    call k = new_call(&lmoe__op_rmsnorm, &o);
    operand(&k, 0, LMOE_F64, "seq embed", DIMS(2, 2));
    memcpy(k.x[0], (double[]){3, 4, -6, -8}, 4 * sizeof(double)); /* mean squares 12.5 and 50 */
    memcpy(operand(&k, 1, LMOE_F64, "embed", DIMS(2)), (double[]){10, -1}, 2 * sizeof(double));
    operand(&k, 2, LMOE_F64, "seq embed", DIMS(2, 2));
    memcpy(k.x[2], (double[]){0, 1, 1, 0}, 4 * sizeof(double)); /* silu(0) = 0, silu(1) = s */
    run(&k);
    static const double s = 0.73105857863000490;
    near(k.y[0][0], 0);
    near(k.y[0][1], -4 / sqrt(12.5) * s);
    near(k.y[0][2], -60 / sqrt(50) * s);
    near(k.y[0][3], 0);
    release(&k);

    o.eps = 1; /* a row of zeros stays zero; large eps damps: x / sqrt(mean + 1) */
    k = new_call(&lmoe__op_rmsnorm, &o);
    memcpy(operand(&k, 0, LMOE_F64, "seq embed", DIMS(2, 1)), (double[]){0, sqrt(3)},
           2 * sizeof(double));
    run(&k);
    near(k.y[0][0], 0);
    near(k.y[0][1], sqrt(3) / 2);
    release(&k);
}
END_TEST

START_TEST(rmsnorm_derivatives)
{
    for (int with = 0; with < 4; with++) { /* bit 0: weight, bit 1: gate */
        lmoe_rmsnorm_attrs o = {1e-2};
        call f = new_call(&lmoe__op_rmsnorm, &o), g = new_call(&lmoe__op_rmsnorm_grad, &o);
        call *both[] = {&f, &g};
        for (int i = 0; i < 2; i++) {
            operand(both[i], 0, LMOE_F64, "batch seq embed", DIMS(2, 3, 5));
            if (with & 1) operand(both[i], 1, LMOE_F64, "embed", DIMS(5));
            if (with & 2) operand(both[i], 2, LMOE_F64, "batch seq embed", DIMS(2, 3, 5));
        }
        operand(&g, 3, LMOE_F64, "batch seq embed", DIMS(2, 3, 5));
        run(&g);
        slope_is(&f, 0, g.x[3], g.y[0]);
        if (with & 1) slope_is(&f, 1, g.x[3], g.y[1]);
        if (with & 2) slope_is(&f, 2, g.x[3], g.y[2]);
        ck_assert_int_eq(g.out[1].dtype != LMOE_NONE, with & 1);
        ck_assert_int_eq(g.out[2].dtype != LMOE_NONE, with >> 1);
        release(&f);
        release(&g);
    }
}
END_TEST

START_TEST(rmsnorm_refuses)
{
    lmoe_rmsnorm_attrs o = {1e-6};
    call k = new_call(&lmoe__op_rmsnorm, &o);
    operand(&k, 0, LMOE_F64, "", DIMS(0));
    refused(&k, "needs an axis to normalise");
    k = new_call(&lmoe__op_rmsnorm, &o);
    operand(&k, 0, LMOE_F64, "seq embed", DIMS(2, 4));
    operand(&k, 1, LMOE_F64, "embed", DIMS(5));
    refused(&k, "axis 'embed' has 4 elements in 'x' but 5 in 'weight'");
    k = new_call(&lmoe__op_rmsnorm, &o);
    operand(&k, 0, LMOE_F64, "seq embed", DIMS(2, 4));
    operand(&k, 2, LMOE_F64, "seq hidden", DIMS(2, 4));
    refused(&k, "'gate' is (seq 2, hidden 4)");
    o.eps = -1;
    k = new_call(&lmoe__op_rmsnorm, &o);
    operand(&k, 0, LMOE_F64, "seq embed", DIMS(2, 4));
    refused(&k, "eps must not be negative");
}
END_TEST

START_TEST(softmax_and_logsumexp)
{
    call f = new_call(&lmoe__op_softmax, NULL), l = new_call(&lmoe__op_logsumexp, NULL);
    operand(&f, 0, LMOE_F64, "batch seq expert", DIMS(2, 3, 5));
    operand(&l, 0, LMOE_F64, "batch seq expert", DIMS(2, 3, 5));
    run(&f);
    run(&l);
    axes_are(&l.out[0], "(batch 2, seq 3)");
    for (int row = 0; row < 6; row++) {
        double sum = 0;
        for (int i = 0; i < 5; i++) sum += exp(f.x[0][5 * row + i]);
        for (int i = 0; i < 5; i++) near(f.y[0][5 * row + i], exp(f.x[0][5 * row + i]) / sum);
        near(l.y[0][row], log(sum));
    }
    /* a common shift, even one that overflows exp, changes nothing */
    double before = f.y[0][7];
    for (int i = 0; i < 30; i++) f.x[0][i] = l.x[0][i] += 1e4;
    double lse = l.y[0][3];
    run(&f);
    run(&l);
    ck_assert_double_eq_tol(f.y[0][7], before, 1e-11);
    ck_assert_double_eq_tol(l.y[0][3], lse + 1e4, 1e-11);
    f.x[0][0] = -INFINITY; /* a masked entry */
    run(&f);
    ck_assert_double_eq(f.y[0][0], 0);
    ck_assert_double_eq_tol(f.y[0][1] + f.y[0][2] + f.y[0][3] + f.y[0][4], 1, 1e-11);

    f.c.in[0].dtype = LMOE_BF16;
    ck_assert_int_eq(f.op->shape(NULL, NULL, f.c.in, 1, f.out), LMOE_OK);
    ck_assert_int_eq(f.out[0].dtype, LMOE_F32);
    release(&f);
    release(&l);
}
END_TEST

START_TEST(softmax_derivative)
{
    call f = new_call(&lmoe__op_softmax, NULL), g = new_call(&lmoe__op_softmax_grad, NULL);
    operand(&f, 0, LMOE_F64, "seq expert", DIMS(3, 5));
    operand(&g, 0, LMOE_F64, "seq expert", DIMS(3, 5));
    operand(&g, 1, LMOE_F64, "seq expert", DIMS(3, 5));
    run(&f);
    memcpy(g.x[0], f.y[0], 15 * sizeof(double));
    run(&g);
    slope_is(&f, 0, g.x[1], g.y[0]);
    release(&f);
    g.c.in[0].dtype = LMOE_BF16;
    refused(&g, "'y' must have dtype f32, not bf16");
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {rmsnorm_by_hand, rmsnorm_derivatives, rmsnorm_refuses,
                                  softmax_and_logsumexp, softmax_derivative};
    return run_tests("norms", tests, (int)(sizeof tests / sizeof *tests));
}
