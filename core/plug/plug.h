/* SPDX-License-Identifier: Apache-2.0
 * core/plug/plug.h: plugins, from a class's name to a class that may be used.
 *
 *   "lsm/gla"  --search.c-->  .../lsm-gla.so  --open.c-->  entry  --handshake.c-->  lmoe__plugin
 *                                                       (kind.c: what each kind of class must have)
 *   registry.c keeps what was opened; scan.c does the same in a child process that may die of it.
 *
 * A plugin file is opened only when a run names one of its classes, and is never closed. What is
 * refused is refused with one sentence: the file, what is wrong with it, both sides' values, what
 * to do.
 */
#ifndef LMOE_CORE_PLUG_H
#define LMOE_CORE_PLUG_H

#include <lmoe/comm.h>
#include <lmoe/device.h>
#include <lmoe/graph.h>
#include <lmoe/plugin.h>

#include "core/conf/conf.h"

/* ---- what plugins are given (host.c) ---- */

const lmoe_host *lmoe__host(void);

/* ---- one plugin that passed the handshake ---- */

/* Classes and the structs that they point to are copies of the host's size, zero where the plugin's
 * were shorter: a slot that the plugin does not know reads as absent. */
typedef struct lmoe__plugin {
    const char *path; /* of the file; "(built in)" */
    char digest[33];  /* of the file's bytes; "" if built in */
    lmoe_plugin info; /* classes: the plugin's own; use the copies below */
    const lmoe_class **classes;
    int n_classes;
} lmoe__plugin;

/* ---- registry (registry.c): the plugins of one run ---- */

typedef struct lmoe__registry lmoe__registry;

/* plugin_path: folders separated by ':', searched first; NULL or "": none. Threads may share a
 * registry. */
lmoe__registry *lmoe__registry_new(const char *plugin_path);
/* The copies of classes die with it; the files stay open. NULL is fine. */
void lmoe__registry_free(lmoe__registry *r);
/* Opens a file that was named by its path; its classes go before those of every folder. */
lmoe_status lmoe__registry_open(lmoe__registry *r, lmoe_ctx *ctx, const char *path);
/* The class of this name, its file opened if need be. kind: what it must be, "lmoe.layer/1"; NULL:
 * anything. */
lmoe_status lmoe__registry_find(lmoe__registry *r, lmoe_ctx *ctx, const char *kind,
                                const char *name, const lmoe_class **out);
/* i-th plugin opened so far (to walk ops and kernels, or to record digests); NULL past the last. */
const lmoe__plugin *lmoe__registry_plugin(lmoe__registry *r, int i);
/* The plugin that brought this class; NULL if none did. */
const lmoe__plugin *lmoe__registry_owner(lmoe__registry *r, const lmoe_class *c);

/* Finds what a communicator stands around, and fills the options of that one, from the section
 * [comm]; conf NULL: defaults (inner.c). */
lmoe_status lmoe__comm_inner(lmoe_ctx *ctx, lmoe__registry *r, lmoe__conf *conf, const lmoe_comm *c,
                             void *options, lmoe__arena *arena);

/* ---- search (search.c): class names and folders ---- */

/* A folder where plugin files are looked for. Folders of a lower rank go first; folders of the same
 * rank must not hold the same file. */
typedef struct lmoe__folder {
    const char *path;
    const char *origin; /* for people: "--plugin-path" */
    int rank;
    bool exists;
} lmoe__folder;

typedef struct lmoe__search {
    lmoe__folder *folders;
    int count, capacity;
} lmoe__search;

/* The folder that holds the running program, or "" if the system does not tell. What is installed
 * with it is found from there, so that an installation may be staged and moved. */
