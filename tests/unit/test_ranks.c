/* SPDX-License-Identifier: Apache-2.0
 * tests/unit/test_ranks.c: which rank a process is, from its launcher's variables.
 */
#include "core/train/train.h"

#include <check.h>
#include <stdlib.h>

static lmoe_ctx ctx;
static lmoe__place place;

static void setup(void)
{
    static const char *const all[] = {"OMPI_COMM_WORLD_RANK",
                                      "OMPI_COMM_WORLD_SIZE",
                                      "OMPI_COMM_WORLD_LOCAL_RANK",
                                      "OMPI_COMM_WORLD_LOCAL_SIZE",
                                      "PMI_RANK",
                                      "PMI_SIZE",
                                      "MPI_LOCALRANKID",
                                      "MPI_LOCALNRANKS",
                                      "RANK",
                                      "WORLD_SIZE",
                                      "LOCAL_RANK",
                                      "LOCAL_WORLD_SIZE",
                                      "SLURM_PROCID",
                                      "SLURM_NTASKS",
                                      "SLURM_LOCALID",
                                      "SLURM_STEP_ID",
                                      "SLURM_STEPID"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) unsetenv(all[i]);
    lmoe__ctx_init(&ctx);
    memset(&place, 0, sizeof place);
}

/* set("RANK=3 WORLD_SIZE=4") */
static void set(const char *words)
{
    char copy[256], *save = NULL;
    snprintf(copy, sizeof copy, "%s", words);
    for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
        char *equals = strchr(w, '=');
        *equals = 0;
        setenv(w, equals + 1, 1);
    }
}

static void assert_place(const char *words, const char *launcher, int rank, int ranks,
                         int local_rank, int local_ranks)
{
    setup();
    set(words);
    ck_assert_msg(lmoe__place_find(&ctx, &place) == LMOE_OK, "%s: %s", words, ctx.message);
    ck_assert_str_eq(place.launcher ? place.launcher : "none", launcher);
    ck_assert_int_eq(place.rank, rank);
    ck_assert_int_eq(place.ranks, ranks);
    ck_assert_int_eq(place.local_rank, local_rank);
    ck_assert_int_eq(place.local_ranks, local_ranks);
}

static void assert_refused(const char *words, const char *says)
{
    setup();
    set(words);
    ck_assert_msg(lmoe__place_find(&ctx, &place) == LMOE_E_CONFIG, "%s is taken", words);
    ck_assert_msg(strstr(ctx.message, says), "%s: \"%s\" lacks \"%s\"", words, ctx.message, says);
}

#define OPEN_MPI "OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4 "
#define SLURM    "SLURM_PROCID=1 SLURM_NTASKS=2 SLURM_LOCALID=1 "

START_TEST(each_launcher)
{
    assert_place("HOME=/", "none", 0, 0, 0, 1);
    assert_place(OPEN_MPI "OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_LOCAL_SIZE=2", "Open MPI",
                 3, 4, 1, 2);
    assert_place("PMI_RANK=0 PMI_SIZE=8 MPI_LOCALRANKID=0 MPI_LOCALNRANKS=8", "MPICH", 0, 8, 0, 8);
    assert_place("RANK=5 WORLD_SIZE=6 LOCAL_RANK=2 LOCAL_WORLD_SIZE=3", "torchrun", 5, 6, 2, 3);
    assert_place(SLURM "SLURM_STEP_ID=0", "Slurm", 1, 2, 1, 1);
}
END_TEST

START_TEST(several_that_agree)
{
    assert_place(OPEN_MPI "RANK=3 WORLD_SIZE=4", "Open MPI", 3, 4, 0, 1);
    assert_place("PMI_RANK=1 PMI_SIZE=2 SLURM_STEP_ID=3 " SLURM, "MPICH", 1, 2, 0, 1);
}
END_TEST

/* The shell of a Slurm job is no rank; mpirun's ranks are, whatever the step that it made is. */
START_TEST(slurm_around)
{
    assert_place(SLURM, "none", 0, 0, 0, 1);
    assert_place(OPEN_MPI SLURM "SLURM_STEP_ID=0", "Open MPI", 3, 4, 0, 1);
}
END_TEST

START_TEST(contradictions)
{
    assert_refused(OPEN_MPI "RANK=2 WORLD_SIZE=4", "Open MPI says that this is rank 3 of 4 "
                                                   "(OMPI_COMM_WORLD_SIZE), and torchrun that it "
                                                   "is rank 2 of 4 (WORLD_SIZE)");
    assert_refused("PMI_RANK=1 PMI_SIZE=2 RANK=1 WORLD_SIZE=3", "rank 1 of 3 (WORLD_SIZE)");
    assert_refused("RANK=1", "has RANK but not WORLD_SIZE");
    assert_refused("WORLD_SIZE=2", "has WORLD_SIZE but not RANK");
    assert_refused("RANK=2 WORLD_SIZE=2", "RANK = 2 with WORLD_SIZE = 2");
    assert_refused("RANK=one WORLD_SIZE=2", "RANK = 'one', which is not a number");
    assert_refused("RANK=0 WORLD_SIZE=0", "WORLD_SIZE = '0', which is not a number from 1 on");
    assert_refused("RANK=-1 WORLD_SIZE=2", "RANK = '-1'");
    assert_refused("RANK=99999999999 WORLD_SIZE=2", "RANK = '99999999999'");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ranks");
    TCase *c = tcase_create("ranks");
    tcase_add_test(c, each_launcher);
    tcase_add_test(c, several_that_agree);
    tcase_add_test(c, slurm_around);
    tcase_add_test(c, contradictions);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
