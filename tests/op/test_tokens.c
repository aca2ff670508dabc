/* SPDX-License-Identifier: Apache-2.0
 * tests/op/test_tokens.c: embedding, rope and the loss: values found another way, derivatives
 * against central differences, and what is refused.
 */
#include "tests/op/simple_call.h"

#include <complex.h>

START_TEST(embedding_and_its_derivative)
{
    static const double ids[] = {2, 0, 2, -1, 3, 1};
    lmoe_embedding_attrs o = {3};
    call f = new_call(&lmoe__op_embedding, &o), g = new_call(&lmoe__op_embedding_grad, &o);
    operand(&f, 0, LMOE_F64, "vocab embed", DIMS(3, 4));
    memcpy(operand(&f, 1, LMOE_I32, "batch seq", DIMS(2, 3)), ids, sizeof ids);
    memcpy(operand(&g, 0, LMOE_I32, "batch seq", DIMS(2, 3)), ids, sizeof ids);
    operand(&g, 1, LMOE_F64, "batch seq embed", DIMS(2, 3, 4));
    run(&f);
    axes_are(&f.out[0], "(batch 2, seq 3, embed 4)");
    for (int t = 0; t < 6; t++) {
        bool inside = ids[t] >= 0 && ids[t] < 3;
        for (int e = 0; e < 4; e++)
            ck_assert_double_eq(f.y[0][4 * t + e], inside ? f.x[0][4 * (int)ids[t] + e] : 0);
    }
    run(&g);
    axes_are(&g.out[0], "(vocab 3, embed 4)");
    for (int e = 0; e < 4; e++) near(g.y[0][8 + e], g.x[1][e] + g.x[1][8 + e]);
    slope_is(&f, 0, g.x[1], g.y[0]);
    release(&g);
    f.c.in[1].dtype = LMOE_F32;
    refused(&f, "'ids' must have dtype i32, not f32");
    f = new_call(&lmoe__op_embedding, &o);
    operand(&f, 0, LMOE_F64, "row embed", DIMS(3, 4));
    operand(&f, 1, LMOE_I32, "batch seq", DIMS(2, 3));
    refused(&f, "must be named 'vocab', not 'row'");
}
END_TEST

static call rope(double base, int inverse, int64_t k_size)
{
    lmoe_rope_attrs o;
    memset(&o, 0, sizeof o);
    o.base = base;
    o.inverse = inverse;
    call k = new_call(&lmoe__op_rope, &o);
    operand(&k, 0, LMOE_F64, "batch seq heads head_k", DIMS(1, 4, 2, k_size));
    memcpy(operand(&k, 1, LMOE_I32, "batch seq", DIMS(1, 4)), (double[]){0, 1, 7, 1000},
           4 * sizeof(double));
    return k;
}

START_TEST(rope_turns_pairs)
{
    call k = rope(100, 0, 6), back = rope(100, 1, 6);
    run(&k);
    for (int i = 0; i < 6; i++) ck_assert_double_eq(k.y[0][i], k.x[0][i]); /* position 0 */
    for (int row = 0; row < 8; row++) {
        for (int i = 0; i < 3; i++) { /* 100^(-2i/6): 1, 100^(-1/3), 100^(-2/3) */
            double angle = k.x[1][row / 2] / pow(cbrt(100), i);
            double complex z = k.x[0][6 * row + i] + k.x[0][6 * row + 3 + i] * I;
            z *= cexp(angle * I);
            ck_assert_double_eq_tol(k.y[0][6 * row + i], creal(z), 1e-11);
            ck_assert_double_eq_tol(k.y[0][6 * row + 3 + i], cimag(z), 1e-11);
        }
    }
    memcpy(back.x[0], k.y[0], 48 * sizeof(double));
    run(&back);
    for (int i = 0; i < 48; i++) near(back.y[0][i], k.x[0][i]);
    release(&back);
    release(&k);
    k = rope(10000, 0, 5);
    refused(&k, "axis 'head_k' is turned in pairs, so its size 5 must be even");
    k = rope(0, 0, 6);
    refused(&k, "base must be above 0");
}
END_TEST

enum { TOKENS = 6, EMBED = 4, VOCAB = 5 };

static call cross_entropy(void)
{
    static const double labels[TOKENS] = {3, -1, 0, 4, 4, -1};
    call k = new_call(&lmoe__op_linear_cross_entropy, NULL);
    operand(&k, 0, LMOE_F64, "batch seq embed", DIMS(2, 3, EMBED));
    operand(&k, 1, LMOE_F64, "vocab embed", DIMS(VOCAB, EMBED));
    memcpy(operand(&k, 2, LMOE_I32, "batch seq", DIMS(2, 3)), labels, sizeof labels);
    operand(&k, 3, LMOE_F64, "", DIMS(0))[0] = 0.25;
    return k;
}

START_TEST(loss_is_that_of_softmax)
{
    call k = cross_entropy(), f = cross_entropy();
    double want = 0;
    for (int t = 0; t < TOKENS; t++) {
        double p[VOCAB], sum = 0;
        for (int v = 0; v < VOCAB; v++) {
            double l = 0;
            for (int e = 0; e < EMBED; e++) l += k.x[0][t * EMBED + e] * k.x[1][v * EMBED + e];
            sum += p[v] = exp(l);
        }
        if (k.x[2][t] >= 0) want -= 0.25 * log(p[(int)k.x[2][t]] / sum);
    }
    run(&k);
    near(k.y[0][0], want);
    for (int e = 0; e < EMBED; e++) /* token 1 does not count */
        ck_assert_double_eq(k.y[1][EMBED + e], 0);
    static const double one = 1;
    slope_is(&f, 0, &one, k.y[1]);
    slope_is(&f, 1, &one, k.y[2]);
    release(&f);

    for (int i = 0; i < TOKENS * EMBED; i++) k.x[0][i] *= 1e4; /* logits that overflow exp */
    run(&k);
    ck_assert(isfinite(k.y[0][0]) && k.y[0][0] > 100);
    for (int i = 0; i < VOCAB * EMBED; i++) ck_assert(isfinite(k.y[2][i]));
    release(&k);
}
END_TEST

START_TEST(loss_refuses)
{
    call k = cross_entropy();
    k.c.in[1].dim[1] = 7;
    refused(&k, "axis 'embed' has 4 elements in 'x' but 7 in 'table'");
    k = cross_entropy();
    k.c.in[2].dim[1] = 7;
    refused(&k, "axis 'seq' has 3 elements in 'x' but 7 in 'labels'");
    k = cross_entropy();
    k.c.in[2].dtype = LMOE_I64;
    refused(&k, "'labels' must have dtype i32, not i64");
    k = cross_entropy();
    k.c.in[3].rank = 1;
    refused(&k, "'factor' must be a scalar");
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {embedding_and_its_derivative, rope_turns_pairs,
                                  loss_is_that_of_softmax, loss_refuses};
    return run_tests("tokens", tests, (int)(sizeof tests / sizeof *tests));
}
