/* SPDX-License-Identifier: Apache-2.0
 * core/conf/read.c: run files, read through inih.
 *
 * inih splits lines into section, key and value. As packaged it cuts long lines and names without a
 * word, gives no line numbers, hides empty sections, takes `:` for `=` and drops what stands behind
 * `]`. So it gets its lines from next_line() below, which counts them, looks at each one first, and
 * refuses what inih would not keep as it is written.
 */
#include "core/conf/store.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <stdlib.h>
#include <sys/stat.h>

enum {
    LARGEST_FILE = 1 << 20, /* bytes; a run file has some hundred lines */
    MOST_NAMES = 1000,      /* sections of a file, keys of a section */
    DEEPEST_INCLUDE = 8
};

/* A file being read. */
typedef struct source {
    const struct source *parent; /* the file that includes this one */
    const char *path;
    dev_t device; /* which file it is, however it is spelt; 0 of a text in memory */
    ino_t inode;
    lmoe_ctx *ctx;
    lmoe__conf *conf; /* what this file says */
    lmoe__conf_part *part;
    lmoe__conf_entry *entry;
    FILE *in;
    lmoe__text text;  /* the line as it stands in the file */
    lmoe__text value; /* of entry, so far */
    size_t bytes;
    int line;
    bool failed;
} source;

static __attribute__((format(printf, 2, 3))) bool refuse(source *s, const char *format, ...)
{
    char message[800];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    lmoe_error(s->ctx, LMOE_E_CONFIG, "%s:%d: %s", s->path, s->line, message);
    s->failed = true;
    return false;
}

/* ---- what inih is given ---- */

/* One line without its end into s->text. False at the end of the file, or if it is refused. */
static bool read_line(source *s)
{
    int c;
    s->text.length = 0;
    lmoe__text_add_bytes(&s->text, "", 0);
    s->line++;
    while ((c = getc_unlocked(s->in)) != EOF) {
        if (++s->bytes > LARGEST_FILE)
            return refuse(s, "the file has more than %d bytes; this is no run file", LARGEST_FILE);
        if (c == '\n') return true;
        if (c == '\0') return refuse(s, "the line has a NUL byte; this is no text file");
        char byte = (char)c;
        lmoe__text_add_bytes(&s->text, &byte, 1);
    }
    if (ferror(s->in)) {
        int error = errno;
        return refuse(s, "cannot read on: %s", strerror(error));
    }
    return s->text.length > 0;
}

/* The value may go on in indented lines, so it is complete only when something else begins. */
static void finish_value(source *s)
{
    if (!s->entry) return;
    s->entry->value = lmoe__arena_strdup(s->conf->arena, s->value.data);
    s->entry = NULL;
    s->value.length = 0;
}

static bool open_section(source *s, const char *line)
{
    char name[LMOE__CONF_NAME + 1];
    const char *end = strchr(line, ']');
    if (!end) return refuse(s, "the section's ']' is missing: %s", line);
    const char *wrong = lmoe__conf_section_name(line + 1, (size_t)(end - line - 1), name);
    if (wrong) return refuse(s, "%s: %.*s", wrong, (int)(end - line + 1), line);
    const char *rest = end + 1 + strspn(end + 1, " \t");
    if (*rest && *rest != ';') return refuse(s, "only a comment may follow [%s]: %s", name, rest);
    const lmoe__conf_part *old = lmoe__conf_find_part(s->conf, name);
    if (old)
        return refuse(s, "section [%s] is already in line %d; put its keys together", name,
                      old->origin.line);
    if (s->conf->count == MOST_NAMES)
        return refuse(s, "the file has more than %d sections", MOST_NAMES);
    s->part = lmoe__conf_add_part(s->conf, name);
    s->part->origin = (lmoe__origin){s->path, s->line};
    return true;
}

