/* SPDX-License-Identifier: Apache-2.0
 * tests/op/test_ops_b.c: what the carry ops (scan_diag, scan_delta, short_conv, attention) promise, stated over
 * their references: a sequence may be cut anywhere, by handing the carry on or by summaries; the
 * derivative is one; resets separate, skips remove, the future does not matter.
 */
#include "tests/op/carry_scenes.h"

/* ---- 1: cut and hand the carry on ---- */

static void check_cuts(const call *whole, const int64_t *ends, int n)
{
    const lmoe_carry *carry = whole->op->carry;
    call joined = {0}, rest = *whole;
    blank(&joined, whole);
    for (int64_t i = 0, at = 0; i < n; at = ends[i++]) {
        call p = cut(&rest, at, ends[i] - at);
        run(&p);
        for (int k = 0; p.op->outputs[k].name; k++) {
            if (!is_carry(&p.op->outputs[k])) place(&joined.out[k], &p.out[k], at);
        }
        for (int k = 0; k < carry->count; k++) {
            rest.in[carry->in + k] = p.out[carry->out + k];
            joined.out[carry->out + k] = p.out[carry->out + k];
        }
    }
    for (int k = 0; whole->op->outputs[k].name; k++)
        check_close(&joined.out[k], &whole->out[k], 1e-12, whole->op->outputs[k].name);
}

START_TEST(cuts)
{
    for (int variant = 0; variant < VARIANTS; variant++) {
        for (int flags = 0; flags < FLAGS; flags++) {
            call c = scene(_i, variant, 2, 13, flags), d = scene(_i, variant, 1, 31, flags);
            run(&c);
            run(&d);
            for (int64_t at = 1; at < 13; at++) check_cuts(&c, (int64_t[]){at, 13}, 2);
            for (uint64_t r = 0; r < 12; r++) {
                int64_t a = 1 + (int64_t)lmoe__below(1, r, 0, 29);
                int64_t b = a + 1 + (int64_t)lmoe__below(1, r, 1, (uint64_t)(30 - a));
                check_cuts(&d, (int64_t[]){a, b, 31}, 3);
            }
        }
    }
}
END_TEST

/* ---- 2: cut and exchange summaries ---- */

enum { MAX_SEGMENTS = 4 };

/* The carry of each segment, from the summaries of all. */
static void exchange(const call *segment, int n, tensor carry[][4])
{
    const lmoe_carry *c = segment->op->carry;
    tensor parts[4][MAX_SEGMENTS];
    for (int r = 0; r < n; r++) {
        call s = {.op = op_named(c->summary), .attrs = segment[r].attrs};
        for (int i = 0; i < c->n_summary_in; i++) s.in[i] = segment[r].in[c->summary_in[i]];
        run(&s);
        for (int i = 0; i < c->n_summary; i++) parts[i][r] = s.out[i];
    }
    for (int r = 0; r < n; r++) {
        lmoe_combine_attrs o = {r, n, c->reverse};
        call m = {.op = op_named(c->combine), .attrs = &o};
        for (int i = 0; i < c->n_summary; i++) m.in[i] = stack(parts[i], n);
        run(&m);
        for (int i = 0; i < c->count; i++) carry[r][i] = m.out[i];
    }
}

/* Runs the segments with the exchanged carry and compares with the whole. In recurrences it must be
 * the carry that the neighbour leaves, and that of the outermost segment the initial one. */
