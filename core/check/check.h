/* SPDX-License-Identifier: Apache-2.0
 * core/check/check.h: the conformance kit: whether a plugin keeps its contracts.
 *
 *   check (one file for each group: file.c, descriptor.c, ...)   a table of functions
 *   child (child.c)   runs one check on one class in a process of its own, in limited time
 *   run (run.c)       which checks, on which classes; counts
 *   report (report.c) lines for people, JSON
 *   cli_check.c       lmoe plugin check, lmoe plugin fuzz
 *
 * The process that runs the checks never opens the plugin: whatever its code does (crash, hang,
 * exit, print) ends in a child and becomes the outcome of one check. A check knows no names: every
 * class of a kind is treated alike, with options of its own table.
 */
#ifndef LMOE_CORE_CHECK_H
#define LMOE_CORE_CHECK_H

#include "core/conf/conf.h"
#include "core/graph/graph.h"
#include "core/plug/plug.h"

/* ---- one check ---- */

enum { LMOE__QUICK = 0, LMOE__FULL = 1, LMOE__SOAK = 2 };

typedef enum lmoe__outcome {
    LMOE__PASS,
    LMOE__FAIL,
    LMOE__CRASH,   /* it died by a signal, or ended the process */
    LMOE__TIMEOUT, /* it did not end */
    LMOE__SKIP,    /* it could not be asked; the message says why */
    LMOE__WARN     /* passed, with something that the author should know */
} lmoe__outcome;

/* What a check found. Lies in memory that the child shares with its parent. */
typedef struct lmoe__verdict {
    lmoe__outcome outcome;
    bool done;          /* the check returned */
    int64_t cases;      /* that were looked at */
    char at[256];       /* the case at work: what a crash or time-out is blamed on */
    char message[2048]; /* why it is no pass */
    char note[512];     /* what was measured */
    double seconds;
} lmoe__verdict;

/* What a check is handed. */
typedef struct lmoe__exam {
    lmoe_ctx *ctx;
    lmoe__arena *arena; /* freed when the check ends */
    lmoe__registry *registry;
    const char *path;           /* of the plugin's file */
    const lmoe__plugin *plugin; /* opened; NULL for a check with LMOE__CHECK_CLOSED */
    const lmoe_class *class;    /* NULL: the check is of the file */
    void *options;              /* of the class: defaults, and what check.ini says; NULL without */
    uint64_t seed;              /* for lmoe__uniform and its sisters */
    int level;                  /* LMOE__QUICK ... */
    lmoe__verdict *verdict;
    const lmoe_device *device; /* lmoe__check_device opens it */
    void *dev;
} lmoe__exam;

enum {
    LMOE__CHECK_CLOSED = 1, /* the plugin is not opened before it */
    LMOE__CHECK_BENCH = 2,  /* only with --bench */
    LMOE__CHECK_REFUSED = 4 /* also of a file that the host refuses; needs LMOE__CHECK_CLOSED */
};

typedef struct lmoe__check {
    const char *group, *name; /* NULL ends a table */
    const char *doc;          /* what must hold, one sentence */
    const char *kind;         /* "lmoe.layer/1", several with blanks between, "*": each class; NULL:
                                 once, of the file */
    int level;                /* the lowest that runs it */
    double seconds;           /* until it counts as hanging */
    void (*run)(lmoe__exam *x);
    uint32_t flags;
} lmoe__check;

