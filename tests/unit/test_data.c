/* SPDX-License-Identifier: Apache-2.0
 * tests/unit/test_data.c: the rows of a run, and what is held out of them.
 */
#include "core/data/data.h"

#include "pair.h"

/* ---- rows ---- */

static lmoe__batch batch_new(int64_t batch, int64_t seq)
{
    size_t n = (size_t)(batch * seq);
    lmoe__batch b = {.batch = batch, .seq = seq};
    b.tokens = malloc(n * 4);
    b.labels = malloc(n * 4);
    b.positions = malloc(n * 4);
    b.document = malloc(n * 4);
    b.reset = malloc(n);
    memset(b.tokens, 0xa5, n * 4); /* what is not filled in is seen */
    memset(b.labels, 0xa5, n * 4);
    memset(b.positions, 0xa5, n * 4);
    memset(b.document, 0xa5, n * 4);
    memset(b.reset, 0xa5, n);
    return b;
}

static void batch_free(lmoe__batch *b)
{
    free(b->tokens);
    free(b->labels);
    free(b->positions);
    free(b->document);
    free(b->reset);
}

/* What a row must be, given its tokens: of a file where token i has id i, cut at `limit`. */
static int64_t expect_row(const lmoe__batch *b, int64_t row, const lmoe__tokens *t, int64_t limit)
{
    int64_t count = 0;
    int32_t document = 0;
    for (int64_t at = 0; at < b->seq; at++) {
        int64_t i = row * b->seq + at;
        int64_t id = b->tokens[i];
        ck_assert_int_ge(id, 0);
        ck_assert_int_lt(id, limit);
        int64_t start = 0, end = t->count; /* of its document, by looking at all */
        for (int64_t k = 0; k < t->documents; k++) {
            int64_t s = lmoe__document_start(t, k);
            if (s <= id) start = s;
            if (s > id && s < end) end = s;
        }
        if (end > limit) end = limit;
        if (at > 0 && (id == start || b->tokens[i - 1] != id - 1)) document = (int32_t)at;
        ck_assert_int_eq(b->labels[i], id + 1 < end ? id + 1 : -1);
        ck_assert_int_eq(b->positions[i], at);
        ck_assert_int_eq(b->document[i], document);
        ck_assert_int_eq(b->reset[i], id == start);
        if (at > 0 && id != start) ck_assert_int_eq(b->tokens[i - 1], id - 1);
        count += id + 1 < end;
    }
    return count;
}

static void open_data(lmoe__data *d, int64_t vocab, int64_t seq, bool packed, const char *valid)
{
    lmoe__data_options o = {
        .train = "n", .valid = valid, .seq = seq, .seed = 17, .packed = packed, .vocab = vocab};
    lmoe_status status = lmoe__data_open(&ctx, &o, d);
    ck_assert_msg(status == LMOE_OK, "%s", ctx.message);
}

START_TEST(an_epoch_has_each_window_once)
{
    static const int64_t sizes[][2] = {{1000, 7}, {1000, 64}, {129, 64}, {128, 64}, {65, 64},
                                       {191, 64}, {192, 64},  {50, 1},   {2, 1}};
    for (int c = 0; c < 9; c++) {
        int64_t n = sizes[c][0], seq = sizes[c][1], last_phase = -1, phases = 0;
        lmoe__data d;
        save_numbers("n", (int32_t[]){(int32_t)n}, 1);
        open_data(&d, n, seq, false, NULL);
        lmoe__batch b = batch_new(1, seq);
        bool shuffled = false, reshuffled = false;
        int64_t *order = calloc((size_t)d.windows, sizeof *order);
        ck_assert_int_ge(d.windows * seq, n - 2 * seq + 1); /* few tokens are passed over */
        ck_assert(lmoe__data_epoch_rows(&d) == (double)d.windows);
        ck_assert(!lmoe__data_has_starts(&d));
        for (int64_t epoch = 0; epoch < 40; epoch++) {
            unsigned char *seen = calloc((size_t)n, 1);
            int64_t first = n, *starts = malloc((size_t)d.windows * sizeof *starts);
            for (int64_t i = 0; i < d.windows; i++) {
                ck_assert_int_eq(lmoe__batch_fill(&ctx, &d, epoch * d.windows + i, &b), seq);
                ck_assert_int_eq(expect_row(&b, 0, d.train.tokens, n), seq);
                for (int64_t k = 0; k < seq; k++) {
                    ck_assert_int_eq(b.tokens[k], b.tokens[0] + k);
                    ck_assert_int_eq(seen[b.tokens[k]]++, 0);
                }
                starts[i] = b.tokens[0];
                if (b.tokens[0] < first) first = b.tokens[0];
                if (i > 0 && b.tokens[0] != first + i * seq) shuffled = true;
            }
            int64_t covered = 0;
            for (int64_t i = 0; i < n; i++) covered += seen[i];
            ck_assert_int_eq(covered, d.windows * seq);
            for (int64_t i = first; i < first + d.windows * seq; i++) ck_assert_int_eq(seen[i], 1);
            for (int64_t i = 0; i < d.windows; i++) {
                if (epoch > 0 && starts[i] - first != order[i]) reshuffled = true;
                order[i] = starts[i] - first;
            }
            free(starts);
            if (first != last_phase) phases++;
            last_phase = first;
            free(seen);
        }
        if (seq > 1 && n > seq + 1) ck_assert_int_gt(phases, 1);
        if (d.windows > 2) ck_assert(shuffled && reshuffled);
        free(order);
        batch_free(&b);
        lmoe__data_close(&d);
    }
}
END_TEST

