/* SPDX-License-Identifier: Apache-2.0
 * core/data/cli_data.c: lmoe data prepare, peek, verify.
 *
 * Exit codes: 0 done; 1 the system failed (disk full, ...); 2 the command line or the input cannot
 * be used.
 */
#include "core/data/data.h"

#include <errno.h>
#include <stdlib.h>

static const char usage[] =
    "usage: lmoe data prepare --in FILE ... --out PREFIX [--format text|jsonl] [--field NAME]\n"
    "                         [--end ID] [--tokenizer NAME]\n"
    "       lmoe data prepare --task mqar --out PREFIX [--documents COUNT] [--length TOKENS]\n"
    "                         [--pairs COUNT] [--vocab COUNT] [--seed NUMBER]\n"
    "       lmoe data peek PREFIX|FILE [--n COUNT] [--tokenizer NAME]\n"
    "       lmoe data verify PREFIX [--vocab COUNT]\n"
    "\n"
    "prepare writes the tokens of texts as PREFIX.bin and PREFIX.idx, the pair that Megatron "
    "reads\n"
    "too. A text file is one document; of JSON lines (the default for names that end in .jsonl)\n"
    "each line is one, its text in the field \"text\" or the one named. --end puts a token behind\n"
    "each document. --task mqar writes multi-query associative recall: pairs of key and value,\n"
    "then each key again, whose value is all that is predicted. peek shows the first documents\n"
    "as text and ids. verify reads a pair to its last token, and says the first thing that is\n"
    "wrong.\n";

typedef struct request {
    lmoe__prepare_options prepare;
    lmoe__mqar_options mqar;
    bool task;         /* mqar instead of texts */
    const char *stray; /* an option that belongs to the task only; NULL: none */
    const char *path;
    int64_t n, vocab;
} request;

static int bad_usage(const char *what, const char *word)
{
    fprintf(stderr, "lmoe: data: %s%s\n%s", what, word, usage);
    return 2;
}

static int told(const lmoe_ctx *ctx)
{
    fprintf(stderr, "lmoe: %s\n", ctx->message);
    return ctx->status == LMOE_E_CONFIG ? 2 : 1;
}

/* ---- the command line ---- */

enum { PREPARE = 1, PEEK = 2, VERIFY = 4 };

static const struct option {
    const char *name;
    int commands;
} options[] = {{"--in", PREPARE},     {"--out", PREPARE},
               {"--format", PREPARE}, {"--field", PREPARE},
               {"--end", PREPARE},    {"--tokenizer", PREPARE | PEEK},
               {"--n", PEEK},         {"--vocab", PREPARE | VERIFY},
               {"--task", PREPARE},   {"--documents", PREPARE},
               {"--length", PREPARE}, {"--pairs", PREPARE},
               {"--seed", PREPARE}};
enum { OPTIONS = sizeof options / sizeof *options };

static bool read_count(const char *text, int64_t least, int64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoll(text, &end, 10);
    return *text && !*end && !errno && *out >= least && *out <= INT32_MAX;
}

static int unknown_option(const char *word, int command)
{
    const char *names[OPTIONS];
    int n = 0;
    for (int i = 0; i < OPTIONS; i++) {
        if (options[i].commands & command) names[n++] = options[i].name;
    }
    const char *near = lmoe__nearest(word, names, n);
    fprintf(stderr, "lmoe: data: there is no option %s%s%s%s\n%s", word,
            near ? "; did you mean " : "", near ? near : "", near ? "?" : "", usage);
    return 2;
}

/* The numbers of --task mqar. */
static int take_task(request *q, const char *name, const char *value)
{
    lmoe__mqar_options *m = &q->mqar;
    const struct {
        const char *name;
        int64_t *out;
    } numbers[] = {{"--documents", &m->documents},
                   {"--length", &m->length},
                   {"--pairs", &m->pairs},
                   {"--vocab", &m->vocab},
                   {"--seed", &m->seed}};
    if (strcmp(name, "--task") == 0) {
        if (strcmp(value, "mqar") != 0) return bad_usage("--task is mqar, not ", value);
        q->task = true;
        return 0;
    }
    q->stray = name;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (strcmp(name, numbers[i].name) == 0 && !read_count(value, 1, numbers[i].out))
            return bad_usage("a number above 0 is needed, not ", value);
    }
    return 0;
}

