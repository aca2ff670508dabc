/* SPDX-License-Identifier: Apache-2.0
 * core/conf/fill.c: option structs from a configuration.
 */
#include "core/conf/store.h"

#include <stdlib.h>
#include <unistd.h>

static lmoe_status not_given(lmoe_ctx *ctx, const lmoe__conf *conf, const lmoe__conf_part *part,
                             const lmoe_option *o)
{
    lmoe__text expected = {0};
    lmoe__option_describe(o, &expected);
    lmoe_status status =
        part->origin.file
            ? lmoe_error(ctx, LMOE_E_CONFIG, "%s: [%s] needs '%s' (%s): %s",
                         lmoe__origin_text(part->origin, conf->arena), part->name, o->name,
                         expected.data, o->doc ? o->doc : "")
            : lmoe_error(ctx, LMOE_E_CONFIG,
                         "%s: there is no section [%s]; it is needed for '%s' (%s): %s", conf->name,
                         part->name, o->name, expected.data, o->doc ? o->doc : "");
    lmoe__text_free(&expected);
    return status;
}

static lmoe_status bad_value(lmoe_ctx *ctx, const char *where, const lmoe__conf_part *part,
                             const lmoe_option *o, const char *text)
{
    lmoe__text expected = {0};
    lmoe__option_expected(o, text, &expected);
    lmoe_status status = lmoe_error(ctx, LMOE_E_CONFIG, "%s: [%s] %s = %.200s: %s", where,
                                    part->name, o->name, text, expected.data);
    lmoe__text_free(&expected);
    return status;
}

static bool has_unit(const lmoe_option *o, const char *unit)
{
    return o->type == LMOE_OPTION_TEXT && o->unit && strcmp(o->unit, unit) == 0;
}

/* Where a path leads, whatever file says it; "" stays. The file need not exist yet. */
static const char *absolute(const char *path, lmoe__arena *arena)
{
    if (*path == '\0' || *path == '/') return path;
    char *real = realpath(path, NULL), *folder = real ? NULL : getcwd(NULL, 0);
    const char *out = real     ? lmoe__arena_strdup(arena, real)
                      : folder ? lmoe__arena_printf(arena, "%s/%s", folder, path)
                               : path;
    free(real);
    free(folder);
    return out;
}

/* The text with its path, or each of its paths, as seen from where the entry's file is read; e NULL:
 * absolute. Other texts stay. */
static const char *resolved(const lmoe_option *o, const lmoe__conf_entry *e, const char *text,
                            lmoe__arena *arena)
{
    if (has_unit(o, "path")) return e ? lmoe__entry_path(e, text, arena) : absolute(text, arena);
    if (!has_unit(o, "paths")) return text;
    char *words = lmoe__arena_strdup(arena, text), *save = NULL;
    const char *all = "";
    for (char *w = strtok_r(words, " \t", &save); w; w = strtok_r(NULL, " \t", &save)) {
        const char *path = e ? lmoe__entry_path(e, w, arena) : absolute(w, arena);
        all = lmoe__arena_printf(arena, "%s%s%s", all, *all ? " " : "", path);
    }
    return all;
}

/* Two tables of one section may share a key. One line of a file then serves both, so without one
 * they must agree, or what is shown would not be what is in force. */
static lmoe_status record(lmoe_ctx *ctx, lmoe__conf *conf, const lmoe__conf_part *part,
                          lmoe__conf_entry *e, const char *effective)
{
    if (!e->value && e->effective && strcmp(e->effective, effective) != 0)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "%s: [%s] '%s' is used by two classes whose defaults differ (%s and %s); "
                          "write it in the file",
                          part->origin.file ? lmoe__origin_text(part->origin, conf->arena)
                                            : conf->name,
                          part->name, e->key, e->effective, effective);
    e->effective = effective;
    return LMOE_OK;
}

static lmoe_status fill_one(lmoe_ctx *ctx, lmoe__conf *conf, lmoe__conf_part *part,
                            const lmoe_option *o, void *out, lmoe__arena *arena)
{
    lmoe__conf_entry *e = lmoe__conf_add(conf, part, o->name);
    e->asked = true;
    const char *text = e->value ? e->value : o->initial;
    if (!text) return not_given(ctx, conf, part, o);
    const char *where = lmoe__origin_text(e->origin, conf->arena);
    text = resolved(o, e, text, arena);
    if (!lmoe__option_parse(o, text, out, arena)) return bad_value(ctx, where, part, o, text);
    const char *effective = lmoe__option_to_text(o, out, conf->arena);
    effective = resolved(o, NULL, effective, conf->arena);
    if (!lmoe__conf_print_value(NULL, e->key, effective))
        return lmoe_error(ctx, LMOE_E_CONFIG, "%s: [%s] %s: a run file could not hold '%s'", where,
                          part->name, e->key, effective);
    return record(ctx, conf, part, e, effective);
}

lmoe_status lmoe__options_fill(lmoe_ctx *ctx, lmoe__conf *conf, const char *section,
                               const lmoe_option *table, void *out, lmoe__arena *arena)
{
    lmoe__conf_part *part = lmoe__conf_add_part(conf, section);
    part->asked = true;
    for (const lmoe_option *o = table; o && o->name; o++) {
        LMOE_TRY(fill_one(ctx, conf, part, o, out, arena));
    }
    return LMOE_OK;
}