static void check_exchanged(call *segment, const int64_t *start, int n, const call *whole,
                            bool recurrent)
{
    const lmoe_carry *c = whole->op->carry;
    tensor carry[MAX_SEGMENTS][4];
    call joined = {0};
    blank(&joined, whole);
    exchange(segment, n, carry);
    for (int r = 0; r < n; r++) {
        for (int k = 0; k < c->count; k++) segment[r].in[c->in + k] = carry[r][k];
        run(&segment[r]);
        for (int k = 0; whole->op->outputs[k].name; k++) {
            if (!is_carry(&whole->op->outputs[k]))
                place(&joined.out[k], &segment[r].out[k], start[r]);
        }
    }
    for (int k = 0; whole->op->outputs[k].name; k++) {
        if (!is_carry(&whole->op->outputs[k]))
            check_close(&joined.out[k], &whole->out[k], 1e-12, whole->op->outputs[k].name);
    }
    int outer = c->reverse ? n - 1 : 0, step = c->reverse ? -1 : 1;
    for (int k = 0; recurrent && k < c->count; k++) {
        for (int64_t i = 0; i < count_of(&carry[outer][k]); i++)
            ck_assert(lmoe_get(&carry[outer][k].b, i) == 0);
        for (int r = outer; r + step >= 0 && r + step < n; r += step)
            check_close(&carry[r + step][k], &segment[r].out[c->out + k], 1e-12, "carry");
        check_close(&segment[n - 1 - outer].out[c->out + k], &whole->out[c->out + k], 1e-12,
                    "last carry");
    }
}

static void check_segments(int family, int variant, int flags, const int64_t *length, int n)
{
    int64_t start[MAX_SEGMENTS], seq = 0;
    for (int r = 0; r < n; seq += length[r++]) start[r] = seq;
    call whole = scene(family, variant, 2, seq, flags), segment[MAX_SEGMENTS],
         dsegment[MAX_SEGMENTS];
    const lmoe_op *grad = op_named(grad_names[family]);
    if (family == ATTENTION) memset(&whole.in[6], 0, 3 * sizeof *whole.in);
    run(&whole);
    for (int r = 0; r < n; r++) segment[r] = cut(&whole, start[r], length[r]);
    check_exchanged(segment, start, n, &whole, family != ATTENTION);

    tensor dout[8] = {{.d = whole.out[0].d}};
    dout[0] = new_tensor(&whole.out[0].d);
    draw(&dout[0], (lmoe_fill){LMOE_FILL_NORMAL, 0, 1}, 99, 0);
    call dwhole = backward(&whole, grad, dout, NULL);
    run(&dwhole);
    for (int r = 0; r < n; r++) {
        tensor dpart = part(&dout[0], start[r], length[r]);
        dsegment[r] = backward(&segment[r], grad, (tensor[8]){dpart}, NULL);
    }
    check_exchanged(dsegment, start, n, &dwhole, family != ATTENTION);
}

START_TEST(segments)
{
    if (!op_named(op_names[_i])->carry->summary) return; /* handed over in order only */
    static const int64_t lengths[][4] = {{3, 4}, {1, 1}, {1, 2, 5}, {2, 1, 1, 6}, {1, 1, 1, 1}};
    static const int64_t equal[][4] = {{5, 5}, {1, 1}, {4, 4, 4}, {3, 3, 3, 3}, {1, 1, 1, 1}};
    static const int counts[] = {2, 2, 3, 4, 4};
    for (int variant = 0; variant < VARIANTS; variant++) {
        for (int flags = 0; flags < CARRY; flags++) {
            for (int i = 0; i < 5; i++)
                check_segments(_i, variant, flags, _i == ATTENTION ? equal[i] : lengths[i],
                               counts[i]);
        }
    }
}
END_TEST

/* ---- 3: the derivative, also of and with respect to the carry ---- */

static double inner(const tensor *x, const tensor *y)
{
    double sum = 0;
    for (int64_t i = 0; i < count_of(x); i++) sum += lmoe_get(&x->b, i) * lmoe_get(&y->b, i);
    return sum;
}

/* <outputs, dout>, and what attention's keys and values are worth to later segments. */
static double loss(call *f, const tensor *dout, const tensor *more)
{
    run(f);
    double sum = 0;
    for (int k = 0; f->op->outputs[k].name; k++)
        if (count_of(&dout[k])) sum += inner(&f->out[k], &dout[k]);
    return more ? sum + inner(&f->in[1], &more[0]) + inner(&f->in[2], &more[1]) : sum;
}

