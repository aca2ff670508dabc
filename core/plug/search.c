/* SPDX-License-Identifier: Apache-2.0
 * core/plug/search.c: from the name of a class to the file that offers it.
 *
 * The name alone decides the name of the file, so nothing else is opened, or even listed, to find
 * it: on a thousand ranks over a network file system a scan of a folder is a storm.
 */
#include "core/plug/plug.h"

#include "core/plug/plug_config.h"

#include <dirent.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RANK_OPTION, RANK_ENVIRONMENT, RANK_BUILD, RANK_USER, RANK_INSTALLED };

/* ---- names ---- */

static bool word_ok(const char *text, size_t n, const char *also)
{
    if (n == 0 || text[0] == '.' || text[0] == '-') return false;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (c == '.' && i + 1 < n && text[i + 1] == '.') return false;
        if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && !strchr(also, c)) return false;
    }
    return true;
}

bool lmoe__class_name_ok(const char *name)
{
    /* No '-' before the slash: it is what the slash becomes in a file's name. */
    size_t n = strcspn(name, "/"), rest = n + (name[n] != 0);
    return strlen(name) <= 100 && word_ok(name, n, "_.") &&
           word_ok(name + rest, strlen(name + rest), "_.-");
}

void lmoe__class_file(const char *name, char *file, size_t n)
{
    int stem = (int)strcspn(name, "/");
    snprintf(file, n, "%.*s-%s.so", stem, name, name[stem] ? name + stem + 1 : "");
}

void lmoe__file_class(const char *file, char *name, size_t n)
{
    size_t length = strlen(file);
    const char *dash = strchr(file, '-');
    name[0] = 0;
    if (!dash || length < 4 || strcmp(file + length - 3, ".so") != 0) return;
    snprintf(name, n, "%.*s/%.*s", (int)(dash - file), file, (int)(file + length - 3 - dash - 1),
             dash + 1);
    if (!lmoe__class_name_ok(name)) name[0] = 0;
}

/* ---- folders ---- */

static void add_folder(lmoe__search *s, lmoe__arena *a, int rank, const char *origin,
                       const char *path)
{
    char *real = realpath(path, NULL);
    struct stat st;
    bool exists = real && stat(real, &st) == 0 && S_ISDIR(st.st_mode);
    const char *kept = lmoe__arena_strdup(a, real ? real : path);
    free(real);
    for (int i = 0; i < s->count; i++) {
        if (strcmp(s->folders[i].path, kept) == 0) return; /* its first rank counts */
    }
    lmoe__folder f = {kept, origin, rank, exists};
    LMOE_PUSH(s->folders, s->count, s->capacity, f);
}

static void add_list(lmoe__search *s, lmoe__arena *a, int rank, const char *origin,
                     const char *list)
{
    while (list && *list) {
        size_t n = strcspn(list, ":");
        if (n > 0) add_folder(s, a, rank, origin, lmoe__arena_printf(a, "%.*s", (int)n, list));
        list += n + (list[n] == ':');
    }
}

void lmoe__program_folder(char *folder, size_t n)
{
    ssize_t length = readlink("/proc/self/exe", folder, n - 1);
    folder[length > 0 ? length : 0] = 0;
    char *slash = strrchr(folder, '/');
    if (slash) *slash = 0;
}

void lmoe__search_init(lmoe__search *s, lmoe__arena *a, const char *plugin_path)
{
    memset(s, 0, sizeof *s);
    add_list(s, a, RANK_OPTION, "--plugin-path", plugin_path);
    add_list(s, a, RANK_ENVIRONMENT, "LMOE_PLUGIN_PATH", secure_getenv("LMOE_PLUGIN_PATH"));
    char folder[4096];
    lmoe__program_folder(folder, sizeof folder);
    if (folder[0])
        add_folder(s, a, RANK_BUILD, "beside the program",
                   lmoe__arena_printf(a, "%s/plugins", folder));
    const char *data = secure_getenv("XDG_DATA_HOME"), *home = secure_getenv("HOME");
    if (data && *data) {
        add_folder(s, a, RANK_USER, "yours", lmoe__arena_printf(a, "%s/lmoe/plugins/1", data));
    } else if (home && *home) {
        add_folder(s, a, RANK_USER, "yours",
                   lmoe__arena_printf(a, "%s/.local/share/lmoe/plugins/1", home));
    }
    if (folder[0])
        add_folder(s, a, RANK_INSTALLED, "installed",
                   lmoe__arena_printf(a, "%s/" LMOE_PLUGIN_DIR, folder));
}