static bool open_key(source *s, const char *line)
{
    char key[LMOE__CONF_NAME + 1];
    const char *equals = strchr(line, '=');
    if (!equals) return refuse(s, "neither [section] nor key = value: %s", line);
    const char *wrong = lmoe__conf_key_name(line, (size_t)(equals - line), key);
    if (wrong) return refuse(s, "%s: %s", wrong, line);
    if (equals[1] == ';') return refuse(s, "a value cannot begin with ';': %s", line);
    if (!s->part) return refuse(s, "key '%s' stands before any [section]", key);
    const lmoe__conf_entry *old = lmoe__conf_find(s->part, key);
    if (old)
        return refuse(s, "key '%s' of [%s] is already in line %d", key, s->part->name,
                      old->origin.line);
    if (s->part->count == MOST_NAMES)
        return refuse(s, "section [%s] has more than %d keys", s->part->name, MOST_NAMES);
    s->entry = lmoe__conf_add(s->conf, s->part, key);
    s->entry->origin = (lmoe__origin){s->path, s->line};
    return true;
}

/* inih of some versions keeps a comment behind a continued value; behind a first one none does. */
static void cut_comment(char *line)
{
    for (char *p = line + 1; *p; p++) {
        if (*p == ';' && isblank((unsigned char)p[-1])) *p = '\0';
        if (!*p) return;
    }
}

static bool continue_value(source *s, char *line, char *text)
{
    if (!s->entry)
        return refuse(s, "an indented line continues a value, but there is none above: %s", text);
    if (lmoe__conf_looks_like_key(text))
        return refuse(s, "an indented line continues the value of '%s'; a key starts its line: %s",
                      s->entry->key, text);
    cut_comment(line);
    return true;
}

/* False if the line is refused. Comments, which may be long, are emptied. */
static bool look_at(source *s, char *line, int room)
{
    size_t n = strlen(line);
    while (n > 0 && isspace((unsigned char)line[n - 1])) line[--n] = '\0';
    char *text = line + strspn(line, " \t");
    if (*text == ';' || *text == '#') *line = '\0';
    if (*line == '\0') return true;
    for (const char *p = line; *p; p++) {
        if (iscntrl((unsigned char)*p) && *p != '\t')
            return refuse(s, "the line has a control character (0x%02x)", (unsigned char)*p);
    }
    int most = room - 2 < LMOE__CONF_LINE ? room - 2 : LMOE__CONF_LINE;
    if (n > (size_t)most)
        return refuse(s,
                      "the line has %zu bytes, at most %d are read; break the value: an indented "
                      "line continues the one above",
                      n, most);
    if (text > line) return continue_value(s, line, text);
    finish_value(s);
    return *line == '[' ? open_section(s, line) : open_key(s, line);
}

/* inih's reader, with the contract of fgets. */
static char *next_line(char *out, int room, void *user)
{
    static const char mark[] = "\xef\xbb\xbf"; /* of UTF-8 */
    source *s = user;
    if (s->failed || room < 4 || !read_line(s)) return NULL;
    char *line = s->text.data;
    if (s->line == 1 && strncmp(line, mark, 3) == 0) line += 3;
    if (!look_at(s, line, room)) return NULL;
    snprintf(out, (size_t)room, "%s\n", line);
    return out;
}

/* inih's handler: the value of the key, or of the indented line, that look_at has just seen. */
static int take_value(void *user, const char *section, const char *key, const char *value)
{
    source *s = user;
    if (!key) return 1; /* some builds of inih report sections as well */
    if (s->value.length > 0) lmoe__text_add_bytes(&s->value, " ", 1);
    lmoe__text_add_bytes(&s->value, value, strlen(value));
    return 1;
}

/* ---- files ---- */

static lmoe_status parse(source *s)
{
    int line = ini_parse_stream(next_line, s, take_value, s);
    if (!s->failed) finish_value(s);
    lmoe__text_free(&s->text);
    lmoe__text_free(&s->value);
    if (s->failed) return LMOE_E_CONFIG;
    if (line == 0) return LMOE_OK;
    s->line = line;
    refuse(s, line > 0 ? "neither [section] nor key = value" : "out of memory");
    return LMOE_E_CONFIG;
}