static void check_input(call *f, int i, const tensor *d, const tensor *dout, const tensor *more)
{
    const double h = 1e-3, step[] = {-2, -1, 1, 2}, weight[] = {1, -8, 8, -1};
    for (int64_t e = 0; e < count_of(&f->in[i]); e++) {
        double was = lmoe_get(&f->in[i].b, e), slope = 0;
        if (was == -INFINITY) continue; /* nothing moves there; the gradient is checked to be 0 */
        for (int p = 0; p < 4; p++) {
            lmoe_put(&f->in[i].b, e, was + step[p] * h);
            slope += weight[p] * loss(f, dout, more) / (12 * h);
        }
        lmoe_put(&f->in[i].b, e, was);
        ck_assert_msg(fabs(slope - lmoe_get(&d->b, e)) < 1e-8 * (1 + fabs(slope)),
                      "%s: derivative by element %lld of %s is %.12g and should be %.12g",
                      f->op->base.name, (long long)e, f->op->inputs[i].name, lmoe_get(&d->b, e),
                      slope);
    }
}

START_TEST(derivatives)
{
    const lmoe_op *grad = op_named(grad_names[_i]);
    for (int at = 0; at < VARIANTS * FLAGS; at++) {
        call f = scene(_i, at % VARIANTS, 2, 5, at / VARIANTS);
        tensor dout[8] = {{.d = {0}}}, more[2];
        run(&f);
        dout[0] = drawn_like(&f.out[0], 0);
        if (_i != ATTENTION) dout[1] = drawn_like(&f.out[1], 1);
        more[0] = drawn_like(&f.in[1], 2);
        more[1] = drawn_like(&f.in[2], 3);
        const tensor *later = _i == ATTENTION ? more : NULL;
        call g = backward(&f, grad, dout, later);
        run(&g);
        int checked = 0;
        for (int i = 0; f.op->inputs[i].name; i++) {
            char name[32];
            snprintf(name, sizeof name, "d%s", f.op->inputs[i].name);
            int out = port_of(grad->outputs, name);
            if (out < 0 || !count_of(&f.in[i])) continue;
            check_input(&f, i, &g.out[out], dout, later);
            for (int64_t e = 0; e < count_of(&f.in[i]); e++) {
                if (lmoe_get(&f.in[i].b, e) == -INFINITY)
                    ck_assert(lmoe_get(&g.out[out].b, e) == 0);
            }
            checked++;
        }
        ck_assert_int_ge(checked, 2);
    }
}
END_TEST

/* ---- 4: resets separate, skips remove ---- */

START_TEST(resets)
{
    for (int variant = 0; variant < VARIANTS; variant++) {
        for (int64_t at = 0; at < 9; at++) {
            call c = scene(_i, variant, 1, 9, CARRY);
            if (_i == ATTENTION) {
                for (int64_t s = at; s < 9; s++) lmoe_put(&c.in[4].b, s, (double)(FIRST + at));
            } else {
                int reset = port_of(c.op->inputs, "reset");
                operand(&c, reset, LMOE_U8, "batch seq", (int64_t[]){1, 9}, LMOE_FILL_CONST, 0, 0,
                        0);
                lmoe_put(&c.in[reset].b, at, 1);
            }
            call before = cut(&c, 0, at), after = cut(&c, at, 9 - at), joined = {0};
            for (int k = 0; k < c.op->carry->count; k++)
                after.in[c.op->carry->in + k] = (tensor){0};
            run(&c);
            blank(&joined, &c);
            if (at > 0) run(&before);
            run(&after);
            if (at > 0) place(&joined.out[0], &before.out[0], 0);
            place(&joined.out[0], &after.out[0], at);
            check_close(&joined.out[0], &c.out[0], 1e-12, "y");
            for (int k = 1; _i != ATTENTION && k <= c.op->carry->count; k++)
                check_close(&after.out[k], &c.out[k], 1e-12, "carry");
        }
    }
}
END_TEST

/* The call without its skipped tokens; a reset of a skipped token moves to the next kept one. */
static call remaining(const call *c, const int64_t *kept, int64_t n)
{
    call r = *c;
    int skip = port_of(c->op->inputs, "skip"), reset = port_of(c->op->inputs, "reset");
    for (int i = 0; c->op->inputs[i].name; i++) {
        int axis = axis_of(&c->in[i], "seq");
        if (axis >= 0) r.in[i] = pick(&c->in[i], axis, kept, n);
    }
    for (int64_t i = 0, s = 0; reset >= 0 && count_of(&r.in[reset]) && i < n; i++) {
        for (; s <= kept[i]; s++)
            if (lmoe_get(&c->in[reset].b, s) != 0) lmoe_put(&r.in[reset].b, i, 1);
    }
    r.in[skip] = (tensor){0};
    return r;
}

