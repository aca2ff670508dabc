/* SPDX-License-Identifier: Apache-2.0
 * tests/op/test_ops_b_edges.c: corners of the carry ops, their samplers and axis rules, and what
 * their shape functions refuse.
 */
#include "tests/op/carry_scenes.h"

/* ---- corners ---- */

START_TEST(forgotten_is_gone)
{
    const int64_t log[] = {2, 1, 1, 1}, m[] = {2, 1, 1, 1, 1};
    lmoe_combine_attrs o = {1, 2, 0};
    for (int reverse = 0; reverse < 2; reverse++) {
        o = (lmoe_combine_attrs){reverse ? 0 : 1, 2, reverse};
        call c = {.op = op_named("scan_diag_combine/1"), .attrs = &o};
        operand(&c, 0, LMOE_F64, "rank batch heads head_k", log, LMOE_FILL_CONST, -INFINITY, 0, 0);
        operand(&c, 1, LMOE_F64, "rank batch heads head_k head_v", m, LMOE_FILL_CONST, 2, 0, 0);
        run(&c);
        ck_assert(lmoe_get(&c.out[0].b, 0) == 2);
    }
    const int64_t log3[] = {3, 1, 1, 1}, m3[] = {3, 1, 1, 1, 1};
    const double huge[] = {1e308, INFINITY, NAN};
    o = (lmoe_combine_attrs){2, 3, 0};
    for (int i = 0; i < 2; i++) {
        call c = {.op = op_named("scan_diag_combine/1"), .attrs = &o};
        operand(&c, 0, LMOE_F64, "rank batch heads head_k", log3, LMOE_FILL_CONST, -INFINITY, 0, 0);
        operand(&c, 1, LMOE_F64, "rank batch heads head_k head_v", m3, LMOE_FILL_CONST, 3, 0, 0);
        lmoe_put(&c.in[1].b, 0, huge[i]);
        run(&c);
        ck_assert(lmoe_get(&c.out[0].b, 0) == 3);
    }
}
END_TEST

START_TEST(query_that_sees_nothing)
{
    call c = scene(ATTENTION, 0, 1, 4, 0);
    for (int64_t s = 1; s < 3; s++) lmoe_put(&c.in[4].b, s, 100); /* documents that start later */
    for (int64_t i = 0; i < count_of(&c.in[6]); i++) lmoe_put(&c.in[6].b, i, NAN); /* empty slots */
    for (int64_t i = 0; i < count_of(&c.in[7]); i++) lmoe_put(&c.in[7].b, i, NAN);
    run(&c);
    tensor dout[8] = {drawn_like(&c.out[0], 0)};
    call g = backward(&c, op_named("attention_grad/1"), dout, NULL);
    run(&g);
    for (int64_t s = 0; s < 4; s++) {
        bool blind = s == 1 || s == 2;
        for (int64_t i = 0; i < 4; i++) ck_assert((lmoe_get(&c.out[0].b, s * 4 + i) == 0) == blind);
        for (int64_t i = 0; i < 2; i++)
            ck_assert((isinf(lmoe_get(&c.out[1].b, s * 2 + i)) != 0) == blind);
        for (int64_t i = 0; blind && i < 6; i++) ck_assert(lmoe_get(&g.out[0].b, s * 6 + i) == 0);
    }
    for (int k = 0; k < 5; k++)
        for (int64_t i = 0; i < count_of(&g.out[k]); i++)
            ck_assert(isfinite(lmoe_get(&g.out[k].b, i)));
}
END_TEST

/* A ring keeps the newest keys: with a window, the last window - 1 are all that is needed. */
START_TEST(ring_of_a_window)
{
    call c = scene(ATTENTION, 2, 1, 21, SKIPS);
    lmoe_desc in[6], carry[3];
    for (int i = 0; i < 6; i++) in[i] = c.in[i].d;
    ck_assert_int_eq(c.op->carry->shape(c.attrs, in, 6, 1000, carry), LMOE_OK);
    ck_assert_int_eq(carry[0].dim[1], 2);
    run(&c);
    call rest = c;
    for (int k = 0; k < 3; k++) {
        rest.in[6 + k] = new_tensor(&carry[k]);
        draw(&rest.in[6 + k], (lmoe_fill){LMOE_FILL_CONST, k == 2 ? -1 : 0, 0}, 0, 0);
    }
    for (int64_t at = 0, n = 1; at < 21; at += n, n = n % 4 + 1) {
        if (n > 21 - at) n = 21 - at;
        call p = cut(&rest, at, n);
        run(&p);
        tensor want = part(&c.out[0], at, n);
        check_close(&p.out[0], &want, 1e-12, "y");
        memcpy(&rest.in[6], &p.out[2], 3 * sizeof *p.out);
    }
}
END_TEST

