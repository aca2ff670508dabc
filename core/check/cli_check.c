/* SPDX-License-Identifier: Apache-2.0
 * core/check/cli_check.c: lmoe plugin check, lmoe plugin fuzz.
 *
 * Exit codes: 0 nothing failed; 1 a check failed; 2 the command line, the file or its check.ini
 * cannot be used.
 */
#include "core/check/check.h"

#include "core/cli/cli.h"

#include <getopt.h>
#include <stdlib.h>
#include <time.h>

static const char usage[] =
    "usage: lmoe plugin check FILE|CLASS [options]\n"
    "       lmoe plugin check --list [--json]\n"
    "       lmoe plugin fuzz FILE|CLASS [--time SECONDS] [--count N] [options]\n"
    "check asks whether a plugin keeps its contracts, each question in a process of its own; fuzz\n"
    "asks again with new seeds until the time or the count is up, and prints the seed of what\n"
    "fails.\n"
    "  --level quick|full|soak   how much is asked (quick; fuzz: full)\n"
    "  --only PATTERN            only these: a group, group/name, a part of it, or a glob\n"
    "  --skip PATTERN            not these; both may be given several times\n"
    "  --class CLASS             only this class of the file\n"
    "  --repro SEED              the seed of random inputs (1); a failure says the one it had\n"
    "  --bench                   times kernels too\n"
    "  --in-process              in this process, for a debugger: a crash ends it\n"
    "  --json                    the report as JSON\n"
    "  --plugin-path FOLDERS     folders searched first for devices and communicators\n"
    "A file check.ini beside the plugin may skip checks, each with its reason, in [skip] or\n"
    "[skip FILE], and give the options with which a class is checked, in [CLASS].\n";

typedef struct request {
    lmoe__check_options o;
    const char *file;
    bool list, help, seeded;
    double seconds; /* of fuzz; 0: no limit */
    int64_t count;
} request;

static bool read_level(const char *text, int *level)
{
    static const char *const words[] = {"quick", "full", "soak"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(text, words[i]) != 0) continue;
        *level = i;
        return true;
    }
    return false;
}

static bool read_number(const char *text, uint64_t *out)
{
    char *end;
    *out = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end;
}

static const char *add_pattern(const char **list, int *n, const char *pattern)
{
    if (*n == 16) return "at most 16 patterns of --only or --skip";
    list[(*n)++] = pattern;
    return NULL;
}

/* Returns NULL, or what is wrong. */
static const char *read_option(int c, const char *value, bool fuzz, request *q)
{
    uint64_t count = 0;
    char *end;
    switch (c) {
    case 'o': return add_pattern(q->o.only, &q->o.n_only, value);
    case 's': return add_pattern(q->o.skip, &q->o.n_skip, value);
    case 'c': q->o.class = value; return NULL;
    case 'p': q->o.plugin_path = value; return NULL;
    case 'i': q->o.in_process = true; return NULL;
    case 'j': q->o.json = true; return NULL;
    case 'b': q->o.bench = true; return NULL;
    case 'L': q->list = true; return NULL;
    case 'h': q->help = true; return NULL;
    case 'l': return read_level(value, &q->o.level) ? NULL : "--level is quick, full or soak";
    case 'r':
        q->seeded = true;
        return read_number(value, &q->o.seed) ? NULL : "--repro is a whole number from 0";
    case 't':
        q->seconds = strtod(value, &end);
        return fuzz && !*end && q->seconds > 0 ? NULL : "--time is of fuzz: seconds, above 0";
    case 'n':
        if (!fuzz || !read_number(value, &count) || count < 1 || count > 1000000000)
            return "--count is of fuzz: a whole number above 0";
        q->count = (int64_t)count;
        return NULL;
    default: return "";
    }
}

static const char *read_request(int argc, char **argv, bool fuzz, request *q)
{
    static const struct option table[] = {
        {"only", required_argument, NULL, 'o'},  {"skip", required_argument, NULL, 's'},
        {"class", required_argument, NULL, 'c'}, {"plugin-path", required_argument, NULL, 'p'},
        {"level", required_argument, NULL, 'l'}, {"repro", required_argument, NULL, 'r'},
        {"in-process", no_argument, NULL, 'i'},  {"json", no_argument, NULL, 'j'},
        {"bench", no_argument, NULL, 'b'},       {"list", no_argument, NULL, 'L'},
        {"time", required_argument, NULL, 't'},  {"count", required_argument, NULL, 'n'},
        {"help", no_argument, NULL, 'h'},        {NULL, 0, NULL, 0}};
    *q = (request){.o = {.level = fuzz ? LMOE__FULL : LMOE__QUICK, .seed = 1}};
    optind = 0;
    for (int c; (c = getopt_long(argc, argv, "", table, NULL)) != -1;) {
        const char *wrong = read_option(c, optarg, fuzz, q);
        if (wrong) return wrong;
    }
    if (q->list || q->help) return NULL;
    if (argc - optind != 1) return "name one plugin file, or a class";
    q->file = argv[optind];
    return NULL;
}

/* True if the command is done; its exit code is in *code. */
static bool begin(int argc, char **argv, bool fuzz, request *q, int *code)
{
    const char *wrong = read_request(argc, argv, fuzz, q);
    *code = 0;
    if (wrong) {
        fprintf(stderr, "%s%s%s", wrong, *wrong ? "\n" : "", usage);
        *code = LMOE__EXIT_CONFIG;
    } else if (q->help) {
        fputs(usage, stdout);
    } else if (q->list) {
        lmoe__check_report_list(&q->o);
    }
    return wrong || q->help || q->list;
}

int lmoe__cli_check(lmoe_ctx *ctx, int argc, char **argv)
{
    request q;
    int code;
    lmoe__check_report report;
    if (begin(argc, argv, false, &q, &code)) return code;
    if (lmoe__check_file(ctx, q.file, &q.o, &report) != LMOE_OK) return lmoe__cli_report(ctx);
    return report.failed ? LMOE__EXIT_FAILED : 0;
}

/* ---- fuzz ---- */

int lmoe__cli_fuzz(lmoe_ctx *ctx, int argc, char **argv)
{
    request q;
    int code;
    if (begin(argc, argv, true, &q, &code)) return code;
    if (q.seconds == 0 && q.count == 0) q.seconds = 60;
    double start = lmoe__now();
    uint64_t first = q.seeded ? q.o.seed : (uint64_t)time(NULL);
    int64_t seeds = 0, failed = 0;
    for (; q.count == 0 || seeds < q.count; seeds++) {
        if (q.seconds > 0 && lmoe__now() - start >= q.seconds) break;
        lmoe__check_report report;
        q.o.seed = first + (uint64_t)seeds;
        q.o.failures_only = true;
        if (lmoe__check_file(ctx, q.file, &q.o, &report) != LMOE_OK) return lmoe__cli_report(ctx);
        failed += report.failed > 0;
    }
    printf("%lld seeds from %llu, %lld with a failure, %.0f s\n", (long long)seeds,
           (unsigned long long)first, (long long)failed, lmoe__now() - start);
    return failed ? LMOE__EXIT_FAILED : 0;
}
