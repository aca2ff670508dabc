/* SPDX-License-Identifier: Apache-2.0
 * tests/unit/checkpoint.h: a run whose tensors are functions of the step, saved and looked at.
 */
#ifndef LMOE_TESTS_CHECKPOINT_H
#define LMOE_TESTS_CHECKPOINT_H

#include "core/ckpt/ckpt.h"

#include <dirent.h>

#include "folder.h"

static inline int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names in a folder, in order, each followed by a blank. */
static inline void expect_names(const char *path, const char *expected)
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

static inline unsigned char byte_of(int64_t step, int index, int64_t i)
{
    return (unsigned char)(step * 31 + index * 7 + i);
}

static inline lmoe_status give(void *user, int index, size_t at, void *host, size_t n)
{
    run *r = user;
    if (r->calls++ == r->fails_at) return lmoe_error(&ctx, LMOE_E_DEVICE, "no answer");
    for (size_t i = 0; i < n; i++)
        ((unsigned char *)host)[i] = byte_of(r->step, index, (int64_t)(at + i));
    return LMOE_OK;
}

static inline lmoe_status take(void *user, int index, size_t at, void *host, size_t n)
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

static inline json_t *state_of(int64_t step)
{
    return json_pack("{s:I, s:f, s:s, s:[f, f]}", "tokens", (json_int_t)step * 1000000000000,
                     "loss", 1.0 / 3.0, "name", "r\xc3\xa9sum\xc3\xa9", "bias", 1e-300, -0.0);
}

static inline lmoe_status save_run(run *r, int keep_last, int64_t keep_every, int64_t shard_bytes)
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

static inline lmoe_status save_step(int64_t step, int keep_last, int64_t keep_every)
{
    return save_run(&(run){.step = step, .fails_at = -1}, keep_last, keep_every, 0);
}

static inline void expect_saved(int64_t step)
{
    lmoe_status status = save_step(step, 0, 0);
    ck_assert_msg(status == LMOE_OK, "%s", ctx.message);
}

/* All of a step is in an opened checkpoint. */
static inline void expect_content(const lmoe__ckpt *c, int64_t step)
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
static inline char *newest_says(lmoe_status expected, int64_t step)
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

static inline void expect_newest(int64_t step)
{
    char *text = newest_says(LMOE_OK, step);
    ck_assert_str_eq(text, "");
    free(text);
}

/* The step is passed over with one sentence that has `said` in it; -1 if there is none else. */
static inline void expect_passed_over(int64_t bad, int64_t good, const char *said)
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

#endif
