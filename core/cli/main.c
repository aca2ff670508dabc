/* SPDX-License-Identifier: Apache-2.0
 * core/cli/main.c: the lmoe command: a table of subcommands.
 *
 * Exit codes: 0 done; 1 a failure of the run; 2 wrong configuration or input; 75 saved on a signal,
 * run again to go on.
 */
#include "core/cli/cli.h"

static int data(lmoe_ctx *ctx, int argc, char **argv)
{
    return lmoe__cli_data(ctx, argc - 1, argv + 1);
}

static const lmoe__command commands[] = {
    {"train", lmoe__cli_train,
     "train a model from an INI file; goes on where an earlier run stopped"},
    {"generate", lmoe__cli_generate, "continue a text with a trained model"},
    {"plan", lmoe__cli_plan, "parameters, FLOPs and memory of a run, without running it"},
    {"config", lmoe__cli_config, "check or show a configuration"},
    {"layer", lmoe__cli_layer, "run one layer on given inputs and weights, to compare it"},
    {"convert", lmoe__cli_convert, "turn a dense model into a mixture of experts"},
    {"data", data, "prepare, look at and verify token files"},
    {"plugin", lmoe__cli_plugin, "list, start and check plugins"},
    {"bench", lmoe__cli_bench, "test kernels against their references and time them"},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static int usage(FILE *f)
{
    fprintf(f, "usage: lmoe COMMAND ...     (lmoe COMMAND --help says more)\n\n");
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(f, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fprintf(f, "\nlmoe %s, ABI %d.%d\n", LMOE_VERSION, LMOE_ABI_MAJOR, LMOE_API_MINOR);
    return f == stdout ? 0 : 2;
}

int main(int argc, char **argv)
{
    lmoe_ctx ctx;
    lmoe__ctx_init(&ctx);
    if (argc < 2) return usage(stderr);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) return usage(stdout);
    if (strcmp(argv[1], "--version") == 0) {
        printf("lmoe %s\n", LMOE_VERSION);
        return 0;
    }
    const char *names[N_COMMANDS];
    for (int i = 0; i < N_COMMANDS; i++) {
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(&ctx, argc - 1, argv + 1);
        names[i] = commands[i].name;
    }
    const char *near = lmoe__nearest(argv[1], names, N_COMMANDS);
    fprintf(stderr, "lmoe: there is no command '%s'%s%s%s\n", argv[1],
            near ? "; did you mean '" : "", near ? near : "",
            near ? "'?" : "; lmoe --help lists them");
    return 2;
}