/* What `s` says wins over what is in `conf` already. */
static void overlay(lmoe__conf *conf, const source *s)
{
    const char *path = lmoe__arena_strdup(conf->arena, s->path);
    for (int i = 0; i < s->conf->count; i++) {
        const lmoe__conf_part *from = &s->conf->parts[i];
        if (from->count == 1 && from->entries[0].asked) continue; /* only an include: followed */
        lmoe__conf_part *to = lmoe__conf_add_part(conf, from->name);
        to->origin = (lmoe__origin){path, from->origin.line};
        for (int k = 0; k < from->count; k++) {
            const lmoe__conf_entry *e = &from->entries[k];
            if (e->asked) continue;
            lmoe__conf_entry *into = lmoe__conf_add(conf, to, e->key);
            into->value = lmoe__arena_strdup(conf->arena, e->value);
            into->origin = (lmoe__origin){path, e->origin.line};
        }
    }
}

static lmoe_status read_source(source *s, lmoe__conf *into);

/* parent: the file that includes this one, or NULL. */
static lmoe_status read_file(lmoe_ctx *ctx, const char *path, source *parent, lmoe__conf *into)
{
    source s = {.parent = parent, .path = path, .ctx = ctx};
    struct stat info;
    s.in = fopen(path, "re");
    int error = !s.in || fstat(fileno(s.in), &info) != 0 ? errno
                : S_ISDIR(info.st_mode)                  ? EISDIR
                                                         : 0;
    lmoe_status status = LMOE_E_CONFIG;
    if (error && parent) {
        refuse(parent, "cannot include %s: %s", path, strerror(error));
    } else if (error) {
        lmoe_error(ctx, LMOE_E_CONFIG, "cannot read %s: %s", path, strerror(error));
    } else {
        s.device = info.st_dev;
        s.inode = info.st_ino;
        status = read_source(&s, into);
    }
    if (s.in) fclose(s.in);
    return status;
}

static lmoe_status follow_include(source *s, lmoe__conf *into)
{
    lmoe__conf_part *run = lmoe__conf_find_part(s->conf, "run");
    lmoe__conf_entry *include = lmoe__conf_find(run, "include");
    if (!include) return LMOE_OK;
    include->asked = true;          /* here */
    s->line = include->origin.line; /* for messages */
    if (!*include->value) {
        refuse(s, "include names no file");
        return LMOE_E_CONFIG;
    }
    const char *path = lmoe__path_beside(s->path, include->value, into->arena);
    int depth = 0;
    struct stat info;
    bool there = stat(path, &info) == 0;
    for (const source *p = s; p; p = p->parent, depth++) {
        if (there && p->inode && p->inode == info.st_ino && p->device == info.st_dev) {
            refuse(s, "%s includes itself", path);
            return LMOE_E_CONFIG;
        }
    }
    if (depth > DEEPEST_INCLUDE) {
        refuse(s, "files include each other more than %d deep", DEEPEST_INCLUDE);
        return LMOE_E_CONFIG;
    }
    return read_file(s->ctx, path, s, into);
}

static lmoe_status read_source(source *s, lmoe__conf *into)
{
    s->conf = lmoe__conf_new(s->path);
    lmoe_status status = parse(s);
    if (status == LMOE_OK) status = follow_include(s, into);
    if (status == LMOE_OK) overlay(into, s);
    lmoe__conf_free(s->conf);
    return status;
}

lmoe__conf *lmoe__conf_read(lmoe_ctx *ctx, const char *path)
{
    lmoe__conf *conf = lmoe__conf_new(path);
    if (read_file(ctx, path, NULL, conf) == LMOE_OK) return conf;
    lmoe__conf_free(conf);
    return NULL;
}

lmoe__conf *lmoe__conf_read_text(lmoe_ctx *ctx, const char *name, const char *text, size_t size)
{
    lmoe__conf *conf = lmoe__conf_new(name);
    if (size == 0) return conf;
    source s = {.path = name, .ctx = ctx, .in = fmemopen((void *)(uintptr_t)text, size, "r")};
    lmoe_status status =
        s.in ? read_source(&s, conf) : lmoe_error(ctx, LMOE_E_MEMORY, "%s: out of memory", name);
    if (s.in) fclose(s.in);
    if (status == LMOE_OK) return conf;
    lmoe__conf_free(conf);
    return NULL;
}
