/* SPDX-License-Identifier: Apache-2.0
 * lmoe/option.h: option tables. A class (or an op, for its attributes) declares each option once;
 * parsing, range checks, defaults, `lmoe plugin info` and the reference pages come from the table.
 */
#ifndef LMOE_OPTION_H
#define LMOE_OPTION_H

#include <lmoe/base.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum lmoe_option_type {
    LMOE_OPTION_BOOL = 1,  /* int32_t, 0 or 1; written yes/no, true/false, on/off, 1/0 */
    LMOE_OPTION_INT = 2,   /* int64_t; suffixes K, M, G (powers of 1000) and Ki, Mi, Gi are read */
    LMOE_OPTION_FLOAT = 3, /* double */
    LMOE_OPTION_TEXT = 4,  /* const char *, owned by the host, never NULL once filled */
    LMOE_OPTION_ENUM = 5,  /* int32_t, the index of the word in `choices` */
    LMOE_OPTION_CHARS = 6  /* char[max + 1] inside the struct; `max` is the longest text */
} lmoe_option_type;

/* One option. A table ends with an entry whose name is NULL. */
typedef struct lmoe_option {
    const char *name;
    lmoe_option_type type;
    size_t offset;       /* of the field in the option struct */
    const char *initial; /* default, as the user would write it; NULL: must be given */
    double min, max;     /* inclusive range of numbers; both 0: no limit */
    const char *choices; /* ENUM: words separated by blanks; TEXT: the same, or NULL for any text */
    const char *unit;    /* "" or NULL if none; TEXT "path": relative to the file that says it;
                            "paths": several, separated by blanks */
    const char *doc;     /* one sentence */
} lmoe_option;

#define LMOE_OPTION_END                                            \
    {                                                              \
        NULL, (lmoe_option_type)0, 0, NULL, 0, 0, NULL, NULL, NULL \
    }

/* First member of every class. `kind` is the contract with its revision, for example
 * "lmoe.layer/1"; `name` is what a run file says, for example "lsm/gla" (vendors: "vendor.x/gla").
 * The host allocates and fills option structs. */
typedef struct lmoe_class {
    size_t size; /* of the whole class struct, e.g. sizeof(lmoe_layer); a missing tail is absent */
    const char *kind;
    const char *name;
    const char *summary;        /* one line */
    const lmoe_option *options; /* NULL: none */
    size_t options_size;
    uint32_t flags;
} lmoe_class;

#ifdef __cplusplus
}
#endif
#endif
