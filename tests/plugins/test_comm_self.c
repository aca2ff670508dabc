/* SPDX-License-Identifier: Apache-2.0
 * tests/plugins/test_comm_self.c: class comm/self. Links the plugin built with
 * -DLMOE_BUILTIN=comm_self.
 */
#include "../../core/check/comm_exchange.h"

#include <lmoe/plugin.h>

#include <check.h>

const lmoe_plugin *lmoe_plugin_v1_comm_self(const lmoe_host *host);

static const lmoe_comm *self(void)
{
    return (const lmoe_comm *)lmoe_plugin_v1_comm_self(NULL)->classes[0];
}

static void *opened(void)
{
    lmoe_comm_env env = {.size = sizeof env, .rank = 0, .ranks = 1, .group = NULL};
    void *comm;
    ck_assert_int_eq(self()->open(NULL, &env, &comm), LMOE_OK);
    return comm;
}

START_TEST(one_rank_exchanges_with_itself)
{
    const lmoe_comm *c = self();
    void *comm = opened(), *part;
    float x[3] = {1, -2, 3}, y[3] = {0};
    ck_assert_int_eq(c->rank(comm), 0);
    ck_assert_int_eq(c->ranks(comm), 1);
    for (int op = LMOE_SUM; op <= LMOE_MIN; op++)
        ck_assert_int_eq(lmoe_all_reduce(c, comm, x, 3, LMOE_F32, op, NULL), LMOE_OK);
    ck_assert_int_eq(lmoe_all_gather(c, comm, x, y, 3, LMOE_F32, NULL), LMOE_OK);
    ck_assert_mem_eq(y, ((float[]){1, -2, 3}), sizeof y);
    ck_assert_int_eq(lmoe_all_gather(c, comm, y, y, 3, LMOE_F32, NULL), LMOE_OK);
    ck_assert_int_eq(lmoe_all_gather(c, comm, NULL, NULL, 0, LMOE_F32, NULL), LMOE_OK);
    ck_assert_int_eq(c->split(comm, 3, 4, &part), LMOE_OK);
    ck_assert_int_eq(c->ranks(part), 1);
    c->close(part);
    c->close(comm);
}
END_TEST

START_TEST(exchanges)
{
    void *comm = opened();
    ck_assert_int_eq(lmoe__exchange_check(self(), comm, true, LMOE__EXCHANGE_ALL, NULL), 0);
    self()->close(comm);
}
END_TEST

START_TEST(more_ranks_are_refused)
{
    lmoe_comm_env env = {.size = sizeof env, .rank = 0, .ranks = 2, .group = NULL};
    void *comm;
    ck_assert_int_eq(self()->open(NULL, &env, &comm), LMOE_E_CONFIG);
    ck_assert_ptr_nonnull(strstr(self()->message(NULL), "comm/loop"));
}
END_TEST

START_TEST(impossible_calls_are_refused)
{
    const lmoe_comm *c = self();
    void *comm = opened();
    float x = 0;
    ck_assert_int_eq(lmoe_all_reduce(c, comm, &x, -1, LMOE_F32, LMOE_SUM, NULL), LMOE_E_COMM);
    ck_assert_ptr_nonnull(strstr(c->message(comm), "negative"));
    ck_assert_int_eq(lmoe_all_reduce(c, comm, NULL, 1, LMOE_F32, LMOE_SUM, NULL), LMOE_E_COMM);
    ck_assert_int_eq(lmoe_all_reduce(c, comm, &x, 1, LMOE_NONE, LMOE_SUM, NULL), LMOE_E_COMM);
    ck_assert_int_eq(lmoe_all_reduce(c, comm, &x, 1, LMOE_F32, 3, NULL), LMOE_E_COMM);
    ck_assert_int_eq(lmoe_all_gather(c, comm, &x, NULL, 1, LMOE_F32, NULL), LMOE_E_COMM);
    ck_assert_ptr_nonnull(strstr(c->message(comm), "all_gather: a buffer is missing"));
    c->close(comm);
}
END_TEST

START_TEST(abort_ends_it)
{
    const lmoe_comm *c = self();
    void *comm = opened(), *part;
    float x = 0;
    c->abort(comm);
    ck_assert_int_eq(lmoe_all_reduce(c, comm, &x, 1, LMOE_F32, LMOE_SUM, NULL), LMOE_E_COMM);
    ck_assert_ptr_nonnull(strstr(c->message(comm), "aborted"));
    ck_assert_int_eq(c->split(comm, 0, 0, &part), LMOE_E_COMM);
    c->close(comm);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("comm_self");
    TCase *c = tcase_create("self");
    tcase_add_test(c, one_rank_exchanges_with_itself);
    tcase_add_test(c, exchanges);
    tcase_add_test(c, more_ranks_are_refused);
    tcase_add_test(c, impossible_calls_are_refused);
    tcase_add_test(c, abort_ends_it);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