void lmoe__search_free(lmoe__search *s)
{
    free(s->folders);
    memset(s, 0, sizeof *s);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int lmoe__folder_files(const lmoe__folder *f, char ***files)
{
    int count = 0, capacity = 0;
    *files = NULL;
    DIR *dir = f->exists ? opendir(f->path) : NULL;
    if (!dir) return 0;
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        size_t n = strlen(e->d_name);
        if (n < 4 || strcmp(e->d_name + n - 3, ".so") != 0) continue;
        char *name = lmoe__malloc(n + 1);
        memcpy(name, e->d_name, n + 1);
        LMOE_PUSH(*files, count, capacity, name);
    }
    closedir(dir);
    if (count > 1) qsort(*files, (size_t)count, sizeof **files, by_name);
    return count;
}

/* ---- finding ---- */

typedef struct names {
    char **items;
    int count, capacity;
} names;

static void add_class(names *list, const char *file)
{
    char class[256];
    lmoe__file_class(file, class, sizeof class);
    if (class[0]) LMOE_PUSH(list->items, list->count, list->capacity, strdup(class));
}

/* The class that is there and whose name is near; "" if none is. */
static void meant(const lmoe__search *s, const char *name, char *found, size_t n)
{
    names list = {0};
    for (const lmoe__builtin *b = lmoe__builtins; b->file; b++) add_class(&list, b->file);
    for (int i = 0; i < s->count; i++) {
        char **files;
        int n_files = lmoe__folder_files(&s->folders[i], &files);
        for (int j = 0; j < n_files; j++) {
            add_class(&list, files[j]);
            free(files[j]);
        }
        free(files);
    }
    const char *near = lmoe__nearest(name, (const char *const *)list.items, list.count);
    snprintf(found, n, "%s", near ? near : "");
    for (int i = 0; i < list.count; i++) free(list.items[i]);
    free(list.items);
}

static lmoe_status not_found(const lmoe__search *s, lmoe_ctx *ctx, const char *name,
                             const char *file)
{
    lmoe__text folders = {0};
    for (int i = 0; i < s->count; i++) {
        const lmoe__folder *f = &s->folders[i];
        lmoe__text_add(&folders, "%s%s (%s%s)", i ? ", " : "", f->path, f->origin,
                       f->exists ? "" : "; there is no such folder");
    }
    char near[256];
    meant(s, name, near, sizeof near);
    lmoe_status status =
        lmoe_error(ctx, LMOE_E_CONFIG, "there is no class '%s'%s%s%s: no %s in %s", name,
                   near[0] ? "; did you mean '" : "", near, near[0] ? "'?" : "", file,
                   folders.data ? folders.data : "any folder");
    lmoe__text_free(&folders);
    return status;
}

lmoe_status lmoe__search_find(const lmoe__search *s, lmoe_ctx *ctx, lmoe__arena *a,
                              const char *name, const char **path)
{
    char file[256];
    lmoe__class_file(name, file, sizeof file);
    *path = NULL;
    int rank = 0;
    for (int i = 0; i < s->count; i++) {
        const lmoe__folder *f = &s->folders[i];
        if (*path && f->rank != rank) break;
        const char *here = lmoe__arena_printf(a, "%s/%s", f->path, file);
        if (!f->exists || access(here, F_OK) != 0) continue;
        if (*path)
            return lmoe_error(ctx, LMOE_E_CONFIG,
                              "class '%s' is offered twice by %s: %s and %s; remove one, or one of "
                              "the folders from the list",
                              name, f->origin, *path, here);
        *path = here;
        rank = f->rank;
    }
    return *path ? LMOE_OK : not_found(s, ctx, name, file);
}
