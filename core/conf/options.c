/* SPDX-License-Identifier: Apache-2.0
 * core/conf/options.c: one option: its value from text and back.
 */
#include "core/conf/store.h"

#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>

static void *field(const lmoe_option *o, void *options)
{
    return (char *)options + o->offset;
}

/* ---- choices ---- */

/* The n-th blank-separated word, its length in *length; NULL past the last. */
static const char *choice(const char *choices, int n, size_t *length)
{
    for (const char *p = choices + strspn(choices, " "); *p; p += strspn(p, " ")) {
        *length = strcspn(p, " ");
        if (n-- == 0) return p;
        p += *length;
    }
    return NULL;
}

static int choice_index(const char *choices, const char *text)
{
    const char *word;
    size_t length;
    for (int i = 0; (word = choice(choices, i, &length)); i++) {
        if (strlen(text) == length && memcmp(word, text, length) == 0) return i;
    }
    return -1;
}

/* ---- numbers ---- */

/* printf and strtod write and read as in C, whatever locale the process has chosen. */
static locale_t enter_c(locale_t *c)
{
    *c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    return *c ? uselocale(*c) : (locale_t)0;
}

static void leave_c(locale_t before, locale_t c)
{
    if (!c) return;
    uselocale(before);
    freelocale(c);
}

static bool in_range(const lmoe_option *o, double x)
{
    return (o->min == 0 && o->max == 0) || (x >= o->min && x <= o->max);
}

static bool parse_suffix(const char *text, int64_t *factor)
{
    static const struct {
        const char *text;
        int64_t factor;
    } suffixes[] = {{"", 1},           {"K", 1000},       {"M", 1000000},   {"G", 1000000000},
                    {"Ki", 1ll << 10}, {"Mi", 1ll << 20}, {"Gi", 1ll << 30}};
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        if (strcmp(text, suffixes[i].text) != 0) continue;
        *factor = suffixes[i].factor;
        return true;
    }
    return false;
}

static bool parse_int(const char *text, int64_t *x)
{
    const char *digits = text + (*text == '-' || *text == '+');
    int64_t factor;
    char *end;
    if (!isdigit((unsigned char)*digits)) return false;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || !parse_suffix(end, &factor)) return false;
    return !__builtin_mul_overflow((int64_t)value, factor, x);
}

/* [+-] digits [. digits] [e [+-] digits], with a digit before or after the point. */
static bool is_decimal(const char *p)
{
    static const char digits[] = "0123456789";
    p += *p == '-' || *p == '+';
    size_t whole = strspn(p, digits), part = 0;
    p += whole;
    if (*p == '.') {
        part = strspn(++p, digits);
        p += part;
    }
    if (whole + part == 0) return false;
    if (*p == 'e' || *p == 'E') {
        p++;
        p += *p == '-' || *p == '+';
        size_t n = strspn(p, digits);
        if (n == 0) return false;
        p += n;
    }
    return *p == '\0';
}

static bool parse_float(const char *text, double *x)
{
    if (!is_decimal(text)) return false;
    locale_t c, before = enter_c(&c);
    errno = 0;
    *x = strtod(text, NULL);
    bool lost = errno == ERANGE && (isinf(*x) || *x == 0);
    leave_c(before, c);
    return !lost;
}

/* The fewest digits that read back to x: 15 decimal digits survive a double (a trailing 0 is not
 * printed), 17 are always enough. */
static void print_float(char *buf, size_t n, double x)
{
    locale_t c, before = enter_c(&c);
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(buf, n, "%.*g", digits, x);
        if (strtod(buf, NULL) == x) break;
    }
    leave_c(before, c);
}

static bool parse_bool(const char *text, int32_t *x)
{
    static const char *const words[] = {"no", "yes", "false", "true", "off", "on", "0", "1"};
    for (int i = 0; i < 8; i++) {
        if (strcasecmp(text, words[i]) != 0) continue;
        *x = i % 2;
        return true;
    }
    return false;
}

/* ---- values ---- */

