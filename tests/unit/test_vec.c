/* SPDX-License-Identifier: Apache-2.0
 * tests/unit/test_vec.c: elementary functions of device/cpu against libm in double: errors in units
 * in the last place, and the ends of the range.
 */
#include "plugins/device/cpu/vec.h"

#include <check.h>
#include <stdlib.h>

static double ref_sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static double ref_silu(double x)
{
    return x / (1 + exp(-x));
}

static double ref_silu_slope(double x)
{
    double s = ref_sigmoid(x);
    return s + x * s * ref_sigmoid(-x);
}

static double ref_softplus(double x)
{
    return fmax(x, 0) + log1p(exp(-fabs(x)));
}

static double ref_log1mexp(double x)
{
    return x > -0.7 ? log(-expm1(x)) : log1p(-exp(x));
}

/* Functions here are inlined where they are used: one with an address for each. */
#define FUNCTIONS(F)                           \
    F(expf, exp, -104, 88.7, 2)                \
    F(expf, exp, -1, 1, 2)                     \
    F(expm1f, expm1, -50, 88.7, 2)             \
    F(expm1f, expm1, -1, 1, 2)                 \
    F(logf, log, 1e-45, 1e-38, 2)              \
    F(logf, log, 1e-38, 3, 2)                  \
    F(logf, log, 0.7, 1.4, 2)                  \
    F(logf, log, 1, 3e38, 2)                   \
    F(log1pf, log1p, -0.5, 1, 2)               \
    F(log1pf, log1p, -1e-5, 1e-5, 2)           \
    F(log1p_of_unit, log1p, 0, 1, 2)           \
    F(log1p_of_unit, log1p, 0, 1e-5, 2)        \
    F(sigmoidf, ref_sigmoid, -100, 100, 3.5)   \
    F(siluf, ref_silu, -87, 100, 3.5)          \
    F(softplusf, ref_softplus, -100, 100, 3.5) \
    F(tanhf, tanh, -20, 20, 3.5)               \
    F(tanhf, tanh, -0.1, 0.1, 3.5)             \
    F(log1mexpf, ref_log1mexp, -80, -1e-4, 3.5)

#define ROW(name, reference, low, high, units) {#name, cpu_##name, reference, low, high, units},

static const struct {
    const char *name;
    float (*fn)(float);
    double (*reference)(double);
    double low, high, units;
} rows[] = {FUNCTIONS(ROW)};
enum { ROWS = sizeof rows / sizeof *rows };

static double unit_at(double y)
{
    double least = ldexp(1, -149);
    return y == 0 ? least : fmax(ldexp(1, ilogb(y) - 23), least);
}

START_TEST(errors_are_small)
{
    const int points = 100000;
    double worst = 0, at = 0;
    for (int i = 0; i <= points; i++) {
        float x = (float)(rows[_i].low + (rows[_i].high - rows[_i].low) * i / points);
        double want = rows[_i].reference(x), got = rows[_i].fn(x);
        double error = fabs(got - want) / unit_at(want);
        if (error <= worst) continue;
        worst = error;
        at = x;
    }
    ck_assert_msg(worst <= rows[_i].units, "%s: %g units in the last place at %.9g", rows[_i].name,
                  worst, at);
}
END_TEST

/* The slope changes sign: absolute error. */
START_TEST(slope_of_silu)
{
    for (float x = -90; x < 90; x += 0.01f)
        ck_assert_double_eq_tol(cpu_silu_slopef(x), ref_silu_slope(x), 5e-7);
}
END_TEST

START_TEST(ends_of_the_range)
{
    const float inf = INFINITY, most = 3.4e38f;
    ck_assert_float_eq(cpu_expf(-inf), 0);
    ck_assert_float_eq(cpu_expf(-most), 0);
    ck_assert_float_infinite(cpu_expf(inf));
    ck_assert_float_infinite(cpu_expf(89));
    ck_assert_float_eq(cpu_expf(0), 1);
    ck_assert_float_eq(cpu_expm1f(-inf), -1);
    ck_assert_float_infinite(cpu_expm1f(most));
    ck_assert_float_infinite(cpu_logf(0));
    ck_assert_float_infinite(cpu_logf(inf));
    ck_assert_float_nan(cpu_logf(-1));
    ck_assert_float_eq(cpu_logf(1), 0);
    ck_assert_float_eq(cpu_sigmoidf(-inf), 0);
    ck_assert_float_eq(cpu_sigmoidf(inf), 1);
    ck_assert_float_eq(cpu_siluf(-most), 0);
    ck_assert_float_eq(cpu_siluf(-inf), 0);
    ck_assert_float_eq(cpu_siluf(most), most);
    ck_assert_float_eq(cpu_softplusf(-most), 0);
    ck_assert_float_eq(cpu_softplusf(most), most);
    ck_assert_float_eq(cpu_tanhf(-most), -1);
    ck_assert_float_eq(cpu_tanhf(inf), 1);
    ck_assert_float_infinite(cpu_log1mexpf(0));
    ck_assert_float_eq(cpu_log1mexpf(-inf), 0);
}
END_TEST

START_TEST(nan_stays_nan)
{
    for (int i = 0; i < ROWS; i++)
        ck_assert_msg(isnan(rows[i].fn(NAN)), "%s(NaN) is a number", rows[i].name);
}
END_TEST

START_TEST(largest_of_all_lengths)
{
    float x[200];
    for (int n = 1; n <= 200; n++) {
        for (int at = 0; at < n; at++) {
            for (int i = 0; i < n; i++) x[i] = -(float)(i % 7) - 1;
            x[at] = -0.5f;
            ck_assert_float_eq(cpu_largest(x, n), -0.5f);
        }
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("vec");
    TCase *c = tcase_create("vec");
    tcase_add_loop_test(c, errors_are_small, 0, ROWS);
    tcase_add_test(c, slope_of_silu);
    tcase_add_test(c, ends_of_the_range);
    tcase_add_test(c, nan_stays_nan);
    tcase_add_test(c, largest_of_all_lengths);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
