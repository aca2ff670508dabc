/* SPDX-License-Identifier: Apache-2.0
 * core/check/descriptor.c: group descriptor: what a plugin says of itself and of its options.
 */
#include "core/check/check.h"

#include "core/conf/store.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>

static void accepted(lmoe__exam *x)
{
    lmoe__check_ok(x, lmoe__registry_open(x->registry, x->ctx, x->path), "loading it");
}

/* ---- the plugin ---- */

static const char *file_of(const lmoe__exam *x)
{
    const char *slash = strrchr(x->path, '/');
    return slash ? slash + 1 : x->path;
}

/* A class that run files name is looked for in the file of its name. */
static void file_name(lmoe__exam *x)
{
    char file[256];
    int named = 0;
    for (int i = 0; i < x->plugin->n_classes; i++) {
        const lmoe_class *c = x->plugin->classes[i];
        if (!lmoe__kind_find(c->kind)->folder) continue; /* ops and kernels: found by opening */
        lmoe__class_file(c->name, file, sizeof file);
        if (strcmp(file, file_of(x)) == 0) return;
        named++;
    }
    if (named > 0)
        lmoe__check_fail(x,
                         "the file is called %s, but its class %s is looked for in %s: rename the "
                         "file or the class",
                         file_of(x), x->plugin->classes[0]->name, file);
}

/* digits.digits..., and anything behind a '-' or '+' */
static bool is_version(const char *text)
{
    size_t n = strcspn(text, "-+");
    if (n == 0 || !isdigit((unsigned char)text[0])) return false;
    for (size_t i = 0; i < n; i++) {
        if (!isdigit((unsigned char)text[i]) && text[i] != '.') return false;
        if (text[i] == '.' && !isdigit((unsigned char)text[i + 1])) return false;
    }
    return true;
}

static bool is_licence(const char *text)
{
    if (!isalnum((unsigned char)*text)) return false;
    return strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-+() ") ==
           strlen(text);
}

static void identity(lmoe__exam *x)
{
    const lmoe_plugin *p = &x->plugin->info;
    if (!is_version(p->version))
        lmoe__check_fail(x, "its version is '%s'; it should be numbers with points between, 1.0.2",
                         p->version);
    if (!is_licence(p->licence))
        lmoe__check_fail(x, "its licence is '%s'; it should be an SPDX expression, Apache-2.0",
                         p->licence);
    if (p->url && strncmp(p->url, "https://", 8) != 0 && strncmp(p->url, "http://", 7) != 0)
        lmoe__check_fail(x, "its url is '%s'; it should start with https://, or be left out",
                         p->url);
}

/* Hosts ask once or often, from several runs of one process. */
static void constant(lmoe__exam *x)
{
    lmoe_entry entry;
    if (!lmoe__check_ok(x, lmoe__plugin_open(x->ctx, x->path, &entry), "opening it")) return;
    const lmoe_plugin *first = entry(lmoe__host());
    lmoe_plugin before = {0};
    size_t n = first->size < sizeof before ? first->size : sizeof before;
    memcpy(&before, first, n);
    const lmoe_plugin *second = entry(lmoe__host());
    if (first != second || memcmp(&before, second, n) != 0)
        lmoe__check_fail(x, "its entry does not return the same descriptor each time: it must be "
                            "static and constant");
}

/* ---- classes ---- */

enum { LONGEST_SUMMARY = 120 };

static const char *wrong_with_text(const char *text)
{
    for (const char *p = text; *p; p++) {
        if (iscntrl((unsigned char)*p)) return "has a line break or another control character";
    }
    if (isspace((unsigned char)*text)) return "begins with a blank";
    return text[strlen(text) - 1] == ' ' ? "ends with a blank" : NULL;
}

