/* SPDX-License-Identifier: Apache-2.0
 * tests/unit/test_checkpoint_faults.c: what disks, crashes and other people do to checkpoints.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "checkpoint.h"

/* ---- calls of the system that fail on demand: the library's calls come here ---- */

typedef enum fault { NO_FAULT, FAIL, CRASH } fault;

static fault armed;
static int calls_left;       /* so many succeed before the fault */
static bool cannot_exchange; /* as on some file systems */
static const char *spoiled;  /* a file that changes just before it is put in place */

/* True if this call is to fail. */
static bool strikes(void)
{
    if (armed == NO_FAULT || calls_left-- > 0) return false;
    if (armed == CRASH) _exit(9);
    armed = NO_FAULT;
    errno = EIO;
    return true;
}

int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    int mode = flags & O_CREAT ? va_arg(args, int) : 0;
    va_end(args);
    return strikes() ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

/* What was written to an fd and not yet synced; files closed like that; folders synced. */
static bool dirty[1024];
static int closed_dirty, folders_synced;

ssize_t write(int fd, const void *data, size_t n)
{
    if (fd < 1024) dirty[fd] = true;
    if (armed == CRASH && calls_left == 0) syscall(SYS_write, fd, data, n / 2);
    return strikes() ? -1 : (ssize_t)syscall(SYS_write, fd, data, n);
}

/* No test here pulls the plug: to wait for the disk would show nothing. */
int fsync(int fd)
{
    struct stat info;
    if (strikes()) return -1;
    if (fd < 1024) dirty[fd] = false;
    folders_synced += fstat(fd, &info) == 0 && S_ISDIR(info.st_mode);
    return 0;
}

int close(int fd)
{
    bool fails = strikes(); /* it is closed all the same */
    int result = (int)syscall(SYS_close, fd);
    if (fd >= 0 && fd < 1024) {
        closed_dirty += dirty[fd];
        dirty[fd] = false;
    }
    if (!fails) return result;
    errno = EIO;
    return -1;
}

int remove(const char *path)
{
    if (strikes()) return -1;
    int result = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (result != 0 && errno == EISDIR)
        result = (int)syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
    return result;
}

int mkdir(const char *path, mode_t mode)
{
    return strikes() ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags)
{
    if (strikes()) return -1;
    if (cannot_exchange && flags) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_renameat2, from_at, from, to_at, to, flags);
}

