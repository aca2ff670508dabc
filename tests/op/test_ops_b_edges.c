/* SPDX-License-Identifier: Apache-2.0
 * tests/op/test_ops_b_edges.c: values and corners of the carry ops, their samplers and axis rules,
 * and what their shape functions refuse.
 */
#include "tests/op/carry_scenes.h"

/* ---- values, from formulas of another form than the references' ---- */

static double at(const tensor *x, const int64_t *index)
{
    int64_t i = 0;
    for (int k = 0; k < x->d.rank; k++) i = i * x->d.dim[k] + index[k];
    return lmoe_get(&x->b, i);
}

#define AT(x, ...) at(&(x), (int64_t[]){__VA_ARGS__})

/* y_s = scale sum over j <= s of (q_s . exp(decay_j+1 + ... + decay_s) k_j) v_j */
START_TEST(scan_values)
{
    for (int variant = 0; variant < VARIANTS; variant++) {
        call c = scene(SCAN, variant, 2, 9, 0);
        if (variant > 0) /* of moderate size: these sums are taken */
            draw(&c.in[3], (lmoe_fill){LMOE_FILL_UNIFORM, -1, 0}, 3, 3);
        run(&c);
        for (int64_t i = 0; i < 2 * 9 * 2 * 2; i++) {
            int64_t b = i / 36, s = i / 4 % 9, h = i / 2 % 2, v = i % 2;
            double y = 0;
            for (int64_t j = 0; j <= s; j++) {
                for (int64_t k = 0; k < 3; k++) {
                    double log = 0;
                    for (int64_t m = j + 1; m <= s; m++)
                        log += variant == 1   ? AT(c.in[3], h)
                               : variant == 2 ? AT(c.in[3], b, m, h)
                               : variant == 3 ? AT(c.in[3], b, m, h, k)
                                              : 0;
                    y += AT(c.in[0], b, s, h, k) * exp(log) * AT(c.in[1], b, j, h, k) *
                         AT(c.in[2], b, j, h, v);
                }
            }
            ck_assert_double_eq_tol(AT(c.out[0], b, s, h, v), scan_attrs.scale * y, 1e-12);
        }
    }
}
END_TEST

START_TEST(conv_values)
{
    for (int variant = 0; variant < VARIANTS; variant++) {
        call c = scene(CONV, variant, 2, 9, 0);
        run(&c);
        for (int64_t i = 0; i < 2 * 9 * 6; i++) {
            int64_t b = i / 54, s = i / 6 % 9, h = i / 3 % 2, k = i % 3, kernel = 2 + variant % 3;
            double p = 0;
            for (int64_t j = s < kernel ? kernel - 1 - s : 0; j < kernel; j++)
                p += AT(c.in[1], h, k, j) * AT(c.in[0], b, s + j - kernel + 1, h, k);
            double y = variant & 1 ? p / (1 + exp(-p)) : p;
            ck_assert_double_eq_tol(AT(c.out[0], b, s, h, k), y, 1e-12);
        }
    }
}
END_TEST

/* Every weight is exp(scale q . k) over the sum of those of its visible set. */
START_TEST(attention_values)
{
    for (int variant = 0; variant < VARIANTS; variant++) {
        call c = scene(ATTENTION, variant, 1, 12, RESETS | CARRY);
        run(&c);
        const lmoe_attention_attrs *o = c.attrs;
        int64_t heads = c.in[0].d.dim[2], each = heads / c.in[1].d.dim[2];
        for (int64_t i = 0; i < 12 * heads; i++) {
            int64_t s = i / heads, h = i % heads, start = (int64_t)AT(c.in[4], 0, s);
            double total = 0, y[2] = {0, 0};
            for (int64_t p = 0; p <= FIRST + s; p++) { /* by position; 0 ... FIRST-1 are cached */
                bool old = p < FIRST;
                if (p < start || (o->window && FIRST + s - p >= o->window)) continue;
                double score = 0;
                for (int64_t k = 0; k < 3; k++)
                    score +=
                        AT(c.in[0], 0, s, h, k) * (old ? AT(c.in[6], 0, p, h / each, k)
                                                       : AT(c.in[1], 0, p - FIRST, h / each, k));
                total += exp(o->scale * score);
                for (int64_t v = 0; v < 2; v++)
                    y[v] += exp(o->scale * score) * (old ? AT(c.in[7], 0, p, h / each, v)
                                                         : AT(c.in[2], 0, p - FIRST, h / each, v));
            }
            for (int64_t v = 0; v < 2; v++)
                ck_assert_double_eq_tol(AT(c.out[0], 0, s, h, v), y[v] / total, 1e-12);
            ck_assert_double_eq_tol(AT(c.out[1], 0, s, h), log(total), 1e-12);
        }
    }
}
END_TEST

/* ---- corners ---- */

/* Where positions say nothing, the order in the sequence does. */
START_TEST(equal_positions)
{
    call c = scene(ATTENTION, 0, 1, 5, 0);
    draw(&c.in[3], (lmoe_fill){LMOE_FILL_CONST, FIRST, 0}, 0, 0);
    draw(&c.in[0], (lmoe_fill){LMOE_FILL_CONST, 0, 0}, 0, 0);
    run(&c);
    for (int64_t s = 0; s < 5; s++)
        ck_assert_double_eq_tol(AT(c.out[1], 0, s, 0), log((double)(s + 1)), 1e-14);
}
END_TEST

/* A rank adds up what later ranks have for its own slice. */
START_TEST(gradients_of_gathered_keys)
{
    const int64_t dim[] = {3, 2, 6, 1, 1};
    for (int64_t rank = 0; rank < 3; rank++) {
        lmoe_combine_attrs o = {rank, 3, 1};
        call c = {.op = op_named("attention_grad_combine/1"), .attrs = &o};
        for (int i = 0; i < 2; i++)
            operand(&c, i, LMOE_F64,
                    i ? "rank batch context kv_heads head_v" : "rank batch context kv_heads head_k",
                    dim, LMOE_FILL_NORMAL, 0, 1, 8);
        run(&c);
        for (int64_t i = 0; i < 8; i++) {
            int64_t b = i / 2 % 2, s = i % 2;
            double sum = 0;
            for (int64_t r = rank + 1; r < 3; r++) sum += AT(c.in[i / 4], r, b, 2 * rank + s, 0, 0);
            ck_assert_double_eq_tol(AT(c.out[i / 4], b, s, 0, 0), sum, 1e-15);
        }
    }
}
END_TEST

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
    return strncmp(name, "scan_d", 6) == 0 || strncmp(name, "short_conv", 10) == 0 ||
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
    ck_assert_int_eq(ours, 23);
}
END_TEST

/* One operand too long along each of its axes is refused. */
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
            bool any =
                strcmp(c.op->inputs[i].name, "position") == 0; /* says what a mini-batch is */
            refused += any || c.op->shape(NULL, c.attrs, in, n, out) != LMOE_OK;
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
    tcase_add_test(t, scan_values);
    tcase_add_test(t, conv_values);
    tcase_add_test(t, attention_values);
    tcase_add_test(t, equal_positions);
    tcase_add_test(t, gradients_of_gathered_keys);
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
