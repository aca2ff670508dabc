/* SPDX-License-Identifier: Apache-2.0
 * core/plug/handshake.c: what a plugin says of itself, checked in this order: ABI major, minimum
 * API, sizes, facts of the build, names, options, load(). (That the file opens and has an entry
 * comes before: open.c.) Each failure has a sentence of its own.
 */
#include "core/plug/plug.h"

#include "core/conf/conf.h"

static lmoe_status check_abi(lmoe_ctx *ctx, const char *path, const lmoe_plugin *p)
{
    const uint32_t minor = lmoe__host()->api_minor;
    if (p->abi_major != LMOE_ABI_MAJOR)
        return lmoe_error(ctx, LMOE_E_UNSUPPORTED,
                          "%s: says that it is built for ABI %u; this host speaks %d: build it "
                          "again with the headers of lmoe %s",
                          path, p->abi_major, LMOE_ABI_MAJOR, LMOE_VERSION);
    if (p->api_min > minor)
        return lmoe_error(
            ctx, LMOE_E_UNSUPPORTED,
            "%s: needs API %d.%u; this host (lmoe %s) offers %d.%d: get a newer lmoe, "
            "or build the plugin with -DLMOE_TARGET_API=%d, if it can do without what is newer",
            path, LMOE_ABI_MAJOR, p->api_min, LMOE_VERSION, LMOE_ABI_MAJOR, LMOE_API_MINOR,
            LMOE_API_MINOR);
    return LMOE_OK;
}

static lmoe_status check_sizes(lmoe_ctx *ctx, const char *path, const lmoe_plugin *p)
{
    const size_t need = offsetof(lmoe_plugin, load) + sizeof p->load;
    if (p->size < need)
        return lmoe_error(ctx, LMOE_E_USAGE,
                          "%s: its lmoe_plugin says that it has %zu bytes, but ABI %d has at least "
                          "%zu there; use LMOE_PLUGIN(...), which sets the size",
                          path, p->size, LMOE_ABI_MAJOR, need);
    if (!p->classes || !p->classes[0])
        return lmoe_error(ctx, LMOE_E_USAGE, "%s: offers no class; .classes is empty", path);
    for (int i = 0; p->classes[i]; i++) {
        LMOE_TRY(lmoe__kind_check_sizes(ctx, path, p->classes[i]));
    }
    return LMOE_OK;
}

static lmoe_status check_facts(lmoe_ctx *ctx, const char *path, const lmoe_facts *theirs)
{
    static const lmoe_facts ours = LMOE_FACTS;
    const struct {
        const char *name;
        uint32_t theirs, ours;
    } facts[] = {
        {"bits of a pointer", theirs->pointer_bits, ours.pointer_bits},
        {"LMOE_MAX_DIMS", theirs->max_dims, ours.max_dims},
        {"LMOE_MAX_IO", theirs->max_io, ours.max_io},
        {"LMOE_MAX_ATTRS", theirs->max_attrs, ours.max_attrs},
    };
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++) {
        if (facts[i].theirs == facts[i].ours) continue;
        return lmoe_error(ctx, LMOE_E_UNSUPPORTED,
                          "%s: is built with %s = %u; this host with %u: build the plugin with the "
                          "unchanged headers of this lmoe",
                          path, facts[i].name, facts[i].theirs, facts[i].ours);
    }
    if (strncmp(theirs->extra, ours.extra, sizeof ours.extra) != 0)
        return lmoe_error(ctx, LMOE_E_UNSUPPORTED,
                          "%s: is built for the variant '%.*s' of lmoe; this host is '%.*s': build "
                          "it with the headers of the lmoe that runs it",
                          path, (int)sizeof theirs->extra, theirs->extra, (int)sizeof ours.extra,
                          ours.extra);
    return LMOE_OK;
}

