/* SPDX-License-Identifier: Apache-2.0
 * tests/unit/test_mqar.c: tokens that are read but not predicted, and the task made of them.
 */
#include "core/data/data.h"

#include "folder.h"

static void must(lmoe_status status)
{
    ck_assert_msg(status == LMOE_OK, "%s", ctx.message);
}

static lmoe__batch batch_new(int64_t batch, int64_t seq)
{
    size_t n = (size_t)(batch * seq);
    return (lmoe__batch){batch,         seq,           malloc(4 * n), malloc(4 * n),
                         malloc(4 * n), malloc(4 * n), malloc(n),     0};
}

static void batch_free(lmoe__batch *b)
{
    free(b->tokens);
    free(b->labels);
    free(b->positions);
    free(b->document);
    free(b->reset);
}

static void open_data(lmoe__data *d, int64_t vocab, int64_t seq, bool packed)
{
    const lmoe__data_options o = {
        .train = "m", .seq = seq, .seed = 3, .packed = packed, .vocab = vocab};
    must(lmoe__data_open(&ctx, &o, d));
}

/* Token i has id i; runs of context and of what is predicted have lengths of a generator. */
static int64_t save_runs(bool *context, int64_t documents)
{
    lmoe__tokens_writer *w;
    int64_t n = 0;
    uint64_t draws = 0;
    must(lmoe__tokens_create(&ctx, "m", 100000, &w));
    for (int64_t k = 0; k < documents; k++) {
        int64_t runs = (int64_t)lmoe__below(1, 2, draws++, 5);
        for (int64_t r = 0; r <= runs; r++) {
            bool kind = lmoe__below(1, 2, draws++, 2);
            int64_t length = (int64_t)lmoe__below(1, 2, draws++, 9);
            lmoe__tokens_context(w, kind);
            for (int64_t i = 0; i < length; i++) {
                int32_t id = (int32_t)n;
                context[n++] = kind;
                must(lmoe__tokens_put(w, &id, 1));
            }
        }
        lmoe__tokens_end_document(w);
    }
    must(lmoe__tokens_finish(w));
    return n;
}

START_TEST(context_is_not_predicted)
{
    static bool context[10000];
    int64_t n = save_runs(context, 200);
    for (int packed = 0; packed < 2; packed++) {
        for (int64_t seq = 1; seq < 40; seq += 6) {
            lmoe__data d;
            open_data(&d, n, seq, packed);
            lmoe__batch b = batch_new(5, seq);
            for (int64_t i = 0; i < 100; i += 5) {
                int64_t expected = 0, count = lmoe__batch_fill(&ctx, &d, i, &b);
                for (int64_t k = 0; k < 5 * seq; k++) {
                    int64_t next = b.tokens[k] + 1;
                    bool same = next < n && lmoe__document_of(d.train.tokens, next) ==
                                                lmoe__document_of(d.train.tokens, b.tokens[k]);
                    int64_t label = same && !context[next] ? next : -1;
                    ck_assert_int_eq(b.labels[k], label);
                    expected += label >= 0;
                }
                ck_assert_int_eq(count, expected);
            }
            batch_free(&b);
            lmoe__data_close(&d);
        }
    }
}
END_TEST

/* One document: pairs, blanks, and every key once more. */
static void expect_document(const lmoe__mqar_options *o, const int32_t *ids, const int32_t *labels)
{
    int64_t kinds = (o->vocab - 1) / 2, asked = 0;
    int32_t *value = calloc((size_t)o->vocab, sizeof *value);
    for (int64_t i = 0; i < o->pairs; i++) {
        int32_t k = ids[2 * i], v = ids[2 * i + 1];
        ck_assert(k >= 1 && k <= kinds && v > kinds && v <= 2 * kinds);
        ck_assert_int_eq(value[k], 0);
        value[k] = v;
        ck_assert(labels[2 * i] == -1 && labels[2 * i + 1] == -1);
    }
    for (int64_t i = 2 * o->pairs; i < o->length; i += 2) {
        ck_assert_int_eq(labels[i + 1], -1);
        ck_assert_int_eq(labels[i], ids[i] ? value[ids[i]] : -1);
        ck_assert_int_eq(ids[i + 1], ids[i] ? value[ids[i]] : 0);
        if (!ids[i]) continue;
        value[ids[i]] = -1; /* asked once */
        asked++;
    }
    ck_assert_int_eq(asked, o->pairs);
    free(value);
}

START_TEST(a_question_for_each_pair)
{
    static const lmoe__mqar_options all[] = {
        {"m", 300, 64, 8, 256, 1}, {"m", 50, 4, 1, 3, 1}, {"m", 40, 128, 32, 65, 9}};
    for (size_t c = 0; c < sizeof all / sizeof *all; c++) {
        const lmoe__mqar_options *o = &all[c];
        lmoe__prepare_result r = {0};
        lmoe__data d;
        must(lmoe__mqar(&ctx, o, &r));
        ck_assert_int_eq(r.documents, o->documents);
        ck_assert_int_eq(r.tokens, o->documents * o->length);
        open_data(&d, o->vocab, o->length, true);
        lmoe__batch b = batch_new(o->documents, o->length);
        ck_assert_int_eq(lmoe__batch_fill(&ctx, &d, 0, &b), o->documents * o->pairs);
        int64_t early = 0, different = 0;
        for (int64_t k = 0; k < o->documents; k++) {
            const int32_t *ids = b.tokens + k * o->length;
            expect_document(o, ids, b.labels + k * o->length);
            for (int64_t i = 2 * o->pairs; i < o->length / 2 + o->pairs; i += 2)
                early += ids[i] > 0;
            different += memcmp(ids, b.tokens, 4 * (size_t)o->length) != 0;
        }
        if (o->length > 4 * o->pairs) { /* most questions come soon after the pairs */
            ck_assert_int_gt(3 * early, 2 * o->documents * o->pairs);
            ck_assert_int_eq(different, o->documents - 1);
        }
        batch_free(&b);
        lmoe__data_close(&d);
    }
}
END_TEST

START_TEST(tasks_that_cannot_be_made)
{
    static const struct {
        lmoe__mqar_options o;
        const char *said;
    } rows[] = {{{"m", 10, 31, 2, 64, 1}, "even length of 8"},
                {{"m", 10, 30, 8, 64, 1}, "even length of 32"},
                {{"m", 10, 64, 8, 16, 1}, "a vocabulary of 17"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        lmoe__prepare_result r = {0};
        lmoe__ctx_clear(&ctx);
        ck_assert_int_eq(lmoe__mqar(&ctx, &rows[i].o, &r), LMOE_E_CONFIG);
        ck_assert_msg(strstr(ctx.message, rows[i].said) != NULL, "%s", ctx.message);
        ck_assert(access("m.bin", F_OK) != 0);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("mqar");
    TCase *t = group(s, "mqar");
    tcase_add_test(t, context_is_not_predicted);
    tcase_add_test(t, a_question_for_each_pair);
    tcase_add_test(t, tasks_that_cannot_be_made);
    return run_suite(s);
}
