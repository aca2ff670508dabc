/* SPDX-License-Identifier: Apache-2.0
 * core/cli/cli_train.c: lmoe train FILE.
 */
#include "core/cli/cli.h"
#include "core/train/train.h"

static const char *const flags[] = {"--set", "--plugin-path", "--eager", "--help", NULL};

int lmoe__cli_train(lmoe_ctx *ctx, int argc, char **argv)
{
    lmoe__arguments a = {0};
    lmoe__setup s = {0};
    bool eager = false;
    for (int i = 1; i < argc;) {
        if (strcmp(argv[i], "--help") == 0) {
            printf("usage: lmoe train FILE [--set section.key=value]... [--plugin-path FOLDERS] "
                   "[--eager]\n"
                   "Goes on from the newest checkpoint of [run] dir if there is one. SIGINT and "
                   "SIGTERM save and\n"
                   "end with exit code 75. --eager checks every op and names the source line of "
                   "the first NaN.\n");
            return 0;
        }
        if (strcmp(argv[i], "--eager") == 0) {
            eager = true;
            i++;
            continue;
        }
        int used = lmoe__arguments_take(ctx, &a, argc, argv, i);
        if (used < 0) return lmoe__cli_report(ctx);
        if (used == 0) return lmoe__arguments_unknown("train", argv[i], flags);
        i += used;
    }
    if (!a.file) return lmoe__arguments_no_file("train");
    lmoe__signals_hold(); /* before plugins' libraries start threads, which must hold them too */
    s.conf = lmoe__arguments_read(ctx, &a);
    int code = 0;
    if (!s.conf || lmoe__setup_read(ctx, &s, a.plugin_path, LMOE__SETUP_DATA) != LMOE_OK) {
        code = lmoe__cli_report(ctx);
    } else {
        if (eager) s.train.eager = 1;
        code = lmoe__train(ctx, &s);
        if (code == 1 && ctx->status != LMOE_OK) code = lmoe__cli_report(ctx);
    }
    lmoe__setup_free(&s);
    return code;
}