START_TEST(skips)
{
    for (int at = 0; at < VARIANTS * 4; at++) {
        call c = scene(_i, at % VARIANTS, 1, 23,
                       SKIPS | (at / VARIANTS & 1 ? RESETS : 0) | (at / VARIANTS & 2 ? CARRY : 0));
        int64_t kept[23], n = 0;
        const lmoe_buf *skip = &c.in[port_of(c.op->inputs, "skip")].b;
        lmoe_put(skip, 22, 0); /* a reset after the last kept token could not move */
        for (int64_t s = 0; s < 23; s++)
            if (lmoe_get(skip, s) == 0) kept[n++] = s;
        ck_assert_int_lt((int)n, 23);
        call r = remaining(&c, kept, n);
        run(&c);
        run(&r);
        tensor dout[8] = {drawn_like(&c.out[0], 0)}, dkept[8] = {pick(&dout[0], 1, kept, n)};
        call g = backward(&c, op_named(grad_names[_i]), dout, NULL);
        call h = backward(&r, op_named(grad_names[_i]), dkept, NULL);
        run(&g);
        run(&h);
        const call *pairs[2][2] = {{&c, &r}, {&g, &h}};
        for (int p = 0; p < 2; p++) {
            for (int k = 0; pairs[p][0]->op->outputs[k].name; k++) {
                const tensor *full = &pairs[p][0]->out[k], *less = &pairs[p][1]->out[k];
                int axis = axis_of(full, "seq");
                tensor same = axis < 0 ? *full : pick(full, axis, kept, n);
                check_close(&same, less, 1e-12, pairs[p][0]->op->outputs[k].name);
                int64_t row = count_of(full) / 23;
                bool lse = strcmp(pairs[p][0]->op->outputs[k].name, "lse") == 0;
                for (int64_t e = 0; axis == 1 && full->d.rank > 1 && e < count_of(full); e++)
                    if (lmoe_get(skip, e / row) != 0)
                        ck_assert(lmoe_get(&full->b, e) == (lse ? -INFINITY : 0));
            }
        }
    }
}
END_TEST

/* ---- 5: the future does not matter, to the bit ---- */

START_TEST(causality)
{
    for (int at = 0; at < VARIANTS * FLAGS; at++) {
        call c = scene(_i, at % VARIANTS, 1, 12, at / VARIANTS);
        run(&c);
        for (int64_t from = 1; from < 12; from++) {
            call other = c;
            for (int i = 0; c.op->inputs[i].name; i++) {
                const lmoe_desc *d = &c.in[i].d;
                if (axis_of(&c.in[i], "seq") != 1 || d->dtype != LMOE_F64) continue;
                other.in[i] = drawn_like(&c.in[i], 7);
                tensor past = part(&c.in[i], 0, from);
                place(&other.in[i], &past, 0);
            }
            run(&other);
            for (int k = 0; c.op->outputs[k].name; k++) {
                int64_t row = count_of(&c.out[k]) / 12;
                if (is_carry(&c.op->outputs[k])) continue;
                ck_assert_int_eq(memcmp(c.out[k].b.data, other.out[k].b.data,
                                        (size_t)(from * row) * sizeof(double)),
                                 0);
            }
        }
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("carry ops");
    TCase *t = tcase_create("properties");
    tcase_add_checked_fixture(t, call_setup, call_teardown);
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, cuts, 0, FAMILIES);
    tcase_add_loop_test(t, segments, 0, FAMILIES);
    tcase_add_loop_test(t, derivatives, 0, FAMILIES);
    tcase_add_loop_test(t, resets, 0, FAMILIES);
    tcase_add_loop_test(t, skips, 0, FAMILIES);
    tcase_add_loop_test(t, causality, 0, FAMILIES);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
