/* SPDX-License-Identifier: Apache-2.0
 * tests/unit/test_checkpoint.c: checkpoints, and what disks, crashes and other people do to them.
 */
#include "core/ckpt/ckpt.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "/tmp/lmoe-ckpt-XXXXXX";
static lmoe_ctx ctx;

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

/* ---- folders and files ---- */

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *at)
{
    return remove(path);
}

static void remove_all(const char *path)
{
    nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void enter_folder(void)
{
    strcpy(folder + sizeof folder - 7, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    ck_assert_int_eq(chdir(folder), 0);
    lmoe__ctx_init(&ctx);
}

static void leave_folder(void)
{
    ck_assert_int_eq(chdir("/"), 0);
    remove_all(folder);
}

static void save_file(const char *path, const void *data, size_t n)
{
    unlink(path); /* cutting an old file short would wait for the disk */
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(data, 1, n, f), n);
    ck_assert_int_eq(fclose(f), 0);
}

static char *load_file(const char *path, size_t *n)
{
    char *data;
    ck_assert_int_eq(lmoe__read_file(&ctx, path, &data, n), LMOE_OK);
    return data;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names in a folder, in order, each followed by a blank. */
static void expect_names(const char *path, const char *expected)
{
    char *names[64];
    int n = 0;
    lmoe__text s = {0};
    DIR *dir = opendir(path);
    ck_assert_ptr_nonnull(dir);
    for (struct dirent *e; (e = readdir(dir));) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            names[n++] = strdup(e->d_name);
    }
    closedir(dir);
    qsort(names, (size_t)n, sizeof *names, by_text);
    for (int i = 0; i < n; i++) lmoe__text_add(&s, "%s ", names[i]);
    ck_assert_str_eq(s.data ? s.data : "", expected);
    for (int i = 0; i < n; i++) free(names[i]);
    lmoe__text_free(&s);
}

static void expect_message(lmoe_status status, lmoe_status expected, const char *part)
{
    ck_assert_msg(status == expected, "%d, said: %s", status, ctx.message);
    ck_assert_msg(strstr(ctx.message, part) != NULL, "\"%s\" is not in: %s", part, ctx.message);
    lmoe__ctx_clear(&ctx);
}

/* ---- a run whose tensors are functions of the step ---- */

static const lmoe__ckpt_tensor tensors[] = {
    {"embed.weight", {.dtype = LMOE_F32, .rank = 2, .dim = {3, 4}}, LMOE__CKPT_MODEL},
    {"m.embed.weight", {.dtype = LMOE_F32, .rank = 2, .dim = {3, 4}}, LMOE__CKPT_OPTIMIZER},
    {"layers.0.q", {.dtype = LMOE_BF16, .rank = 2, .dim = {2, 5}}, LMOE__CKPT_MODEL},
    {"layers.1.q", {.dtype = LMOE_BF16, .rank = 2, .dim = {2, 5}}, LMOE__CKPT_MODEL},
    {"v.embed.weight", {.dtype = LMOE_F32, .rank = 2, .dim = {3, 4}}, LMOE__CKPT_OPTIMIZER},
    {"norm", {.dtype = LMOE_F32, .rank = 1, .dim = {3}}, LMOE__CKPT_MODEL}};
enum { TENSORS = sizeof tensors / sizeof *tensors };

static const char files_of_step[] = "manifest.json model-00001-of-00001.safetensors "
                                    "optimizer-00001-of-00001.safetensors ";

typedef struct run {
    int64_t step;
    int fails_at, calls; /* -1: never */
    unsigned seen;       /* bit i: tensor i was given out */
} run;

static unsigned char byte_of(int64_t step, int index, int64_t i)
{
    return (unsigned char)(step * 31 + index * 7 + i);
}

static lmoe_status give(void *user, int index, size_t at, void *host, size_t n)
{
    run *r = user;
    if (r->calls++ == r->fails_at) return lmoe_error(&ctx, LMOE_E_DEVICE, "no answer");
    for (size_t i = 0; i < n; i++)
        ((unsigned char *)host)[i] = byte_of(r->step, index, (int64_t)(at + i));
    return LMOE_OK;
}

static lmoe_status take(void *user, int index, size_t at, void *host, size_t n)
{
    run *r = user;
    if (r->calls++ == r->fails_at) return lmoe_error(&ctx, LMOE_E_DEVICE, "no answer");
    for (size_t i = 0; i < n; i++)
        ck_assert_int_eq(((unsigned char *)host)[i], byte_of(r->step, index, (int64_t)(at + i)));
    if (at + n == (size_t)lmoe_desc_bytes(&tensors[index].desc)) r->seen |= 1u << index;
    return LMOE_OK;
}

static const char config[] = "[model]\nembed = 4 ; \"quoted\"\n\xff and a byte that is not UTF-8\n";
static const char config_read[] =
    "[model]\nembed = 4 ; \"quoted\"\n\xef\xbf\xbd and a byte that is not UTF-8\n";

static json_t *state_of(int64_t step)
{
    return json_pack("{s:I, s:f, s:s, s:[f, f]}", "tokens", (json_int_t)step * 1000000000000,
                     "loss", 1.0 / 3.0, "name", "r\xc3\xa9sum\xc3\xa9", "bias", 1e-300, -0.0);
}

static lmoe_status save_run(run *r, int keep_last, int64_t keep_every, int64_t shard_bytes)
{
    lmoe__ckpt_options o = {.folder = "c",
                            .step = r->step,
                            .tensors = tensors,
                            .count = TENSORS,
                            .read = give,
                            .user = r,
                            .state = state_of(r->step),
                            .config = config,
                            .shard_bytes = shard_bytes,
                            .keep_last = keep_last,
                            .keep_every = keep_every};
    lmoe_status status = lmoe__ckpt_save(&ctx, &o);
    json_decref(o.state);
    return status;
}

static lmoe_status save_step(int64_t step, int keep_last, int64_t keep_every)
{
    return save_run(&(run){.step = step, .fails_at = -1}, keep_last, keep_every, 0);
}

static void expect_saved(int64_t step)
{
    lmoe_status status = save_step(step, 0, 0);
    ck_assert_msg(status == LMOE_OK, "%s", ctx.message);
}

/* All of a step is in an opened checkpoint. */
static void expect_content(const lmoe__ckpt *c, int64_t step)
{
    run r = {.step = step, .fails_at = -1};
    json_t *state = state_of(step);
    ck_assert_int_eq(lmoe__ckpt_step(c), step);
    ck_assert(json_equal(lmoe__ckpt_state(c), state));
    ck_assert_str_eq(lmoe__ckpt_config(c), config_read);
    ck_assert_int_eq(lmoe__ckpt_load(&ctx, c, tensors, TENSORS, take, &r), LMOE_OK);
    ck_assert_uint_eq(r.seen, (1u << TENSORS) - 1);
    json_decref(state);
}

/* Returns what was said about others. */
static char *newest_says(lmoe_status expected, int64_t step)
{
    lmoe__ckpt *c;
    FILE *f = tmpfile();
    fflush(stderr);
    int keep = dup(STDERR_FILENO);
    dup2(fileno(f), STDERR_FILENO);
    lmoe_status status = lmoe__ckpt_newest(&ctx, "c", &c);
    dup2(keep, STDERR_FILENO);
    close(keep);
    size_t n = (size_t)lseek(fileno(f), 0, SEEK_END);
    char *text = calloc(n + 1, 1);
    rewind(f);
    ck_assert_uint_eq(fread(text, 1, n, f), n);
    fclose(f);
    ck_assert_msg(status == expected, "%d, said: %s", status, ctx.message);
    ck_assert_int_eq(c != NULL, step >= 0);
    if (c) expect_content(c, step);
    lmoe__ckpt_close(c);
    return text;
}

static void expect_newest(int64_t step)
{
    char *text = newest_says(LMOE_OK, step);
    ck_assert_str_eq(text, "");
    free(text);
}

/* The step is passed over with one sentence that has `said` in it; -1 if there is none else. */
static void expect_passed_over(int64_t bad, int64_t good, const char *said)
{
    char start[64];
    snprintf(start, sizeof start, "lmoe: warning: passing over step %lld: ", (long long)bad);
    char *text = newest_says(good < 0 ? LMOE_E_CONFIG : LMOE_OK, good);
    lmoe__ctx_clear(&ctx);
    ck_assert_msg(strncmp(text, start, strlen(start)) == 0, "%s", text);
    ck_assert_msg(strstr(text, said) != NULL, "\"%s\" is not in: %s", said, text);
    ck_assert_ptr_eq(strchr(text, '\n'), text + strlen(text) - 1);
    free(text);
}

/* ---- saving and loading ---- */

START_TEST(what_is_saved_is_loaded)
{
    expect_saved(0);
    expect_newest(0);
    expect_saved(7);
    expect_newest(7);
    expect_names("c", "step-0 step-7 ");
    expect_names("c/step-7", files_of_step);
    lmoe__ckpt *c;
    ck_assert_int_eq(lmoe__ckpt_open(&ctx, "c/step-0", &c), LMOE_OK);
    expect_content(c, 0);
    ck_assert_str_eq(lmoe__ckpt_path(c), "c/step-0");
    ck_assert_ptr_nonnull(lmoe__ckpt_find(c, "norm"));
    ck_assert_ptr_null(lmoe__ckpt_find(c, "norma"));
    lmoe__ckpt_close(c);
}
END_TEST

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

START_TEST(files_are_cut_at_the_limit)
{
    static const struct {
        int64_t limit;
        const char *names;
    } cases[] = {
        {1, "manifest.json model-00001-of-00004.safetensors model-00002-of-00004.safetensors "
            "model-00003-of-00004.safetensors model-00004-of-00004.safetensors "
            "optimizer-00001-of-00002.safetensors optimizer-00002-of-00002.safetensors "},
        {68, "manifest.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors "
             "optimizer-00001-of-00002.safetensors optimizer-00002-of-00002.safetensors "},
        {100, "manifest.json model-00001-of-00001.safetensors "
              "optimizer-00001-of-00001.safetensors "}};
    for (int i = 0; i < 3; i++) {
        run r = {.step = 1, .fails_at = -1};
        ck_assert_int_eq(save_run(&r, 0, 0, cases[i].limit), LMOE_OK);
        ck_assert_int_eq(r.calls, TENSORS);
        expect_names("c/step-1", cases[i].names);
        expect_newest(1);
    }
}
END_TEST

START_TEST(a_model_without_its_optimizer)
{
    lmoe__ckpt *c;
    lmoe__ckpt_tensor some[] = {tensors[0], tensors[2], tensors[3], tensors[5]};
    run r = {.step = 3, .fails_at = -1};
    expect_saved(3);
    ck_assert_int_eq(lmoe__ckpt_open(&ctx, "c/step-3", &c), LMOE_OK);
    /* take() looks at tensors[0 ... 3]: the first is the same in both lists */
    ck_assert_int_eq(lmoe__ckpt_load(&ctx, c, some, 1, take, &r), LMOE_E_CONFIG);
    ck_assert_int_eq(r.calls, 0);
    expect_message(ctx.status, LMOE_E_CONFIG,
                   "has a tensor \"layers.0.q\", which the model has not");
    r.fails_at = 1;
    expect_message(lmoe__ckpt_load(&ctx, c, some, 4, take, &r), LMOE_E_DEVICE, "no answer");
    ck_assert_uint_eq(r.seen, 1);
    lmoe__ckpt_close(c);
}
END_TEST

START_TEST(another_model_is_refused)
{
    static const struct {
        lmoe__ckpt_tensor tensor;
        const char *said;
    } cases[] = {
        {{"embed.weigth", {.dtype = LMOE_F32, .rank = 2, .dim = {3, 4}}, LMOE__CKPT_MODEL},
         "c/step-3 has no tensor \"embed.weigth\" (the nearest is \"embed.weight\")"},
        {{"embed.weight", {.dtype = LMOE_F32, .rank = 2, .dim = {4, 3}}, LMOE__CKPT_MODEL},
         "tensor \"embed.weight\" is F32 (3 4); the model's is F32 (4 3)"},
        {{"embed.weight", {.dtype = LMOE_BF16, .rank = 2, .dim = {3, 4}}, LMOE__CKPT_MODEL},
         "tensor \"embed.weight\" is F32 (3 4); the model's is BF16 (3 4)"},
        {{"embed.weight", {.dtype = LMOE_F32, .rank = 0}, LMOE__CKPT_MODEL},
         "tensor \"embed.weight\" is F32 (3 4); the model's is F32 ()"},
        {{"embed.weight", {.dtype = LMOE_F32, .rank = 2, .dim = {3, 4}}, LMOE__CKPT_OPTIMIZER},
         "has no tensor \"embed.weight\""},
        {{"norm", {.dtype = LMOE_F32, .rank = 1, .dim = {3}}, LMOE__CKPT_MODEL}, "two tensors"}};
    lmoe__ckpt *c;
    expect_saved(3);
    ck_assert_int_eq(lmoe__ckpt_open(&ctx, "c/step-3", &c), LMOE_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lmoe__ckpt_tensor list[TENSORS];
        run r = {.step = 3, .fails_at = -1};
        memcpy(list, tensors, sizeof list);
        list[0] = cases[i].tensor;
        lmoe_status status = lmoe__ckpt_load(&ctx, c, list, TENSORS, take, &r);
        ck_assert_int_eq(r.calls, 0);
        expect_message(status, i == 5 ? LMOE_E_USAGE : LMOE_E_CONFIG, cases[i].said);
    }
    lmoe__ckpt_close(c);
}
END_TEST

START_TEST(a_file_that_shrinks_after_opening)
{
    lmoe__ckpt *c;
    run r = {.step = 3, .fails_at = -1};
    expect_saved(3);
    ck_assert_int_eq(lmoe__ckpt_open(&ctx, "c/step-3", &c), LMOE_OK);
    ck_assert_int_eq(truncate("c/step-3/model-00001-of-00001.safetensors", 8), 0);
    expect_message(lmoe__ckpt_load(&ctx, c, tensors, TENSORS, take, &r), LMOE_E_IO,
                   "has changed while it was in use");
    lmoe__ckpt_close(c);
}
END_TEST

/* ---- the newest ---- */

START_TEST(newest_is_by_number)
{
    expect_newest(-1); /* no folder */
    ck_assert_int_eq(mkdir("c", 0777), 0);
    expect_newest(-1);
    expect_saved(9);
    expect_saved(10);
    static const char *const others[] = {"c/step-",   "c/step-011", "c/step-11x",
                                         "c/step--1", "c/steps-99", "c/step-99999999999999999999"};
    for (int i = 0; i < 6; i++) ck_assert_int_eq(mkdir(others[i], 0777), 0);
    expect_newest(10);
    ck_assert_int_eq(rename("c/step-9", "c/step-11"), 0);
    expect_passed_over(11, 10, "it is of another step than its name says");
    remove_all("c/step-10");
    expect_passed_over(11, -1, "another step");
    save_file("c/step-11/manifest.json", "", 0);
    lmoe__ckpt *c;
    ctx.log_level = LMOE_LOG_ERROR;
    expect_message(lmoe__ckpt_newest(&ctx, "c", &c), LMOE_E_CONFIG,
                   "none of the 1 checkpoints in c is whole: bring one back");
    save_file("file", "", 0);
    expect_message(lmoe__ckpt_newest(&ctx, "file", &c), LMOE_E_CONFIG, "cannot read file: Not a");
}
END_TEST

START_TEST(every_changed_byte_is_seen)
{
    static const char *const names[] = {"manifest.json", "model-00001-of-00001.safetensors",
                                        "optimizer-00001-of-00001.safetensors"};
    expect_saved(1);
    expect_saved(2);
    for (int f = 0; f < 3; f++) {
        char path[64];
        size_t n;
        snprintf(path, sizeof path, "c/step-2/%s", names[f]);
        char *data = load_file(path, &n);
        for (size_t i = 0; i < n; i++) {
            lmoe__ckpt *c;
            data[i] ^= (char)(1 << i % 8);
            save_file(path, data, n);
            data[i] ^= (char)(1 << i % 8);
            ck_assert_int_eq(lmoe__ckpt_open(&ctx, "c/step-2", &c), LMOE_E_CONFIG);
            ck_assert_ptr_nonnull(strstr(ctx.message, path));
            lmoe__ctx_clear(&ctx);
            if (i == n / 2) expect_passed_over(2, 1, "digest");
        }
        for (size_t i = 0; i < n; i++) {
            lmoe__ckpt *c;
            save_file(path, data, i);
            ck_assert_int_eq(lmoe__ckpt_open(&ctx, "c/step-2", &c), LMOE_E_CONFIG);
            lmoe__ctx_clear(&ctx);
            if (i == n / 2) expect_passed_over(2, 1, f ? "the manifest says" : "digest");
        }
        unlink(path);
        expect_passed_over(2, 1, "No such file");
        if (f > 0) { /* what a link leads to is not a part of the checkpoint */
            save_file("elsewhere", data, n);
            ck_assert_int_eq(symlink("../../elsewhere", path), 0);
            expect_passed_over(2, 1, "not a regular file");
            unlink(path);
        }
        save_file(path, data, n);
        free(data);
        save_file("c/step-2/notes.txt", "x", 1); /* other files do not matter */
        expect_newest(2);
    }
}
END_TEST

/* Manifests whose digest is right, by someone who means ill. */
START_TEST(manifests_that_lie)
{
#define ABOUT  "\"format\": \"lmoe checkpoint\", \"version\": 1, \"step\": 2, "
#define REST   ", \"state\": {}, \"config\": \"\","
#define DIGITS "0123456789abcdef0123456789abcdef"
#define NAMED(name)                                                                \
    "{" ABOUT "\"tensors\": 0, \"files\": [{\"name\": \"" name "\", \"size\": 0, " \
    "\"xxh3_128\": \"" DIGITS "\"}]" REST
    static const struct {
        const char *json, *said;
    } cases[] = {
        {"{" ABOUT "\"tensors\": 1, \"files\": []" REST, "as many tensors as the manifest says"},
        {"{\"step\": 2,", "not of a checkpoint"},
        {"{\"format\": \"lmoe checkpoint\", \"version\": 2,", "version 2; this lmoe reads 1"},
        {"{" ABOUT "\"files\": []" REST, "step, tensors, state or config is missing"},
        {"{" ABOUT "\"tensors\": -1, \"files\": []" REST, "step, tensors, state or config"},
        {"{" ABOUT "\"tensors\": 0.5, \"files\": []" REST, "step, tensors, state or config"},
        {"{" ABOUT "\"tensors\": 0, \"files\": [], \"state\": [], \"config\": \"\",", "state"},
        {"{" ABOUT "\"tensors\": 0, \"files\": [], \"state\": {}, \"config\": 1,", "config"},
        {"{" ABOUT "\"tensors\": 0" REST, "files is not a list"},
        {"{" ABOUT "\"tensors\": 0, \"files\": {}" REST, "files is not a list"},
        {"{" ABOUT "\"tensors\": 0, \"files\": [1]" REST, "an entry without name"},
        {"{" ABOUT "\"tensors\": 0, \"files\": [{\"name\": \"a.safetensors\"}]" REST,
         "an entry without name"},
        {"{" ABOUT "\"step\": 2, \"tensors\": 0, \"files\": []" REST, "not JSON"},
        {"{" ABOUT "\"tensors\": 0, \"files\": []" REST "}", "not JSON"},
        {"\xff", "not JSON"},
        {NAMED("../../x.safetensors"), "not a plain one"},
        {NAMED("/x.safetensors"), "not a plain one"},
        {NAMED("a/x.safetensors"), "not a plain one"},
        {NAMED("..safetensors"), "not a plain one"},
        {NAMED(".safetensors"), "not a plain one"},
        {NAMED("lsm-gla.so"), "not a plain one"},
        {NAMED("x.safetensors\\n"), "not a plain one"},
        {NAMED("none.safetensors"), "none.safetensors: No such file"},
        {NAMED("folder.safetensors"), "not a regular file"},
        {NAMED("other.safetensors"), "its digest differs"}};
    ck_assert_int_eq(mkdir("c", 0777), 0);
    ck_assert_int_eq(mkdir("c/step-2", 0777), 0);
    ck_assert_int_eq(mkdir("c/step-2/folder.safetensors", 0777), 0);
    save_file("c/step-2/other.safetensors", "", 0);
    save_file("x.safetensors", "", 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char digest[33];
        lmoe__text s = {0};
        lmoe__text_add(&s, "%s\n", cases[i].json);
        lmoe__digest_bytes(s.data, s.length, digest);
        lmoe__text_add(&s, " \"xxh3_128\": \"%s\"\n}\n", digest);
        save_file("c/step-2/manifest.json", s.data, s.length);
        lmoe__text_free(&s);
        expect_passed_over(2, -1, cases[i].said);
    }
}
END_TEST

/* Files with right digests that do not belong together. */
START_TEST(files_that_do_not_belong_together)
{
    static const char *const names[] = {"model-1.safetensors", "model-2.safetensors",
                                        "other-1.safetensors"};
    ck_assert_int_eq(mkdir("c", 0777), 0);
    ck_assert_int_eq(mkdir("c/step-2", 0777), 0);
    lmoe__manifest_file files[3];
    for (int i = 0; i < 3; i++) {
        char path[64];
        run r = {.step = 2, .fails_at = -1};
        snprintf(path, sizeof path, "c/step-2/%s", names[i]);
        lmoe__st_file f = {path, tensors, (int[]){i == 2 ? 1 : 0}, 1, NULL, give, &r, 0, {0}};
        ck_assert_int_eq(lmoe__st_write(&ctx, &f), LMOE_OK);
        files[i] = (lmoe__manifest_file){.name = names[i], .size = f.size};
        memcpy(files[i].digest, f.digest, 33);
    }
    lmoe__manifest m = {
        .step = 2, .files = files, .count = 2, .state = json_object(), .config = ""};
    m.tensors = 2;
    ck_assert_int_eq(lmoe__manifest_write(&ctx, "c/step-2", &m), LMOE_OK);
    expect_passed_over(2, -1, "two files hold the tensor embed.weight");
    m.files = files + 1;
    ck_assert_int_eq(lmoe__manifest_write(&ctx, "c/step-2", &m), LMOE_OK);
    expect_passed_over(2, -1, "there should be no file other-1.safetensors");
    m.count = 1;
    ck_assert_int_eq(lmoe__manifest_write(&ctx, "c/step-2", &m), LMOE_OK);
    expect_passed_over(2, -1, "do not hold as many tensors");
    m.tensors = 1;
    ck_assert_int_eq(lmoe__manifest_write(&ctx, "c/step-2", &m), LMOE_OK);
    lmoe__ckpt *c;
    ck_assert_int_eq(lmoe__ckpt_open(&ctx, "c/step-2", &c), LMOE_OK);
    lmoe__ckpt_close(c);
    json_t *list = json_array();
    json_decref(m.state);
    m.state = list;
    expect_message(lmoe__manifest_write(&ctx, "c/step-2", &m), LMOE_E_USAGE, "not a JSON object");
    json_decref(list);
}
END_TEST

/* ---- what is kept ---- */

START_TEST(old_ones_are_dropped)
{
    for (int64_t step = 0; step <= 70; step += 10)
        ck_assert_int_eq(save_step(step, 2, 30), LMOE_OK);
    expect_names("c", "step-0 step-30 step-60 step-70 ");
    for (int64_t step = 80; step <= 120; step += 10)
        ck_assert_int_eq(save_step(step, 3, 0), LMOE_OK);
    expect_names("c", "step-100 step-110 step-120 ");
    /* going on from an older one: what is newer is not touched, what is written is kept */
    ck_assert_int_eq(save_step(105, 1, 0), LMOE_OK);
    expect_names("c", "step-105 step-110 step-120 ");
    /* a damaged one neither counts nor goes */
    ck_assert_int_eq(truncate("c/step-110/model-00001-of-00001.safetensors", 9), 0);
    ck_assert_int_eq(save_step(130, 2, 0), LMOE_OK);
    expect_names("c", "step-110 step-120 step-130 ");
    ck_assert_int_eq(save_step(140, 2, 0), LMOE_OK);
    expect_names("c", "step-110 step-130 step-140 ");
    expect_newest(140);
}
END_TEST

START_TEST(leftovers_of_the_dead_are_removed)
{
    char live[64], dead[64], names[256];
    pid_t child = fork();
    if (child == 0) _exit(0);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
    snprintf(dead, sizeof dead, "c/.step-5.tmp-%d", (int)child);
    snprintf(live, sizeof live, "c/.step-5.tmp-%d", (int)getppid());
    ck_assert_int_eq(mkdir("c", 0777), 0);
    ck_assert_int_eq(mkdir(dead, 0777), 0);
    ck_assert_int_eq(mkdir(live, 0777), 0);
    ck_assert_int_eq(mkdir("c/.step-5.tmp-x", 0777), 0);
    ck_assert_int_eq(mkdir("c/.step-5.tmp-1x", 0777), 0);
    snprintf(names, sizeof names, "%s/model-00001-of-00001.safetensors", dead);
    save_file(names, "x", 1);
    expect_saved(6);
    snprintf(names, sizeof names, "%s .step-5.tmp-1x .step-5.tmp-x step-6 ", live + 2);
    if (strcmp(live + 2, ".step-5.tmp-1x") > 0)
        snprintf(names, sizeof names, ".step-5.tmp-1x %s .step-5.tmp-x step-6 ", live + 2);
    expect_names("c", names);
    expect_newest(6);
}
END_TEST

/* ---- what goes wrong ---- */

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

static TCase *group(Suite *s, const char *name)
{
    TCase *c = tcase_create(name);
    tcase_set_timeout(c, 120);
    tcase_add_checked_fixture(c, enter_folder, leave_folder);
    suite_add_tcase(s, c);
    return c;
}

int main(void)
{
    Suite *s = suite_create("checkpoint");
    TCase *c = group(s, "saving");
    tcase_add_test(c, what_is_saved_is_loaded);
    tcase_add_test(c, all_is_synced);
    tcase_add_test(c, files_are_cut_at_the_limit);
    tcase_add_test(c, a_model_without_its_optimizer);
    tcase_add_test(c, another_model_is_refused);
    tcase_add_test(c, a_file_that_shrinks_after_opening);
    c = group(s, "newest");
    tcase_add_test(c, newest_is_by_number);
    tcase_add_test(c, every_changed_byte_is_seen);
    tcase_add_test(c, manifests_that_lie);
    tcase_add_test(c, files_that_do_not_belong_together);
    c = group(s, "kept");
    tcase_add_test(c, old_ones_are_dropped);
    tcase_add_test(c, leftovers_of_the_dead_are_removed);
    c = group(s, "faults");
    tcase_add_test(c, tensors_that_cannot_be_had);
    tcase_add_test(c, every_call_that_fails_leaves_the_old_one);
    tcase_add_test(c, every_call_that_fails_while_a_step_is_replaced);
    tcase_add_test(c, every_point_of_a_crash_leaves_one);
    tcase_add_test(c, what_reads_back_wrong_is_taken_back);
    tcase_add_test(c, a_damaged_step_is_replaced);
    tcase_add_test(c, a_full_disk_leaves_the_old_one);
    tcase_add_test(c, folders_that_cannot_be_written);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