static void texts(lmoe__exam *x)
{
    const lmoe_class *c = x->class;
    const char *wrong = wrong_with_text(c->summary);
    if (wrong) lmoe__check_fail(x, "its summary %s: '%s'", wrong, c->summary);
    if (strlen(c->summary) > LONGEST_SUMMARY)
        lmoe__check_fail(x, "its summary has %zu characters; at most %d fit a line",
                         strlen(c->summary), LONGEST_SUMMARY);
    for (const lmoe_option *o = c->options; o && o->name; o++) {
        if (!o->doc || !*o->doc)
            lmoe__check_fail(x, "option '%s' has no doc: say in a sentence what it does", o->name);
        else if ((wrong = wrong_with_text(o->doc)))
            lmoe__check_fail(x, "the doc of option '%s' %s: '%s'", o->name, wrong, o->doc);
    }
}

/* Flags that this host gives a meaning, for each kind. */
static uint32_t known_flags(const char *kind)
{
    if (strcmp(kind, LMOE_KIND_COMM) == 0)
        return LMOE_COMM_THREADS | LMOE_COMM_DEVICE | LMOE_COMM_PROCESSES;
    if (strcmp(kind, LMOE_KIND_STRATEGY) == 0)
        return LMOE_STRATEGY_FEATURES | LMOE_STRATEGY_EXPERTS;
    if (strcmp(kind, LMOE_KIND_ROUTER) == 0)
        return LMOE_ROUTER_SUM_ONE | LMOE_ROUTER_SUM_AT_MOST | LMOE_ROUTER_VARYING;
    return 0;
}

static void flags(lmoe__exam *x)
{
    uint32_t unknown = x->class->flags & ~known_flags(x->class->kind);
    if (unknown)
        lmoe__check_fail(x,
                         "its flags hold 0x%x, which mean nothing for a %s; a later host may "
                         "give them a meaning: leave them 0",
                         (unsigned)unknown, lmoe__kind_find(x->class->kind)->word);
}

/* ---- options ---- */

/* Sets an option to a text and reads it back: the text that comes out must give the same bytes. */
static bool round_trip(lmoe__exam *x, const lmoe_option *o, const char *text)
{
    const lmoe_class *c = x->class;
    void *a = lmoe__arena_alloc(x->arena, c->options_size),
         *b = lmoe__arena_alloc(x->arena, c->options_size);
    lmoe__check_case(x, "%s = %s", o->name, text);
    if (!lmoe__option_parse(o, text, a, x->arena)) {
        lmoe__check_fail(x, "option '%s' does not take '%s', which its table allows", o->name,
                         text);
        return false;
    }
    const char *back = lmoe__option_to_text(o, a, x->arena);
    if (!lmoe__option_parse(o, back, b, x->arena)) {
        lmoe__check_fail(x, "option '%s' = %s is written as '%s', which it does not take", o->name,
                         text, back);
        return false;
    }
    const char *twice = lmoe__option_to_text(o, b, x->arena);
    if (strcmp(back, twice) != 0)
        lmoe__check_fail(x, "option '%s' = %s is written as '%s', and that as '%s'", o->name, text,
                         back, twice);
    return true;
}

static void round_trip_number(lmoe__exam *x, const lmoe_option *o)
{
    bool whole = o->type == LMOE_OPTION_INT, limited = o->min != 0 || o->max != 0;
    double low = limited ? o->min : -1e6, high = limited ? o->max : 1e6;
    for (int i = 0; i <= 4; i++) {
        double value = low + (high - low) * i / 4;
        if (whole) value = ceil(value);
        if (value > high || fabs(value) > 1e15) continue;
        round_trip(x, o, lmoe__arena_printf(x->arena, whole ? "%.0f" : "%.17g", value));
    }
}

