/* SPDX-License-Identifier: Apache-2.0
 * core/conf/store.h: how a configuration is kept; for this folder only.
 */
#ifndef LMOE_CORE_CONF_STORE_H
#define LMOE_CORE_CONF_STORE_H

#include "core/conf/conf.h"

/* file NULL: nobody said it. line 0: `file` is not a file ("--set"). */
typedef struct lmoe__origin {
    const char *file;
    int line;
} lmoe__origin;

/* A key that was written, asked for, or both. */
typedef struct lmoe__conf_entry {
    const char *key;
    const char *value;     /* as written; NULL if it was only asked for */
    const char *effective; /* in force, once a table asked for it */
    lmoe__origin origin;   /* of value */
    bool asked;
} lmoe__conf_entry;

typedef struct lmoe__conf_part {
    const char *name;
    lmoe__origin origin; /* file NULL: it was only asked for */
    bool asked;
    lmoe__conf_entry *entries;
    int count, capacity;
} lmoe__conf_part;

struct lmoe__conf {
    lmoe__arena *arena;
    const char *name; /* of the file */
    lmoe__conf_part *parts;
    int count, capacity;
};

lmoe__conf *lmoe__conf_new(const char *name);

/* The section or key, or NULL. The pointers last until something is added. */
lmoe__conf_part *lmoe__conf_find_part(const lmoe__conf *conf, const char *section);
lmoe__conf_entry *lmoe__conf_find(const lmoe__conf_part *part, const char *key);
/* The same, added if there is none. Names are copied. */
lmoe__conf_part *lmoe__conf_add_part(lmoe__conf *conf, const char *section);
lmoe__conf_entry *lmoe__conf_add(lmoe__conf *conf, lmoe__conf_part *part, const char *key);

/* "a.ini:12" or "--set" or "default". */
const char *lmoe__origin_text(lmoe__origin origin, lmoe__arena *arena);
/* `path` as seen from where `file` is read; absolute paths and "" stay. */
const char *lmoe__path_beside(const char *file, const char *path, lmoe__arena *arena);
const char *lmoe__entry_path(const lmoe__conf_entry *e, const char *path, lmoe__arena *arena);

/* Brings a section's name of n bytes into its one form (words with one blank between) in
 * out[LMOE__CONF_NAME + 1]. NULL, or what is wrong with it. */
const char *lmoe__conf_section_name(const char *text, size_t n, char *out);
/* The same for a key: letters, digits, '_' and '-'. */
const char *lmoe__conf_key_name(const char *text, size_t n, char *out);
/* True for `word =` and `=`: an indented line that begins so is more likely meant as a key than as
 * part of the value above. */
bool lmoe__conf_looks_like_key(const char *text);

/* Parses one value into its field of `options`. False if it is none of this option's. */
bool lmoe__option_parse(const lmoe_option *o, const char *text, void *options, lmoe__arena *arena);
/* Adds "expected a whole number from 1 to 64", with what `text` may have been meant to be. */
void lmoe__option_expected(const lmoe_option *o, const char *text, lmoe__text *out);

/* Prints "key = value", in several lines if it is long. False if no file can hold the value; then,
 * and if f is NULL, nothing is printed. */
bool lmoe__conf_print_value(FILE *f, const char *key, const char *value);

#endif