START_TEST(an_epoch_of_packed_documents_has_each_token_once)
{
    static const int32_t lengths[] = {5, 0, 1, 40, 1, 2, 0, 16, 100, 3, 3, 9};
    for (int64_t seq = 1; seq <= 50; seq += 7) {
        int64_t n = save_numbers("n", lengths, 12), orders = 0;
        int32_t last[200] = {0};
        lmoe__data d;
        open_data(&d, n, seq, true, NULL);
        lmoe__batch b = batch_new(1, seq);
        int64_t rows = 6 * n / seq;
        int32_t *stream = malloc((size_t)(rows * seq) * sizeof *stream);
        for (int64_t i = 0; i < rows; i++) {
            int64_t count = lmoe__batch_fill(&ctx, &d, i, &b);
            ck_assert_int_eq(count, expect_row(&b, 0, d.train.tokens, n));
            memcpy(stream + i * seq, b.tokens, (size_t)seq * sizeof *stream);
        }
        for (int64_t epoch = 0; (epoch + 1) * n <= rows * seq; epoch++) {
            unsigned char seen[200] = {0};
            const int32_t *ids = stream + epoch * n;
            for (int64_t i = 0; i < n; i++) {
                int64_t start =
                    lmoe__document_start(d.train.tokens, lmoe__document_of(d.train.tokens, ids[i]));
                ck_assert_int_eq(seen[ids[i]]++, 0);
                if (ids[i] == start) continue;
                ck_assert_int_gt(i, 0); /* whole documents: what goes on follows */
                ck_assert_int_eq(ids[i - 1], ids[i] - 1);
            }
            orders += memcmp(last, ids, (size_t)n * sizeof *ids) != 0;
            memcpy(last, ids, (size_t)n * sizeof *ids);
        }
        ck_assert_int_ge(orders, 5);
        ck_assert(lmoe__data_has_starts(&d));
        free(stream);
        batch_free(&b);
        lmoe__data_close(&d);
    }
}
END_TEST

START_TEST(rows_of_many_documents_in_file_order)
{
    static const int32_t lengths[] = {5, 0, 1, 40, 1, 2, 0, 16, 100, 3, 3, 9};
    int64_t n = save_numbers("n", lengths, 12);
    lmoe__data d;
    open_data(&d, n, 13, false, NULL);
    lmoe__batch b = batch_new(4, 13);
    for (int64_t i = 0; i < 50; i++) {
        int64_t count = lmoe__batch_fill(&ctx, &d, 4 * i, &b), expected = 0;
        for (int64_t row = 0; row < 4; row++) {
            expected += expect_row(&b, row, d.train.tokens, n);
            for (int64_t k = 1; k < 13; k++)
                ck_assert_int_eq(b.tokens[row * 13 + k], b.tokens[row * 13] + k);
        }
        ck_assert_int_eq(count, expected);
    }
    ck_assert(lmoe__data_has_starts(&d));
    batch_free(&b);
    lmoe__data_close(&d);
}
END_TEST

