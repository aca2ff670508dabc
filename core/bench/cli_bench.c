/* SPDX-License-Identifier: Apache-2.0
 * core/bench/cli_bench.c: lmoe bench: tests kernels against references, and times them.
 */
#include "core/bench/bench.h"
#include "core/cli/cli.h"
#include "core/conf/conf.h"
#include "core/graph/graph.h"
#include "core/plug/plug.h"

#include <fnmatch.h>
#include <getopt.h>
#include <stdlib.h>

static const char usage[] =
    "usage: lmoe bench [op [PATTERN]] [--check] [--vary N] [--time] [--large] [--all]\n"
    "       lmoe bench gemm [M N K]\n"
    "       lmoe bench experts [TOKENS EXPERTS TOP_K EMBED HIDDEN [SKEW]]\n"
    "       lmoe bench scans [SEQ LONG]\n"
    "       lmoe bench step FILE [--set section.key=value]... [--steps N]\n"
    "       lmoe bench decode FILE [--set section.key=value]... [--steps N] [--context N]\n"
    "options of all but the last two:\n"
    "  --device CLASS     device whose kernels are meant (device/cpu)\n"
    "  --plugin-path DIR  folders searched for its plugin first, separated by ':'\n"
    "  --plugin FILE      a plugin whose ops and kernels are meant too\n"
    "  --threads N        threads (default: what the device would use)\n"
    "  --dtype f32|bf16   of float inputs (f32)\n"
    "PATTERN names ops (scan_*, einsum, softmax/1); without it, all.\n"
    "  --check   each kernel against its reference; without --check or --time, both are done\n"
    "  --vary N  checks N variations of each op's cases too: other lengths, other values\n"
    "  --time    median of repeats, for cases made for timing\n"
    "  --large   checks the cases made for timing too (slow references)\n"
    "  --all     times every kernel, not only the one that would be chosen\n";

typedef struct request {
    const char *device, *plugin_path, *plugin, *pattern;
    bool check, time, large, all, gemm, experts, scans;
    int threads, vary;
    lmoe_dtype dtype;
    int64_t size[3];
    lmoe__experts_options mixture;
} request;

static bool matches(const char *pattern, const char *name)
{
    char bare[128];
    snprintf(bare, sizeof bare, "%.*s", (int)strcspn(name, "/"), name);
    return !pattern || fnmatch(pattern, name, 0) == 0 || fnmatch(pattern, bare, 0) == 0;
}

/* What is tested: lmoe's ops and the device's kernels, and those of plugins. */
typedef struct subjects {
    lmoe__op_set ops;
    const lmoe_kernel **kernels;
    int n_kernels, cap_kernels;
} subjects;

static void add_kernel(subjects *s, const lmoe_kernel *k, const lmoe_device *device)
{
    if (strcmp(k->device, device->device) == 0)
        LMOE_PUSH(s->kernels, s->n_kernels, s->cap_kernels, k);
}

static void collect(subjects *s, lmoe__registry *registry, const lmoe_device *device)
{
    const lmoe__plugin *p;
    lmoe__op_set_init(&s->ops);
    for (int i = 0; device->kernels[i]; i++) add_kernel(s, device->kernels[i], device);
    for (int i = 0; (p = lmoe__registry_plugin(registry, i)); i++) {
        for (int k = 0; k < p->n_classes; k++) {
            const void *class = p->classes[k];
            if (strcmp(p->classes[k]->kind, LMOE_KIND_KERNEL) == 0) add_kernel(s, class, device);
            if (strcmp(p->classes[k]->kind, LMOE_KIND_OP) == 0)
                LMOE_PUSH(s->ops.ops, s->ops.count, s->ops.capacity, class);
        }
    }
    LMOE_PUSH(s->kernels, s->n_kernels, s->cap_kernels, NULL);
}

