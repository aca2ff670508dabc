/* SPDX-License-Identifier: Apache-2.0
 * tests/run/test_builds.c: ranks of comm/loop that hold lists of different builds all refuse to start,
 * with the same words.
 */
#include "core/train/world.h"

#include <check.h>
#include <stdlib.h>

enum { RANKS = 3 };

typedef struct member {
    lmoe__rank rank;
    lmoe__builds builds;
    pthread_t thread;
} member;

static lmoe_ctx ctx;
static lmoe__setup setup;
static void *group;
static member members[RANKS];

static void put(int rank, const char *name, const char *digest)
{
    lmoe__builds *b = &members[rank].builds;
    lmoe__build x = {.name = ""};
    snprintf(x.name, sizeof x.name, "%s", name);
    snprintf(x.digest, sizeof x.digest, "%s", digest);
    snprintf(x.path, sizeof x.path, "/node%d/%s.so", rank, name);
    LMOE_PUSH(b->list, b->count, b->capacity, x);
}

static void set_up(void)
{
    const lmoe_class *c;
    lmoe__ctx_init(&ctx);
    memset(&setup, 0, sizeof setup);
    memset(members, 0, sizeof members);
    setup.registry = lmoe__registry_new(NULL);
    ck_assert_int_eq(lmoe__registry_find(setup.registry, &ctx, LMOE_KIND_COMM, "comm/loop", &c),
                     LMOE_OK);
    setup.comm = (const lmoe_comm *)c;
    setup.world = RANKS;
    setup.comm_timeout = 60;
    ck_assert_int_eq(setup.comm->group_create(NULL, RANKS, &group), LMOE_OK);
    for (int i = 0; i < RANKS; i++) {
        put(i, "the command", "0123");
        put(i, "lsm/gla", "4567");
    }
}

static void tear_down(void)
{
    setup.comm->group_destroy(group);
    lmoe__registry_free(setup.registry);
    for (int i = 0; i < RANKS; i++) lmoe__builds_free(&members[i].builds);
}

static void *live(void *arg)
{
    member *m = arg;
    const lmoe__place place = {.ranks = RANKS, .local_ranks = RANKS};
    m->rank.status = lmoe__rank_join(&m->rank, &place, group);
    if (m->rank.status == LMOE_OK) m->rank.status = lmoe__builds_agree(&m->rank, &m->builds);
    setup.comm->close(m->rank.world);
    return NULL;
}

/* said: the end of the message of every rank; NULL: all agree. */
static void assert_all(const char *said)
{
    for (int i = 0; i < RANKS; i++) {
        members[i].rank.setup = &setup;
        members[i].rank.rank = i;
        lmoe__ctx_init(&members[i].rank.ctx);
        pthread_create(&members[i].thread, NULL, live, &members[i]);
    }
    for (int i = 0; i < RANKS; i++) pthread_join(members[i].thread, NULL);
    for (int i = 0; i < RANKS; i++) {
        ck_assert_int_eq(members[i].rank.status, said ? LMOE_E_CONFIG : LMOE_OK);
        if (said) ck_assert_str_eq(members[i].rank.ctx.message, said);
    }
}

START_TEST(same)
{
    assert_all(NULL);
}
END_TEST

START_TEST(order)
{
    for (int i = 0; i < RANKS; i++) {
        put(i, i == 1 ? "moe/b" : "moe/a", i == 1 ? "22" : "11");
        put(i, i == 1 ? "moe/a" : "moe/b", i == 1 ? "11" : "22");
    }
    assert_all(NULL);
}
END_TEST

START_TEST(other_bytes)
{
    for (int i = 0; i < RANKS; i++) put(i, "moe/qwen2", i == 2 ? "ffff" : "aaaa");
    assert_all("the ranks run different builds of moe/qwen2: rank 0 has /node0/moe/qwen2.so with "
               "digest aaaa, rank 2 has /node2/moe/qwen2.so with digest ffff; give all ranks the "
               "same files");
}
END_TEST

START_TEST(other_command)
{
    snprintf(members[0].builds.list[0].digest, 40, "ffff");
    assert_all("the ranks run different builds of the command: rank 0 has /node0/the command.so "
               "with digest ffff, rank 1 has /node1/the command.so with digest 0123; give all "
               "ranks the same files");
}
END_TEST

START_TEST(one_more)
{
    put(1, "vendor.x/fast", "abcd");
    assert_all("the ranks run different builds of vendor.x/fast: rank 0 has none, rank 1 has "
               "/node1/vendor.x/fast.so with digest abcd; give all ranks the same files");
}
END_TEST

START_TEST(one_less)
{
    put(0, "vendor.x/fast", "abcd");
    put(2, "vendor.x/fast", "abcd");
    assert_all("the ranks run different builds of vendor.x/fast: rank 0 has "
               "/node0/vendor.x/fast.so with digest abcd, rank 1 has none; give all ranks the same "
               "files");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("builds");
    TCase *c = tcase_create("builds");
    tcase_add_checked_fixture(c, set_up, tear_down);
    tcase_add_test(c, same);
    tcase_add_test(c, order);
    tcase_add_test(c, other_bytes);
    tcase_add_test(c, other_command);
    tcase_add_test(c, one_more);
    tcase_add_test(c, one_less);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