/* Both orders; asked for in one call, row by row, backwards, and from another opened file. */
START_TEST(rows_do_not_depend_on_the_calls)
{
    static const int32_t lengths[] = {5, 60, 1, 40, 1, 2, 7, 16};
    enum { ROWS = 60, SEQ = 9 };
    int64_t n = save_numbers("n", lengths, 8);
    for (int packed = 0; packed < 2; packed++) {
        lmoe__data d, other;
        open_data(&d, n, SEQ, packed, NULL);
        open_data(&other, n, SEQ, packed, NULL);
        lmoe__batch all = batch_new(ROWS, SEQ), one = batch_new(1, SEQ), few = batch_new(7, SEQ);
        int64_t count = lmoe__batch_fill(&ctx, &d, 1000, &all), sum = 0;
        for (int64_t i = ROWS - 1; i >= 0; i--) {
            sum += lmoe__batch_fill(&ctx, &other, 1000 + i, &one);
            ck_assert_mem_eq(one.tokens, all.tokens + i * SEQ, SEQ * 4);
            ck_assert_mem_eq(one.labels, all.labels + i * SEQ, SEQ * 4);
            ck_assert_mem_eq(one.document, all.document + i * SEQ, SEQ * 4);
            ck_assert_mem_eq(one.reset, all.reset + i * SEQ, SEQ);
        }
        ck_assert_int_eq(sum, count);
        for (int64_t i = 0; i + 7 <= ROWS; i += 7) {
            ck_assert_int_gt(lmoe__batch_fill(&ctx, &d, 1000 + i, &few), 0);
            ck_assert_mem_eq(few.tokens, all.tokens + i * SEQ, 7 * SEQ * 4);
        }
        other.seed = 18; /* and they do depend on the seed */
        other.epochs[0].number = other.epochs[1].number = -1;
        lmoe__batch changed = batch_new(ROWS, SEQ);
        lmoe__batch_fill(&ctx, &other, 1000, &changed);
        ck_assert_mem_ne(changed.tokens, all.tokens, ROWS * SEQ * 4);
        batch_free(&changed);
        batch_free(&all);
        batch_free(&one);
        batch_free(&few);
        lmoe__data_close(&d);
        lmoe__data_close(&other);
    }
}
END_TEST

/* ---- validation ---- */

START_TEST(what_is_held_out_is_never_trained_on)
{
    static const int32_t lengths[] = {5, 60, 1, 40, 1, 2, 7, 16};
    static const struct {
        const char *valid;
        int64_t held;
    } cases[] = {{"10 %", 13}, {"50%", 66}, {"2.3  % ", 3}, {"90 %", 118}};
    int64_t n = save_numbers("n", lengths, 8);
    ck_assert_int_eq(n, 132);
    for (int c = 0; c < 4; c++) {
        for (int64_t seq = 1; seq < 14; seq += 3) {
            for (int packed = 0; packed < 2; packed++) {
                int64_t cut = n - cases[c].held;
                if (cut <= seq) continue;
                lmoe__data d;
                open_data(&d, n, seq, packed, cases[c].valid);
                lmoe__batch b = batch_new(1, seq);
                ck_assert_int_eq(d.train.count, cut);
                for (int64_t i = 0; i < 4 * (int64_t)lmoe__data_epoch_rows(&d) + 4; i++) {
                    ck_assert_int_ge(lmoe__batch_fill(&ctx, &d, i, &b), 0);
                    expect_row(&b, 0, d.train.tokens, cut);
                }
                /* each held out token but the first is a label once, in order, unless a document
                 * starts with it */
                int64_t next = cut, windows = lmoe__valid_windows(&d);
                for (int64_t i = 0; i < windows; i++) {
                    int64_t count = lmoe__valid_fill(&ctx, &d, i, &b), found = 0;
                    for (int64_t k = 0; k < seq; k++) {
                        if (next == n) {
                            ck_assert_int_eq(b.tokens[k], 0);
                            ck_assert_int_eq(b.labels[k], -1);
                            continue;
                        }
                        bool last =
                            next + 1 == n || lmoe__document_of(d.valid.tokens, next) !=
                                                 lmoe__document_of(d.valid.tokens, next + 1);
                        ck_assert_int_eq(b.tokens[k], next);
                        ck_assert_int_eq(b.labels[k], last ? -1 : next + 1);
                        found += !last;
                        next++;
                    }
                    ck_assert_int_eq(count, found);
                }
                ck_assert_int_ge(next, n - 1);
                batch_free(&b);
                lmoe__data_close(&d);
            }
        }
    }
}
END_TEST

