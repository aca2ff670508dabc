/* SPDX-License-Identifier: Apache-2.0
 * core/plug/registry.c: the plugins that a run has opened, and the way to a class by its name.
 */
#include "core/plug/plug.h"

#include "core/op/op.h"

#include <pthread.h>
#include <stdlib.h>

struct lmoe__registry {
    lmoe__arena *arena;
    pthread_mutex_t lock; /* ranks may be threads */
    lmoe__search search;
    lmoe__plugin **plugins; /* in the order of opening */
    int count, capacity;
};

lmoe__registry *lmoe__registry_new(const char *plugin_path)
{
    lmoe__registry *r = lmoe__malloc(sizeof *r);
    memset(r, 0, sizeof *r);
    r->arena = lmoe__arena_new();
    pthread_mutex_init(&r->lock, NULL);
    lmoe__search_init(&r->search, r->arena, plugin_path);
    return r;
}

void lmoe__registry_free(lmoe__registry *r)
{
    if (!r) return;
    lmoe__search_free(&r->search);
    pthread_mutex_destroy(&r->lock);
    lmoe__arena_free(r->arena);
    free(r->plugins);
    free(r);
}

const lmoe__search *lmoe__registry_search(const lmoe__registry *r)
{
    return &r->search;
}

/* ---- lookup among what is open ---- */

static const lmoe_class *class_of(const lmoe__plugin *p, const char *name)
{
    for (int i = 0; i < p->n_classes; i++) {
        if (strcmp(p->classes[i]->name, name) == 0) return p->classes[i];
    }
    return NULL;
}

static const lmoe_class *opened(const lmoe__registry *r, const char *name, const char **path)
{
    for (int i = 0; i < r->count; i++) {
        const lmoe_class *c = class_of(r->plugins[i], name);
        if (!c) continue;
        *path = r->plugins[i]->path;
        return c;
    }
    return NULL;
}

/* ---- adding a plugin ---- */

/* Nothing that the run has already may come a second time. */
static lmoe_status check_new(const lmoe__registry *r, lmoe_ctx *ctx, const lmoe__plugin *p)
{
    for (int i = 0; i < p->n_classes; i++) {
        const char *name = p->classes[i]->name, *other;
        if (opened(r, name, &other))
            return lmoe_error(
                ctx, LMOE_E_CONFIG,
                "class '%s' is offered by two files of this run: %s and %s; leave one "
                "out",
                name, other, p->path);
        for (const lmoe_op *const *op = lmoe__ops; *op; op++) {
            if (strcmp((*op)->base.name, name) == 0)
                return lmoe_error(ctx, LMOE_E_USAGE,
                                  "%s: offers the op '%s', which lmoe has itself; call it "
                                  "\"vendor.x/%s\", or offer a kernel for lmoe's",
                                  p->path, name, name);
        }
    }
    return LMOE_OK;
}

static lmoe_status add(lmoe__registry *r, lmoe_ctx *ctx, const char *path, lmoe_entry entry,
                       const char *digest, const lmoe__plugin **out)
{
    lmoe__plugin *p = LMOE_NEW(r->arena, lmoe__plugin);
    LMOE_TRY(lmoe__handshake(ctx, r->arena, path, entry, p));
    LMOE_TRY(check_new(r, ctx, p));
    LMOE_TRY(lmoe__handshake_load(ctx, p));
    snprintf(p->digest, sizeof p->digest, "%s", digest);
    LMOE_PUSH(r->plugins, r->count, r->capacity, p);
    *out = p;
    return LMOE_OK;
}

static lmoe_status add_file(lmoe__registry *r, lmoe_ctx *ctx, const char *path,
                            const lmoe__plugin **out)
{
    char *real = realpath(path, NULL);
    const char *kept = lmoe__arena_strdup(r->arena, real ? real : path);
    free(real);
    for (int i = 0; i < r->count; i++) {
        *out = r->plugins[i];
        if (strcmp((*out)->path, kept) == 0) return LMOE_OK;
    }
    lmoe_entry entry;
    char digest[33];
    LMOE_TRY(lmoe__plugin_open(ctx, kept, &entry));
    LMOE_TRY(lmoe__digest_file(ctx, kept, digest));
    return add(r, ctx, kept, entry, digest, out);
}

/* The plugin that is to offer this class: built in, or the first file on the way. */
static lmoe_status add_for(lmoe__registry *r, lmoe_ctx *ctx, const char *name,
                           const lmoe__plugin **out)
{
    char file[256];
    lmoe__class_file(name, file, sizeof file);
    for (const lmoe__builtin *b = lmoe__builtins; b->file; b++) {
        if (strcmp(b->file, file) == 0) return add(r, ctx, "(built in)", b->entry, "", out);
    }
    const char *path;
    LMOE_TRY(lmoe__search_find(&r->search, ctx, r->arena, name, &path));
    return add_file(r, ctx, path, out);
}

/* ---- interface ---- */

lmoe_status lmoe__registry_open(lmoe__registry *r, lmoe_ctx *ctx, const char *path)
{
    const lmoe__plugin *p;
    pthread_mutex_lock(&r->lock);
    lmoe_status status = add_file(r, ctx, path, &p);
    pthread_mutex_unlock(&r->lock);
    return status;
}

static lmoe_status find(lmoe__registry *r, lmoe_ctx *ctx, const char *kind, const char *name,
                        const lmoe_class **out)
{
    const char *path;
    const lmoe_class *c = opened(r, name, &path);
    if (!c) {
        const lmoe__plugin *p;
        LMOE_TRY(add_for(r, ctx, name, &p));
        c = class_of(p, name);
        if (!c)
            return lmoe_error(
                ctx, LMOE_E_CONFIG,
                "%s: by its name it offers the class '%s', but it offers '%s'; rename "
                "the file, or name that class",
                p->path, name, p->classes[0]->name);
    }
    if (kind && strcmp(c->kind, kind) != 0) {
        const lmoe__kind *want = lmoe__kind_find(kind);
        return lmoe_error(ctx, LMOE_E_CONFIG, "class '%s' is a %s; a %s is needed here", name,
                          lmoe__kind_find(c->kind)->word, want ? want->word : kind);
    }
    *out = c;
    return LMOE_OK;
}

lmoe_status lmoe__registry_find(lmoe__registry *r, lmoe_ctx *ctx, const char *kind,
                                const char *name, const lmoe_class **out)
{
    *out = NULL;
    if (!lmoe__class_name_ok(name))
        return lmoe_error(
            ctx, LMOE_E_CONFIG,
            "'%s' is no name of a class; one is like \"lsm/gla\" or \"vendor.x/gla\", "
            "of lower case letters, digits, '_', '.' and '-'",
            name);
    pthread_mutex_lock(&r->lock);
    lmoe_status status = find(r, ctx, kind, name, out);
    pthread_mutex_unlock(&r->lock);
    return status;
}

const lmoe__plugin *lmoe__registry_plugin(lmoe__registry *r, int i)
{
    pthread_mutex_lock(&r->lock);
    const lmoe__plugin *p = i >= 0 && i < r->count ? r->plugins[i] : NULL;
    pthread_mutex_unlock(&r->lock);
    return p;
}

const lmoe__plugin *lmoe__registry_owner(lmoe__registry *r, const lmoe_class *c)
{
    const lmoe__plugin *p;
    for (int i = 0; (p = lmoe__registry_plugin(r, i)) != NULL; i++) {
        for (int j = 0; j < p->n_classes; j++) {
            if (p->classes[j] == c) return p;
        }
    }
    return NULL;
}
