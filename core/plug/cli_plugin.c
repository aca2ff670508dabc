/* SPDX-License-Identifier: Apache-2.0
 * core/plug/cli_plugin.c: lmoe plugin list, lmoe plugin info, and the way to the other subcommands: new
 * (cli_new.c), check and fuzz (core/check).
 *
 * Exit codes: 0 done; 1 list found a file that is refused or misbehaves; 2 the command line, or the
 * class that it names, cannot be used.
 */
#include "core/check/check.h"
#include "core/cli/cli.h"
#include "core/plug/plug.h"

#include <stdlib.h>

static const double scan_seconds = 5;

static const char usage[] =
    "usage: lmoe plugin list [--plugin-path FOLDERS] [FILE ...]\n"
    "       lmoe plugin info [--plugin-path FOLDERS] [--ini] CLASS\n"
    "       lmoe plugin new --kind KIND NAME [--vendor V] [--dir FOLDER]\n"
    "       lmoe plugin check FILE|CLASS ...   (lmoe plugin check --help says more)\n"
    "       lmoe plugin fuzz FILE|CLASS ...\n"
    "\n"
    "list opens each plugin file (those named, or all in the folders where plugins are looked\n"
    "for) in a process of its own, and says what it offers or why it is refused. info tells the\n"
    "options of a class; with --ini as a section to paste into a run file. new writes a folder\n"
    "with a plugin to start from. check asks whether a plugin keeps its contracts, fuzz does so\n"
    "again and again.\n";

typedef struct arguments {
    const char *plugin_path;
    bool ini;
    char **rest;
    int n_rest;
} arguments;

static int bad_usage(const char *what)
{
    fprintf(stderr, "lmoe plugin: %s\n%s", what, usage);
    return LMOE__EXIT_CONFIG;
}

/* Options may stand anywhere; the other words are moved to the front of argv. */
static int parse_arguments(int argc, char **argv, arguments *a)
{
    static const char *const flags[] = {"--ini", "--plugin-path", NULL};
    memset(a, 0, sizeof *a);
    a->rest = argv;
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--ini") == 0) {
            a->ini = true;
        } else if (strcmp(argv[i], "--plugin-path") == 0) {
            if (i + 1 == argc) return bad_usage("--plugin-path needs folders, separated by ':'");
            a->plugin_path = argv[++i];
        } else if (argv[i][0] == '-') {
            return lmoe__arguments_unknown("plugin", argv[i], flags);
        } else {
            a->rest[a->n_rest++] = argv[i];
        }
    }
    return 0;
}

/* ---- list ---- */

typedef struct seen {
    const char *file;
    const char *path;
    int rank;
} seen;

typedef struct listing {
    lmoe_ctx *ctx;
    lmoe__arena *arena;
    seen *seen;
    int n_seen, cap_seen;
    int faults;
} listing;

static const char *kind_word(const char *id)
{
    const lmoe__kind *k = lmoe__kind_find(id);
    return k ? k->word : id;
}

static void print_class(const char *name, const char *kind, const char *file, const char *summary)
{
    printf("  %-22s %-13s %-24s %s\n", name, kind_word(kind), file, summary);
}

static int list_file(listing *l, const char *path)
{
    lmoe__scan s;
    if (lmoe__scan_file(l->ctx, l->arena, path, scan_seconds, &s) != LMOE_OK)
        return lmoe__cli_report(l->ctx);
    const char *slash = strrchr(path, '/'), *file = slash ? slash + 1 : path;
    for (int i = 0; i < s.n_classes && !s.error; i++) {
        print_class(s.classes[i].name, s.classes[i].kind, file, s.classes[i].summary);
    }
    if (s.error) { /* it opens with the path, whose end stands in front already */
        size_t n = strlen(path);
        bool named = strncmp(s.error, path, n) == 0 && strncmp(s.error + n, ": ", 2) == 0;
        printf("  %-22s refused: %s\n", file, named ? s.error + n + 2 : s.error);
    }
    if (s.printed)
        printf("  %-22s warning: prints while it is loaded, which a plugin must not: \"%s\"\n",
               file, s.printed);
    l->faults += s.error || s.printed;
    lmoe__scan_free(&s);
    return 0;
}

static void list_builtins(listing *l, lmoe__registry *r)
{
    for (const lmoe__builtin *b = lmoe__builtins; b->file; b++) {
        char name[256];
        const lmoe_class *c;
        if (b == lmoe__builtins) printf("built in\n");
        lmoe__file_class(b->file, name, sizeof name);
        if (lmoe__registry_find(r, l->ctx, NULL, name, &c) != LMOE_OK) {
            printf("  %-22s refused: %s\n", b->file, l->ctx->message);
            lmoe__ctx_clear(l->ctx);
            l->faults++;
            continue;
        }
        const lmoe__plugin *p = lmoe__registry_owner(r, c);
        for (int i = 0; i < p->n_classes; i++) {
            print_class(p->classes[i]->name, p->classes[i]->kind, "", p->classes[i]->summary);
        }
        seen s = {b->file, "the one built in", -1};
        LMOE_PUSH(l->seen, l->n_seen, l->cap_seen, s);
    }
}

