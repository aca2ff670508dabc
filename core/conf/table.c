/* SPDX-License-Identifier: Apache-2.0
 * core/conf/table.c: option tables as a whole: whether they can be trusted, their defaults, single
 * assignments, and the page of INI that explains them.
 */
#include "core/conf/store.h"

#include <lmoe/inner.h>

#include <ctype.h>
#include <math.h>
#include <stdlib.h>

enum { MOST_OPTIONS = 200 };

/* ---- check ---- */

/* Bytes of an option's field; 0 if the type is unknown. */
static size_t field_size(const lmoe_option *o)
{
    switch (o->type) {
    case LMOE_OPTION_BOOL:
    case LMOE_OPTION_ENUM: return sizeof(int32_t);
    case LMOE_OPTION_INT: return sizeof(int64_t);
    case LMOE_OPTION_FLOAT: return sizeof(double);
    case LMOE_OPTION_TEXT: return sizeof(char *);
    case LMOE_OPTION_CHARS: return (size_t)o->max + 1;
    }
    return 0;
}

bool lmoe__option_is_inner(const lmoe_option *o)
{
    return o->type == LMOE_OPTION_TEXT && o->unit && strcmp(o->unit, LMOE_UNIT_COMM) == 0;
}

/* lower case words joined by '_', so that they fit files, command lines and pages alike */
static bool name_is_good(const char *name)
{
    if (!islower((unsigned char)*name)) return false;
    for (const char *p = name; *p; p++) {
        if (!islower((unsigned char)*p) && !isdigit((unsigned char)*p) && *p != '_') return false;
    }
    return strlen(name) <= LMOE__CONF_NAME;
}

/* What is wrong with the facts of one option that need no other option; NULL if nothing is. */
static const char *check_facts(const lmoe_option *o, size_t options_size)
{
    if (!name_is_good(o->name))
        return "the name must be lower case letters, digits and '_', start with a letter and have "
               "at most 49 characters";
    if (isnan(o->min) || isnan(o->max) || o->min > o->max)
        return "min is above max, or not a number";
    if (o->type == LMOE_OPTION_CHARS && (o->max < 1 || o->max > 65536 || o->max != floor(o->max)))
        return "max, the longest text, must be a whole number from 1 to 65536";
    size_t size = field_size(o);
    if (size == 0) return "the type is unknown";
    if (o->offset > options_size || size > options_size - o->offset)
        return "the field lies outside the option struct";
    if (lmoe__option_is_inner(o) && sizeof(lmoe_inner) > options_size - o->offset)
        return "the field of a communicator must be an lmoe_inner";
    if (o->type != LMOE_OPTION_CHARS && o->offset % size != 0) return "the field is not aligned";
    if (o->type == LMOE_OPTION_ENUM &&
        (!o->choices || strspn(o->choices, " ") == strlen(o->choices)))
        return "an ENUM needs choices";
    if (o->initial && !lmoe__conf_print_value(NULL, o->name, o->initial))
        return "the default is nothing that a run file can hold";
    return NULL;
}

static const char *check_pair(const lmoe_option *a, const lmoe_option *b)
{
    if (strcmp(a->name, b->name) == 0) return "the name is used twice";
    if (a->offset < b->offset + field_size(b) && b->offset < a->offset + field_size(a))
        return "the field overlaps that of an option above";
    return NULL;
}

/* The default is parsed into a scratch copy of the struct. */
static lmoe_status check_default(lmoe_ctx *ctx, const char *what, const lmoe_option *o,
                                 size_t options_size)
{
    if (!o->initial) return LMOE_OK;
    lmoe__arena *arena = lmoe__arena_new();
    lmoe__text expected = {0};
    lmoe_status status = LMOE_OK;
    if (!lmoe__option_parse(o, o->initial, lmoe__arena_alloc(arena, options_size), arena)) {
        lmoe__option_expected(o, o->initial, &expected);
        status = lmoe_error(ctx, LMOE_E_USAGE, "%s: option '%s': its default is '%s': %s", what,
                            o->name, o->initial, expected.data);
    }
    lmoe__text_free(&expected);
    lmoe__arena_free(arena);
    return status;
}