static lmoe_status all_ops(lmoe__bench *b, const subjects *s, const request *q)
{
    int found = 0;
    for (int i = 0; i < s->ops.count; i++) {
        const lmoe_op *op = s->ops.ops[i];
        if (!matches(q->pattern, op->base.name)) continue;
        found++;
        if (q->check) LMOE_TRY(lmoe__bench_op(b, op));
        if (q->time) LMOE_TRY(lmoe__bench_time(b, op));
        fflush(b->out);
    }
    if (found) return LMOE_OK;
    return lmoe_error(b->ctx, LMOE_E_CONFIG, "no op is called '%s'", q->pattern);
}

/* With a team of threads and an open device. */
static lmoe_status with_device(lmoe__bench *b, const subjects *s, const request *q,
                               const void *options)
{
    lmoe_ctx *ctx = b->ctx;
    const lmoe_device *device = b->on.device;
    int threads = q->threads ? q->threads : device->threads ? device->threads(options) : 1;
    lmoe__team *team = threads > 1 ? lmoe__team_new(threads) : NULL, *before = ctx->team;
    if (threads > 1 && !team)
        return lmoe_error(ctx, LMOE_E_MEMORY, "%d threads cannot be started", threads);
    ctx->team = team;
    lmoe_status status = device->open(ctx, options, &b->on.dev);
    if (status == LMOE_OK) {
        status = q->gemm      ? lmoe__bench_gemm(b, q->size[0], q->size[1], q->size[2])
                 : q->experts ? lmoe__bench_experts(b, &q->mixture)
                 : q->scans   ? lmoe__bench_scans(b, q->size[0], q->size[1])
                              : all_ops(b, s, q);
        device->close(b->on.dev);
    }
    ctx->team = before;
    lmoe__team_free(team);
    return status;
}

static lmoe_status with_registry(lmoe__registry *registry, const request *q, lmoe__bench *b)
{
    const lmoe_class *class;
    subjects s = {0};
    if (q->plugin) LMOE_TRY(lmoe__registry_open(registry, b->ctx, q->plugin));
    LMOE_TRY(lmoe__registry_find(registry, b->ctx, LMOE_KIND_DEVICE, q->device, &class));
    b->on.device = (const lmoe_device *)(const void *)class;
    lmoe__arena *arena = lmoe__arena_new();
    void *options = lmoe__arena_alloc(arena, class->options_size + 1);
    if (class->options) lmoe__options_default(class->options, options, arena);
    collect(&s, registry, b->on.device);
    b->kernels = s.kernels;
    lmoe_status status = with_device(b, &s, q, options);
    free(s.kernels);
    lmoe__op_set_free(&s.ops);
    lmoe__arena_free(arena);
    return status;
}

static lmoe_status execute(const request *q, lmoe__bench *b)
{
    lmoe__registry *registry = lmoe__registry_new(q->plugin_path);
    lmoe_status status = with_registry(registry, q, b);
    lmoe__registry_free(registry);
    return status;
}

static bool read_number(const char *text, int64_t *out)
{
    char *end;
    *out = strtoll(text, &end, 10);
    return *text && !*end && *out > 0;
}

static const char *read_mixture(int argc, char **argv, lmoe__experts_options *o)
{
    int64_t *const into[] = {&o->tokens, &o->experts, &o->top_k, &o->embed, &o->hidden};
    char *end = "";
    *o = (lmoe__experts_options){4096, 64, 8, 512, 448, 5, 1};
    if (argc != 1 && argc != 6 && argc != 7) return "experts takes five sizes or none";
    for (int i = 1; i < argc && i < 6; i++)
        if (!read_number(argv[i], into[i - 1])) return "sizes are whole numbers above 0";
    if (argc == 7) o->skew = strtod(argv[6], &end);
    return *end || o->skew < 0 ? "SKEW is Zipf's exponent, 0 or more" : NULL;
}