int rename(const char *from, const char *to)
{
    char path[256];
    if (spoiled && strncmp(to, "c/step-", 7) == 0) { /* the whole new checkpoint, into place */
        snprintf(path, sizeof path, "%s/%s", from, spoiled);
        int fd = open(path, O_WRONLY);
        ck_assert_int_eq(pwrite(fd, "?", 1, 40), 1);
        close(fd);
        spoiled = NULL;
    }
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

START_TEST(all_is_synced)
{
    for (int i = 0; i < 2; i++) { /* the second time it replaces */
        closed_dirty = folders_synced = 0;
        expect_saved(1);
        ck_assert_int_eq(closed_dirty, 0);
        ck_assert_int_ge(folders_synced, 2); /* the checkpoint's, and the one it is in */
    }
}
END_TEST

START_TEST(tensors_that_cannot_be_had)
{
    expect_saved(0);
    expect_saved(1);
    for (int k = 0; k < TENSORS; k++) {
        run r = {.step = 2, .fails_at = k};
        expect_message(save_run(&r, 1, 0, 0), LMOE_E_DEVICE, "no answer");
        expect_names("c", "step-0 step-1 ");
        expect_newest(1);
    }
    expect_message(save_step(-1, 1, 0), LMOE_E_USAGE, "step -1");
}
END_TEST

/* Each call of one save fails in turn. old: a checkpoint of the same step is there. */
static void fail_each(int64_t old, int64_t step)
{
    int k = 0, failures = 0;
    char left[64];
    for (bool struck = true; struck; k++) {
        remove_all("c");
        expect_saved(old);
        lmoe__ctx_clear(&ctx);
        calls_left = k;
        armed = FAIL;
        run r = {.step = step, .fails_at = -1};
        lmoe_status status = save_run(&r, 1, 0, 70);
        struck = armed == NO_FAULT;
        armed = NO_FAULT;
        if (status != LMOE_OK) {
            ck_assert_int_eq(status, LMOE_E_IO);
            ck_assert_msg(strstr(ctx.message, "Input/output error") != NULL, "%s", ctx.message);
            lmoe__ctx_clear(&ctx);
            failures++;
        }
        expect_newest(status == LMOE_OK ? step : old);
        if (status != LMOE_OK) {
            snprintf(left, sizeof left, "step-%lld ", (long long)old);
            expect_names("c", left);
        }
    }
    ck_assert_int_gt(failures, 30);
    ck_assert_int_gt(k, failures);
}

START_TEST(every_call_that_fails_leaves_the_old_one)
{
    fail_each(1, 2);
}
END_TEST

/* The old one and the new one differ in how they are cut; their contents are the same step's. */
START_TEST(every_call_that_fails_while_a_step_is_replaced)
{
    fail_each(2, 2);
    cannot_exchange = true;
    fail_each(2, 2);
    cannot_exchange = false;
}
END_TEST

static void expect_whole(int64_t step)
{
    char path[64];
    lmoe__ckpt *c;
    snprintf(path, sizeof path, "c/step-%lld", (long long)step);
    ck_assert_int_eq(lmoe__ckpt_open(&ctx, path, &c), LMOE_OK);
    expect_content(c, step);
    lmoe__ckpt_close(c);
}

static void crash_each(int64_t old, int64_t step)
{
    int code = 9;
    for (int k = 0; WEXITSTATUS(code) == 9 || k == 0; k++) {
        remove_all("c");
        expect_saved(old);
        pid_t child = fork();
        if (child == 0) {
            calls_left = k;
            armed = CRASH;
            lmoe_status status = save_step(step, 1, 0);
            _exit(status == LMOE_OK ? 0 : 1);
        }
        ck_assert_int_eq(waitpid(child, &code, 0), child);
        ck_assert(WIFEXITED(code));
        ck_assert_int_ne(WEXITSTATUS(code), 1);
        code = WIFEXITED(code) && WEXITSTATUS(code) == 9 ? 9 << 8 : 0;
        int count; /* what has the name of a checkpoint is whole */
        int64_t *steps = lmoe__ckpt_steps("c", &count);
        ck_assert_int_ge(count, 1);
        ck_assert(steps[0] == old || steps[0] == step);
        expect_newest(steps[0]);
        if (count > 1) ck_assert_int_eq(steps[1], old);
        if (count > 1) expect_whole(old);
        free(steps);
        ck_assert_int_eq(save_step(step + 1, 1, 0), LMOE_OK); /* life goes on */
        char left[64];
        snprintf(left, sizeof left, "step-%lld ", (long long)step + 1);
        expect_names("c", left);
        if (code == 0) ck_assert_int_gt(k, 30);
    }
}

START_TEST(every_point_of_a_crash_leaves_one)
{
    crash_each(1, 2);
    crash_each(2, 2);
}
END_TEST

/* The disk changes a byte between writing and reading. */
START_TEST(what_reads_back_wrong_is_taken_back)
{
    for (int i = 0; i < 4; i++) {
        int64_t step = i == 0 ? 6 : 5;
        expect_saved(5);
        cannot_exchange = i == 2;
        spoiled = i == 3 ? "manifest.json" : "model-00001-of-00001.safetensors";
        lmoe_status status = save_step(step, 1, 0);
        ck_assert_ptr_null(spoiled);
        cannot_exchange = false;
        expect_message(status, LMOE_E_IO, "reads back wrong, and is not kept: c/step-");
        expect_names("c", "step-5 ");
        expect_names("c/step-5", files_of_step);
        expect_newest(5);
    }
}
END_TEST

START_TEST(a_damaged_step_is_replaced)
{
    for (int i = 0; i < 2; i++) {
        expect_saved(4);
        expect_saved(5);
        ck_assert_int_eq(truncate("c/step-5/model-00001-of-00001.safetensors", 9), 0);
        expect_passed_over(5, 4, "it has 9 bytes; the manifest says");
        cannot_exchange = i == 1;
        expect_saved(5);
        cannot_exchange = false;
        expect_newest(5);
        expect_names("c", "step-4 step-5 ");
        expect_names("c/step-5", files_of_step);
    }
}
END_TEST

START_TEST(a_full_disk_leaves_the_old_one)
{
    expect_saved(1);
    struct stat manifest; /* the largest file of them */
    ck_assert_int_eq(stat("c/step-1/manifest.json", &manifest), 0);
    for (rlim_t limit = 0; limit < (rlim_t)manifest.st_size; limit += 49) {
        pid_t child = fork();
        if (child == 0) {
            signal(SIGXFSZ, SIG_IGN);
            setrlimit(RLIMIT_FSIZE, &(struct rlimit){limit, limit});
            lmoe_status status = save_step(2, 1, 0);
            bool said = strstr(ctx.message, "cannot write c/.step-2.tmp-") != NULL &&
                        strstr(ctx.message, ": File too large") != NULL;
            _exit(status == LMOE_E_IO && said ? 0 : 1);
        }
        int code;
        ck_assert_int_eq(waitpid(child, &code, 0), child);
        ck_assert_int_eq(code, 0);
        expect_names("c", "step-1 ");
        expect_newest(1);
    }
}
END_TEST

START_TEST(folders_that_cannot_be_written)
{
    save_file("c", "x", 1);
    expect_message(save_step(1, 1, 0), LMOE_E_IO, "cannot create c/.step-1.tmp-");
    unlink("c");
    ck_assert_int_eq(mkdir("c", 0777), 0);
    save_file("c/step-1", "x", 1); /* a file where the folder should go */
    expect_message(save_step(1, 1, 0), LMOE_E_IO, "cannot put in place c/step-1: Not a directory");
    expect_names("c", "step-1 ");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("checkpoint_faults");
    TCase *c = group(s, "faults");
    tcase_add_test(c, all_is_synced);
    tcase_add_test(c, tensors_that_cannot_be_had);
    tcase_add_test(c, every_call_that_fails_leaves_the_old_one);
    tcase_add_test(c, every_call_that_fails_while_a_step_is_replaced);
    tcase_add_test(c, every_point_of_a_crash_leaves_one);
    tcase_add_test(c, what_reads_back_wrong_is_taken_back);
    tcase_add_test(c, a_damaged_step_is_replaced);
    tcase_add_test(c, a_full_disk_leaves_the_old_one);
    tcase_add_test(c, folders_that_cannot_be_written);
    return run_suite(s);
}
