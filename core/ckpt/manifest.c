/* SPDX-License-Identifier: Apache-2.0
 * core/ckpt/manifest.c: manifest.json, what a checkpoint consists of.
 *
 *   {"format": "lmoe checkpoint", "version": 1, "step": N, "tensors": N,
 *    "files": [{"name": "...", "size": N, "xxh3_128": "..."}, ...],
 *    "state": {...}, "config": "...",
 *    "xxh3_128": "digest of all bytes before this line"
 *   }
 */
#include "core/ckpt/ckpt.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

static const char format_name[] = "lmoe checkpoint";
static const char tail_start[] = " \"xxh3_128\": \"", tail_end[] = "\"\n}\n";
enum { VERSION = 1, MAX_FILES = 100000, TAIL = sizeof tail_start - 1 + 32 + sizeof tail_end - 1 };

static char *path_of(const char *folder, const char *name)
{
    lmoe__text s = {0};
    lmoe__text_add(&s, "%s/%s", folder, name);
    return s.data;
}

/* ---- writing ---- */

lmoe_status lmoe__manifest_write(lmoe_ctx *ctx, const char *folder, const lmoe__manifest *m)
{
    char digest[33];
    lmoe__text s = {0};
    char *state = json_dumps(m->state, JSON_COMPACT);
    if (!json_is_object(m->state) || !state) {
        free(state);
        return lmoe_error(ctx, LMOE_E_USAGE, "the state of training is not a JSON object");
    }
    lmoe__text_add(&s, "{\"format\": \"%s\", \"version\": %d, \"step\": %lld, \"tensors\": %lld,\n",
                   format_name, VERSION, (long long)m->step, (long long)m->tensors);
    lmoe__text_add(&s, " \"files\": [");
    for (int i = 0; i < m->count; i++) {
        lmoe__text_add(&s, "%s\n  {\"name\": \"%s\", \"size\": %llu, \"xxh3_128\": \"%s\"}",
                       i ? "," : "", m->files[i].name, (unsigned long long)m->files[i].size,
                       m->files[i].digest);
    }
    lmoe__text_add(&s, "],\n \"state\": %s,\n \"config\": ", state);
    lmoe__text_add_json(&s, m->config ? m->config : "");
    lmoe__text_add(&s, ",\n");
    lmoe__digest_bytes(s.data, s.length, digest);
    lmoe__text_add(&s, "%s%s%s", tail_start, digest, tail_end);
    char *path = path_of(folder, "manifest.json");
    lmoe_status status = lmoe__write_file(ctx, path, s.data, s.length);
    free(path);
    free(state);
    lmoe__text_free(&s);
    return status;
}

/* ---- reading ---- */

static lmoe_status bad(lmoe_ctx *ctx, const char *path, const char *what)
{
    return lmoe_error(ctx, LMOE_E_CONFIG, "%s: %s; the checkpoint is damaged: use an older one",
                      path, what);
}

/* The digest is looked at before anything else is. */
static lmoe_status check_digest(lmoe_ctx *ctx, const char *path, const lmoe__map *map)
{
    char digest[33], tail[TAIL + 1];
    if (map->size < TAIL) return bad(ctx, path, "it is not complete");
    lmoe__digest_bytes(map->data, map->size - TAIL, digest);
    snprintf(tail, sizeof tail, "%s%s%s", tail_start, digest, tail_end);
    if (memcmp(map->data + map->size - TAIL, tail, TAIL) == 0) return LMOE_OK;
    return bad(ctx, path, "it does not end with the digest of what is before");
}

static bool read_number(const json_t *object, const char *key, int64_t *out)
{
    const json_t *value = json_object_get(object, key);
    *out = json_integer_value(value);
    return json_is_integer(value) && *out >= 0;
}

/* "model-00001-of-00002.safetensors": nothing that leads out of the folder. */
static bool plain_name(const char *name)
{
    size_t n = strlen(name);
    if (n > 255 || n < 13 || strcmp(name + n - 12, ".safetensors") != 0) return false;
    if (name[0] == '.') return false;
    for (const char *p = name; *p; p++) {
        bool letter = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z');
        if (!letter && !(*p >= '0' && *p <= '9') && !strchr("._-", *p)) return false;
    }
    return true;
}

