/* SPDX-License-Identifier: Apache-2.0
 * core/conf/show.c: a configuration as a run file.
 */
#include "core/conf/store.h"

#include <ctype.h>

enum { INDENT = 4 };

/* A line may end before text[i] if it can go on there: one blank will be put back, and the rest
 * must not look like something else. */
static bool can_break(const char *text, size_t i)
{
    if (i > 0 && (text[i - 1] != ' ' || isblank((unsigned char)text[i]))) return false;
    if (i > 1 && isblank((unsigned char)text[i - 2])) return false;
    return text[i] != '#' && text[i] != ';' && !lmoe__conf_looks_like_key(text + i);
}

/* How many bytes of `text` to put in a line with `room`; 0 if it must be broken before the first.
 * -1 if it cannot be. */
static int line_length(const char *text, int room)
{
    if (strnlen(text, (size_t)room + 1) <= (size_t)room) return (int)strlen(text);
    for (int i = room + 1; i > 0; i--) {
        if (can_break(text, (size_t)i)) return i;
    }
    return can_break(text, 0) ? 0 : -1;
}

static bool characters_are_good(const char *value)
{
    size_t n = strlen(value);
    if (n > 0 && (isblank((unsigned char)value[0]) || isblank((unsigned char)value[n - 1])))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (iscntrl((unsigned char)value[i]) && value[i] != '\t') return false;
        if (value[i] == ';' && (i == 0 || isblank((unsigned char)value[i - 1]))) return false;
    }
    return true;
}

/* Blanks are left out where a line would not fit with them, so that whatever came in one way of
 * breaking lines goes out in this one. */
static bool print_lines(FILE *f, const char *key, const char *value)
{
    for (bool first = true; first || *value; first = false) {
        int room = LMOE__CONF_LINE - (first ? (int)strlen(key) + 1 : 0);
        int pad = first ? 2 : INDENT;
        int n = line_length(value, room - pad);
        if (n < 0 || (n == 0 && !first)) {
            pad = first ? 0 : 1;
            n = line_length(value, room - pad);
        }
        if (n < 0 || (n == 0 && !first)) return false;
        int shown = n > 0 && value[n] ? n - 1 : n; /* without the blank at which it is broken */
        if (f && first) fprintf(f, "%s%s=%s", key, pad ? " " : "", pad && n ? " " : "");
        if (f && !first) fprintf(f, "\n%*s", pad, "");
        if (f) fprintf(f, "%.*s", shown, value);
        value += n;
    }
    if (f) fputc('\n', f);
    return true;
}

bool lmoe__conf_print_value(FILE *f, const char *key, const char *value)
{
    if (!characters_are_good(value) || !print_lines(NULL, key, value)) return false;
    return !f || print_lines(f, key, value);
}

/* The origin stands behind short values, above long ones. */
static void show_value(FILE *f, const char *key, const char *value, const char *origin)
{
    int used = (int)(strlen(key) + strlen(value)) + 3;
    if (used + strlen(origin) > 120) {
        fprintf(f, "; %s\n", origin);
        lmoe__conf_print_value(f, key, value);
    } else {
        fprintf(f, "%s = %s%*s ; %s\n", key, value, used < 40 ? 40 - used : 0, "", origin);
    }
}

static bool has_values(const lmoe__conf_part *part)
{
    for (int i = 0; i < part->count; i++) {
        if (part->entries[i].value || part->entries[i].effective) return true;
    }
    return false;
}

void lmoe__conf_show(const lmoe__conf *conf, FILE *f)
{
    bool first = true;
    for (int i = 0; i < conf->count; i++) {
        const lmoe__conf_part *part = &conf->parts[i];
        if (!part->origin.file && !has_values(part)) continue;
        fprintf(f, "%s[%s]\n", first ? "" : "\n", part->name);
        first = false;
        for (int k = 0; k < part->count; k++) {
            const lmoe__conf_entry *e = &part->entries[k];
            const char *value = e->effective ? e->effective : e->value;
            if (value) show_value(f, e->key, value, lmoe__origin_text(e->origin, conf->arena));
        }
    }
}
