/* SPDX-License-Identifier: Apache-2.0
 * core/cli/cli.h: the subcommands. Each gets its own name as argv[0] and returns the exit code.
 */
#ifndef LMOE_CORE_CLI_H
#define LMOE_CORE_CLI_H

#include "core/conf/conf.h"

typedef struct lmoe__command {
    const char *name;
    int (*run)(lmoe_ctx *ctx, int argc, char **argv);
    const char *summary;
} lmoe__command;

int lmoe__cli_train(lmoe_ctx *ctx, int argc, char **argv);
int lmoe__cli_generate(lmoe_ctx *ctx, int argc, char **argv);
int lmoe__cli_plan(lmoe_ctx *ctx, int argc, char **argv);
int lmoe__cli_config(lmoe_ctx *ctx, int argc, char **argv);
int lmoe__cli_layer(lmoe_ctx *ctx, int argc, char **argv);
int lmoe__cli_convert(lmoe_ctx *ctx, int argc, char **argv);
int lmoe__cli_data(lmoe_ctx *ctx, int argc, char **argv);
int lmoe__cli_plugin(lmoe_ctx *ctx, int argc, char **argv);
int lmoe__cli_plugin_new(lmoe_ctx *ctx, int argc,
                         char **argv); /* of lmoe plugin: what follows `new` */
int lmoe__cli_bench(lmoe_ctx *ctx, int argc, char **argv);
int lmoe__cli_bench_step(lmoe_ctx *ctx, int argc, char **argv); /* of lmoe bench */
int lmoe__cli_bench_decode(lmoe_ctx *ctx, int argc, char **argv);

enum { LMOE__EXIT_FAILED = 1, LMOE__EXIT_CONFIG = 2, LMOE__EXIT_SAVED = 75 };

/* Prints the recorded message and returns the exit code of its status. */
int lmoe__cli_report(lmoe_ctx *ctx);

/* Command lines of commands that take a run file: [FILE] [--set s.k=v]... [--plugin-path P] and own
 * flags. */
typedef struct lmoe__arguments {
    const char *file;        /* NULL: none given */
    const char *plugin_path; /* NULL: none given */
    const char *sets[256];
    int n_sets;
} lmoe__arguments;

/* Takes argument i if it is a common one: returns how many words it took, 0 if it is none of them,
 * -1 with a message if it is wrong. */
int lmoe__arguments_take(lmoe_ctx *ctx, lmoe__arguments *a, int argc, char **argv, int i);
/* Reads the run file and applies --set. NULL with a message on failure. */
lmoe__conf *lmoe__arguments_read(lmoe_ctx *ctx, const lmoe__arguments *a);
/* Reports a word that nobody took; "did you mean" over `flags` (NULL-terminated). Returns exit
 * code 2. */
int lmoe__arguments_unknown(const char *command, const char *word, const char *const *flags);
int lmoe__arguments_no_file(const char *command); /* the same for a run file that is missing */

#endif