START_TEST(windows_of_a_text_are_padded)
{
    lmoe__data d;
    lmoe__data_options o = {.train = "train.txt",
                            .valid = "valid.txt",
                            .seq = 4,
                            .vocab = 256,
                            .tokenizer = &lmoe__tokenizer_bytes};
    save_text("train.txt", "some text to learn from");
    save_text("valid.txt", "abcdefg");
    ck_assert_int_eq(lmoe__data_open(&ctx, &o, &d), LMOE_OK);
    ck_assert_int_eq(lmoe__valid_windows(&d), 2);
    lmoe__batch b = batch_new(3, 4);
    ck_assert_int_eq(lmoe__valid_fill(&ctx, &d, 0, &b), 6);
    static const int32_t tokens[] = {'a', 'b', 'c', 'd', 'e', 'f', 'g', 0, 0, 0, 0, 0};
    static const int32_t labels[] = {'b', 'c', 'd', 'e', 'f', 'g', -1, -1, -1, -1, -1, -1};
    static const int32_t positions[] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
    static const int32_t document[12] = {0};
    static const uint8_t reset[12] = {1};
    ck_assert_mem_eq(b.tokens, tokens, sizeof tokens);
    ck_assert_mem_eq(b.labels, labels, sizeof labels);
    ck_assert_mem_eq(b.positions, positions, sizeof positions);
    ck_assert_mem_eq(b.document, document, sizeof document);
    ck_assert_mem_eq(b.reset, reset, sizeof reset);
    ck_assert_int_eq(b.bytes, 6);
    free(b.reset);
    b.reset = NULL; /* not wanted */
    ck_assert_int_eq(lmoe__valid_fill(&ctx, &d, 1, &b), 2);
    ck_assert_int_eq(b.bytes, 2);
    ck_assert_int_eq(lmoe__batch_fill(&ctx, &d, 0, &b), 12);
    ck_assert_int_eq(b.bytes, 12);
    batch_free(&b);
    lmoe__data_close(&d);

    /* exactly filled windows: 9 tokens, 8 labels */
    save_text("valid.txt", "abcdefghi");
    ck_assert_int_eq(lmoe__data_open(&ctx, &o, &d), LMOE_OK);
    ck_assert_int_eq(lmoe__valid_windows(&d), 2);
    b = batch_new(2, 4);
    ck_assert_int_eq(lmoe__valid_fill(&ctx, &d, 0, &b), 8);
    ck_assert_int_eq(b.labels[7], 'i');
    batch_free(&b);
    lmoe__data_close(&d);
}
END_TEST

START_TEST(marks_have_no_bytes_of_text)
{
    lmoe__tokens_writer *w;
    lmoe__data d;
    lmoe__data_options o = {
        .train = "m", .valid = "m", .seq = 4, .vocab = 257, .tokenizer = &lmoe__tokenizer_bytes};
    ck_assert_int_eq(lmoe__tokens_create(&ctx, "m", 257, &w), LMOE_OK);
    ck_assert_int_eq(lmoe__tokens_put(w, (int32_t[]){'a', 'b', 256}, 3), LMOE_OK);
    lmoe__tokens_end_document(w);
    ck_assert_int_eq(lmoe__tokens_put(w, (int32_t[]){'c', 'd', 256}, 3), LMOE_OK);
    ck_assert_int_eq(lmoe__tokens_finish(w), LMOE_OK);
    ck_assert_int_eq(lmoe__data_open(&ctx, &o, &d), LMOE_OK);
    lmoe__batch b = batch_new(2, 4);
    ck_assert_int_eq(lmoe__valid_fill(&ctx, &d, 0, &b), 4); /* b mark d mark */
    ck_assert_int_eq(b.bytes, 2);
    static const int32_t labels[] = {'b', 256, -1, 'd', 256, -1, -1, -1};
    static const int32_t document[] = {0, 0, 0, 3, 0, 0, 0, 0};
    static const uint8_t reset[] = {1, 0, 0, 1, 0, 0, 0, 0};
    ck_assert_mem_eq(b.labels, labels, sizeof labels);
    ck_assert_mem_eq(b.document, document, sizeof document);
    ck_assert_mem_eq(b.reset, reset, sizeof reset);
    batch_free(&b);
    lmoe__data_close(&d);
}
END_TEST

