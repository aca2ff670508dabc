/* SPDX-License-Identifier: Apache-2.0
 * core/plug/cli_new.c: lmoe plugin new: a folder with a plugin to start from, made of the templates
 * that are installed with the command.
 *
 * template/start has what every kind gets, template/KIND the rest. A file's name may open with
 * NAME; in its text @NAME@, @CLASS@, @FILE@ (without .so) and @VENDOR@ are replaced.
 */
#include "core/cli/cli.h"
#include "core/plug/plug.h"

#include "core/plug/plug_config.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

static const char usage[] =
    "usage: lmoe plugin new --kind lsm|moe|parallel|comm|op NAME [--vendor V] [--dir FOLDER]\n"
    "\n"
    "writes a folder with a small plugin of that kind, which builds outside of lmoe's tree, and\n"
    "is there to be changed. Its class is V/NAME (vendor.me/NAME); the folder is NAME.\n";

static const char *const kinds[] = {"lsm", "moe", "parallel", "comm", "op"};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

typedef struct starter {
    lmoe_ctx *ctx;
    lmoe__arena *arena;
    const char *kind, *name, *folder;
    const char *vendor; /* "vendor.me" */
    const char *class;  /* "vendor.me/NAME" */
    const char *file;   /* "vendor.me-NAME" */
} starter;

static int bad_usage(const char *what)
{
    fprintf(stderr, "lmoe plugin new: %s\n%s", what, usage);
    return LMOE__EXIT_CONFIG;
}

/* ---- the command line ---- */

static bool is_kind(const char *word)
{
    for (int i = 0; i < N_KINDS; i++) {
        if (strcmp(kinds[i], word) == 0) return true;
    }
    return false;
}

/* NAME becomes part of file names and of C: letters, digits, '_'. */
static bool name_ok(const char *name)
{
    return name[0] >= 'a' && name[0] <= 'z' && strlen(name) <= 60 &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == strlen(name);
}

static int take(starter *s, int argc, char **argv)
{
    static const char *const flags[] = {"--kind", "--dir", "--vendor", NULL};
    for (int i = 0; i < argc; i++) {
        const char **value = strcmp(argv[i], "--kind") == 0     ? &s->kind
                             : strcmp(argv[i], "--dir") == 0    ? &s->folder
                             : strcmp(argv[i], "--vendor") == 0 ? &s->vendor
                                                                : NULL;
        if (value) {
            if (i + 1 == argc) return bad_usage("the last option has no value");
            *value = argv[++i];
        } else if (argv[i][0] == '-') {
            return lmoe__arguments_unknown("plugin new", argv[i], flags);
        } else if (s->name) {
            return bad_usage("there is more than one NAME");
        } else {
            s->name = argv[i];
        }
    }
    if (!s->name) return bad_usage("a NAME is missing");
    if (!s->kind) return bad_usage("say of which --kind it is to be");
    return 0;
}

static lmoe_status complete(starter *s)
{
    if (!is_kind(s->kind)) {
        const char *near = lmoe__nearest(s->kind, kinds, N_KINDS);
        return lmoe_error(s->ctx, LMOE_E_CONFIG,
                          "there is no kind '%s' to start from%s%s%s; there are lsm (a sequence "
                          "layer), moe (a router), parallel (a strategy), comm (a communicator) "
                          "and op",
                          s->kind, near ? "; did you mean '" : "", near ? near : "",
                          near ? "'?" : "");
    }
    if (!name_ok(s->name))
        return lmoe_error(s->ctx, LMOE_E_CONFIG,
                          "'%s' cannot be the NAME of a plugin: it becomes part of file names, so "
                          "it begins with a lower case letter, and has at most 60 of them, digits "
                          "and '_'",
                          s->name);
    const char *vendor = s->vendor ? s->vendor : "me";
    s->vendor = strchr(vendor, '.') ? vendor : lmoe__arena_printf(s->arena, "vendor.%s", vendor);
    s->class = lmoe__arena_printf(s->arena, "%s/%s", s->vendor, s->name);
    if (!lmoe__class_name_ok(s->class) || strchr(s->vendor, '/'))
        return lmoe_error(s->ctx, LMOE_E_CONFIG,
                          "'%s' cannot be the vendor of a plugin: it stands before the '/' in the "
                          "names of classes, and has lower case letters, digits, '_' and '.'",
                          vendor);
    char file[256];
    lmoe__class_file(s->class, file, sizeof file);
    s->file = lmoe__arena_printf(s->arena, "%.*s", (int)strlen(file) - 3, file);
    if (!s->folder) s->folder = s->name;
    return LMOE_OK;
}

/* ---- templates ---- */

