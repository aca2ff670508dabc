/* SPDX-License-Identifier: Apache-2.0
 * core/plug/open.c: opens a plugin file and finds its entry: trust, format, linking, symbol.
 */
#include "core/plug/plug.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* Code of this file will run as the caller: nobody else may be able to change it. */
static lmoe_status check_owner(lmoe_ctx *ctx, const char *path, const char *what,
                               const struct stat *st)
{
    if (st->st_uid != 0 && st->st_uid != geteuid())
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "%s: %s belongs to user %u; it must be yours (user %u) or root's, since "
                          "its code would run as you",
                          path, what, (unsigned)st->st_uid, (unsigned)geteuid());
    if (st->st_mode & S_IWOTH)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "%s: %s can be written by every user; take that away first (chmod o-w)",
                          path, what);
    return LMOE_OK;
}

static lmoe_status check_trust(lmoe_ctx *ctx, const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return lmoe_error(ctx, LMOE_E_CONFIG, "%s: cannot be opened: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return lmoe_error(ctx, LMOE_E_CONFIG, "%s: is not a regular file; a plugin is one", path);
    LMOE_TRY(check_owner(ctx, path, "the file", &st));

    /* The folder that really holds it, whatever links led there. */
    char *real = realpath(path, NULL);
    char *slash = real ? strrchr(real, '/') : NULL;
    if (slash) slash[slash == real] = 0;
    int failed = !slash || stat(real, &st) != 0;
    free(real);
    if (failed)
        return lmoe_error(ctx, LMOE_E_CONFIG, "%s: its folder cannot be read: %s", path,
                          strerror(errno));
    return check_owner(ctx, path, "its folder", &st);
}

/* The dynamic linker's message in our words, with what to do. */
static lmoe_status cannot_link(lmoe_ctx *ctx, const char *path, const char *said)
{
    static const char missing[] = ": cannot open shared object file";
    const char *end = strstr(said, missing), *symbol = strstr(said, "undefined symbol: ");
    if (strstr(said, "liblmoe"))
        return lmoe_error(ctx, LMOE_E_USAGE,
                          "%s: is linked to liblmoe; a plugin is linked to nothing of lmoe: build "
                          "it with lmoe's headers only",
                          path);
    if (end && strncmp(said, path, strlen(path)) != 0)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "%s: needs the library %.*s, which the dynamic linker does not find; "
                          "install it, or add its folder to LD_LIBRARY_PATH",
                          path, (int)(end - said), said);
    if (symbol) {
        symbol += strlen("undefined symbol: ");
        return lmoe_error(ctx, LMOE_E_USAGE,
                          "%s: uses '%.*s', which no library defines; link the plugin with "
                          "-Wl,-z,defs to see this when it is built",
                          path, (int)strcspn(symbol, " ,("), symbol);
    }
    return lmoe_error(ctx, LMOE_E_CONFIG, "%s: cannot be opened: %s", path, said);
}

static lmoe_status find_entry(lmoe_ctx *ctx, const char *path, void *handle, lmoe_entry *entry)
{
    void *symbol = dlsym(handle, LMOE_ENTRY_SYMBOL);
    memcpy(entry, &symbol, sizeof symbol); /* ISO C has no cast from object to function */
    if (symbol) return LMOE_OK;
    for (int major = 0; major < 100; major++) {
        char name[32];
        snprintf(name, sizeof name, "lmoe_plugin_v%d", major);
        if (dlsym(handle, name))
            return lmoe_error(ctx, LMOE_E_UNSUPPORTED,
                              "%s: is built for ABI %d; this host speaks %d: get the plugin for "
                              "lmoe %s, or build it again with this lmoe's headers",
                              path, major, LMOE_ABI_MAJOR, LMOE_VERSION);
    }
    return lmoe_error(ctx, LMOE_E_USAGE,
                      "%s: does not export %s, so it is no lmoe plugin; if it should be one, "
                      "LMOE_PLUGIN(...) is missing, or hidden by a linker's map",
                      path, LMOE_ENTRY_SYMBOL);
}

lmoe_status lmoe__plugin_open(lmoe_ctx *ctx, const char *path, lmoe_entry *entry)
{
    LMOE_TRY(check_trust(ctx, path));
    LMOE_TRY(lmoe__elf_check(ctx, path));
    /* A path without a slash would be searched for in the system's folders. */
    char here[4096];
    snprintf(here, sizeof here, "%s%s", strchr(path, '/') ? "" : "./", path);
    void *handle = dlopen(here, RTLD_NOW | RTLD_LOCAL);
    if (!handle) return cannot_link(ctx, path, dlerror());
    /* With lmoe built in statically, that library would be a second, silent copy of the core. */
    const char *core = lmoe__elf_needs(handle, "liblmoe");
    if (core) return cannot_link(ctx, path, core);
    return find_entry(ctx, path, handle, entry);
}
