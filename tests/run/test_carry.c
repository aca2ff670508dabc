/* SPDX-License-Identifier: Apache-2.0
 * tests/run/test_carry.c: for each layer class: prefill in chunks + decode = the whole sequence at
 * once; a state that was saved goes on the same; packed documents = separate documents; causality
 * bitwise.
 */
#include "core/generate/generate.h"
#include "tests/run/layers.h"
#include "tests/run/model.h"

enum { VOCAB = 40, LENGTH = 37 };

static void setup_of(lmoe_ctx *ctx, lmoe__setup *s, int layer, int batch, int seq,
                     const char *dtype)
{
    char format[1024];
    snprintf(format, sizeof format, MODEL_TEXT("%s"), layers[layer], batch, seq, dtype);
    model_setup(ctx, s, "%s", format);
}

/* Logits after the first n tokens, all at once and without carries. */
static void whole(const lmoe__setup *s, const int32_t *tokens, int64_t n, double *logits)
{
    lmoe_ctx ctx;
    lmoe__engine e;
    lmoe__program *p;
    void *dev;
    lmoe__ctx_init(&ctx);
    model_engine(&ctx, s, &e, &dev);
    const lmoe__model_shape shape = {.batch = 1, .seq = n};
    must(&ctx, lmoe__engine_program(&e, LMOE__GENERATE, &shape, &p));
    must(&ctx, lmoe__engine_bind(&e));
    must(&ctx, lmoe__engine_init_weights(&e, 5));
    set_plain_inputs(&ctx, &e, p, 1, n, tokens);
    must(&ctx, lmoe__program_run(&e, p));
    ck_assert_int_eq(lmoe__engine_read(&e, "out:logits", logits, VOCAB), VOCAB);
    lmoe__engine_free(&e);
    s->device->close(dev);
}

static double difference(const double *a, const double *b, int n)
{
    double d = 0, norm = 1e-300;
    for (int i = 0; i < n; i++) {
        d += (a[i] - b[i]) * (a[i] - b[i]);
        norm += b[i] * b[i];
    }
    return sqrt(d / norm);
}

/* Pieces of the given sizes (repeated) through a generator with this chunk. */
static void in_pieces(const lmoe__setup *s, const int32_t *tokens, int64_t chunk, const int *pieces,
                      int n_pieces, double *logits)
{
    lmoe_ctx ctx;
    lmoe__engine e;
    lmoe__generator g;
    void *dev;
    lmoe__ctx_init(&ctx);
    model_engine(&ctx, s, &e, &dev);
    must(&ctx, lmoe__generator_init(&g, &e, chunk, LENGTH));
    must(&ctx, lmoe__engine_init_weights(&e, 5));
    must(&ctx, lmoe__generator_restart(&g));
    size_t bytes = lmoe__generator_state_bytes(&g);
    char *state = malloc(bytes);
    for (int64_t at = 0, i = 0; at < LENGTH; i++) {
        int64_t n = pieces[i % n_pieces];
        if (n > LENGTH - at) n = LENGTH - at;
        must(&ctx, lmoe__generator_feed(&g, tokens + at, n));
        at += n;
        if (i != 1) continue; /* save, spoil, put back */
        must(&ctx, lmoe__generator_state_get(&g, state));
        must(&ctx, lmoe__generator_feed(&g, tokens, 3));
        must(&ctx, lmoe__generator_state_put(&g, state));
    }
    memcpy(logits, g.logits, sizeof(double) * VOCAB);
    free(state);
    lmoe__engine_free(&e);
    s->device->close(dev);
}

START_TEST(decode)
{
    lmoe_ctx ctx;
    lmoe__setup s;
    int32_t tokens[LENGTH];
    double expected[VOCAB], got[VOCAB];
    static const int one[] = {1}, mixed[] = {5, 1, 13, 2, 8}, all[] = {LENGTH};
    static const struct {
        int64_t chunk;
        const int *pieces;
        int n;
    } ways[] = {{1, one, 1}, {8, one, 1},    {8, mixed, 5},
                {4, all, 1}, {16, mixed, 5}, {LENGTH, all, 1}};
    static const char *const dtypes[] = {"f64", "f32"};
    for (int d = 0; d < 2; d++) {
        setup_of(&ctx, &s, _i, 1, LENGTH, dtypes[d]);
        random_tokens(tokens, LENGTH, VOCAB, 3);
        whole(&s, tokens, LENGTH, expected);
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
            in_pieces(&s, tokens, ways[w].chunk, ways[w].pieces, ways[w].n, got);
            double error = difference(got, expected, VOCAB);
            ck_assert_msg(error < (d ? 1e-5 : 1e-12), "%s, %s, chunk %d: logits differ by %g",
                          layers[_i], dtypes[d], (int)ways[w].chunk, error);
        }
        lmoe__setup_free(&s);
    }
}
END_TEST

/* Loss sum and gradient of the embedding for rows of tokens with given document starts. */
typedef struct outcome {
    double loss, grad[VOCAB * 16];
} outcome;