/* ---- samplers, rules, refusals ---- */

static bool is_ours(const lmoe_op *op)
{
    const char *name = op->base.name;
    return strncmp(name, "scan_diag", 9) == 0 || strncmp(name, "short_conv", 10) == 0 ||
           strncmp(name, "attention", 9) == 0;
}

START_TEST(samples)
{
    int ours = 0;
    for (int n = 0; lmoe__ops[n]; n++) {
        if (!is_ours(lmoe__ops[n])) continue;
        ours++;
        lmoe_case s = {.size = sizeof s};
        int cases = 0, timed = 0;
        for (; lmoe__ops[n]->sample(cases, &s); cases++, s = (lmoe_case){.size = sizeof s}) {
            call c = {.op = lmoe__ops[n], .attrs = s.attrs.bytes};
            lmoe_desc in[LMOE_MAX_IO] = {{0}};
            lmoe__rule rule;
            for (int i = 0; i < s.n_in; i++) in[i] = s.in[i];
            ck_assert_msg(lmoe__rule_of(&ctx, c.op, c.attrs, in, ports_of(c.op->inputs), &rule) ==
                              LMOE_OK,
                          "%s: %s", c.op->base.name, ctx.message);
            timed += (s.flags & LMOE_CASE_BENCH) != 0;
            if (s.flags & LMOE_CASE_BENCH) continue;
            for (int i = 0; i < s.n_in; i++) {
                c.in[i] = new_tensor(&s.in[i]);
                draw(&c.in[i], s.fill[i], (uint64_t)cases, (uint64_t)i);
            }
            run(&c);
            for (int k = 0; c.op->outputs[k].name; k++)
                for (int64_t i = 0; i < count_of(&c.out[k]); i++)
                    ck_assert_msg(!isnan(lmoe_get(&c.out[k].b, i)),
                                  "%s, case %d: %s is NaN at %lld", c.op->base.name, cases,
                                  c.op->outputs[k].name, (long long)i);
        }
        ck_assert_int_ge(cases, 7);
        ck_assert_int_gt(timed, 0);
    }
    ck_assert_int_eq(ours, 17);
}
END_TEST

/* One operand too short along each of its axes is refused. */
START_TEST(refusals)
{
    call c = scene(_i, _i == ATTENTION ? 0 : 2, 2, 5, RESETS | SKIPS | CARRY);
    lmoe_desc in[LMOE_MAX_IO] = {{0}}, out[LMOE_MAX_IO];
    int n = ports_of(c.op->inputs), refused = 0;
    for (int i = 0; i < n; i++) in[i] = c.in[i].d;
    ck_assert_int_eq(c.op->shape(NULL, c.attrs, in, n, out), LMOE_OK);
    for (int i = 0; i < n; i++) {
        lmoe_desc good = in[i];
        for (int k = 0; good.dtype != LMOE_NONE && k < good.rank; k++) {
            in[i].dim[k] += 1;
            refused += c.op->shape(NULL, c.attrs, in, n, out) != LMOE_OK;
            in[i] = good;
        }
        if (good.dtype == LMOE_NONE) continue;
        in[i].dtype = LMOE_I64;
        ck_assert_int_ne(c.op->shape(NULL, c.attrs, in, n, out), LMOE_OK);
        in[i] = good;
        in[i].rank--;
        ck_assert_int_ne(c.op->shape(NULL, c.attrs, in, n, out), LMOE_OK);
        in[i] = good;
    }
    int axes = 0;
    for (int i = 0; i < n; i++) axes += in[i].dtype == LMOE_NONE ? 0 : in[i].rank;
    ck_assert_int_eq(refused, axes);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("carry ops, edges");
    TCase *t = tcase_create("properties");
    tcase_add_checked_fixture(t, call_setup, call_teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, forgotten_is_gone);
    tcase_add_test(t, query_that_sees_nothing);
    tcase_add_test(t, ring_of_a_window);
    tcase_add_test(t, samples);
    tcase_add_loop_test(t, refusals, 0, FAMILIES);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
