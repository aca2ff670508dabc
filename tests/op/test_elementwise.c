/* SPDX-License-Identifier: Apache-2.0
 * tests/op/test_elementwise.c: element-wise ops: values against other formulas, derivatives against
 * central differences, and what is refused.
 */
#include "tests/op/simple_call.h"

START_TEST(binary_broadcasts)
{
    static const struct {
        const char *axes;
        int64_t dim[3], start;
        int step[3]; /* of b along batch, seq, embed */
    } cases[] = {
        {"batch seq embed", {2, 3, 4}, 0, {12, 4, 1}},
        {"embed", {4}, 2, {0, 0, 1}},
        {"seq", {3}, 1, {0, 1, 0}},
        {"batch", {2}, 0, {1, 0, 0}},
        {"batch seq", {2, 3}, 0, {3, 1, 0}},
        {"seq embed", {3, 4}, 1, {0, 4, 1}},
        {"", {0}, 0, {0, 0, 0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lmoe_binary_attrs o = {cases[i].start};
        const lmoe_op *ops[] = {&lmoe__op_add, &lmoe__op_multiply, &lmoe__op_divide};
        for (int op = 0; op < 3; op++) {
            call k = new_call(ops[op], &o);
            const double *a = operand(&k, 0, LMOE_F64, "batch seq embed", DIMS(2, 3, 4));
            const double *b = operand(&k, 1, LMOE_F64, cases[i].axes, cases[i].dim);
            run(&k);
            axes_are(&k.out[0], "(batch 2, seq 3, embed 4)");
            for (int p = 0; p < 24; p++) {
                const int *step = cases[i].step;
                double v = b[p / 12 * step[0] + p / 4 % 3 * step[1] + p % 4 * step[2]];
                near(k.y[0][p], op == 0 ? a[p] + v : op == 1 ? a[p] * v : a[p] / v);
            }
            release(&k);
        }
    }
}
END_TEST

START_TEST(binary_refuses)
{
    static const struct {
        const char *axes;
        int64_t dim[4], start;
        const char *words;
    } cases[] = {
        {"embed", {4}, 1, "(embed 4), are not a run of the axes of 'a', (batch 2, seq 3, embed 4)"},
        {"hidden", {4}, 3, "not a run"},
        {"batch embed", {2, 4}, 0, "not a run"},
        {"embed", {5}, 2, "axis 'embed' has 4 elements in 'a' but 5 in 'b'"},
        {"batch seq embed head_k", {2, 3, 4, 5}, 0, "not a run"},
        {"seq", {3}, -1, "not a run"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lmoe_binary_attrs o = {cases[i].start};
        call k = new_call(&lmoe__op_multiply, &o);
        operand(&k, 0, LMOE_F64, "batch seq embed", DIMS(2, 3, 4));
        operand(&k, 1, LMOE_F64, cases[i].axes, cases[i].dim);
        refused(&k, cases[i].words);
    }
}
END_TEST

START_TEST(affine_cast_fill)
{
    lmoe_affine_attrs affine = {-2.5, 0.75};
    call k = new_call(&lmoe__op_affine, &affine);
    operand(&k, 0, LMOE_F64, "seq", DIMS(5));
    run(&k);
    for (int i = 0; i < 5; i++) near(k.y[0][i], 0.75 - 2.5 * k.x[0][i]);
    release(&k);

    lmoe_affine_attrs shift = {1, -3}; /* ids of a shard */
    k = new_call(&lmoe__op_affine, &shift);
    operand(&k, 0, LMOE_I32, "seq", DIMS(2));
    k.x[0][0] = 2;
    k.x[0][1] = 123456789;
    run(&k);
    ck_assert_int_eq(k.out[0].dtype, LMOE_I32);
    near(k.y[0][0], -1);
    near(k.y[0][1], 123456786);
    release(&k);

    /* bf16 has 8 significant bits: ties go to the even neighbour */
    static const double from[] = {1 + 1.0 / 256, 1 + 3.0 / 256, 1 + 1.5 / 256,
                                  -3.14159,      1e-40,         INFINITY};
    static const double to[] = {1, 1 + 4.0 / 256, 1 + 2.0 / 256, -3.140625, 0x1p-133, INFINITY};
    lmoe_cast_attrs cast = {LMOE_BF16};
    k = new_call(&lmoe__op_cast, &cast);
    operand(&k, 0, LMOE_F64, "seq", DIMS(6));
    memcpy(k.x[0], from, sizeof from);
    run(&k);
    ck_assert_int_eq(k.out[0].dtype, LMOE_BF16);
    for (int i = 0; i < 6; i++) ck_assert_double_eq(k.y[0][i], to[i]);
    release(&k);
    cast.dtype = 8;
    k = new_call(&lmoe__op_cast, &cast);
    operand(&k, 0, LMOE_F64, "seq", DIMS(6));
    refused(&k, "no dtype number 8");

    lmoe_fill_attrs fill = {0.1};
    k = new_call(&lmoe__op_fill, &fill);
    operand(&k, 0, LMOE_F32, "seq embed", DIMS(3, 2));
    k.x[0][0] = NAN;
    run(&k);
    axes_are(&k.out[0], "(seq 3, embed 2)");
    for (int i = 0; i < 6; i++) ck_assert_double_eq(k.y[0][i], (double)0.1f);
    release(&k);
}
END_TEST

START_TEST(map_values)
{
    static const struct {
        lmoe_map_fn fn;
        double x, y;
    } known[] = {
        {LMOE_MAP_SILU, 1, 0.73105857863000490},
        {LMOE_MAP_SILU, -1000, 0},
        {LMOE_MAP_SIGMOID, 0, 0.5},
        {LMOE_MAP_SIGMOID, -2, 0.11920292202211755},
        {LMOE_MAP_LOGSIGMOID, -1000, -1000},
        {LMOE_MAP_LOGSIGMOID, 0, -0.69314718055994531},
        {LMOE_MAP_LOGSIGMOID, 800, 0},
        {LMOE_MAP_EXP, 1, 2.7182818284590452},
        {LMOE_MAP_LOG, 10, 2.3025850929940457},
        {LMOE_MAP_RELU, -3, 0},
        {LMOE_MAP_RELU, 3, 3},
        {LMOE_MAP_ELU1, 2, 3},
        {LMOE_MAP_ELU1, -1, 0.36787944117144232},
        {LMOE_MAP_SOFTPLUS, 1000, 1000},
        {LMOE_MAP_SOFTPLUS, 0, 0.69314718055994531},
        {LMOE_MAP_TANH, 1, 0.76159415595576489},
        {LMOE_MAP_SQUARE, -3, 9},
        {LMOE_MAP_GELU, 1, 0.84119199060827676},
        {LMOE_MAP_GELU, -100, 0},
        {LMOE_MAP_SQRT, 2, 1.4142135623730951},
        {LMOE_MAP_ONEMEXP, -0.69314718055994531, 0.5},
        {LMOE_MAP_LOG1MEXP, -0.69314718055994531, -0.69314718055994531},
        {LMOE_MAP_LOG1MEXP, -1e-20, -46.051701859880914},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        lmoe_map_attrs o = {(int32_t)known[i].fn};
        call k = new_call(&lmoe__op_map, &o);
        operand(&k, 0, LMOE_F64, "seq", DIMS(1));
        k.x[0][0] = known[i].x;
        run(&k);
        near(k.y[0][0], known[i].y);
        release(&k);
    }
    lmoe_map_attrs o = {(int32_t)LMOE_MAP_ONEMEXP};
    call k = new_call(&lmoe__op_map, &o);
    operand(&k, 0, LMOE_F64, "seq", DIMS(1));
    k.x[0][0] = -1e-20;
    run(&k);
    ck_assert_double_eq(k.y[0][0], 1e-20); /* 1 - exp(x) would give 0 */
    release(&k);
    o.fn = 1000;
    k = new_call(&lmoe__op_map, &o);
    operand(&k, 0, LMOE_F64, "seq", DIMS(1));
    refused(&k, "no function number");
}
END_TEST

START_TEST(map_derivatives)
{
    for (int fn = 0; fn <= LMOE_MAP_LOG1MEXP; fn++) {
        bool positive = fn == LMOE_MAP_LOG || fn == LMOE_MAP_SQRT;
        lmoe_map_attrs o = {fn};
        call f = new_call(&lmoe__op_map, &o), g = new_call(&lmoe__op_map_grad, &o);
        double *x = operand(&f, 0, LMOE_F64, "seq", DIMS(24)), *same;
        same = operand(&g, 0, LMOE_F64, "seq", DIMS(24));
        operand(&g, 1, LMOE_F64, "seq", DIMS(24));
        for (int i = 0; i < 24; i++) {
            x[i] = positive ? 0.2 + 0.2 * i : 0.5 * i - 6.1;
            if (fn == LMOE_MAP_LOG1MEXP) x[i] = -0.1 - 0.2 * i;
            same[i] = x[i];
        }
        run(&g);
        slope_is(&f, 0, g.x[1], g.y[0]);
        release(&f);
        release(&g);
    }
    lmoe_map_attrs o = {(int32_t)LMOE_MAP_GELU}; /* far out nothing overflows */
    static const lmoe_map_fn far[] = {LMOE_MAP_SILU,     LMOE_MAP_SIGMOID, LMOE_MAP_LOGSIGMOID,
                                      LMOE_MAP_SOFTPLUS, LMOE_MAP_TANH,    LMOE_MAP_GELU};
    for (int i = 0; i < 6; i++) {
        o.fn = (int32_t)far[i];
        call g = new_call(&lmoe__op_map_grad, &o);
        operand(&g, 0, LMOE_F64, "seq", DIMS(2))[0] = 5000;
        g.x[0][1] = -5000;
        operand(&g, 1, LMOE_F64, "seq", DIMS(2))[0] = 1;
        run(&g);
        ck_assert(isfinite(g.y[0][0]) && isfinite(g.y[0][1]));
        release(&g);
    }
}
END_TEST

START_TEST(swiglu_and_its_derivative)
{
    call f = new_call(&lmoe__op_swiglu, NULL), g = new_call(&lmoe__op_swiglu_grad, NULL);
    for (int i = 0; i < 2; i++) operand(&f, i, LMOE_F64, "seq hidden", DIMS(3, 5));
    for (int i = 0; i < 3; i++) operand(&g, i, LMOE_F64, "seq hidden", DIMS(3, 5));
    run(&f);
    for (int i = 0; i < 15; i++)
        near(f.y[0][i], f.x[0][i] * f.x[1][i] * 0.5 * (1 + tanh(f.x[0][i] / 2)));
    run(&g);
    slope_is(&f, 0, g.x[2], g.y[0]);
    slope_is(&f, 1, g.x[2], g.y[1]);
    release(&g);
    f.c.in[1].dtype = LMOE_F32;
    refused(&f, "'gate' is f64 but 'up' is f32");
    f = new_call(&lmoe__op_swiglu, NULL);
    operand(&f, 0, LMOE_F64, "seq hidden", DIMS(3, 5));
    operand(&f, 1, LMOE_F64, "seq hidden", DIMS(3, 4));
    refused(&f, "'up' is (seq 3, hidden 4); it must have the axes of 'gate', (seq 3, hidden 5)");
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {binary_broadcasts, binary_refuses,  affine_cast_fill,
                                  map_values,        map_derivatives, swiglu_and_its_derivative};
    return run_tests("elementwise", tests, (int)(sizeof tests / sizeof *tests));
}