static void train_once(const lmoe__setup *s, const int32_t *tokens, const int32_t *starts,
                       int64_t batch, int64_t seq, outcome *o)
{
    lmoe_ctx ctx;
    lmoe__engine e;
    lmoe__program *p;
    void *dev;
    int32_t labels[4 * LENGTH], positions[4 * LENGTH], document[4 * LENGTH];
    uint8_t reset[4 * LENGTH];
    lmoe__ctx_init(&ctx);
    model_engine(&ctx, s, &e, &dev);
    const lmoe__model_shape shape = {.batch = batch, .seq = seq, .resets = true, .loss = true};
    must(&ctx, lmoe__engine_program(&e, LMOE__TRAIN_FIRST, &shape, &p));
    must(&ctx, lmoe__engine_bind(&e));
    must(&ctx, lmoe__engine_init_weights(&e, 5));
    for (int64_t i = 0; i < batch * seq; i++) {
        bool last = i % seq == seq - 1 || starts[i + 1] != starts[i];
        positions[i] = (int32_t)(i % seq);
        document[i] = starts[i];
        reset[i] = starts[i] == positions[i];
        labels[i] = last ? -1 : tokens[i + 1];
    }
    must(&ctx, lmoe__program_set(&e, p, "in:tokens", tokens));
    must(&ctx, lmoe__program_set(&e, p, "in:labels", labels));
    must(&ctx, lmoe__program_set(&e, p, "in:positions", positions));
    must(&ctx, lmoe__program_set(&e, p, "in:document", document));
    must(&ctx, lmoe__program_set(&e, p, "in:reset", reset));
    must(&ctx, lmoe__program_set_scalar(&e, p, "in:factor", 1.0));
    must(&ctx, lmoe__program_set_scalar(&e, p, "in:aux_scale", 0.0));
    must(&ctx, lmoe__program_run(&e, p));
    lmoe__engine_read(&e, "out:loss", &o->loss, 1);
    lmoe__engine_read(&e, "grad:model.embeddings.weight", o->grad, VOCAB * 16);
    lmoe__engine_free(&e);
    s->device->close(dev);
}

/* Documents of 5, 1, 2 and 13 tokens in one row, and each alone. Rotary positions only matter by
 * their differences. */
START_TEST(packed)
{
    lmoe_ctx ctx;
    lmoe__setup s;
    static const int lengths[] = {5, 1, 2, 13};
    enum { SEQ = 21 };
    int32_t tokens[SEQ], starts[SEQ + 1] = {0}, zero[SEQ + 1] = {0};
    outcome together, alone, sum = {0};
    setup_of(&ctx, &s, _i, 1, SEQ, "f64");
    random_tokens(tokens, SEQ, VOCAB, 9);
    for (int d = 0, at = 0; d < 4; at += lengths[d++]) {
        for (int i = 0; i < lengths[d]; i++) starts[at + i] = at;
    }
    starts[SEQ] = -1;
    train_once(&s, tokens, starts, 1, SEQ, &together);
    for (int d = 0, at = 0; d < 4; at += lengths[d++]) {
        train_once(&s, tokens + at, zero, 1, lengths[d], &alone);
        sum.loss += alone.loss;
        for (int i = 0; i < VOCAB * 16; i++) sum.grad[i] += alone.grad[i];
    }
    ck_assert_msg(fabs(together.loss - sum.loss) < 1e-11 * fabs(sum.loss),
                  "%s: loss %.15g packed, %.15g apart", layers[_i], together.loss, sum.loss);
    double error = difference(together.grad, sum.grad, VOCAB * 16);
    ck_assert_msg(error < 1e-11, "%s: gradients of packed documents are off by %g", layers[_i],
                  error);
    lmoe__setup_free(&s);
}
END_TEST

/* Another token at position t must leave every bit of what comes before t alone. */
START_TEST(causal)
{
    lmoe_ctx ctx;
    lmoe__setup s;
    int32_t tokens[LENGTH];
    double before[VOCAB], after[VOCAB];
    setup_of(&ctx, &s, _i, 1, LENGTH, "f32");
    random_tokens(tokens, LENGTH, VOCAB, 4);
    lmoe__engine e;
    lmoe__program *p;
    void *dev;
    model_engine(&ctx, &s, &e, &dev);
    const lmoe__model_shape shape = {.batch = 1, .seq = LENGTH, .loss = true};
    must(&ctx, lmoe__engine_program(&e, LMOE__EVAL, &shape, &p));
    must(&ctx, lmoe__engine_bind(&e));
    must(&ctx, lmoe__engine_init_weights(&e, 5));
    for (int t = 1; t < LENGTH;
         t += 5) { /* the loss of tokens before t - 1 sees nothing of token t */
        int32_t labels[LENGTH];
        for (int i = 0; i < LENGTH; i++) labels[i] = i < t - 1 ? tokens[i + 1] : -1;
        for (int round = 0; round < 2; round++) {
            set_plain_inputs(&ctx, &e, p, 1, LENGTH, tokens);
            must(&ctx, lmoe__program_set(&e, p, "in:labels", labels));
            must(&ctx, lmoe__program_run(&e, p));
            lmoe__engine_read(&e, "out:loss", round ? after : before, 1);
            tokens[t] = (tokens[t] + 1) % VOCAB;
        }
        ck_assert_msg(before[0] == after[0], "%s: token %d changes what comes before it",
                      layers[_i], t);
    }
    lmoe__engine_free(&e);
    s.device->close(dev);
    lmoe__setup_free(&s);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("carries");
    TCase *t = tcase_create("layers");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, decode, 0, N_LAYERS);
    tcase_add_loop_test(t, packed, 0, N_LAYERS);
    tcase_add_loop_test(t, causal, 0, N_LAYERS);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
