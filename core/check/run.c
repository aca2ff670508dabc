/* SPDX-License-Identifier: Apache-2.0
 * core/check/run.c: the checks of one plugin file: which, on which classes, and what check.ini beside
 * the file says about them.
 *
 *   [skip]            of every plugin in the folder:  GROUP/NAME = the reason, which is reported
 *   [skip FILE]       of one plugin, its file without ".so"
 *   [CLASS]           options with which this class is checked, instead of its defaults
 */
#include "core/check/check.h"

#include <stdlib.h>
#include <sys/stat.h>

static const double scan_seconds = 10;

/* The file at work. */
typedef struct subject {
    lmoe_ctx *ctx;
    lmoe__arena *arena;
    const char *path;
    const char *stem; /* "lsm-gla" */
    lmoe__conf *notes;
    lmoe__scan scan;
    const lmoe__check_options *options;
    lmoe__check_report *report;
    bool shut; /* the first of all checks, that the file opens, failed */
} subject;

/* ---- check.ini ---- */

static lmoe_status check_skips(subject *s, const char *section)
{
    const char *key;
    for (int i = 0; (key = lmoe__conf_key(s->notes, section, i)); i++) {
        const char *reason = lmoe__conf_text(s->notes, section, key);
        bool known = false;
        for (int k = 0; lmoe__check_at(k); k++)
            known |= lmoe__check_matches(lmoe__check_at(k), key);
        if (known && reason && *reason) continue;
        return lmoe_error(s->ctx, LMOE_E_CONFIG, "%s: [%s] %s: %s",
                          lmoe__conf_where(s->notes, section, key), section, key,
                          known ? "say why it is skipped: check = reason"
                                : "there is no such check; lmoe plugin check --list names them");
    }
    return LMOE_OK;
}

static lmoe_status read_notes(subject *s)
{
    const char *slash = strrchr(s->path, '/'), *section;
    const char *file = lmoe__arena_printf(s->arena, "%.*scheck.ini",
                                          slash ? (int)(slash - s->path) + 1 : 0, s->path);
    struct stat st;
    if (stat(file, &st) != 0) return LMOE_OK;
    s->notes = lmoe__conf_read(s->ctx, file);
    if (!s->notes) return s->ctx->status;
    for (int i = 0; (section = lmoe__conf_section(s->notes, i)); i++) {
        if (strcmp(section, "skip") == 0 || strncmp(section, "skip ", 5) == 0)
            LMOE_TRY(check_skips(s, section));
    }
    return LMOE_OK;
}

/* The reason for which the check is skipped; NULL: none is given. */
static const char *reason_in(subject *s, const char *section, const lmoe__check *c)
{
    const char *key;
    for (int i = 0; (key = lmoe__conf_key(s->notes, section, i)); i++) {
        if (lmoe__check_matches(c, key)) return lmoe__conf_text(s->notes, section, key);
    }
    return NULL;
}

static const char *skip_reason(subject *s, const lmoe__check *c)
{
    if (!s->notes) return NULL;
    const char *reason = reason_in(s, lmoe__arena_printf(s->arena, "skip %s", s->stem), c);
    return reason ? reason : reason_in(s, "skip", c);
}

/* ---- running ---- */

static bool chosen(const lmoe__check *c, const lmoe__check_options *o)
{
    bool is = o->n_only == 0;
    for (int i = 0; i < o->n_only; i++) is |= lmoe__check_matches(c, o->only[i]);
    for (int i = 0; i < o->n_skip; i++) is &= !lmoe__check_matches(c, o->skip[i]);
    return is && c->level <= o->level && (o->bench || !(c->flags & LMOE__CHECK_BENCH));
}

static void count(lmoe__check_report *r, lmoe__outcome outcome)
{
    if (outcome == LMOE__PASS || outcome == LMOE__WARN) r->passed++;
    if (outcome == LMOE__WARN) r->warned++;
    if (outcome == LMOE__SKIP) r->skipped++;
    if (outcome == LMOE__FAIL || outcome == LMOE__CRASH || outcome == LMOE__TIMEOUT) r->failed++;
}

