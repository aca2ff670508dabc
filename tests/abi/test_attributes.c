/* SPDX-License-Identifier: Apache-2.0
 * tests/abi/test_attributes.c: attributes of an op as callers of older and newer APIs give them: what an
 * older one does not know gets its default, what is longer than this host's is refused.
 */
#include "core/graph/graph.h"

#include <check.h>
#include <stdlib.h>

static lmoe_ctx ctx;
static lmoe__op_set ops;
static lmoe_trace t;
static lmoe_tensor x;

static void set_up(void)
{
    const int64_t dim[] = {2, 3};
    lmoe__ctx_init(&ctx);
    lmoe__op_set_init(&ops);
    lmoe__trace_init(&t, &ctx, &ops, LMOE_F32);
    x = lmoe__trace_enter(&t, LMOE_VALUE_INPUT, "x", LMOE_F32, "batch seq", dim);
}

static void tear_down(void)
{
    lmoe__trace_free(&t);
    lmoe__op_set_free(&ops);
}

static const void *attributes_of(lmoe_tensor y)
{
    ck_assert_int_gt(y.id, 0);
    return t.graph->nodes[t.graph->values[y.id].node].attrs;
}

/* affine/1 is scale * x + shift, as {scale, shift}; the defaults are 1 and 0. */
START_TEST(shorter)
{
    double given[] = {2.5, 99};
    lmoe_tensor y =
        lmoe_apply_at(&t, "old.c", 7, "affine/1", &x, 1, given, sizeof(double), NULL, 0);
    const lmoe_affine_attrs *a = attributes_of(y);
    ck_assert_double_eq(a->scale, 2.5);
    ck_assert_double_eq(a->shift, 0);
    y = lmoe_apply_at(&t, "old.c", 8, "affine/1", &x, 1, given, sizeof given, NULL, 0);
    ck_assert_double_eq(((const lmoe_affine_attrs *)attributes_of(y))->shift, 99);
    /* none at all: the defaults, which leave x as it is */
    y = lmoe_apply_at(&t, "old.c", 9, "affine/1", &x, 1, NULL, 0, NULL, 0);
    ck_assert_int_eq(y.id, x.id);
}
END_TEST

START_TEST(longer)
{
    double given[] = {2.5, 1, 3};
    lmoe_tensor y = lmoe_apply_at(&t, "new.c", 7, "affine/1", &x, 1, given, sizeof given, NULL, 0);
    ck_assert_int_lt(y.id, 0);
    ck_assert_ptr_nonnull(strstr(ctx.message, "new.c:7"));
    ck_assert_ptr_nonnull(
        strstr(ctx.message, "affine/1: its attributes have 24 bytes here, 16 in this lmoe"));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("attributes");
    TCase *c = tcase_create("attributes");
    tcase_add_checked_fixture(c, set_up, tear_down);
    tcase_add_test(c, shorter);
    tcase_add_test(c, longer);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