/* Beside the program in the build tree, else where it is installed. */
static lmoe_status find_templates(starter *s, const char **found)
{
    char program[4096];
    lmoe__program_folder(program, sizeof program);
    const char *const places[] = {"template", LMOE_TEMPLATE_DIR};
    for (int i = 0; i < 2; i++) {
        struct stat st;
        *found = lmoe__arena_printf(s->arena, "%s/%s", program, places[i]);
        const char *start = lmoe__arena_printf(s->arena, "%s/start", *found);
        if (stat(start, &st) == 0 && S_ISDIR(st.st_mode)) return LMOE_OK;
    }
    return lmoe_error(s->ctx, LMOE_E_CONFIG,
                      "the templates of plugins are missing: there is no %s; install lmoe with its "
                      "development files (meson install, tag devel)",
                      *found);
}

/* The text with every placeholder replaced. */
static void fill_in(const starter *s, const char *text, lmoe__text *out)
{
    const struct {
        const char *word, *value;
    } marks[] = {
        {"@NAME@", s->name}, {"@CLASS@", s->class}, {"@FILE@", s->file}, {"@VENDOR@", s->vendor}};
    enum { N = sizeof marks / sizeof *marks };
    while (*text) {
        size_t n = strcspn(text, "@");
        lmoe__text_add_bytes(out, text, n);
        text += n;
        int i = 0;
        while (i < N && strncmp(text, marks[i].word, strlen(marks[i].word)) != 0) i++;
        if (i < N) {
            lmoe__text_add(out, "%s", marks[i].value);
            text += strlen(marks[i].word);
        } else if (*text) {
            lmoe__text_add_bytes(out, text++, 1);
        }
    }
}

static lmoe_status copy_file(starter *s, const char *from, const char *to)
{
    char *data;
    lmoe__text text = {0};
    LMOE_TRY(lmoe__read_file(s->ctx, from, &data, NULL));
    fill_in(s, data, &text);
    free(data);
    lmoe_status status = lmoe__write_file(s->ctx, to, text.data, text.length);
    lmoe__text_free(&text);
    return status;
}

/* A plugin in a folder that others may write is refused, whatever the umask says. */
static lmoe_status make_folder(starter *s, const char *path)
{
    if (mkdir(path, 0755) == 0) return LMOE_OK;
    if (errno == EEXIST)
        return lmoe_error(s->ctx, LMOE_E_CONFIG,
                          "%s exists already, and nothing in it is touched; name another folder "
                          "with --dir",
                          path);
    return lmoe_error(s->ctx, LMOE_E_CONFIG, "cannot make the folder %s: %s", path,
                      strerror(errno));
}

static lmoe_status copy_folder(starter *s, const char *from, const char *to)
{
    struct dirent **entries;
    lmoe_status status = LMOE_OK;
    int n = scandir(from, &entries, NULL, alphasort);
    if (n < 0)
        return lmoe_error(s->ctx, LMOE_E_IO, "cannot read the folder %s: %s", from,
                          strerror(errno));
    for (int i = 0; i < n; i++) {
        const char *name = entries[i]->d_name;
        bool named = strncmp(name, "NAME.", 5) == 0;
        struct stat st;
        const char *source = lmoe__arena_printf(s->arena, "%s/%s", from, name);
        const char *target = lmoe__arena_printf(s->arena, "%s/%s%s", to, named ? s->name : "",
                                                named ? name + 4 : name);
        if (status != LMOE_OK || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
            /* nothing to copy */
        } else if (stat(source, &st) == 0 && S_ISDIR(st.st_mode)) {
            status = make_folder(s, target);
            if (status == LMOE_OK) status = copy_folder(s, source, target);
        } else {
            status = copy_file(s, source, target);
        }
        free(entries[i]);
    }
    free(entries);
    return status;
}

static lmoe_status write_starter(starter *s)
{
    const char *templates;
    LMOE_TRY(complete(s));
    LMOE_TRY(find_templates(s, &templates));
    LMOE_TRY(make_folder(s, s->folder));
    LMOE_TRY(copy_folder(s, lmoe__arena_printf(s->arena, "%s/start", templates), s->folder));
    return copy_folder(s, lmoe__arena_printf(s->arena, "%s/%s", templates, s->kind), s->folder);
}

int lmoe__cli_plugin_new(lmoe_ctx *ctx, int argc, char **argv)
{
    starter s = {.ctx = ctx};
    if (argc > 0 && strcmp(argv[0], "--help") == 0) return fputs(usage, stdout) == EOF;
    int code = take(&s, argc, argv);
    if (code) return code;
    s.arena = lmoe__arena_new();
    lmoe_status status = write_starter(&s);
    if (status == LMOE_OK)
        printf("%s is in %s, to be changed: %s.c, README.md. To build and to try it:\n"
               "  cd %s\n"
               "  meson setup build && meson test -C build\n"
               "  lmoe train run.ini --plugin-path build\n",
               s.class, s.folder, s.name, s.folder);
    lmoe__arena_free(s.arena);
    return status == LMOE_OK ? 0 : lmoe__cli_report(ctx);
}
