/* SPDX-License-Identifier: Apache-2.0
 * core/conf/store.c: sections, keys and values, --set, and what nobody asked for.
 */
#include "core/conf/store.h"

#include <ctype.h>
#include <stdlib.h>

/* ---- names ---- */

const char *lmoe__conf_section_name(const char *text, size_t n, char *out)
{
    size_t used = 0;
    bool blank = false;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == ' ' || c == '\t') {
            blank = used > 0;
            continue;
        }
        if (!isalnum(c) && !strchr("_-./", c))
            return "a section's name is made of letters, digits, '_', '-', '.', '/'";
        if (used + blank + 1 > LMOE__CONF_NAME) return "a section's name has at most 49 characters";
        if (blank) out[used++] = ' ';
        blank = false;
        out[used++] = (char)c;
    }
    out[used] = '\0';
    return used ? NULL : "a section needs a name";
}

const char *lmoe__conf_key_name(const char *text, size_t n, char *out)
{
    while (n > 0 && isblank((unsigned char)text[0])) text++, n--;
    while (n > 0 && isblank((unsigned char)text[n - 1])) n--;
    if (n == 0) return "there is no key before '='";
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (!isalnum(c) && c != '_' && c != '-') return "a key is one word";
    }
    if (n > LMOE__CONF_NAME) return "a key has at most 49 characters";
    memcpy(out, text, n);
    out[n] = '\0';
    return NULL;
}

bool lmoe__conf_looks_like_key(const char *text)
{
    size_t n = 0;
    while (isalnum((unsigned char)text[n]) || text[n] == '_' || text[n] == '-') n++;
    while (isblank((unsigned char)text[n])) n++;
    return text[n] == '=';
}

/* ---- sections and keys ---- */

lmoe__conf *lmoe__conf_new(const char *name)
{
    lmoe__arena *arena = lmoe__arena_new();
    lmoe__conf *conf = LMOE_NEW(arena, lmoe__conf);
    conf->arena = arena;
    conf->name = lmoe__arena_strdup(arena, name);
    return conf;
}

void lmoe__conf_free(lmoe__conf *conf)
{
    if (!conf) return;
    for (int i = 0; i < conf->count; i++) free(conf->parts[i].entries);
    free(conf->parts);
    lmoe__arena_free(conf->arena);
}

lmoe__conf_part *lmoe__conf_find_part(const lmoe__conf *conf, const char *section)
{
    for (int i = 0; i < conf->count; i++) {
        if (strcmp(conf->parts[i].name, section) == 0) return &conf->parts[i];
    }
    return NULL;
}

lmoe__conf_entry *lmoe__conf_find(const lmoe__conf_part *part, const char *key)
{
    for (int i = 0; part && i < part->count; i++) {
        if (strcmp(part->entries[i].key, key) == 0) return &part->entries[i];
    }
    return NULL;
}

lmoe__conf_part *lmoe__conf_add_part(lmoe__conf *conf, const char *section)
{
    lmoe__conf_part *old = lmoe__conf_find_part(conf, section);
    if (old) return old;
    lmoe__conf_part part = {.name = lmoe__arena_strdup(conf->arena, section)};
    LMOE_PUSH(conf->parts, conf->count, conf->capacity, part);
    return &conf->parts[conf->count - 1];
}

lmoe__conf_entry *lmoe__conf_add(lmoe__conf *conf, lmoe__conf_part *part, const char *key)
{
    lmoe__conf_entry *old = lmoe__conf_find(part, key);
    if (old) return old;
    lmoe__conf_entry e = {.key = lmoe__arena_strdup(conf->arena, key)};
    LMOE_PUSH(part->entries, part->count, part->capacity, e);
    return &part->entries[part->count - 1];
}

bool lmoe__conf_has(const lmoe__conf *conf, const char *section)
{
    const lmoe__conf_part *part = lmoe__conf_find_part(conf, section);
    return part && part->origin.file;
}

const char *lmoe__conf_section(const lmoe__conf *conf, int i)
{
    for (int k = 0; k < conf->count; k++) {
        if (conf->parts[k].origin.file && i-- == 0) return conf->parts[k].name;
    }
    return NULL;
}

