/* SPDX-License-Identifier: Apache-2.0
 * core/base/text.c: growing text, JSON strings, the nearest word, numbers for people.
 */
#include "core/base/base.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>

static void reserve(lmoe__text *s, size_t more)
{
    size_t needed = s->length + more + 1;
    if (needed <= s->capacity) return;
    s->capacity = needed > 2 * s->capacity ? needed : 2 * s->capacity;
    s->data = lmoe__realloc(s->data, s->capacity);
}

void lmoe__text_add_bytes(lmoe__text *s, const char *bytes, size_t n)
{
    reserve(s, n);
    if (n) memcpy(s->data + s->length, bytes, n);
    s->length += n;
    s->data[s->length] = '\0';
}

void lmoe__text_add(lmoe__text *s, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n >= 0) {
        reserve(s, (size_t)n);
        vsnprintf(s->data + s->length, (size_t)n + 1, format, again);
        s->length += (size_t)n;
    }
    va_end(again);
}

void lmoe__text_free(lmoe__text *s)
{
    free(s->data);
    *s = (lmoe__text){0};
}

/* Bytes of the UTF-8 character at p, or 0 if there is none: cut, overlong, surrogate, too large. */
static size_t utf8_length(const unsigned char *p)
{
    if (p[0] < 0x80) return 1;
    size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4) return 0;
    if (p[0] == 0xe0 && p[1] < 0xa0) return 0;
    if (p[0] == 0xed && p[1] > 0x9f) return 0;
    if (p[0] == 0xf0 && p[1] < 0x90) return 0;
    if (p[0] == 0xf4 && p[1] > 0x8f) return 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0; /* the NUL at the end as well */
    }
    return n;
}

/* A file name may hold any bytes, a JSON text may not: what is not UTF-8 becomes U+FFFD. */
void lmoe__text_add_json(lmoe__text *s, const char *text)
{
    lmoe__text_add_bytes(s, "\"", 1);
    for (const unsigned char *p = (const unsigned char *)text; *p;) {
        size_t n = utf8_length(p);
        if (n == 0) {
            lmoe__text_add(s, "\\ufffd");
            n = 1;
        } else if (*p == '"' || *p == '\\') {
            lmoe__text_add(s, "\\%c", *p);
        } else if (*p == '\n') {
            lmoe__text_add(s, "\\n");
        } else if (*p == '\t') {
            lmoe__text_add(s, "\\t");
        } else if (*p < 0x20 || *p == 0x7f) {
            lmoe__text_add(s, "\\u%04x", *p);
        } else {
            lmoe__text_add_bytes(s, (const char *)p, n);
        }
        p += n;
    }
    lmoe__text_add_bytes(s, "\"", 1);
}

/* ---- the nearest word ---- */

enum { LONGEST_WORD = 63 };

/* People mix these up without meaning another word. */
static int fold(char c)
{
    return c == '-' ? '_' : tolower((unsigned char)c);
}

/* Insertions, deletions, replacements and swaps of neighbours that turn a into b. */
static int edit_distance(const char *a, int n, const char *b, int m)
{
    int rows[3][LONGEST_WORD + 1];
    int *before = rows[0], *last = rows[1], *now = rows[2];
    for (int j = 0; j <= m; j++) last[j] = j;
    for (int i = 1; i <= n; i++) {
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            int x = fold(a[i - 1]), y = fold(b[j - 1]);
            int d = last[j - 1] + (x != y);
            if (last[j] + 1 < d) d = last[j] + 1;
            if (now[j - 1] + 1 < d) d = now[j - 1] + 1;
            if (i > 1 && j > 1 && x == fold(b[j - 2]) && fold(a[i - 2]) == y &&
                before[j - 2] + 1 < d)
                d = before[j - 2] + 1;
            now[j] = d;
        }
        int *spare = before;
        before = last;
        last = now;
        now = spare;
    }
    return last[m];
}

const char *lmoe__nearest(const char *word, const char *const *candidates, int n)
{
    const char *best = NULL;
    int best_distance = 0;
    size_t length = strlen(word);
    if (length > LONGEST_WORD) return NULL;
    for (int i = 0; i < n; i++) {
        size_t other = strlen(candidates[i]);
        if (other > LONGEST_WORD) continue;
        int longer = (int)(other > length ? other : length);
        int d = edit_distance(word, (int)length, candidates[i], (int)other);
        /* a third of the letters wrong is a slip; one of two letters is another word */
        if (d > (longer + 1) / 3 || (best && d >= best_distance)) continue;
        best = candidates[i];
        best_distance = d;
    }
    return best;
}

/* ---- numbers for people ---- */

static const char *scaled_text(char *buf, size_t n, double x, double base, const char *const *units,
                               int count, const char *places[3])
{
    int i = 0;
    double size = fabs(x);
    /* 999.9996 prints as 1000: move to the next unit before rounding would */
    while (i + 1 < count && size >= base * (1 - 0.5e-3)) {
        size /= base;
        x /= base;
        i++;
    }
    const char *format = i == 0 && x == floor(x) ? "%.0f"
                                                 : places[size < 9.995   ? 0
                                                          : size < 99.95 ? 1
                                                                         : 2];
    char number[32];
    snprintf(number, sizeof number, format, x);
    snprintf(buf, n, "%s%s%s", number, units[i][0] ? " " : "", units[i]);
    return buf;
}

const char *lmoe__count_text(char *buf, size_t n, double count)
{
    static const char *const units[] = {"", "k", "M", "G", "T", "P"};
    return scaled_text(buf, n, count, 1000, units, 6, (const char *[]){"%.2f", "%.1f", "%.0f"});
}

const char *lmoe__bytes_text(char *buf, size_t n, double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    return scaled_text(buf, n, bytes, 1024, units, 6, (const char *[]){"%.1f", "%.1f", "%.0f"});
}