/* The first failure is kept, and outlives warnings and skips. A check that fails returns soon. */
void lmoe__check_fail(lmoe__exam *x, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The check cannot be asked of this class (it declares no summary; there is no such device). */
void lmoe__check_skip(lmoe__exam *x, const char *format, ...) __attribute__((format(printf, 2, 3)));
void lmoe__check_warn(lmoe__exam *x, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* What was measured, for the report: "worst error 3e-7 of 1e-6 allowed, seq 65". The last one is
 * kept. */
void lmoe__check_note(lmoe__exam *x, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Counts a case and names it: failures, crashes and time-outs tell it. */
void lmoe__check_case(lmoe__exam *x, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* True if status is LMOE_OK; else the check fails with `what` and the message of ctx, which is
 * cleared. */
bool lmoe__check_ok(lmoe__exam *x, lmoe_status status, const char *what);
bool lmoe__check_failed(const lmoe__exam *x);

/* Opens device/cpu into x->device and x->dev, once; closed when the check ends. False: failed. */
bool lmoe__check_device(lmoe__exam *x);

/* ---- tables (tables.c) ---- */

extern const lmoe__check lmoe__checks_file[];
extern const lmoe__check lmoe__checks_descriptor[];
extern const lmoe__check lmoe__checks_build[];
extern const lmoe__check lmoe__checks_endurance[];
extern const lmoe__check lmoe__checks_ops[];
extern const lmoe__check lmoe__checks_kernels[];
extern const lmoe__check lmoe__checks_devices[];
extern const lmoe__check lmoe__checks_numerics[];
extern const lmoe__check lmoe__checks_layers[];
extern const lmoe__check lmoe__checks_routers[];
extern const lmoe__check lmoe__checks_strategies[];
extern const lmoe__check lmoe__checks_communicators[];

/* i-th of all checks, NULL past the last. */
const lmoe__check *lmoe__check_at(int i);
/* True if the check's "group/name" is meant: pattern is a group, a glob, or a part of it. */
bool lmoe__check_matches(const lmoe__check *c, const char *pattern);
/* True for a check of this kind of class; kind NULL: of the file. */
bool lmoe__check_is_for(const lmoe__check *c, const char *kind);

/* ---- dynamic symbols of a file (symbols.c) ---- */

typedef struct lmoe__symbol {
    const char *name;
    bool defined, weak;
} lmoe__symbol;

typedef struct lmoe__dynamic {
    lmoe__symbol *symbols; /* global and weak ones */
    int n_symbols;
    const char **needed; /* libraries that it asks the dynamic linker for */
    int n_needed;
} lmoe__dynamic;

lmoe_status lmoe__elf_dynamic(lmoe_ctx *ctx, lmoe__arena *a, const char *path, lmoe__dynamic *out);

/* ---- one check in a process of its own (child.c) ---- */

typedef struct lmoe__check_options {
    const char *plugin_path;
    const char *only[16], *skip[16]; /* patterns; n_only 0: all */
    int n_only, n_skip;
    const char *class; /* only of this class; NULL: all, and the file's */
    int level;
    uint64_t seed;
    bool in_process, json, bench;
    bool failures_only; /* nothing else is reported */
} lmoe__check_options;

/* notes: check.ini; NULL: none. class: name, NULL for the file's checks. Everything that the child wrote goes to *printed (its
 * first 200 bytes; freed with the arena), NULL if it was silent. */
void lmoe__check_isolated(lmoe__arena *a, const char *path, const lmoe__check *c, const char *class,
                          lmoe__conf *notes, const lmoe__check_options *o, lmoe__verdict *verdict,
                          const char **printed);

/* ---- all of them (run.c, report.c) ---- */

typedef struct lmoe__check_result {
    const lmoe__check *check;
    const char *class; /* "" for the file's */
    lmoe__verdict verdict;
} lmoe__check_result;

typedef struct lmoe__check_report {
    const char *path;
    const lmoe__check_options *options;
    int passed, failed, skipped, warned;
    int printed; /* results so far, for JSON's commas */
} lmoe__check_report;

/* Runs what the options choose on one file and prints as it goes. A status says that the kit itself
 * could not go on: no such file, a wrong check.ini, a pattern that chooses nothing. */
lmoe_status lmoe__check_file(lmoe_ctx *ctx, const char *path, const lmoe__check_options *o,
                             lmoe__check_report *report);
void lmoe__check_report_begin(const lmoe__check_report *r);
void lmoe__check_report_result(lmoe__check_report *r, const lmoe__check_result *result);
void lmoe__check_report_end(const lmoe__check_report *r);
void lmoe__check_report_list(const lmoe__check_options *o);

/* lmoe plugin check ..., lmoe plugin fuzz ...: argv[0] is the subcommand. Return the exit code. */
int lmoe__cli_check(lmoe_ctx *ctx, int argc, char **argv);
int lmoe__cli_fuzz(lmoe_ctx *ctx, int argc, char **argv);

#endif