static void run_one(subject *s, const lmoe__check *c, const char *class)
{
    lmoe__check_result result = {.check = c, .class = class ? class : ""};
    lmoe__verdict *v = &result.verdict;
    const char *reason = skip_reason(s, c), *printed = NULL;
    if (reason) {
        v->outcome = LMOE__SKIP;
        snprintf(v->message, sizeof v->message, "check.ini: %s", reason);
    } else if (s->shut || (s->scan.error && !(c->flags & LMOE__CHECK_REFUSED))) {
        v->outcome = LMOE__SKIP;
        snprintf(v->message, sizeof v->message, "the file %s",
                 s->shut ? "does not open" : "is refused");
    } else {
        lmoe__check_isolated(s->arena, s->path, c, class, s->notes, s->options, v, &printed);
    }
    if (printed && v->outcome == LMOE__PASS) {
        v->outcome = LMOE__WARN;
        snprintf(v->message, sizeof v->message, "it prints: \"%s\"", printed);
    } else if (printed && !v->note[0]) {
        snprintf(v->note, sizeof v->note, "it printed: \"%s\"", printed);
    }
    count(s->report, v->outcome);
    if (c == lmoe__check_at(0)) s->shut = v->outcome != LMOE__PASS && v->outcome != LMOE__WARN;
    lmoe__check_report_result(s->report, &result);
}

/* Runs the chosen checks of one kind of class; returns how many. */
static int run_all(subject *s, const char *kind, const char *class)
{
    int n = 0;
    const lmoe__check *c;
    for (int i = 0; (c = lmoe__check_at(i)); i++) {
        if (!lmoe__check_is_for(c, kind) || !chosen(c, s->options)) continue;
        run_one(s, c, class);
        n++;
    }
    return n;
}

static lmoe_status run_subject(subject *s)
{
    const lmoe__check_options *o = s->options;
    int n = 0, classes = 0;
    LMOE_TRY(read_notes(s));
    LMOE_TRY(lmoe__scan_file(s->ctx, s->arena, s->path, scan_seconds, &s->scan));
    lmoe__check_report_begin(s->report);
    if (!o->class) n += run_all(s, NULL, NULL);
    for (int i = 0; i < s->scan.n_classes; i++) {
        if (o->class && strcmp(o->class, s->scan.classes[i].name) != 0) continue;
        classes++;
        n += run_all(s, s->scan.classes[i].kind, s->scan.classes[i].name);
    }
    lmoe__check_report_end(s->report);
    if (o->class && classes == 0)
        return lmoe_error(s->ctx, LMOE_E_CONFIG, "%s: it offers no class '%s'%s%s", s->path,
                          o->class, s->scan.error ? ": " : "", s->scan.error ? s->scan.error : "");
    if (n == 0)
        return lmoe_error(s->ctx, LMOE_E_CONFIG,
                          "no check was chosen: lmoe plugin check --list names them, with the "
                          "level that each needs and the kind of class that it is for");
    return LMOE_OK;
}

/* A class's name stands for the file that offers it. */
static lmoe_status find_file(subject *s, const char *path)
{
    struct stat st;
    if (stat(path, &st) == 0) {
        s->path = path;
        return LMOE_OK;
    }
    if (strstr(path, ".so") || !lmoe__class_name_ok(path))
        return lmoe_error(s->ctx, LMOE_E_CONFIG,
                          "%s: there is no such file; give a plugin's file or the name of a class",
                          path);
    lmoe__search search;
    lmoe__search_init(&search, s->arena, s->options->plugin_path);
    lmoe_status status = lmoe__search_find(&search, s->ctx, s->arena, path, &s->path);
    lmoe__search_free(&search);
    return status;
}

lmoe_status lmoe__check_file(lmoe_ctx *ctx, const char *path, const lmoe__check_options *o,
                             lmoe__check_report *report)
{
    memset(report, 0, sizeof *report);
    subject s = {.ctx = ctx, .arena = lmoe__arena_new(), .options = o, .report = report};
    lmoe_status status = find_file(&s, path);
    if (status == LMOE_OK) {
        const char *slash = strrchr(s.path, '/'), *file = slash ? slash + 1 : s.path;
        const char *end = strstr(file, ".so");
        s.stem =
            lmoe__arena_printf(s.arena, "%.*s", (int)(end ? end - file : (long)strlen(file)), file);
        report->path = s.path;
        report->options = o;
        status = run_subject(&s);
    }
    report->path = NULL; /* of the arena */
    lmoe__scan_free(&s.scan);
    lmoe__conf_free(s.notes);
    lmoe__arena_free(s.arena);
    return status;
}
