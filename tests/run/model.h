/* SPDX-License-Identifier: Apache-2.0
 * tests/run/model.h: a model from a configuration in the test's source, for tests of whole models.
 */
#ifndef LMOE_TESTS_RUN_MODEL_H
#define LMOE_TESTS_RUN_MODEL_H

#include "core/train/setup.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

/* A run file's text, printf style, becomes a setup; plugins come from the folder in
 * LMOE_PLUGIN_PATH. */
static inline void model_setup(lmoe_ctx *ctx, lmoe__setup *s, const char *format, ...)
{
    char text[4096];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memset(s, 0, sizeof *s);
    lmoe__ctx_init(ctx);
    s->conf = lmoe__conf_read_text(ctx, "test.ini", text, (size_t)n);
    ck_assert_msg(s->conf != NULL, "%s", ctx->message);
    lmoe_status status = lmoe__setup_read(ctx, s, NULL, 0);
    ck_assert_msg(status == LMOE_OK, "%s", ctx->message);
}

#define MODEL_TEXT(layer_lines)                                                                    \
    "[model]\nembed = 16\nvocab_size = 40\nlayers = 2\ninit_std = 0.3\npattern = L\n[layer "       \
    "L]\n" layer_lines "\n[ffn]\nhidden = 12\nexperts = 4\ntop_k = 2\n[router]\naux_loss = 0.02\n" \
    "z_loss = 0.01\n[train]\nbatch = %d\nseq = %d\ndtype = %s\n"

static inline void must(lmoe_ctx *ctx, lmoe_status status)
{
    ck_assert_msg(status == LMOE_OK, "%s", ctx->message);
}

/* An engine on one thread of the setup's device. */
static inline void model_engine(lmoe_ctx *ctx, const lmoe__setup *s, lmoe__engine *e, void **dev)
{
    must(ctx, s->device->open(ctx, s->device_options, dev));
    must(ctx, lmoe__engine_init(e, ctx, &s->model, NULL, s->device, *dev, lmoe__setup_dtype(s)));
}

static inline void random_tokens(int32_t *tokens, int64_t n, int64_t vocab, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++)
        tokens[i] = (int32_t)lmoe__below(seed, 3, (uint64_t)i, (uint64_t)vocab);
}

/* Writes tokens, labels (the next token), positions 0 ..., one document a row. */
static inline void set_plain_inputs(lmoe_ctx *ctx, lmoe__engine *e, lmoe__program *p, int64_t batch,
                                    int64_t seq, const int32_t *tokens)
{
    size_t n = (size_t)(batch * seq);
    int32_t *labels = calloc(n, 4), *positions = calloc(n, 4), *document = calloc(n, 4);
    for (size_t i = 0; i < n; i++) {
        labels[i] = (int64_t)i % seq == seq - 1 ? -1 : tokens[i + 1];
        positions[i] = (int32_t)((int64_t)i % seq);
    }
    must(ctx, lmoe__program_set(e, p, "in:tokens", tokens));
    must(ctx, lmoe__program_set(e, p, "in:labels", labels));
    must(ctx, lmoe__program_set(e, p, "in:positions", positions));
    must(ctx, lmoe__program_set(e, p, "in:document", document));
    must(ctx, lmoe__program_set_scalar(e, p, "in:factor", 1.0 / (double)(n - (size_t)batch)));
    must(ctx, lmoe__program_set_scalar(e, p, "in:aux_scale", 1.0));
    free(labels);
    free(positions);
    free(document);
}

#endif
