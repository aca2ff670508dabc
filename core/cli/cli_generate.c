/* SPDX-License-Identifier: Apache-2.0
 * core/cli/cli_generate.c: lmoe generate FILE: continues a text with the newest checkpoint of a
 * run.
 */
#include "core/cli/cli.h"
#include "core/generate/generate.h"
#include "core/train/train.h"

#include <stdlib.h>
#include <sys/resource.h>

typedef struct generate_options {
    const char *prompt, *prompt_file, *save_state, *load_state;
    int64_t tokens, seed, top_k, chunk, context, copies;
    double temperature, top_p;
    int32_t stats;
} generate_options;

#define O(type, field) LMOE_OPTION_##type, offsetof(generate_options, field)
static const lmoe_option table[] = {
    {"prompt", O(TEXT, prompt), "\n", 0, 0, NULL, NULL, "Text to continue."},
    {"prompt_file", O(TEXT, prompt_file), "", 0, 0, NULL, NULL,
     "File with the text to continue; instead of --prompt."},
    {"tokens", O(INT, tokens), "200", 0, 1e15, NULL, "tokens", "How many to write."},
    {"temperature", O(FLOAT, temperature), "0.8", 0, 100, NULL, NULL,
     "0: always the likeliest token."},
    {"top_k", O(INT, top_k), "0", 0, 1e9, NULL, NULL, "Choose among the k likeliest; 0: all."},
    {"top_p", O(FLOAT, top_p), "1", 0, 1, NULL, NULL,
     "Choose among the fewest that reach this probability."},
    {"seed", O(INT, seed), "1", 0, 1e15, NULL, NULL, "Of the choices."},
    {"copies", O(INT, copies), "1", 1, 1e6, NULL, NULL,
     "Continuations of the prompt, from one state."},
    {"chunk", O(INT, chunk), "64", 1, 1e6, NULL, "tokens", "The prompt goes in by so many tokens."},
    {"context", O(INT, context), "0", 0, 1e15, NULL, "tokens",
     "Past tokens that softmax attention keeps; 0: the prompt and what is written."},
    {"load_state", O(TEXT, load_state), "", 0, 0, NULL, NULL,
     "File of a saved state to start from."},
    {"save_state", O(TEXT, save_state), "", 0, 0, NULL, NULL,
     "File for the state after the prompt."},
    {"stats", O(BOOL, stats), "no", 0, 0, NULL, NULL, "Print times and memory to standard error."},
    LMOE_OPTION_END};

static const char *const common[] = {
    "--set",     "--plugin-path", "--help",        "--prompt", "--tokens", "--seed",
    "--top_k",   "--top_p",       "--temperature", "--copies", "--chunk",  "--prompt_file",
    "--context", "--load_state",  "--save_state",  "--stats",  NULL};

static void help(void)
{
    printf(
        "usage: lmoe generate FILE [--set section.key=value]... [--plugin-path FOLDERS] [--OPTION "
        "VALUE]...\n"
        "Continues a text with the newest checkpoint of the run that FILE describes. Options:\n");
    for (const lmoe_option *o = table; o->name; o++)
        printf("  --%-12s %s (%s)\n", o->name, o->doc,
               o->initial[0] == '\n' ? "a newline" : o->initial);
}

/* --name value, by the table. Returns words taken, 0 if it is none, -1 with a message. */
static int take_option(lmoe_ctx *ctx, generate_options *o, lmoe__arena *a, int argc, char **argv,
                       int i)
{
    for (const lmoe_option *t = table; t->name; t++) {
        if (strncmp(argv[i], "--", 2) != 0 || strcmp(argv[i] + 2, t->name) != 0) continue;
        if (i + 1 >= argc) {
            lmoe_error(ctx, LMOE_E_CONFIG, "%s needs a value", argv[i]);
            return -1;
        }
        if (t->type == LMOE_OPTION_TEXT) { /* taken as it is, blanks and newlines too */
            *(const char **)((char *)o + t->offset) = lmoe__arena_strdup(a, argv[i + 1]);
            return 2;
        }
        const char *word = lmoe__arena_printf(a, "%s=%s", t->name, argv[i + 1]);
        return lmoe__options_parse_one(ctx, "lmoe generate", table, word, o, a) == LMOE_OK ? 2 : -1;
    }
    return 0;
}

static lmoe_status read_prompt(lmoe_ctx *ctx, generate_options *o, lmoe__arena *arena)
{
    char *text;
    size_t size;
    LMOE_TRY(lmoe__read_file(ctx, o->prompt_file, &text, &size));
    o->prompt = lmoe__arena_strdup(arena, text);
    free(text);
    return LMOE_OK;
}

static lmoe_status load_state(lmoe_ctx *ctx, lmoe__generator *g, const char *path)
{
    char *data;
    size_t size;
    LMOE_TRY(lmoe__read_file(ctx, path, &data, &size));
    lmoe_status status =
        size == lmoe__generator_state_bytes(g)
            ? lmoe__generator_state_put(g, data)
            : lmoe_error(ctx, LMOE_E_CONFIG,
                         "'%s' is not a generation state of this model and context: it has %zu "
                         "bytes, %zu expected",
                         path, size, lmoe__generator_state_bytes(g));
    free(data);
    return status;
}