static lmoe_status check_file(lmoe_ctx *ctx, const char *folder, const lmoe__manifest_file *f)
{
    struct stat info;
    char *path = path_of(folder, f->name);
    lmoe_status status = LMOE_OK;
    if (lstat(path, &info) != 0) {
        status = bad(ctx, path, strerror(errno));
    } else if (!S_ISREG(info.st_mode)) {
        status = bad(ctx, path, "it is not a regular file");
    } else if ((uint64_t)info.st_size != f->size) {
        char what[100];
        snprintf(what, sizeof what, "it has %lld bytes; the manifest says %llu",
                 (long long)info.st_size, (unsigned long long)f->size);
        status = bad(ctx, path, what);
    }
    free(path);
    return status;
}

static lmoe_status read_files(lmoe_ctx *ctx, const char *folder, const char *path,
                              const json_t *list, lmoe__manifest *m)
{
    size_t count = json_array_size(list);
    if (!json_is_array(list) || count > MAX_FILES)
        return bad(ctx, path, "files is not a list of files");
    m->files = lmoe__malloc(sizeof *m->files * (count + 1));
    for (size_t i = 0; i < count; i++) {
        const json_t *entry = json_array_get(list, i);
        const char *name = json_string_value(json_object_get(entry, "name"));
        const char *digest = json_string_value(json_object_get(entry, "xxh3_128"));
        int64_t size;
        if (!name || !digest || strlen(digest) != 32 || !read_number(entry, "size", &size))
            return bad(ctx, path, "files has an entry without name, size and xxh3_128");
        if (!plain_name(name)) return bad(ctx, path, "a file's name is not a plain one");
        lmoe__manifest_file *f = &m->files[m->count++];
        *f = (lmoe__manifest_file){.name = name, .size = (uint64_t)size};
        memcpy(f->digest, digest, 33);
        LMOE_TRY(check_file(ctx, folder, f));
    }
    return LMOE_OK;
}

static lmoe_status read_root(lmoe_ctx *ctx, const char *folder, const char *path, lmoe__manifest *m)
{
    int64_t version;
    const char *format = json_string_value(json_object_get(m->root, "format"));
    if (!format || strcmp(format, format_name) != 0 || !read_number(m->root, "version", &version))
        return bad(ctx, path, "it is not of a checkpoint");
    if (version != VERSION)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "%s: version %lld; this lmoe reads %d: use the lmoe that wrote it", path,
                          (long long)version, VERSION);
    m->state = json_object_get(m->root, "state");
    m->config = json_string_value(json_object_get(m->root, "config"));
    if (!read_number(m->root, "step", &m->step) || !read_number(m->root, "tensors", &m->tensors) ||
        !json_is_object(m->state) || !m->config)
        return bad(ctx, path, "step, tensors, state or config is missing");
    return read_files(ctx, folder, path, json_object_get(m->root, "files"), m);
}

lmoe_status lmoe__manifest_read(lmoe_ctx *ctx, const char *folder, lmoe__manifest *m)
{
    lmoe__map map;
    *m = (lmoe__manifest){0};
    char *path = path_of(folder, "manifest.json");
    lmoe_status status = lmoe__map_file(ctx, path, &map);
    if (status == LMOE_OK) status = check_digest(ctx, path, &map);
    if (status == LMOE_OK) {
        m->root = json_loadb((const char *)map.data, map.size, JSON_REJECT_DUPLICATES, NULL);
        status = m->root ? read_root(ctx, folder, path, m) : bad(ctx, path, "it is not JSON");
    }
    lmoe__map_close(&map);
    free(path);
    if (status != LMOE_OK) lmoe__manifest_free(m);
    return status;
}

void lmoe__manifest_free(lmoe__manifest *m)
{
    json_decref(m->root);
    free(m->files);
    *m = (lmoe__manifest){0};
}