void lmoe__program_folder(char *folder, size_t n);
void lmoe__search_init(lmoe__search *s, lmoe__arena *a, const char *plugin_path);
void lmoe__search_free(lmoe__search *s);
const lmoe__search *lmoe__registry_search(const lmoe__registry *r);
/* True for "lsm/gla" and "vendor.x/gla": what may become part of a file's name. */
bool lmoe__class_name_ok(const char *name);
/* "lsm/gla" -> "lsm-gla.so", and back ("" if it is not a plugin file's name). */
void lmoe__class_file(const char *name, char *file, size_t n);
void lmoe__file_class(const char *file, char *name, size_t n);
/* Path of the file that offers a class. No such file: LMOE_E_CONFIG, with the folders searched and
 * the name that may have been meant. */
lmoe_status lmoe__search_find(const lmoe__search *s, lmoe_ctx *ctx, lmoe__arena *a,
                              const char *name, const char **path);
/* Plugin files of one folder, in alphabetical order; free the names and the list with free(). */
int lmoe__folder_files(const lmoe__folder *f, char ***files);

/* ---- opening and checking (open.c, elf.c, handshake.c, kind.c) ---- */

/* Checks that the file may be trusted, opens it, and finds its entry. Never closed again. */
lmoe_status lmoe__plugin_open(lmoe_ctx *ctx, const char *path, lmoe_entry *entry);
/* The file is a shared library for the machine that this program runs on. */
lmoe_status lmoe__elf_check(lmoe_ctx *ctx, const char *path);
/* A library that the opened file names as needed and whose name begins so; NULL: none. */
const char *lmoe__elf_needs(void *handle, const char *prefix);
/* Calls the entry and checks all it says; load() is left to the caller. `path` is kept. */
lmoe_status lmoe__handshake(lmoe_ctx *ctx, lmoe__arena *a, const char *path, lmoe_entry entry,
                            lmoe__plugin *out);
lmoe_status lmoe__handshake_load(lmoe_ctx *ctx, const lmoe__plugin *p);

/* A pointer that every class of a kind must have. */
typedef struct lmoe__slot {
    size_t offset;
    const char *name; /* NULL ends the list */
} lmoe__slot;

/* A contract between core and plugins. */
typedef struct lmoe__kind {
    const char *id;     /* "lmoe.layer/1" */
    const char *word;   /* "layer" */
    const char *folder; /* classes are called folder/NAME or vendor.x/NAME; NULL: checked apart */
    size_t need;        /* bytes that its first revision had */
    size_t size;        /* bytes that this host knows */
    const lmoe__slot *required;
} lmoe__kind;

const lmoe__kind *lmoe__kind_find(const char *id);
const lmoe__kind *lmoe__kind_at(int i); /* NULL past the last */
/* Sizes of a class as the plugin gave it, and of the structs that it points to. */
lmoe_status lmoe__kind_check_sizes(lmoe_ctx *ctx, const char *path, const lmoe_class *c);
/* A copy of the host's size. */
const lmoe_class *lmoe__kind_copy(lmoe__arena *a, const lmoe_class *c);
/* Name and required slots of a copy. */
lmoe_status lmoe__kind_check(lmoe_ctx *ctx, const char *path, const lmoe_class *c);

/* ---- plugins built into the command (-Dplugins=static) ---- */

typedef struct lmoe__builtin {
    const char *file; /* as if it were "lsm-gla.so" */
    lmoe_entry entry;
} lmoe__builtin;
extern const lmoe__builtin lmoe__builtins[]; /* generated; ends with a NULL file */

/* ---- scan (scan.c): opens a file in a child process ---- */

typedef struct lmoe__scan {
    const char *error;   /* why it is refused; NULL: it may be used */
    const char *printed; /* what it wrote while it was loaded; NULL: nothing, as it should be */
    const char *id, *version, *licence;
    struct lmoe__scan_class {
        const char *kind, *name, *summary;
    } * classes;
    int n_classes, cap_classes;
} lmoe__scan;

/* Whatever the file does (crash, exit, hang, print) becomes part of the answer. Call it while the
 * process has one thread. Texts live in `a`; free with lmoe__scan_free. */
lmoe_status lmoe__scan_file(lmoe_ctx *ctx, lmoe__arena *a, const char *path, double seconds,
                            lmoe__scan *out);
void lmoe__scan_free(lmoe__scan *s);

#endif