static lmoe_status feed_text(lmoe__generator *g, const char *text)
{
    size_t n = strlen(text);
    int32_t *ids = lmoe__malloc(sizeof *ids * (n + 1));
    for (size_t i = 0; i < n; i++) ids[i] = (unsigned char)text[i];
    lmoe_status status = lmoe__generator_feed(g, ids, (int64_t)n);
    free(ids);
    return status;
}

static lmoe_status write_tokens(lmoe__generator *g, const generate_options *o, int64_t copy)
{
    const lmoe__sampling s = {o->temperature, o->top_k, o->top_p, (uint64_t)(o->seed + copy)};
    for (int64_t i = 0; i < o->tokens; i++) {
        int32_t id = lmoe__generator_sample(g, &s);
        if (id < 256) putchar(id);
        fflush(stdout);
        if (i + 1 < o->tokens) LMOE_TRY(lmoe__generator_feed(g, &id, 1));
    }
    putchar('\n');
    return LMOE_OK;
}

static lmoe_status generate(lmoe_ctx *ctx, lmoe__generator *g, const generate_options *o)
{
    double start = lmoe__now();
    LMOE_TRY(lmoe__generator_restart(g));
    if (o->load_state[0])
        LMOE_TRY(load_state(ctx, g, o->load_state));
    else if (!o->prompt[0])
        return lmoe_error(ctx, LMOE_E_CONFIG, "--prompt is empty; give at least one letter");
    LMOE_TRY(feed_text(g, o->prompt));
    double prefilled = lmoe__now();
    size_t bytes = lmoe__generator_state_bytes(g);
    char *state = lmoe__malloc(bytes);
    lmoe_status status = lmoe__generator_state_get(g, state);
    if (status == LMOE_OK && o->save_state[0])
        status = lmoe__write_file(ctx, o->save_state, state, bytes);
    for (int64_t c = 0; status == LMOE_OK && c < o->copies; c++) {
        if (c > 0) status = lmoe__generator_state_put(g, state);
        if (!o->load_state[0]) printf("%s", o->prompt);
        if (status == LMOE_OK) status = write_tokens(g, o, c);
    }
    if (o->stats) {
        struct rusage u;
        getrusage(RUSAGE_SELF, &u);
        fprintf(stderr, "prompt %.3f s, %.3f ms a token, state %zu bytes, %ld KB in all\n",
                prefilled - start,
                1e3 * (lmoe__now() - prefilled) / (double)(o->tokens * o->copies), bytes,
                u.ru_maxrss);
    }
    free(state);
    return status;
}

static lmoe_status run(lmoe_ctx *ctx, lmoe__setup *s, const generate_options *o)
{
    lmoe__engine e = {0};
    lmoe__generator g;
    void *dev = NULL;
    int64_t step, context = o->context ? o->context : (int64_t)strlen(o->prompt) + o->tokens;
    int64_t chunk = o->chunk < context ? o->chunk : context;
    if (s->model.o.vocab_size < 256)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "[model] vocab_size = %lld: text needs the 256 byte tokens",
                          (long long)s->model.o.vocab_size);
    ctx->team = lmoe__team_new(s->device->threads ? s->device->threads(s->device_options) : 1);
    lmoe_status status = s->device->open(ctx, s->device_options, &dev);
    if (status == LMOE_OK)
        status = lmoe__engine_init(&e, ctx, &s->model, NULL, s->device, dev, lmoe__setup_dtype(s));
    if (status == LMOE_OK) status = lmoe__generator_init(&g, &e, chunk, context);
    if (status == LMOE_OK) status = lmoe__state_load_weights(&e, s->run.dir, &step);
    if (status == LMOE_OK) status = generate(ctx, &g, o);
    if (e.arena) lmoe__engine_free(&e);
    if (dev) s->device->close(dev);
    lmoe__team_free(ctx->team);
    ctx->team = NULL;
    return status;
}

int lmoe__cli_generate(lmoe_ctx *ctx, int argc, char **argv)
{
    lmoe__arguments a = {0};
    lmoe__setup s = {0};
    generate_options o;
    lmoe__arena *arena = lmoe__arena_new();
    int code = 0;
    lmoe__options_default(table, &o, arena);
    for (int i = 1; i < argc && code == 0;) {
        if (strcmp(argv[i], "--help") == 0) {
            help();
            lmoe__arena_free(arena);
            return 0;
        }
        int used = take_option(ctx, &o, arena, argc, argv, i);
        if (used == 0) used = lmoe__arguments_take(ctx, &a, argc, argv, i);
        if (used < 0) code = lmoe__cli_report(ctx);
        if (used == 0) code = lmoe__arguments_unknown("generate", argv[i], common);
        i += used;
    }
    if (code == 0 && o.prompt_file[0] && read_prompt(ctx, &o, arena) != LMOE_OK)
        code = lmoe__cli_report(ctx);
    if (code == 0 && !a.file) code = lmoe__arguments_no_file("generate");
    if (code == 0) {
        s.conf = lmoe__arguments_read(ctx, &a);
        if (!s.conf || lmoe__setup_read(ctx, &s, a.plugin_path, 0) != LMOE_OK ||
            run(ctx, &s, &o) != LMOE_OK)
            code = lmoe__cli_report(ctx);
        lmoe__setup_free(&s);
    }
    lmoe__arena_free(arena);
    return code;
}