const char *lmoe__conf_key(const lmoe__conf *conf, const char *section, int i)
{
    const lmoe__conf_part *part = lmoe__conf_find_part(conf, section);
    for (int k = 0; part && k < part->count; k++) {
        if (part->entries[k].value && i-- == 0) return part->entries[k].key;
    }
    return NULL;
}

const char *lmoe__conf_text(lmoe__conf *conf, const char *section, const char *key)
{
    lmoe__conf_part *part = lmoe__conf_add_part(conf, section);
    lmoe__conf_entry *e = lmoe__conf_add(conf, part, key);
    part->asked = e->asked = true;
    return e->value;
}

/* ---- origins and paths ---- */

const char *lmoe__origin_text(lmoe__origin origin, lmoe__arena *arena)
{
    if (!origin.file) return "default";
    if (origin.line == 0) return origin.file;
    return lmoe__arena_printf(arena, "%s:%d", origin.file, origin.line);
}

const char *lmoe__conf_where(const lmoe__conf *conf, const char *section, const char *key)
{
    const lmoe__conf_part *part = lmoe__conf_find_part(conf, section);
    if (!key) return lmoe__origin_text(part ? part->origin : (lmoe__origin){0}, conf->arena);
    const lmoe__conf_entry *e = lmoe__conf_find(part, key);
    return lmoe__origin_text(e ? e->origin : (lmoe__origin){0}, conf->arena);
}

const char *lmoe__path_beside(const char *file, const char *path, lmoe__arena *arena)
{
    const char *slash = strrchr(file, '/');
    if (!slash || path[0] == '/' || path[0] == '\0') return lmoe__arena_strdup(arena, path);
    return lmoe__arena_printf(arena, "%.*s/%s", (int)(slash - file), file, path);
}

/* Only files have a folder: what --set or a default says is seen from the working directory. */
const char *lmoe__entry_path(const lmoe__conf_entry *e, const char *path, lmoe__arena *arena)
{
    return lmoe__path_beside(e && e->origin.line ? e->origin.file : "", path, arena);
}

const char *lmoe__conf_resolve(const lmoe__conf *conf, const char *section, const char *key,
                               const char *path, lmoe__arena *arena)
{
    const lmoe__conf_entry *e = lmoe__conf_find(lmoe__conf_find_part(conf, section), key);
    return lmoe__entry_path(e, path, arena);
}

const char *lmoe__conf_path(lmoe__conf *conf, const char *section, const char *key,
                            lmoe__arena *arena)
{
    const char *value = lmoe__conf_text(conf, section, key);
    return value ? lmoe__conf_resolve(conf, section, key, value, arena) : NULL;
}

/* ---- --set ---- */

static lmoe_status bad_set(lmoe_ctx *ctx, const char *assignment, const char *why)
{
    return lmoe_error(ctx, LMOE_E_CONFIG, "--set %s: %s; write section.key=value", assignment, why);
}

lmoe_status lmoe__conf_set(lmoe_ctx *ctx, lmoe__conf *conf, const char *assignment)
{
    char section[LMOE__CONF_NAME + 1], key[LMOE__CONF_NAME + 1];
    const char *equals = strchr(assignment, '=');
    if (!equals) return bad_set(ctx, assignment, "there is no '='");
    const char *dot = memrchr(assignment, '.', (size_t)(equals - assignment));
    if (!dot) return bad_set(ctx, assignment, "there is no section before the key");
    const char *wrong = lmoe__conf_section_name(assignment, (size_t)(dot - assignment), section);
    if (!wrong) wrong = lmoe__conf_key_name(dot + 1, (size_t)(equals - dot - 1), key);
    if (wrong) return bad_set(ctx, assignment, wrong);
    if (strcmp(section, "run") == 0 && strcmp(key, "include") == 0)
        return lmoe_error(ctx, LMOE_E_CONFIG, "--set %s: only a file can include a file",
                          assignment);

    const char *value = equals + 1;
    while (isspace((unsigned char)*value)) value++;
    size_t n = strlen(value);
    while (n > 0 && isspace((unsigned char)value[n - 1])) n--;
    char *copy = lmoe__arena_printf(conf->arena, "%.*s", (int)n, value);
    if (!lmoe__conf_print_value(NULL, key, copy))
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "--set %s: a run file could not hold this value: it has a control "
                          "character, a comment (' ;') or a word of more than %d bytes",
                          assignment, LMOE__CONF_LINE);

    lmoe__origin origin = {"--set", 0};
    lmoe__conf_part *part = lmoe__conf_add_part(conf, section);
    if (!part->origin.file) part->origin = origin;
    lmoe__conf_entry *e = lmoe__conf_add(conf, part, key);
    e->value = copy;
    e->origin = origin;
    return LMOE_OK;
}

