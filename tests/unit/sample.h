/* SPDX-License-Identifier: Apache-2.0
 * tests/unit/sample.h: the option table and the fixture that test_conf.c and test_options.c share.
 */
#ifndef LMOE_TESTS_UNIT_SAMPLE_H
#define LMOE_TESTS_UNIT_SAMPLE_H

#include "core/conf/conf.h"

#include <check.h>
#include <stdlib.h>

static lmoe_ctx ctx;
static lmoe__arena *arena;

static void set_up(void)
{
    lmoe__ctx_init(&ctx);
    arena = lmoe__arena_new();
}

static void tear_down(void)
{
    lmoe__arena_free(arena);
}

static lmoe__conf *read_text(const char *text)
{
    lmoe__ctx_clear(&ctx);
    return lmoe__conf_read_text(&ctx, "a.ini", text, strlen(text));
}

static void message_is(const char *text)
{
    ck_assert_str_eq(ctx.message, text);
    lmoe__ctx_clear(&ctx);
}

/* ---- the table that most tests use ---- */

typedef struct sample {
    int32_t on, mode;
    int64_t heads, steps;
    double lr, beta;
    const char *name, *norm;
    char code[9];
} sample;

enum { MODE_NONE, MODE_HALF, MODE_FULL };

static const lmoe_option table[] = {
    {"on", LMOE_OPTION_BOOL, offsetof(sample, on), "no", 0, 0, NULL, NULL, "Whether it is on."},
    {"mode", LMOE_OPTION_ENUM, offsetof(sample, mode), "half", 0, 0, "none half full", NULL,
     "How much."},
    {"heads", LMOE_OPTION_INT, offsetof(sample, heads), "4", 1, 64, NULL, NULL, "Heads."},
    {"steps", LMOE_OPTION_INT, offsetof(sample, steps), "1K", 0, 0, NULL, "steps",
     "Length of the run."},
    {"lr", LMOE_OPTION_FLOAT, offsetof(sample, lr), "3e-4", 0, 1, NULL, NULL, "Learning rate."},
    {"beta", LMOE_OPTION_FLOAT, offsetof(sample, beta), "0.95", 0, 0, NULL, NULL, "Decay."},
    {"name", LMOE_OPTION_TEXT, offsetof(sample, name), "", 0, 0, NULL, NULL, "Any text."},
    {"norm", LMOE_OPTION_TEXT, offsetof(sample, norm), "rms", 0, 0, "rms layer", NULL, "Norm."},
    {"code", LMOE_OPTION_CHARS, offsetof(sample, code), "abc", 0, 8, NULL, NULL, "Short text."},
    LMOE_OPTION_END};

static const lmoe_option class_table[] = {
    {"class", LMOE_OPTION_TEXT, 0, NULL, 0, 0, NULL, NULL, "Class of the layer."}, LMOE_OPTION_END};

static bool same_sample(const sample *a, const sample *b)
{
    return a->on == b->on && a->mode == b->mode && a->heads == b->heads && a->steps == b->steps &&
           a->lr == b->lr && a->beta == b->beta && !strcmp(a->name, b->name) &&
           !strcmp(a->norm, b->norm) && !strcmp(a->code, b->code);
}

static TCase *group(Suite *s, const char *name, SFun before, SFun after)
{
    TCase *c = tcase_create(name);
    tcase_set_timeout(c, 60);
    tcase_add_checked_fixture(c, before, after);
    suite_add_tcase(s, c);
    return c;
}

#endif
