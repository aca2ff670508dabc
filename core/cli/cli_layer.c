/* SPDX-License-Identifier: Apache-2.0
 * core/cli/cli_layer.c: lmoe layer run CLASS: one layer on given inputs and weights, from a file
 * of tensors to a file of tensors. It is how a layer is compared with another implementation.
 */
#include "core/cli/cli.h"
#include "core/cli/layer_run.h"

#include <errno.h>
#include <stdlib.h>

static const char help[] =
    "usage: lmoe layer run CLASS --in FILE --out FILE [--OPTION VALUE]...\n"
    "Runs one layer (lsm/gla) or one mixture of experts with its router (moe/qwen2) on the\n"
    "tensors of a safetensors file, and writes what comes out to another.\n"
    "\n"
    "  in   x (batch seq embed), w:NAME for each parameter; dy, of x's shape, asks for gradients;\n"
    "       tokens (batch seq), for routers that look at them\n"
    "  out  y, carry/LAYER/NUMBER/PORT as it is after the last token, aux:NAME, stat:NAME; with "
    "dy\n"
    "       dx and dw:NAME, the gradients of sum(y dy) + all auxiliary losses\n"
    "\n"
    "  --set KEY=VALUE        an option of the class; SECTION.KEY=VALUE: of a run file's section\n"
    "  --dtype f32|f64        of the computation (f32)\n"
    "  --chunks N[,N...]      y and the carry come from pieces of so many tokens, in turn\n"
    "  --decode N             the last N tokens go in one by one\n"
    "  --reset T[,T...]       a new document starts at these tokens, in every row\n"
    "  --layers N[,N...]      number of the layer, or of several that follow each other (0);\n"
    "                         parameters of several are called w:NUMBER.NAME\n"
    "  --init SEED            makes the parameters that the file lacks, and writes them out too\n"
    "  --plugin-path FOLDERS  where plugins are looked for\n";

static const char *const flags[] = {"--in",     "--out",         "--set",   "--dtype",
                                    "--chunks", "--decode",      "--reset", "--layers",
                                    "--init",   "--plugin-path", "--help",  NULL};

/* "5,1,13" -> numbers of [low, 2^31), each more than the one before if they rise. */
static lmoe_status read_list(lmoe_ctx *ctx, const char *flag, const char *text, int64_t low,
                             bool rise, lmoe__numbers *out)
{
    out->count = 0;
    for (const char *p = text;; p++) {
        char *end;
        errno = 0;
        long long n = strtoll(p, &end, 10);
        bool ok = end != p && errno == 0 && n >= low && n <= INT32_MAX && (!*end || *end == ',');
        if (!ok || (rise && out->count && n <= out->at[out->count - 1]))
            return lmoe_error(ctx, LMOE_E_CONFIG,
                              "%s %s: expected whole numbers from %lld, %sseparated by commas",
                              flag, text, (long long)low,
                              rise ? "each more than the one before, " : "");
        if (out->count == LMOE__MAX_NUMBERS)
            return lmoe_error(ctx, LMOE_E_CONFIG, "%s has more than %d numbers", flag,
                              LMOE__MAX_NUMBERS);
        out->at[out->count++] = n;
        if (!*end) return LMOE_OK;
        p = end;
    }
}

static lmoe_status read_one(lmoe_ctx *ctx, const char *flag, const char *text, int64_t *out)
{
    lmoe__numbers n;
    LMOE_TRY(read_list(ctx, flag, text, 0, false, &n));
    if (n.count != 1) return lmoe_error(ctx, LMOE_E_CONFIG, "%s takes one number", flag);
    *out = n.at[0];
    return LMOE_OK;
}

static lmoe_status take(lmoe_ctx *ctx, lmoe__layer_job *j, const char *flag, const char *value)
{
    if (!value) return lmoe_error(ctx, LMOE_E_CONFIG, "%s needs a value", flag);
    if (strcmp(flag, "--in") == 0) j->in = value;
    if (strcmp(flag, "--out") == 0) j->out = value;
    if (strcmp(flag, "--plugin-path") == 0) j->plugin_path = value;
    if (strcmp(flag, "--chunks") == 0) return read_list(ctx, flag, value, 1, false, &j->chunks);
    if (strcmp(flag, "--decode") == 0) return read_one(ctx, flag, value, &j->decode);
    if (strcmp(flag, "--reset") == 0) return read_list(ctx, flag, value, 0, true, &j->resets);
    if (strcmp(flag, "--layers") == 0) return read_list(ctx, flag, value, 0, true, &j->layers);
    if (strcmp(flag, "--init") == 0) {
        j->init = true;
        return read_one(ctx, flag, value, &j->seed);
    }
    if (strcmp(flag, "--dtype") == 0) {
        j->f64 = strcmp(value, "f64") == 0;
        if (!j->f64 && strcmp(value, "f32") != 0)
            return lmoe_error(ctx, LMOE_E_CONFIG, "--dtype %s: expected f32 or f64", value);
    }
    if (strcmp(flag, "--set") == 0) {
        if (j->n_sets == LMOE__MAX_NUMBERS)
            return lmoe_error(ctx, LMOE_E_CONFIG, "there are more than %d --set", j->n_sets);
        j->sets[j->n_sets++] = value;
    }
    return LMOE_OK;
}

static bool known(const char *word)
{
    for (int i = 0; flags[i]; i++) {
        if (strcmp(flags[i], word) == 0) return true;
    }
    return false;
}

int lmoe__cli_layer(lmoe_ctx *ctx, int argc, char **argv)
{
    lmoe__layer_job j = {.layers = {.count = 1}};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") != 0) continue;
        printf("%s", help);
        return 0;
    }
    if (argc < 3 || strcmp(argv[1], "run") != 0) {
        fprintf(stderr, "%s", help);
        return LMOE__EXIT_CONFIG;
    }
    for (int i = 2; i < argc; i++) {
        if (argv[i][0] != '-' && !j.class_name) {
            j.class_name = argv[i];
        } else if (!known(argv[i])) {
            return lmoe__arguments_unknown("layer run", argv[i], flags);
        } else {
            if (take(ctx, &j, argv[i], i + 1 < argc ? argv[i + 1] : NULL) != LMOE_OK)
                return lmoe__cli_report(ctx);
            i++;
        }
    }
    if (!j.class_name || !j.in || !j.out) {
        fprintf(stderr, "lmoe layer run: it needs a class, --in and --out, such as\n"
                        "  lmoe layer run lsm/gla --in in.safetensors --out out.safetensors\n");
        return LMOE__EXIT_CONFIG;
    }
    return lmoe__layer_run(ctx, &j) == LMOE_OK ? 0 : lmoe__cli_report(ctx);
}