/* ---- what nobody asked for ---- */

static const char *nearest_section(const lmoe__conf *conf, const char *name)
{
    const char **names = LMOE_NEW_N(conf->arena, const char *, conf->count);
    int n = 0;
    for (int i = 0; i < conf->count; i++) {
        if (conf->parts[i].asked) names[n++] = conf->parts[i].name;
    }
    return lmoe__nearest(name, names, n);
}

static const char *nearest_key(const lmoe__conf *conf, const lmoe__conf_part *part, const char *key)
{
    const char **names = LMOE_NEW_N(conf->arena, const char *, part->count);
    int n = 0;
    for (int i = 0; i < part->count; i++) {
        if (part->entries[i].asked) names[n++] = part->entries[i].key;
    }
    return lmoe__nearest(key, names, n);
}

static const char *section_with_key(const lmoe__conf *conf, const char *key)
{
    for (int i = 0; i < conf->count; i++) {
        const lmoe__conf_entry *e = lmoe__conf_find(&conf->parts[i], key);
        if (e && e->asked) return conf->parts[i].name;
    }
    return NULL;
}

static lmoe_status unknown_section(lmoe_ctx *ctx, const lmoe__conf *conf,
                                   const lmoe__conf_part *part)
{
    const char *near = nearest_section(conf, part->name);
    lmoe__text known = {0};
    for (int i = 0; i < conf->count && !near; i++) {
        if (conf->parts[i].asked)
            lmoe__text_add(&known, "%s[%s]", known.length ? ", " : "", conf->parts[i].name);
    }
    lmoe_status status =
        near ? lmoe_error(ctx, LMOE_E_CONFIG,
                          "%s: nothing in this run uses section [%s]; did you mean [%s]?",
                          lmoe__origin_text(part->origin, conf->arena), part->name, near)
             : lmoe_error(ctx, LMOE_E_CONFIG,
                          "%s: nothing in this run uses section [%s]; it uses %s",
                          lmoe__origin_text(part->origin, conf->arena), part->name,
                          known.length ? known.data : "none");
    lmoe__text_free(&known);
    return status;
}

static lmoe_status unknown_key(lmoe_ctx *ctx, const lmoe__conf *conf, const lmoe__conf_part *part,
                               const lmoe__conf_entry *e)
{
    const char *where = lmoe__origin_text(e->origin, conf->arena);
    const char *near = nearest_key(conf, part, e->key);
    if (near)
        return lmoe_error(ctx, LMOE_E_CONFIG, "%s: unknown key '%s' in [%s]; did you mean '%s'?",
                          where, e->key, part->name, near);
    const char *other = section_with_key(conf, e->key);
    if (other)
        return lmoe_error(ctx, LMOE_E_CONFIG, "%s: unknown key '%s' in [%s]; it belongs in [%s]",
                          where, e->key, part->name, other);
    lmoe__text known = {0};
    for (int i = 0; i < part->count; i++) {
        if (part->entries[i].asked)
            lmoe__text_add(&known, "%s%s", known.length ? ", " : "", part->entries[i].key);
    }
    lmoe_error(ctx, LMOE_E_CONFIG, "%s: unknown key '%s' in [%s]; this section knows %s", where,
               e->key, part->name, known.length ? known.data : "no keys");
    lmoe__text_free(&known);
    return LMOE_E_CONFIG;
}

lmoe_status lmoe__conf_check_unused(lmoe_ctx *ctx, const lmoe__conf *conf)
{
    for (int i = 0; i < conf->count; i++) {
        const lmoe__conf_part *part = &conf->parts[i];
        if (!part->asked) return unknown_section(ctx, conf, part);
        for (int k = 0; k < part->count; k++) {
            if (!part->entries[k].asked) return unknown_key(ctx, conf, part, &part->entries[k]);
        }
    }
    return LMOE_OK;
}