lmoe_status lmoe__options_check_table(lmoe_ctx *ctx, const char *what, const lmoe_option *table,
                                      size_t options_size)
{
    for (int i = 0; table && table[i].name; i++) {
        const lmoe_option *o = &table[i];
        if (i == MOST_OPTIONS)
            return lmoe_error(ctx, LMOE_E_USAGE,
                              "%s: the option table has more than %d options; does it end with "
                              "LMOE_OPTION_END?",
                              what, MOST_OPTIONS);
        const char *wrong = check_facts(o, options_size);
        for (int k = 0; k < i && !wrong; k++) wrong = check_pair(o, &table[k]);
        if (wrong)
            return lmoe_error(ctx, LMOE_E_USAGE, "%s: option '%.60s': %s", what, o->name, wrong);
        LMOE_TRY(check_default(ctx, what, o, options_size));
    }
    return LMOE_OK;
}

/* ---- defaults and single assignments ---- */

void lmoe__options_default(const lmoe_option *table, void *out, lmoe__arena *arena)
{
    for (const lmoe_option *o = table; o && o->name; o++) {
        void *at = (char *)out + o->offset;
        memset(at, 0, field_size(o));
        if (o->initial) {
            lmoe__option_parse(o, o->initial, out, arena);
        } else if (o->type == LMOE_OPTION_TEXT) {
            const char *empty = "";
            memcpy(at, &empty, sizeof empty);
        }
    }
}

static lmoe_status no_such_option(lmoe_ctx *ctx, const char *what, const lmoe_option *table,
                                  const char *key)
{
    const char *names[MOST_OPTIONS] = {NULL};
    lmoe__text known = {0};
    int n = 0;
    for (const lmoe_option *o = table; o && o->name && n < MOST_OPTIONS; o++) {
        names[n++] = o->name;
        lmoe__text_add(&known, "%s%s", known.length ? ", " : "", o->name);
    }
    const char *near = lmoe__nearest(key, names, n);
    lmoe_status status =
        near ? lmoe_error(ctx, LMOE_E_CONFIG, "%s: unknown option '%s'; did you mean '%s'?", what,
                          key, near)
             : lmoe_error(ctx, LMOE_E_CONFIG, "%s: unknown option '%s'; there are %s", what, key,
                          n ? known.data : "none");
    lmoe__text_free(&known);
    return status;
}

lmoe_status lmoe__options_parse_one(lmoe_ctx *ctx, const char *what, const lmoe_option *table,
                                    const char *assignment, void *out, lmoe__arena *arena)
{
    char key[LMOE__CONF_NAME + 1];
    const char *equals = strchr(assignment, '=');
    const char *wrong = "there is no '='";
    if (equals) wrong = lmoe__conf_key_name(assignment, (size_t)(equals - assignment), key);
    if (wrong)
        return lmoe_error(ctx, LMOE_E_CONFIG, "%s: %s: %s; write key=value", what, assignment,
                          wrong);
    const lmoe_option *o = table;
    while (o && o->name && strcmp(o->name, key) != 0) o++;
    if (!o || !o->name) return no_such_option(ctx, what, table, key);
    const char *value = equals + 1 + strspn(equals + 1, " \t");
    if (lmoe__option_parse(o, value, out, arena)) return LMOE_OK;
    lmoe__text expected = {0};
    lmoe__option_expected(o, value, &expected);
    lmoe_error(ctx, LMOE_E_CONFIG, "%s: %s = %.200s: %s", what, key, value, expected.data);
    lmoe__text_free(&expected);
    return LMOE_E_CONFIG;
}

/* ---- the page that explains a table ---- */

static void print_comment(FILE *f, const char *text)
{
    enum { WIDTH = 96 };
    while (*text) {
        size_t n = strlen(text);
        if (n > WIDTH) {
            n = WIDTH;
            while (n > 0 && text[n] != ' ') n--;
            if (n == 0) n = strcspn(text, " ");
        }
        fprintf(f, "; %.*s\n", (int)n, text);
        text += n + strspn(text + n, " ");
    }
}

void lmoe__options_print_ini(FILE *f, const lmoe_option *table)
{
    for (const lmoe_option *o = table; o && o->name; o++) {
        lmoe__text about = {0};
        lmoe__option_describe(o, &about);
        about.data[0] = (char)toupper((unsigned char)about.data[0]);
        lmoe__text line = {0};
        lmoe__text_add(&line, "%s%s%s", o->doc ? o->doc : "", o->doc && *o->doc ? " " : "",
                       about.data);
        if (o->unit && *o->unit) lmoe__text_add(&line, "; unit: %s", o->unit);
        lmoe__text_add(&line, o->initial ? "." : "; must be given.");
        print_comment(f, line.data);
        if (!o->initial) {
            fprintf(f, "; %s =\n", o->name);
        } else {
            lmoe__conf_print_value(f, o->name, o->initial);
        }
        lmoe__text_free(&about);
        lmoe__text_free(&line);
    }
}
