/* SPDX-License-Identifier: Apache-2.0
 * core/cli/arguments.c: what the command lines of several subcommands share.
 */
#include "core/cli/cli.h"

int lmoe__cli_report(lmoe_ctx *ctx)
{
    lmoe_status s = ctx->status;
    fflush(stdout);
    fprintf(stderr, "lmoe: %s\n", ctx->message[0] ? ctx->message : "failed without a message");
    return s == LMOE_E_CONFIG || s == LMOE_E_UNSUPPORTED || s == LMOE_E_USAGE ? LMOE__EXIT_CONFIG
                                                                              : LMOE__EXIT_FAILED;
}

int lmoe__arguments_take(lmoe_ctx *ctx, lmoe__arguments *a, int argc, char **argv, int i)
{
    bool set = strcmp(argv[i], "--set") == 0;
    if (set || strcmp(argv[i], "--plugin-path") == 0) {
        if (i + 1 >= argc) {
            lmoe_error(ctx, LMOE_E_CONFIG, "%s needs a value: %s", argv[i],
                       set ? "--set section.key=value" : "--plugin-path FOLDER[:FOLDER...]");
            return -1;
        }
        if (!set) {
            a->plugin_path = argv[i + 1];
        } else if (a->n_sets < (int)(sizeof a->sets / sizeof *a->sets)) {
            a->sets[a->n_sets++] = argv[i + 1];
        } else {
            lmoe_error(ctx, LMOE_E_CONFIG, "there are more than %d --set; write a run file",
                       a->n_sets);
            return -1;
        }
        return 2;
    }
    if (argv[i][0] == '-' || a->file) return 0;
    a->file = argv[i];
    return 1;
}

lmoe__conf *lmoe__arguments_read(lmoe_ctx *ctx, const lmoe__arguments *a)
{
    lmoe__conf *conf = lmoe__conf_read(ctx, a->file);
    for (int i = 0; conf && i < a->n_sets; i++) {
        if (lmoe__conf_set(ctx, conf, a->sets[i]) != LMOE_OK) {
            lmoe__conf_free(conf);
            return NULL;
        }
    }
    return conf;
}

int lmoe__arguments_unknown(const char *command, const char *word, const char *const *flags)
{
    int n = 0;
    while (flags[n]) n++;
    const char *near = lmoe__nearest(word, flags, n);
    fprintf(stderr, "lmoe %s: unexpected '%s'", command, word);
    if (near) fprintf(stderr, "; did you mean '%s'?", near);
    fprintf(stderr, "%s\n", near ? "" : "; lmoe COMMAND --help shows what it takes");
    return LMOE__EXIT_CONFIG;
}

int lmoe__arguments_no_file(const char *command)
{
    fprintf(stderr, "lmoe %s: it needs a run file, such as configs/runs/shakespeare.ini\n",
            command);
    return LMOE__EXIT_CONFIG;
}