static int take_value(lmoe_ctx *ctx, request *q, int command, const char *name, const char *value)
{
    lmoe__prepare_options *p = &q->prepare;
    if (strcmp(name, "--out") == 0) {
        p->out = value;
    } else if (strcmp(name, "--field") == 0) {
        p->field = value;
    } else if (strcmp(name, "--format") == 0) {
        if (strcmp(value, "text") != 0 && strcmp(value, "jsonl") != 0)
            return bad_usage("--format is text or jsonl, not ", value);
        p->format = value;
    } else if (strcmp(name, "--end") == 0) {
        if (!read_count(value, 0, &p->end) || p->end == INT32_MAX)
            return bad_usage("--end is a token id, not ", value);
    } else if (strcmp(name, "--tokenizer") == 0) {
        p->tokenizer = lmoe__tokenizer_find(ctx, value);
        if (!p->tokenizer) return told(ctx);
    } else if (strcmp(name, "--n") == 0) {
        if (!read_count(value, 1, &q->n)) return bad_usage("--n is a number above 0, not ", value);
    } else if (command == PREPARE) {
        return take_task(q, name, value);
    } else if (!read_count(value, 1, &q->vocab)) {
        return bad_usage("--vocab is a number above 0, not ", value);
    }
    return 0;
}

/* --in takes all words up to the next option. */
static int read_arguments(lmoe_ctx *ctx, int command, int argc, char **argv, request *q)
{
    *q = (request){.n = 3, .prepare = {.field = "text", .end = -1}};
    q->prepare.tokenizer = &lmoe__tokenizer_bytes;
    q->mqar =
        (lmoe__mqar_options){.documents = 10000, .length = 64, .pairs = 8, .vocab = 256, .seed = 1};
    for (int i = 0; i < argc; i++) {
        int k = 0;
        while (k < OPTIONS &&
               (strcmp(argv[i], options[k].name) != 0 || !(options[k].commands & command)))
            k++;
        if (argv[i][0] != '-') {
            if (command == PREPARE) return bad_usage("which option does this belong to: ", argv[i]);
            if (q->path) return bad_usage("one file at a time, so not also ", argv[i]);
            q->path = argv[i];
        } else if (k == OPTIONS) {
            return unknown_option(argv[i], command);
        } else if (i + 1 == argc || strncmp(argv[i + 1], "--", 2) == 0) {
            return bad_usage("there is nothing after ", argv[i]);
        } else if (strcmp(argv[i], "--in") == 0) {
            if (q->prepare.in) return bad_usage("one --in takes all files", "");
            q->prepare.in = argv + i + 1;
            while (i + 1 < argc && strncmp(argv[i + 1], "--", 2) != 0) i++, q->prepare.count++;
        } else {
            int code = take_value(ctx, q, command, argv[i], argv[i + 1]);
            if (code) return code;
            i++;
        }
    }
    return 0;
}

/* ---- prepare ---- */

static int prepare(lmoe_ctx *ctx, const request *q)
{
    lmoe__prepare_result r = {0};
    lmoe__mqar_options mqar = q->mqar;
    mqar.out = q->prepare.out;
    if (!q->task && !q->prepare.in)
        return bad_usage("prepare needs --in FILE ... or --task mqar", "");
    if (!q->task && q->stray) return bad_usage("this belongs to --task mqar: ", q->stray);
    if (q->task && q->prepare.in) return bad_usage("--task mqar reads no file, so not --in", "");
    if (!q->prepare.out) return bad_usage("prepare needs --out PREFIX", "");
    if ((q->task ? lmoe__mqar(ctx, &mqar, &r) : lmoe__prepare(ctx, &q->prepare, &r)) != LMOE_OK)
        return told(ctx);
    printf("%s.bin, %s.idx: %lld documents, %lld tokens", q->prepare.out, q->prepare.out,
           (long long)r.documents, (long long)r.tokens);
    if (r.empty) printf("; %lld documents without text left out", (long long)r.empty);
    printf("\n");
    return 0;
}

