/* SPDX-License-Identifier: Apache-2.0
 * tests/unit/folder.h: a folder for each test, in which it stands, and what is said about files in it.
 */
#ifndef LMOE_TESTS_FOLDER_H
#define LMOE_TESTS_FOLDER_H

#include "core/base/base.h"

#include <check.h>
#include <ftw.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[] = "/tmp/lmoe-test-XXXXXX";
static lmoe_ctx ctx;

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *at)
{
    return remove(path);
}

static inline void remove_all(const char *path)
{
    nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static inline void enter_folder(void)
{
    strcpy(folder + sizeof folder - 7, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    ck_assert_int_eq(chdir(folder), 0);
    lmoe__ctx_init(&ctx);
}

static inline void leave_folder(void)
{
    ck_assert_int_eq(chdir("/"), 0);
    remove_all(folder);
}

static inline void save_file(const char *path, const void *data, size_t n)
{
    unlink(path); /* cutting an old file short would wait for the disk */
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(data, 1, n, f), n);
    ck_assert_int_eq(fclose(f), 0);
}

static inline void save_text(const char *path, const char *text)
{
    save_file(path, text, strlen(text));
}

static inline int files_here(void)
{
    FILE *p = popen("ls -A | wc -l", "r");
    int n = -1;
    ck_assert_int_eq(fscanf(p, "%d", &n), 1);
    pclose(p);
    return n;
}

static inline void expect_message(lmoe_status status, lmoe_status expected, const char *part)
{
    ck_assert_msg(status == expected, "%d, said: %s", status, ctx.message);
    ck_assert_msg(strstr(ctx.message, part) != NULL, "\"%s\" is not in: %s", part, ctx.message);
    lmoe__ctx_clear(&ctx);
}

/* Tests that each run in a folder of their own. */
static inline TCase *group(Suite *s, const char *name)
{
    TCase *c = tcase_create(name);
    tcase_set_timeout(c, 120);
    tcase_add_checked_fixture(c, enter_folder, leave_folder);
    suite_add_tcase(s, c);
    return c;
}

/* What main() returns. */
static inline int run_suite(Suite *s)
{
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
