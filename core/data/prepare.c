/* SPDX-License-Identifier: Apache-2.0
 * core/data/prepare.c: text and JSON lines into a pair of token files.
 */
#include "core/data/data.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>

typedef struct job {
    lmoe_ctx *ctx;
    const lmoe__prepare_options *o;
    lmoe__tokens_writer *writer;
    int64_t empty;
} job;

static lmoe_status put_ids(void *user, const int32_t *ids, int64_t n)
{
    return lmoe__tokens_put(user, ids, n);
}

static lmoe_status put_document(job *j, const char *text, size_t n)
{
    const lmoe__tokenizer *t = j->o->tokenizer;
    if (n == 0) {
        j->empty++;
        return LMOE_OK;
    }
    LMOE_TRY(t->encode(t, text, n, put_ids, j->writer));
    int32_t end = (int32_t)j->o->end;
    if (end >= 0) LMOE_TRY(lmoe__tokens_put(j->writer, &end, 1));
    lmoe__tokens_end_document(j->writer);
    return LMOE_OK;
}

static lmoe_status put_text(job *j, const char *path)
{
    lmoe__map map;
    LMOE_TRY(lmoe__map_file(j->ctx, path, &map));
    lmoe_status status = put_document(j, (const char *)map.data, map.size);
    lmoe__map_close(&map);
    return status;
}

static lmoe_status bad_line(job *j, const char *path, int64_t line, const char *what)
{
    return lmoe_error(
        j->ctx, LMOE_E_CONFIG,
        "%s:%lld: %s; expected one object a line with the text of a document in \"%s\" "
        "(--field names another); nothing was written",
        path, (long long)line, what, j->o->field);
}

/* Numbers beside the text may be of any size; a text may hold NUL. */
static lmoe_status put_line(job *j, const char *path, int64_t line, const char *text, size_t n)
{
    size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL;
    json_error_t error;
    json_t *object = json_loadb(text, n, flags, &error);
    char what[JSON_ERROR_TEXT_LENGTH + 64];
    lmoe_status status;
    json_t *value = json_object_get(object, j->o->field); /* NULL if there is no object */
    if (!object) {
        snprintf(what, sizeof what, "this is not JSON (%s)", error.text);
        status = bad_line(j, path, line, what);
    } else if (!json_is_string(value)) {
        status = bad_line(j, path, line,
                          !json_is_object(object) ? "this is JSON, but not an object"
                          : value                 ? "the field is not a string"
                                                  : "the object has no such field");
    } else {
        status = put_document(j, json_string_value(value), json_string_length(value));
    }
    json_decref(object);
    return status;
}

static bool blank(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!strchr(" \t\r\n", text[i]) || text[i] == '\0') return false;
    }
    return true;
}

static lmoe_status put_lines(job *j, const char *path)
{
    FILE *f = fopen(path, "rbe");
    if (!f) return lmoe_error(j->ctx, LMOE_E_CONFIG, "cannot read %s: %s", path, strerror(errno));
    char *text = NULL;
    size_t room = 0;
    ssize_t n;
    lmoe_status status = LMOE_OK;
    errno = 0;
    for (int64_t line = 1; status == LMOE_OK && (n = getline(&text, &room, f)) >= 0; line++) {
        if (!blank(text, (size_t)n)) status = put_line(j, path, line, text, (size_t)n);
        errno = 0;
    }
    if (status == LMOE_OK && !feof(f))
        status = lmoe_error(j->ctx, LMOE_E_CONFIG, "cannot read %s: %s", path, strerror(errno));
    free(text);
    fclose(f);
    return status;
}

static bool is_lines(const lmoe__prepare_options *o, const char *path)
{
    size_t n = strlen(path);
    if (o->format) return strcmp(o->format, "jsonl") == 0;
    return n >= 6 && strcmp(path + n - 6, ".jsonl") == 0;
}

static lmoe_status put_files(job *j)
{
    for (int i = 0; i < j->o->count; i++) {
        const char *path = j->o->in[i];
        LMOE_TRY(is_lines(j->o, path) ? put_lines(j, path) : put_text(j, path));
    }
    if (lmoe__tokens_written(j->writer, NULL) > 0) return LMOE_OK;
    return lmoe_error(j->ctx, LMOE_E_CONFIG, "there is no text in %s%s: nothing was written",
                      j->o->in[0], j->o->count > 1 ? " and the other files" : "");
}

lmoe_status lmoe__prepare(lmoe_ctx *ctx, const lmoe__prepare_options *o, lmoe__prepare_result *r)
{
    job j = {.ctx = ctx, .o = o};
    int64_t vocab = o->tokenizer->vocab;
    if (o->end >= vocab) vocab = o->end + 1;
    LMOE_TRY(lmoe__tokens_create(ctx, o->out, vocab, &j.writer));
    lmoe_status status = put_files(&j);
    if (status != LMOE_OK) {
        lmoe__tokens_discard(j.writer);
        return status;
    }
    r->empty = j.empty;
    r->tokens = lmoe__tokens_written(j.writer, &r->documents);
    return lmoe__tokens_finish(j.writer);
}
