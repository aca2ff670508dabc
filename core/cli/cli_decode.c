/* SPDX-License-Identifier: Apache-2.0
 * core/cli/cli_decode.c: lmoe bench decode FILE: the time of a token behind a context of random ones,
 * with random weights: what the device does, and what a reader of the text waits for.
 */
#include "core/bench/bench.h"
#include "core/cli/cli.h"
#include "core/cli/step.h"
#include "core/generate/generate.h"

#include <stdlib.h>

static const char *const flags[] = {"--set",     "--plugin-path", "--steps",
                                    "--context", "--help",        NULL};

typedef struct decoding {
    const lmoe__setup *setup;
    lmoe__engine engine;
    lmoe__generator generator;
    int64_t context, steps;
} decoding;

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y ? 1 : 0;
}

static double median(double *x, int64_t n)
{
    qsort(x, (size_t)n, sizeof *x, by_value);
    return x[n / 2];
}

/* Bytes that a token has to move: the weights that it uses, and carries of a fixed size both ways. */
static double bytes_of(const decoding *d)
{
    const lmoe__engine *e = &d->engine;
    double bytes = (double)e->count.active * (double)lmoe_dtype_bytes(e->dtype);
    for (int i = 0; i < d->generator.decode->n_carries; i++) {
        const lmoe_desc *c = &d->generator.decode->carries[i].desc;
        bool grows = false;
        for (int k = 0; k < c->rank; k++) grows |= c->dim[k] > d->context;
        bytes += (grows ? 1.0 : 2.0) * (double)lmoe_desc_bytes(c);
    }
    return bytes;
}

static lmoe_status fill_context(decoding *d)
{
    lmoe__generator *g = &d->generator;
    int32_t *tokens = calloc((size_t)d->context + 1, sizeof *tokens);
    for (int64_t i = 0; i < d->context; i++)
        tokens[i] = (int32_t)lmoe__below(1, 2, (uint64_t)i, (uint64_t)g->vocab);
    double start = lmoe__now();
    lmoe_status status = lmoe__generator_feed(g, tokens, d->context);
    double seconds = lmoe__now() - start;
    printf("prefill: %lld tokens in %.3f s, %.0f tokens/s\n", (long long)d->context, seconds,
           (double)d->context / seconds);
    free(tokens);
    return status;
}

static lmoe_status time_tokens(decoding *d)
{
    lmoe__generator *g = &d->generator;
    lmoe__engine *e = &d->engine;
    const lmoe__sampling greedy = {.temperature = 0};
    double *token = calloc((size_t)d->steps, sizeof *token), start = 0;
    lmoe_status status = LMOE_OK;
    for (int64_t i = -3; status == LMOE_OK && i < d->steps; i++) { /* three to warm up */
        start = lmoe__now();
        int32_t next = lmoe__generator_sample(g, &greedy);
        status = lmoe__generator_feed(g, &next, 1);
        if (i >= 0) token[i] = lmoe__now() - start;
    }
    if (status == LMOE_OK) status = e->device->synchronize(e->dev);
    start = lmoe__now();
    for (int64_t i = 0; status == LMOE_OK && i < d->steps; i++)
        status = lmoe__program_run(e, g->decode);
    if (status == LMOE_OK) status = e->device->synchronize(e->dev);
    if (status == LMOE_OK) {
        double step = (lmoe__now() - start) / (double)d->steps, all = median(token, d->steps);
        printf("decode behind %lld tokens: %.3f ms a token (%.0f tokens/s); the device alone %.3f "
               "ms, %.0f MB at %.0f GB/s; %d launches\n",
               (long long)d->context, 1e3 * all, 1 / all, 1e3 * step, bytes_of(d) * 1e-6,
               bytes_of(d) / step * 1e-9, g->decode->plan->n_steps);
        lmoe__step_print_memory(e);
        g->decode->plan->profile = true;
        for (int i = 0; status == LMOE_OK && i < 5; i++) status = lmoe__program_run(e, g->decode);
        if (status == LMOE_OK) lmoe__step_print_table(e);
    }
    free(token);
    return status;
}

static lmoe_status bench(lmoe_ctx *ctx, decoding *d)
{
    const lmoe__setup *s = d->setup;
    lmoe__engine *e = &d->engine;
    int64_t chunk = d->context < 2048 ? d->context : 2048;
    int64_t room = d->context + 2 * d->steps + 16;
    void *dev = NULL;
    ctx->team = lmoe__team_new(s->device->threads ? s->device->threads(s->device_options) : 1);
    lmoe_status status = s->device->open(ctx, s->device_options, &dev);
    if (status == LMOE_OK)
        status = lmoe__engine_init(e, ctx, &s->model, NULL, s->device, dev, lmoe__setup_dtype(s));
    if (status == LMOE_OK) status = lmoe__generator_init(&d->generator, e, chunk, room);
    if (status == LMOE_OK) status = lmoe__engine_init_weights(e, 1);
    if (status == LMOE_OK) status = lmoe__generator_restart(&d->generator);
    if (status == LMOE_OK) status = fill_context(d);
    if (status == LMOE_OK) status = time_tokens(d);
    if (e->arena) lmoe__engine_free(e);
    if (dev) s->device->close(dev);
    lmoe__team_free(ctx->team);
    ctx->team = NULL;
    return status;
}

static int64_t number(int argc, char **argv, int i, const char *flag)
{
    return strcmp(argv[i], flag) == 0 && i + 1 < argc ? atoll(argv[i + 1]) : 0;
}

int lmoe__cli_bench_decode(lmoe_ctx *ctx, int argc, char **argv)
{
    lmoe__arguments a = {0};
    lmoe__setup s = {0};
    decoding d = {.setup = &s, .context = 1024, .steps = 100};
    for (int i = 1; i < argc;) {
        int64_t steps = number(argc, argv, i, "--steps");
        int64_t context = number(argc, argv, i, "--context");
        if (steps > 0) d.steps = steps;
        if (context > 0) d.context = context;
        if (steps > 0 || context > 0) {
            i += 2;
            continue;
        }
        int used = lmoe__arguments_take(ctx, &a, argc, argv, i);
        if (used < 0) return lmoe__cli_report(ctx);
        if (used == 0) return lmoe__arguments_unknown("bench decode", argv[i], flags);
        i += used;
    }
    if (!a.file) return lmoe__arguments_no_file("bench decode");
    s.conf = lmoe__arguments_read(ctx, &a);
    int code = 0;
    if (!s.conf || lmoe__setup_read(ctx, &s, a.plugin_path, 0) != LMOE_OK ||
        bench(ctx, &d) != LMOE_OK)
        code = lmoe__cli_report(ctx);
    lmoe__setup_free(&s);
    return code;
}