/* A text that the option must refuse; NULL: there is none. */
static const char *refused_text(lmoe__exam *x, const lmoe_option *o)
{
    bool limited = o->min != 0 || o->max != 0;
    switch (o->type) {
    case LMOE_OPTION_BOOL: return "maybe";
    case LMOE_OPTION_INT:
        return limited && o->max < 1e15 ? lmoe__arena_printf(x->arena, "%.0f", o->max + 1) : "1x";
    case LMOE_OPTION_FLOAT:
        return limited && o->max < 1e300
                   ? lmoe__arena_printf(x->arena, "%.17g", o->max + fabs(o->max) + 1)
                   : "1,5";
    case LMOE_OPTION_ENUM: return "no_such_word";
    case LMOE_OPTION_TEXT: return o->choices ? "no_such_word" : NULL;
    case LMOE_OPTION_CHARS: {
        char *text = lmoe__arena_alloc(x->arena, (size_t)o->max + 2);
        memset(text, 'a', (size_t)o->max + 1);
        return text;
    }
    }
    return NULL;
}

static void unique_words(lmoe__exam *x, const lmoe_option *o)
{
    char words[64][64];
    const char *p = o->choices ? o->choices : "";
    int n = 0;
    for (int used; n < 64 && sscanf(p, " %63s%n", words[n], &used) == 1; p += used, n++) {
        for (int i = 0; i < n; i++) {
            if (strcmp(words[i], words[n]) == 0)
                lmoe__check_fail(x,
                                 "option '%s' has the choice '%s' twice; the second means nothing",
                                 o->name, words[n]);
        }
    }
}

static void refuses(lmoe__exam *x, const char *key, const char *text)
{
    const lmoe_class *c = x->class;
    void *room = lmoe__arena_alloc(x->arena, c->options_size + 1);
    const char *assignment = lmoe__arena_printf(x->arena, "%s=%s", key, text);
    lmoe__check_case(x, "%s", assignment);
    lmoe_status status =
        lmoe__options_parse_one(x->ctx, c->name, c->options, assignment, room, x->arena);
    if (status == LMOE_OK)
        lmoe__check_fail(x, "it takes %s", assignment);
    else if (!strstr(x->ctx->message, key))
        lmoe__check_fail(x, "'%s' is refused by words that do not name the option: %s", assignment,
                         x->ctx->message);
    lmoe__ctx_clear(x->ctx);
}

static void options(lmoe__exam *x)
{
    const lmoe_class *c = x->class;
    char word[256];
    for (const lmoe_option *o = c->options; o && o->name; o++) {
        unique_words(x, o);
        if (o->initial) round_trip(x, o, o->initial);
        if (o->type == LMOE_OPTION_INT || o->type == LMOE_OPTION_FLOAT) round_trip_number(x, o);
        const char *p = o->type == LMOE_OPTION_BOOL ? "yes no" : o->choices ? o->choices : "";
        for (int n; sscanf(p, " %255s%n", word, &n) == 1; p += n) round_trip(x, o, word);
        const char *bad = refused_text(x, o);
        if (bad) refuses(x, o->name, bad);
    }
    if (c->options) refuses(x, "no_such_option", "1");
    lmoe__check_note(x, "%lld values", (long long)x->verdict->cases);
}

const lmoe__check lmoe__checks_descriptor[] = {
    {"descriptor", "accepted",
     "versions, sizes, names, kinds, options and load() are what this host can use", NULL,
     LMOE__QUICK, 10, accepted, LMOE__CHECK_CLOSED | LMOE__CHECK_REFUSED},
    {"descriptor", "file_name", "the file is called as a class of it, so that run files find it",
     NULL, LMOE__QUICK, 10, file_name, 0},
    {"descriptor", "identity", "version, licence and url are well formed", NULL, LMOE__QUICK, 10,
     identity, 0},
    {"descriptor", "constant", "the entry returns the same, unchanged descriptor each time", NULL,
     LMOE__QUICK, 10, constant, LMOE__CHECK_CLOSED},
    {"descriptor", "texts", "the summary is one line, and each option has a sentence of its own",
     "*", LMOE__QUICK, 10, texts, 0},
    {"descriptor", "flags", "only flags that mean something for its kind are set", "*", LMOE__QUICK,
     10, flags, 0},
    {"descriptor", "options",
     "options take what their table allows, write it back unchanged, and refuse the rest by name",
     "*", LMOE__QUICK, 10, options, 0},
    {0},
};
