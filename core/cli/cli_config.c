/* SPDX-License-Identifier: Apache-2.0
 * core/cli/cli_config.c: lmoe config check | show FILE.
 */
#include "core/cli/cli.h"
#include "core/train/setup.h"

static const char *const flags[] = {"--set", "--plugin-path", "--help", NULL};

int lmoe__cli_config(lmoe_ctx *ctx, int argc, char **argv)
{
    lmoe__arguments a = {0};
    lmoe__setup s = {0};
    bool show = argc > 1 && strcmp(argv[1], "show") == 0;
    bool check = argc > 1 && strcmp(argv[1], "check") == 0;
    if (!show && !check) {
        bool help = argc > 1 && strcmp(argv[1], "--help") == 0;
        fprintf(
            help ? stdout : stderr,
            "usage: lmoe config check FILE [--set section.key=value]... [--plugin-path FOLDERS]\n"
            "       lmoe config show FILE ...    every value in force and where it comes from\n");
        return help ? 0 : LMOE__EXIT_CONFIG;
    }
    for (int i = 2; i < argc;) {
        int used = lmoe__arguments_take(ctx, &a, argc, argv, i);
        if (used < 0) return lmoe__cli_report(ctx);
        if (used == 0) return lmoe__arguments_unknown("config", argv[i], flags);
        i += used;
    }
    if (!a.file) return lmoe__arguments_no_file("config");
    s.conf = lmoe__arguments_read(ctx, &a);
    int code = 0;
    if (!s.conf || lmoe__setup_read(ctx, &s, a.plugin_path, 0) != LMOE_OK)
        code = lmoe__cli_report(ctx);
    else if (show)
        lmoe__conf_show(s.conf, stdout);
    else
        printf("%s: no mistakes found\n", a.file);
    lmoe__setup_free(&s);
    return code;
}
