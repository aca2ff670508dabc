/* SPDX-License-Identifier: Apache-2.0
 * core/conf/conf.h: run files (INI), option tables, and where each value comes from.
 *
 *   conf = lmoe__conf_read(ctx, "runs/a.ini");          values, with file and line
 *   lmoe__conf_set(ctx, conf, "train.lr=3e-4");         --set
 *   lmoe__options_fill(ctx, conf, "train", table, &o, arena);   once for each section and table
 *   lmoe__conf_check_unused(ctx, conf);                 what nobody asked for is a mistake
 *
 * A file is lines of `[section]`, `key = value` and comments. Names keep their case; a section's
 * name may be several words ("layer L"). An indented line continues the value above, joined by one
 * blank. `;` or `#` starts a comment at the beginning of a line, ` ;` behind a value (` #` does
 * not). Quotes are part of the value. A line with a value holds at most LMOE__CONF_LINE bytes.
 * `include = path` in [run] reads another file first, relative to the one that says so; the values
 * of the including file win. One thread at a time.
 */
#ifndef LMOE_CORE_CONF_H
#define LMOE_CORE_CONF_H

#include <lmoe/option.h>

#include "core/base/base.h"

#define LMOE__CONF_LINE 190 /* inih as packaged keeps 199 */
#define LMOE__CONF_NAME 49  /* longest section name or key */

typedef struct lmoe__conf lmoe__conf;

/* ---- values ---- */

/* NULL on failure. Everything that a conf returns lives until it is freed. */
lmoe__conf *lmoe__conf_read(lmoe_ctx *ctx, const char *path);
/* The same from memory (a checkpoint's configuration); `name` is what messages call it, and what
 * relative paths are relative to. "" with size 0 gives an empty configuration. */
lmoe__conf *lmoe__conf_read_text(lmoe_ctx *ctx, const char *name, const char *text, size_t size);
void lmoe__conf_free(lmoe__conf *conf); /* NULL is fine */

/* "section.key=value", as after --set; cut at the last dot before the first '='. The last one
 * wins, over every file. */
lmoe_status lmoe__conf_set(lmoe_ctx *ctx, lmoe__conf *conf, const char *assignment);

/* True if a file or --set names the section. */
bool lmoe__conf_has(const lmoe__conf *conf, const char *section);
/* Name of the i-th section that a file or --set names, NULL past the last. */
const char *lmoe__conf_section(const lmoe__conf *conf, int i);
/* Key of the i-th value of a section, NULL past the last: for sections whose keys are data. */
const char *lmoe__conf_key(const lmoe__conf *conf, const char *section, int i);

/* The value as written, or NULL if there is none; counts as asked for. Prefer a table. */
const char *lmoe__conf_text(lmoe__conf *conf, const char *section, const char *key);
/* The value as a path, resolved from the folder of the file that says it (--set: as it is); NULL if
 * there is none; counts as asked for. */
const char *lmoe__conf_path(lmoe__conf *conf, const char *section, const char *key,
                            lmoe__arena *arena);
/* A path that is part of that value, resolved in the same way. */
const char *lmoe__conf_resolve(const lmoe__conf *conf, const char *section, const char *key,
                               const char *path, lmoe__arena *arena);
/* "a.ini:12", "--set" or "default": who says the value (key NULL: who names the section). */
const char *lmoe__conf_where(const lmoe__conf *conf, const char *section, const char *key);

/* Fails on the first section or key that a file or --set gives and nobody asked for. */
lmoe_status lmoe__conf_check_unused(lmoe_ctx *ctx, const lmoe__conf *conf);

/* Every value in force, with its origin, as a file that reads back to the same configuration.
 * Options with the unit "path" or "paths" are printed as absolute paths: the output may stand anywhere. */
void lmoe__conf_show(const lmoe__conf *conf, FILE *f);

/* ---- option tables (lmoe/option.h) ---- */

/* Fills the struct `out` from a section: first the values of conf, else the defaults. A table of
 * NULL only marks the section as asked for. Several tables may share a section; where they share a
 * key too, their defaults must agree. Texts are copied to `arena`. A TEXT option with the unit
 * "path" is resolved as by lmoe__conf_path, with the unit "paths" each of its words is. */
lmoe_status lmoe__options_fill(lmoe_ctx *ctx, lmoe__conf *conf, const char *section,
                               const lmoe_option *table, void *out, lmoe__arena *arena);

/* Defaults only. Options that must be given are left 0 (texts ""). The table was checked. */
void lmoe__options_default(const lmoe_option *table, void *out, lmoe__arena *arena);

/* Sets one option by "key=value"; `what` opens the message, e.g. "op scan_diag/1". */
lmoe_status lmoe__options_parse_one(lmoe_ctx *ctx, const char *what, const lmoe_option *table,
                                    const char *assignment, void *out, lmoe__arena *arena);

/* The value of one option as text that parses back to the same value. */
const char *lmoe__option_to_text(const lmoe_option *option, const void *options,
                                 lmoe__arena *arena);

/* What a value may be, for people: "a whole number from 1 to 64". */
void lmoe__option_describe(const lmoe_option *option, lmoe__text *out);

/* The table as the lines of an INI section: comments, then each default. */
void lmoe__options_print_ini(FILE *f, const lmoe_option *table);

/* An option that names a communicator inside of another one (lmoe/inner.h). */
bool lmoe__option_is_inner(const lmoe_option *option);

/* A section of run files and its options, for the reference page (docs/ini.md). */
typedef struct lmoe__section_table {
    const char *section; /* NULL ends a list */
    const lmoe_option *table;
} lmoe__section_table;

/* Whether a table can be trusted: names, types, offsets, ranges, choices, defaults. `what` opens
 * the message. */
lmoe_status lmoe__options_check_table(lmoe_ctx *ctx, const char *what, const lmoe_option *table,
                                      size_t options_size);

#endif