bool lmoe__option_parse(const lmoe_option *o, const char *text, void *options, lmoe__arena *arena)
{
    union {
        int32_t i32;
        int64_t i64;
        double f64;
    } x;
    void *out = field(o, options);
    switch (o->type) {
    case LMOE_OPTION_BOOL:
        if (!parse_bool(text, &x.i32)) return false;
        memcpy(out, &x.i32, sizeof x.i32);
        return true;
    case LMOE_OPTION_INT:
        if (!parse_int(text, &x.i64) || !in_range(o, (double)x.i64)) return false;
        memcpy(out, &x.i64, sizeof x.i64);
        return true;
    case LMOE_OPTION_FLOAT:
        if (!parse_float(text, &x.f64) || !in_range(o, x.f64)) return false;
        memcpy(out, &x.f64, sizeof x.f64);
        return true;
    case LMOE_OPTION_TEXT:
        if (o->choices && choice_index(o->choices, text) < 0) return false;
        text = lmoe__arena_strdup(arena, text);
        memcpy(out, &text, sizeof text);
        return true;
    case LMOE_OPTION_ENUM:
        x.i32 = choice_index(o->choices, text);
        if (x.i32 < 0) return false;
        memcpy(out, &x.i32, sizeof x.i32);
        return true;
    case LMOE_OPTION_CHARS:
        if (strlen(text) > (size_t)o->max) return false;
        memset(out, 0, (size_t)o->max + 1);
        memcpy(out, text, strlen(text));
        return true;
    }
    return false;
}

const char *lmoe__option_to_text(const lmoe_option *o, const void *options, lmoe__arena *arena)
{
    const void *at = (const char *)options + o->offset;
    size_t length = 0;
    char number[40];
    switch (o->type) {
    case LMOE_OPTION_BOOL: return *(const int32_t *)at ? "yes" : "no";
    case LMOE_OPTION_INT: return lmoe__arena_printf(arena, "%lld", (long long)*(const int64_t *)at);
    case LMOE_OPTION_FLOAT:
        print_float(number, sizeof number, *(const double *)at);
        return lmoe__arena_strdup(arena, number);
    case LMOE_OPTION_TEXT: return lmoe__arena_strdup(arena, *(const char *const *)at);
    case LMOE_OPTION_ENUM: {
        const char *word = choice(o->choices, *(const int32_t *)at, &length);
        return lmoe__arena_printf(arena, "%.*s", (int)length, word ? word : "");
    }
    case LMOE_OPTION_CHARS: return lmoe__arena_strdup(arena, at);
    }
    return "";
}

/* ---- sentences ---- */

/* Ends of a range that no value reaches are no limits. */
static void describe_number(const lmoe_option *o, const char *noun, double largest, lmoe__text *out)
{
    char min[40], max[40];
    print_float(min, sizeof min, o->min);
    print_float(max, sizeof max, o->max);
    bool limited = o->min != 0 || o->max != 0;
    bool low = limited && o->min > -largest, high = limited && o->max < largest;
    lmoe__text_add(out, "%s", noun);
    if (low && high) lmoe__text_add(out, " from %s to %s", min, max);
    if (low && !high) lmoe__text_add(out, " of at least %s", min);
    if (!low && high) lmoe__text_add(out, " of at most %s", max);
}

static void describe_choices(const char *choices, lmoe__text *out)
{
    const char *word;
    size_t length;
    lmoe__text_add(out, "one of");
    for (int i = 0; (word = choice(choices, i, &length)); i++) {
        lmoe__text_add(out, "%s %.*s", i ? "," : "", (int)length, word);
    }
}

void lmoe__option_describe(const lmoe_option *o, lmoe__text *out)
{
    switch (o->type) {
    case LMOE_OPTION_BOOL: lmoe__text_add(out, "yes or no"); break;
    case LMOE_OPTION_INT: describe_number(o, "a whole number", 0x1p63, out); break;
    case LMOE_OPTION_FLOAT: describe_number(o, "a number", INFINITY, out); break;
    case LMOE_OPTION_TEXT:
        if (o->choices) {
            describe_choices(o->choices, out);
        } else {
            lmoe__text_add(out, "text");
        }
        break;
    case LMOE_OPTION_ENUM: describe_choices(o->choices, out); break;
    case LMOE_OPTION_CHARS: lmoe__text_add(out, "text of at most %.0f bytes", o->max); break;
    }
}

/* The choice that was probably meant, in `arena`; NULL if there is none. */
static const char *nearest_choice(const lmoe_option *o, const char *text, lmoe__arena *arena)
{
    const char *words[64], *word;
    size_t length;
    int n = 0;
    for (int i = 0; o->choices && i < 64 && (word = choice(o->choices, i, &length)); i++) {
        words[n++] = lmoe__arena_printf(arena, "%.*s", (int)length, word);
    }
    return lmoe__nearest(text, words, n);
}

void lmoe__option_expected(const lmoe_option *o, const char *text, lmoe__text *out)
{
    lmoe__arena *arena = lmoe__arena_new();
    const char *near = nearest_choice(o, text, arena);
    lmoe__text_add(out, "expected ");
    lmoe__option_describe(o, out);
    if (o->unit && *o->unit) lmoe__text_add(out, " (%s)", o->unit);
    if (near) lmoe__text_add(out, "; did you mean '%s'?", near);
    if (strchr(text, '#')) lmoe__text_add(out, "; a comment behind a value starts with ' ;'");
    lmoe__arena_free(arena);
}