/* Returns NULL, or what is wrong. */
static const char *read_words(int argc, char **argv, request *q)
{
    if (argc > 0 && strcmp(argv[0], "gemm") == 0) {
        q->gemm = true;
        if (argc != 1 && argc != 4) return "gemm takes three sizes or none";
        for (int i = 1; i < argc; i++)
            if (!read_number(argv[i], &q->size[i - 1])) return "sizes are whole numbers above 0";
        return NULL;
    }
    if (argc > 0 && strcmp(argv[0], "experts") == 0) {
        q->experts = true;
        return read_mixture(argc, argv, &q->mixture);
    }
    if (argc > 0 && strcmp(argv[0], "scans") == 0) {
        q->scans = true;
        q->size[0] = 4096, q->size[1] = 65536;
        if (argc != 1 && argc != 3) return "scans takes two lengths or none";
        for (int i = 1; i < argc; i++)
            if (!read_number(argv[i], &q->size[i - 1])) return "lengths are whole numbers above 0";
        return NULL;
    }
    if (argc > 0 && strcmp(argv[0], "op") == 0) argc--, argv++;
    if (argc > 1) return "one PATTERN at most";
    if (argc == 1) q->pattern = argv[0];
    return NULL;
}

static const char *read_request(int argc, char **argv, request *q)
{
    static const struct option table[] = {{"device", required_argument, NULL, 'd'},
                                          {"plugin-path", required_argument, NULL, 'p'},
                                          {"plugin", required_argument, NULL, 'f'},
                                          {"threads", required_argument, NULL, 'n'},
                                          {"dtype", required_argument, NULL, 'y'},
                                          {"check", no_argument, NULL, 'c'},
                                          {"time", no_argument, NULL, 't'},
                                          {"large", no_argument, NULL, 'l'},
                                          {"all", no_argument, NULL, 'a'},
                                          {"vary", required_argument, NULL, 'v'},
                                          {NULL, 0, NULL, 0}};
    *q = (request){.device = "device/cpu", .dtype = LMOE_F32};
    int64_t threads = 0, vary = 0;
    optind = 0;
    for (int c; (c = getopt_long(argc, argv, "", table, NULL)) != -1;) {
        switch (c) {
        case 'd': q->device = optarg; break;
        case 'p': q->plugin_path = optarg; break;
        case 'f': q->plugin = optarg; break;
        case 'n':
            if (!read_number(optarg, &threads) || threads > 1024)
                return "--threads is a number from 1 to 1024";
            break;
        case 'y':
            if (strcmp(optarg, "f32") != 0 && strcmp(optarg, "bf16") != 0)
                return "--dtype is f32 or bf16";
            q->dtype = optarg[0] == 'f' ? LMOE_F32 : LMOE_BF16;
            break;
        case 'v':
            if (!read_number(optarg, &vary) || vary > 1000000)
                return "--vary is a number from 1 to 1000000";
            q->check = true;
            break;
        case 'c': q->check = true; break;
        case 't': q->time = true; break;
        case 'l': q->large = true; break;
        case 'a': q->all = true; break;
        default: return "";
        }
    }
    q->threads = (int)threads;
    q->vary = (int)vary;
    if (!q->check && !q->time) q->check = q->time = true;
    return read_words(argc - optind, argv + optind, q);
}

int lmoe__cli_bench(lmoe_ctx *ctx, int argc, char **argv)
{
    request q;
    if (argc > 1 && strcmp(argv[1], "step") == 0)
        return lmoe__cli_bench_step(ctx, argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "decode") == 0)
        return lmoe__cli_bench_decode(ctx, argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "--help") == 0) return fputs(usage, stdout) == EOF;
    const char *wrong = read_request(argc, argv, &q);
    if (wrong) {
        fprintf(stderr, "%s%s%s", wrong, *wrong ? "\n" : "", usage);
        return LMOE__EXIT_CONFIG;
    }
    lmoe__bench b = {.ctx = ctx,
                     .dtype = q.dtype,
                     .large = q.large,
                     .all = q.all,
                     .vary = q.vary,
                     .out = stdout};
    lmoe_status status = execute(&q, &b);
    if (status != LMOE_OK) return lmoe__cli_report(ctx);
    if (!q.experts && !q.scans) printf("%d passed, %d failed\n", b.passed, b.failed);
    return b.failed ? LMOE__EXIT_FAILED : 0;
}
