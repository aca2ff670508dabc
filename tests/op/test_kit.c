/* SPDX-License-Identifier: Apache-2.0
 * tests/op/test_kit.c: lmoe's own ops keep what `lmoe plugin check` asks of a stranger's op:
 * samplers, shapes, references, axis rules, derivatives, carries, FLOPs.
 *   LMOE_ONLY=scan_diag/1 runs one op.
 */
#include "core/check/check.h"
#include "core/op/op.h"

#include <check.h>
#include <stdlib.h>

START_TEST(op_keeps_its_contract)
{
    const lmoe_op *op = lmoe__ops[_i];
    const char *only = getenv("LMOE_ONLY");
    if (only && strcmp(only, op->base.name) != 0) return;
    for (const lmoe__check *c = lmoe__checks_ops; c->name; c++) {
        lmoe_ctx ctx;
        lmoe__verdict v = {.done = false};
        lmoe__ctx_init(&ctx);
        lmoe__exam x = {.ctx = &ctx,
                        .arena = lmoe__arena_new(),
                        .registry = lmoe__registry_new(NULL),
                        .class = &op->base,
                        .seed = 1,
                        .verdict = &v};
        c->run(&x);
        if (x.dev) x.device->close(x.dev);
        lmoe__registry_free(x.registry);
        lmoe__arena_free(x.arena);
        if (only) printf("%s/%s: %s %s\n", c->group, c->name, v.message, v.note);
        ck_assert_msg(v.outcome != LMOE__FAIL, "%s, %s/%s, %s: %s", op->base.name, c->group,
                      c->name, v.at, v.message);
    }
}
END_TEST

int main(void)
{
    int n = 0;
    while (lmoe__ops[n]) n++;
    Suite *s = suite_create("kit");
    TCase *t = tcase_create("ops");
    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, op_keeps_its_contract, 0, n);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