/* ---- peek ---- */

/* Bytes that would move the cursor or end the quotes are written as escapes. */
static void print_text(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '\n') {
            fputs("\\n", stdout);
        } else if (c == '"' || c == '\\') {
            printf("\\%c", c);
        } else if (c < 0x20 || c == 0x7f) {
            printf("\\x%02x", c);
        } else {
            putchar(c);
        }
    }
}

static void peek_document(const lmoe__tokens *t, const lmoe__tokenizer *tokenizer, int64_t k)
{
    enum { SHOWN = 256, IDS = 16 };
    int32_t ids[SHOWN];
    int64_t first = lmoe__document_start(t, k), n = lmoe__document_start(t, k + 1) - first;
    int64_t shown = n < SHOWN ? n : SHOWN;
    lmoe__tokens_read(t, first, shown, ids);
    printf("document %lld: %lld tokens\n  text \"", (long long)k, (long long)n);
    for (int64_t i = 0; i < shown; i++) {
        char text[1024];
        size_t bytes = tokenizer->decode(tokenizer, ids[i], text, sizeof text);
        print_text(text, bytes < sizeof text ? bytes : sizeof text);
        if (bytes == 0) printf("<%d>", (int)ids[i]);
    }
    printf("\"%s\n  ids ", shown < n ? " ..." : "");
    for (int64_t i = 0; i < shown && i < IDS; i++) printf(" %d", (int)ids[i]);
    printf("%s\n", n > IDS ? " ..." : "");
}

static int peek(lmoe_ctx *ctx, const request *q)
{
    lmoe__tokens t;
    if (!q->path) return bad_usage("peek needs a PREFIX or a FILE", "");
    if (lmoe__tokens_open(ctx, q->path, &t) != LMOE_OK) return told(ctx);
    printf("%s: %lld documents, %lld tokens (%s)\n", t.path, (long long)t.documents,
           (long long)t.count, lmoe__tokens_dtype(&t));
    for (int64_t k = 0; k < t.documents && k < q->n; k++)
        peek_document(&t, q->prepare.tokenizer, k);
    lmoe__tokens_close(&t);
    return 0;
}

/* ---- verify ---- */

static int verify(lmoe_ctx *ctx, const request *q)
{
    lmoe__tokens t;
    int64_t largest;
    if (!q->path) return bad_usage("verify needs a PREFIX", "");
    if (lmoe__tokens_open(ctx, q->path, &t) != LMOE_OK) return told(ctx);
    lmoe_status status = lmoe__tokens_verify(ctx, &t, q->vocab, &largest);
    if (status == LMOE_OK)
        printf("%s: sound; %lld documents, %lld sequences, %lld tokens (%s), the largest is %lld\n",
               t.path, (long long)t.documents, (long long)t.sequences, (long long)t.count,
               lmoe__tokens_dtype(&t), (long long)largest);
    lmoe__tokens_close(&t);
    return status == LMOE_OK ? 0 : told(ctx);
}

int lmoe__cli_data(lmoe_ctx *ctx, int argc, char **argv)
{
    request q;
    if (argc < 1) return bad_usage("say what to do: prepare, peek or verify", "");
    if (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    int command = strcmp(argv[0], "prepare") == 0  ? PREPARE
                  : strcmp(argv[0], "peek") == 0   ? PEEK
                  : strcmp(argv[0], "verify") == 0 ? VERIFY
                                                   : 0;
    if (!command) return bad_usage("there is no command ", argv[0]);
    int code = read_arguments(ctx, command, argc - 1, argv + 1, &q);
    if (code) return code;
    return command == PREPARE ? prepare(ctx, &q)
           : command == PEEK  ? peek(ctx, &q)
                              : verify(ctx, &q);
}
