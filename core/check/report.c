/* SPDX-License-Identifier: Apache-2.0
 * core/check/report.c: what the checks found, as lines for people or as JSON.
 */
#include "core/check/check.h"

static const char *const outcomes[] = {"pass", "FAIL", "CRASH", "TIMEOUT", "skip", "warn"};
static const char *const json_outcomes[] = {"pass", "fail", "crash", "timeout", "skip", "warn"};
static const char *const levels[] = {"quick", "full", "soak"};

/* The command that asks the same question again. */
static void add_repeat(lmoe__text *text, const lmoe__check_report *r,
                       const lmoe__check_result *result)
{
    const lmoe__check_options *o = r->options;
    lmoe__text_add(text, "lmoe plugin check %s --only %s/%s", r->path, result->check->group,
                   result->check->name);
    if (*result->class) lmoe__text_add(text, " --class %s", result->class);
    if (o->plugin_path) lmoe__text_add(text, " --plugin-path %s", o->plugin_path);
    lmoe__text_add(text, " --level %s --repro %llu", levels[o->level], (unsigned long long)o->seed);
}

static bool is_failure(const lmoe__verdict *v)
{
    return v->outcome == LMOE__FAIL || v->outcome == LMOE__CRASH || v->outcome == LMOE__TIMEOUT;
}

static void print_result(const lmoe__check_report *r, const lmoe__check_result *result)
{
    const lmoe__verdict *v = &result->verdict;
    char name[128];
    snprintf(name, sizeof name, "%s/%s", result->check->group, result->check->name);
    printf("%-7s %-26s", outcomes[v->outcome], name);
    if (*result->class) printf(" %-20s", result->class);
    printf(" (%.2f s)%s%s\n", v->seconds, v->note[0] ? " " : "", v->note);
    if (v->message[0]) printf("        %s\n", v->message);
    if (is_failure(v)) {
        lmoe__text repeat = {0};
        add_repeat(&repeat, r, result);
        if (v->at[0]) printf("        case: %s\n", v->at);
        printf("        it must hold: %s\n", result->check->doc);
        printf("        again: %s\n", repeat.data);
        lmoe__text_free(&repeat);
    }
    fflush(stdout);
}

static void json_field(lmoe__text *t, const char *name, const char *value)
{
    lmoe__text_add(t, ", \"%s\": ", name);
    lmoe__text_add_json(t, value);
}

static void print_json(const lmoe__check_report *r, const lmoe__check_result *result)
{
    const lmoe__verdict *v = &result->verdict;
    lmoe__text t = {0}, repeat = {0};
    add_repeat(&repeat, r, result);
    lmoe__text_add(&t, "%s\n  {\"check\": \"%s/%s\", \"outcome\": \"%s\"", r->printed ? "," : "",
                   result->check->group, result->check->name, json_outcomes[v->outcome]);
    json_field(&t, "class", result->class);
    json_field(&t, "message", v->message);
    json_field(&t, "note", v->note);
    if (is_failure(v)) json_field(&t, "case", v->at);
    lmoe__text_add(&t, ", \"cases\": %lld, \"seconds\": %.4f", (long long)v->cases, v->seconds);
    json_field(&t, "again", repeat.data);
    lmoe__text_add(&t, "}");
    fputs(t.data, stdout);
    lmoe__text_free(&t);
    lmoe__text_free(&repeat);
}

void lmoe__check_report_begin(const lmoe__check_report *r)
{
    const lmoe__check_options *o = r->options;
    if (o->failures_only) return;
    if (!o->json) {
        printf("%s, level %s, seed %llu\n", r->path, levels[o->level], (unsigned long long)o->seed);
        return;
    }
    lmoe__text t = {0};
    lmoe__text_add(&t, "{\"file\": ");
    lmoe__text_add_json(&t, r->path);
    lmoe__text_add(&t, ", \"level\": \"%s\", \"seed\": %llu, \"results\": [", levels[o->level],
                   (unsigned long long)o->seed);
    fputs(t.data, stdout);
    lmoe__text_free(&t);
}

void lmoe__check_report_result(lmoe__check_report *r, const lmoe__check_result *result)
{
    if (r->options->failures_only && !is_failure(&result->verdict)) return;
    if (r->options->json)
        print_json(r, result);
    else
        print_result(r, result);
    r->printed++;
}

void lmoe__check_report_end(const lmoe__check_report *r)
{
    if (r->options->failures_only) return;
    if (r->options->json) {
        printf("\n], \"passed\": %d, \"failed\": %d, \"skipped\": %d, \"warned\": %d}\n", r->passed,
               r->failed, r->skipped, r->warned);
        return;
    }
    if (r->warned) printf("%d passed with a warning\n", r->warned);
    printf("%d passed, %d failed, %d skipped\n", r->passed, r->failed, r->skipped);
}

void lmoe__check_report_list(const lmoe__check_options *o)
{
    const lmoe__check *c;
    for (int i = 0; (c = lmoe__check_at(i)); i++) {
        char name[128];
        snprintf(name, sizeof name, "%s/%s", c->group, c->name);
        if (o->json) {
            lmoe__text t = {0};
            lmoe__text_add(&t, "%s\n  {\"check\": \"%s\", \"level\": \"%s\", \"seconds\": %g",
                           i ? "," : "[", name, levels[c->level], c->seconds);
            json_field(&t, "kind", c->kind ? c->kind : "");
            json_field(&t, "doc", c->doc);
            lmoe__text_add(&t, "}");
            fputs(t.data, stdout);
            lmoe__text_free(&t);
        } else {
            printf("%-26s %-6s %s\n", name, levels[c->level], c->doc);
            printf("%-26s        of %s%s\n", "",
                   !c->kind                    ? "the file"
                   : strcmp(c->kind, "*") == 0 ? "each class"
                                               : c->kind,
                   c->flags & LMOE__CHECK_BENCH ? "; with --bench" : "");
        }
    }
    if (o->json) printf("\n]\n");
}