static int list_folder(listing *l, const lmoe__folder *f)
{
    char **files;
    int n = lmoe__folder_files(f, &files), code = 0;
    printf("%s (%s%s)\n", f->path, f->origin,
           !f->exists ? "; there is no such folder"
           : n == 0   ? "; no plugins"
                      : "");
    for (int i = 0; i < n && code == 0; i++) {
        const char *path = lmoe__arena_printf(l->arena, "%s/%s", f->path, files[i]);
        const seen *first = NULL;
        for (int j = 0; j < l->n_seen && !first; j++) {
            if (strcmp(l->seen[j].file, files[i]) == 0) first = &l->seen[j];
        }
        if (first && first->rank == f->rank) {
            printf("  %-22s refused: the same file is in a folder of the same rank: %s; remove "
                   "one\n",
                   files[i], first->path);
            l->faults++;
        } else if (first) {
            printf("  %-22s shadowed by %s\n", files[i], first->path);
        } else {
            seen s = {lmoe__arena_strdup(l->arena, files[i]), path, f->rank};
            LMOE_PUSH(l->seen, l->n_seen, l->cap_seen, s);
            code = list_file(l, path);
        }
    }
    for (int i = 0; i < n; i++) free(files[i]);
    free(files);
    return code;
}

static int list(lmoe_ctx *ctx, const arguments *a)
{
    listing l = {.ctx = ctx, .arena = lmoe__arena_new()};
    int code = 0;
    if (a->n_rest > 0) {
        for (int i = 0; i < a->n_rest && code == 0; i++) code = list_file(&l, a->rest[i]);
    } else {
        lmoe__registry *r = lmoe__registry_new(a->plugin_path);
        const lmoe__search *s = lmoe__registry_search(r);
        list_builtins(&l, r);
        for (int i = 0; i < s->count && code == 0; i++) code = list_folder(&l, &s->folders[i]);
        lmoe__registry_free(r);
    }
    free(l.seen);
    lmoe__arena_free(l.arena);
    return code ? code : l.faults ? LMOE__EXIT_FAILED : 0;
}

/* ---- info ---- */

static void print_info(const lmoe_class *c, const lmoe__plugin *p)
{
    printf("%s: %s\n", c->name, c->summary);
    printf("  kind     %s (%s)\n", c->kind, kind_word(c->kind));
    printf("  plugin   %s %s, %s%s%s\n", p->info.id, p->info.version, p->info.licence,
           p->info.url ? ", " : "", p->info.url ? p->info.url : "");
    printf("  file     %s\n", p->path);
    if (p->digest[0]) printf("  digest   %s\n", p->digest);
    printf(c->options && c->options->name ? "\noptions\n" : "\nno options\n");
    for (const lmoe_option *o = c->options; o && o->name; o++) {
        lmoe__text value = {0};
        lmoe__option_describe(o, &value);
        if (!o->initial) {
            lmoe__text_add(&value, "; must be given");
        } else {
            lmoe__text_add(&value, "; default %s", o->initial[0] ? o->initial : "empty");
        }
        printf("  %-20s %s\n      %s\n", o->name, o->doc, value.data);
        lmoe__text_free(&value);
    }
}

/* The section of a strategy's options is its mesh axis: the one of its name, or an example. */
static const char *axis_of(const char *class_name)
{
    static const char *const axes[] = {"dp", "sp", "tp", "ep", "pp", "fsdp"};
    const char *last = strrchr(class_name, '/');
    for (size_t i = 0; last && i < sizeof axes / sizeof *axes; i++) {
        if (strcmp(last + 1, axes[i]) == 0) return axes[i];
    }
    return "sp";
}

/* How a run file names a class of this kind, and the section where its options stand. */
static void print_ini(const lmoe_class *c)
{
    static const struct {
        const char *kind, *section, *key, *options;
    } places[] = {
        {LMOE_KIND_LAYER, "layer L", "class", NULL},  {LMOE_KIND_ROUTER, "ffn", "router", "router"},
        {LMOE_KIND_STRATEGY, "parallel", NULL, NULL}, /* the key is the mesh axis */
        {LMOE_KIND_COMM, "parallel", "comm", "comm"}, {LMOE_KIND_DEVICE, "device", "class", NULL},
    };
    printf("; %s\n", c->summary);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        if (strcmp(places[i].kind, c->kind) != 0) continue;
        const char *axis = axis_of(c->name), *key = places[i].key ? places[i].key : axis;
        printf("[%s]\n%s = %s\n", places[i].section, key, c->name);
        const char *options = places[i].key ? places[i].options : axis;
        if (options && c->options) printf("\n[%s]\n", options);
    }
    if (c->options) lmoe__options_print_ini(stdout, c->options);
}

static int info(lmoe_ctx *ctx, const arguments *a)
{
    if (a->n_rest != 1) return bad_usage("info takes the name of one class");
    lmoe__registry *r = lmoe__registry_new(a->plugin_path);
    const lmoe_class *c;
    lmoe_status status = lmoe__registry_find(r, ctx, NULL, a->rest[0], &c);
    if (status == LMOE_OK) {
        if (a->ini) {
            print_ini(c);
        } else {
            print_info(c, lmoe__registry_owner(r, c));
        }
    }
    lmoe__registry_free(r);
    return status == LMOE_OK ? 0 : lmoe__cli_report(ctx);
}

int lmoe__cli_plugin(lmoe_ctx *ctx, int argc, char **argv)
{
    arguments a;
    if (argc < 2) return bad_usage("say what to do: list, info, new, check or fuzz");
    const char *command = argv[1];
    if (strcmp(command, "--help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    if (strcmp(command, "new") == 0) return lmoe__cli_plugin_new(ctx, argc - 2, argv + 2);
    if (strcmp(command, "check") == 0) return lmoe__cli_check(ctx, argc - 1, argv + 1);
    if (strcmp(command, "fuzz") == 0) return lmoe__cli_fuzz(ctx, argc - 1, argv + 1);
    int code = parse_arguments(argc - 2, argv + 2, &a);
    if (code) return code;
    if (strcmp(command, "info") == 0) return info(ctx, &a);
    if (strcmp(command, "list") != 0)
        return bad_usage("there is list, info, new, check and fuzz, nothing else");
    return a.ini ? bad_usage("--ini goes with info") : list(ctx, &a);
}