START_TEST(data_that_cannot_be_used)
{
    static const struct {
        const char *train, *valid;
        int64_t seq, vocab;
        const char *said;
    } cases[] = {{"t.txt", NULL, 10, 256, "has 10 tokens to train on; a row of seq = 10 needs 11"},
                 {"t.txt", "50 %", 5, 256, "has 5 tokens to train on"},
                 {"t.txt", "10 %", 5, 256, "of the 10 tokens of t.txt that is 1"},
                 {"t.txt", "0 %", 5, 256, "above 0 %"},
                 {"t.txt", "100 %", 5, 256, "below 100 %"},
                 {"t.txt", "nan %", 5, 256, "expected a share"},
                 {"t.txt", "10", 5, 256, "there is no token file 10"},
                 {"t.txt", "one.txt", 5, 256, "holds 1 tokens"},
                 {"t.txt", NULL, 0, 256, "seq is 0"},
                 {"t.txt", NULL, 5, 0, "vocab_size is 0"},
                 {"none", NULL, 5, 256, "there is no token file none"}};
    save_text("t.txt", "0123456789");
    save_text("one.txt", "1");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lmoe__data d;
        lmoe__data_options o = {.train = cases[i].train,
                                .valid = cases[i].valid,
                                .seq = cases[i].seq,
                                .vocab = cases[i].vocab};
        expect_message(lmoe__data_open(&ctx, &o, &d), LMOE_E_CONFIG, cases[i].said);
    }
}
END_TEST

START_TEST(rows_that_cannot_be_filled)
{
    for (int packed = 0; packed < 2; packed++) {
        lmoe__data d;
        int64_t n = save_numbers("n", (int32_t[]){60, 40}, 2);
        open_data(&d, n - 1, 99, packed, NULL);
        lmoe__batch b = batch_new(1, 99), other = batch_new(1, 98);
        lmoe_status status = LMOE_OK;
        for (int64_t i = 0; i < 3 && status >= 0; i++)
            status = (lmoe_status)lmoe__batch_fill(&ctx, &d, i, &b);
        expect_message(status, LMOE_E_CONFIG,
                       "n.bin: token 99 (in document 1) is 99; expected 0 to 98");
        expect_message((lmoe_status)lmoe__batch_fill(&ctx, &d, -1, &b), LMOE_E_USAGE, "index -1");
        expect_message((lmoe_status)lmoe__batch_fill(&ctx, &d, 0, &other), LMOE_E_USAGE, "98");
        expect_message((lmoe_status)lmoe__valid_fill(&ctx, &d, 0, &b), LMOE_E_USAGE, "0 tokens");
        /* a file that shrinks is a sentence, not a dead process */
        ck_assert_int_eq(truncate("n.bin", 0), 0);
        expect_message((lmoe_status)lmoe__batch_fill(&ctx, &d, 0, &b), LMOE_E_IO,
                       "n.bin has changed while it was in use: it had 400 bytes and has 0 now");
        batch_free(&b);
        batch_free(&other);
        lmoe__data_close(&d);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("data");
    TCase *c = group(s, "rows");
    tcase_add_test(c, an_epoch_has_each_window_once);
    tcase_add_test(c, an_epoch_of_packed_documents_has_each_token_once);
    tcase_add_test(c, rows_of_many_documents_in_file_order);
    tcase_add_test(c, rows_do_not_depend_on_the_calls);
    c = group(s, "validation");
    tcase_add_test(c, what_is_held_out_is_never_trained_on);
    tcase_add_test(c, windows_of_a_text_are_padded);
    tcase_add_test(c, marks_have_no_bytes_of_text);
    tcase_add_test(c, data_that_cannot_be_used);
    tcase_add_test(c, rows_that_cannot_be_filled);
    return run_suite(s);
}