static lmoe_status check_names(lmoe_ctx *ctx, const char *path, const lmoe_plugin *p)
{
    if (!p->id || !lmoe__class_name_ok(p->id))
        return lmoe_error(ctx, LMOE_E_USAGE,
                          "%s: the plugin's id is '%s'; it must be \"KIND/NAME\" or "
                          "\"vendor.x/NAME\", of lower case letters, digits, '_', '.' and '-'",
                          path, p->id ? p->id : "");
    if (!p->version || !p->licence)
        return lmoe_error(ctx, LMOE_E_USAGE, "%s: the plugin gives no %s", path,
                          p->version ? "licence (an SPDX name, \"Apache-2.0\")" : "version");
    for (int i = 0; p->classes[i]; i++) {
        const char *kind = p->classes[i]->kind;
        if (kind && lmoe__kind_find(kind)) continue;
        lmoe__text known = {0};
        for (int k = 0; lmoe__kind_at(k); k++) {
            lmoe__text_add(&known, "%s%s", k ? ", " : "", lmoe__kind_at(k)->id);
        }
        lmoe_error(ctx, LMOE_E_UNSUPPORTED, "%s: class '%s' is of kind '%s'; this host knows %s",
                   path, p->classes[i]->name ? p->classes[i]->name : "", kind ? kind : "",
                   known.data);
        lmoe__text_free(&known);
        return LMOE_E_UNSUPPORTED;
    }
    return LMOE_OK;
}

static lmoe_status check_classes(lmoe_ctx *ctx, const lmoe__plugin *p)
{
    for (int i = 0; i < p->n_classes; i++) {
        const lmoe_class *c = p->classes[i];
        LMOE_TRY(lmoe__kind_check(ctx, p->path, c));
        for (int j = 0; j < i; j++) {
            if (strcmp(p->classes[j]->name, c->name) == 0)
                return lmoe_error(ctx, LMOE_E_USAGE, "%s: offers the class '%s' twice", p->path,
                                  c->name);
        }
    }
    for (int i = 0; i < p->n_classes; i++) {
        const lmoe_class *c = p->classes[i];
        char what[4096];
        snprintf(what, sizeof what, "%s: %s", p->path, c->name);
        LMOE_TRY(lmoe__options_check_table(ctx, what, c->options, c->options_size));
    }
    return LMOE_OK;
}

lmoe_status lmoe__handshake(lmoe_ctx *ctx, lmoe__arena *a, const char *path, lmoe_entry entry,
                            lmoe__plugin *out)
{
    memset(out, 0, sizeof *out);
    out->path = path;
    const lmoe_plugin *theirs = entry(lmoe__host());
    if (!theirs)
        return lmoe_error(ctx, LMOE_E_USAGE,
                          "%s: its entry returns NULL; it must return its lmoe_plugin", path);
    LMOE_TRY(check_abi(ctx, path, theirs));
    LMOE_TRY(check_sizes(ctx, path, theirs));
    memcpy(&out->info, theirs, theirs->size < sizeof out->info ? theirs->size : sizeof out->info);
    LMOE_TRY(check_facts(ctx, path, &out->info.facts));
    LMOE_TRY(check_names(ctx, path, &out->info));

    while (out->info.classes[out->n_classes]) out->n_classes++;
    out->classes = LMOE_NEW_N(a, const lmoe_class *, out->n_classes);
    for (int i = 0; i < out->n_classes; i++) {
        out->classes[i] = lmoe__kind_copy(a, out->info.classes[i]);
    }
    return check_classes(ctx, out);
}

lmoe_status lmoe__handshake_load(lmoe_ctx *ctx, const lmoe__plugin *p)
{
    if (!p->info.load) return LMOE_OK;
    static const char *const words[] = {"",       "USAGE", "CONFIG", "UNSUPPORTED", "MEMORY",
                                        "DEVICE", "COMM",  "IO",     "NUMERIC",     "INTERNAL"};
    lmoe_status status = p->info.load(lmoe__host());
    if (status == LMOE_OK) return LMOE_OK;
    bool known = status < 0 && -status < (int)(sizeof words / sizeof *words);
    return lmoe_error(ctx, LMOE_E_UNSUPPORTED,
                      "%s: its load() refused with %s%s (%d); the plugin's own notes say what it "
                      "needs",
                      p->path, known ? "LMOE_E_" : "an unknown status", known ? words[-status] : "",
                      status);
}
