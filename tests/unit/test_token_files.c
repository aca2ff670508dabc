/* SPDX-License-Identifier: Apache-2.0
 * tests/unit/test_token_files.c: token files are read, written, and refused where they are damaged.
 */
#include "core/data/data.h"

#include "pair.h"

/* ---- reading and writing pairs ---- */

START_TEST(writer_makes_the_bytes_of_the_format)
{
    static const unsigned char bin[] = {1, 0, 2, 0, 255, 0, 7, 0};
    static const unsigned char idx[] = {
        'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0,                      /* magic */
        1,   0,   0,   0,   0,   0,   0,   0,                         /* version */
        8,                                                            /* u16 */
        2,   0,   0,   0,   0,   0,   0,   0,                         /* sequences */
        3,   0,   0,   0,   0,   0,   0,   0,                         /* documents + 1 */
        3,   0,   0,   0,   1,   0,   0,   0,                         /* lengths */
        0,   0,   0,   0,   0,   0,   0,   0, 6, 0, 0, 0, 0, 0, 0, 0, /* offsets */
        0,   0,   0,   0,   0,   0,   0,   0,                         /* document indices */
        1,   0,   0,   0,   0,   0,   0,   0, 2, 0, 0, 0, 0, 0, 0, 0};
    lmoe__tokens_writer *w;
    ck_assert_int_eq(lmoe__tokens_create(&ctx, "x", 256, &w), LMOE_OK);
    ck_assert_int_eq(lmoe__tokens_put(w, (int32_t[]){1, 2}, 2), LMOE_OK);
    ck_assert_int_eq(lmoe__tokens_put(w, (int32_t[]){255}, 1), LMOE_OK);
    lmoe__tokens_end_document(w);
    lmoe__tokens_end_document(w); /* an empty one: left out */
    ck_assert_int_eq(lmoe__tokens_put(w, (int32_t[]){7}, 1), LMOE_OK);
    ck_assert_int_eq(lmoe__tokens_finish(w), LMOE_OK);
    expect_file("x.bin", bin, sizeof bin);
    expect_file("x.idx", idx, sizeof idx);
    ck_assert_int_eq(files_here(), 2);
}
END_TEST

START_TEST(large_vocabularies_take_four_bytes)
{
    static const struct {
        int64_t vocab;
        const char *dtype;
    } cases[] = {{65499, "u16"}, {65500, "i32"}, {151936, "i32"}};
    for (int i = 0; i < 3; i++) {
        lmoe__tokens_writer *w;
        lmoe__tokens t;
        int32_t last = (int32_t)cases[i].vocab - 1;
        ck_assert_int_eq(lmoe__tokens_create(&ctx, "v", cases[i].vocab, &w), LMOE_OK);
        ck_assert_int_eq(lmoe__tokens_put(w, &last, 1), LMOE_OK);
        expect_message(lmoe__tokens_put(w, (int32_t[]){last + 1}, 1), LMOE_E_USAGE, "token 1 is");
        expect_message(lmoe__tokens_put(w, (int32_t[]){-1}, 1), LMOE_E_USAGE, "expected 0 to");
        ck_assert_int_eq(lmoe__tokens_finish(w), LMOE_OK);
        ck_assert_int_eq(lmoe__tokens_open(&ctx, "v", &t), LMOE_OK);
        ck_assert_str_eq(lmoe__tokens_dtype(&t), cases[i].dtype);
        ck_assert_int_eq(t.count, 1);
        ck_assert_int_eq(lmoe__token(&t, 0), last);
        lmoe__tokens_close(&t);
    }
    lmoe__tokens_writer *w;
    expect_message(lmoe__tokens_create(&ctx, "v", 0, &w), LMOE_E_CONFIG, "vocabulary");
}
END_TEST

START_TEST(every_integer_dtype_is_read)
{
    static const struct {
        int code, item;
        int64_t top;
    } cases[] = {{1, 1, 255},       {2, 1, 127},     {3, 2, 32767},
                 {4, 4, INT32_MAX}, {5, 8, 1 << 30}, {8, 2, 65535}};
    for (int i = 0; i < 6; i++) {
        int64_t ids[6] = {0, 1, cases[i].top, 5, 4, 3};
        pair p = {cases[i].code, cases[i].item, (int32_t[]){2, 3, 1}, 3, (int64_t[]){0, 2, 3}, 3,
                  i % 2 == 1};
        lmoe__tokens t;
        int64_t largest;
        int32_t got[6];
        save_pair("d", &p, ids, 6);
        ck_assert_int_eq(lmoe__tokens_open(&ctx, i % 2 ? "d.bin" : "d.idx", &t), LMOE_OK);
        ck_assert_int_eq(t.count, 6);
        ck_assert_int_eq(t.sequences, 3);
        ck_assert_int_eq(t.documents, 2);
        ck_assert_int_eq(lmoe__document_start(&t, 1), 5);
        ck_assert_int_eq(lmoe__document_start(&t, 2), 6);
        lmoe__tokens_read(&t, 0, 6, got);
        for (int k = 0; k < 6; k++) {
            ck_assert_int_eq(got[k], ids[k]);
            ck_assert_int_eq(lmoe__token(&t, k), ids[k]);
        }
        ck_assert_int_eq(lmoe__tokens_verify(&ctx, &t, cases[i].top + 1, &largest), LMOE_OK);
        ck_assert_int_eq(largest, cases[i].top);
        expect_message(lmoe__tokens_verify(&ctx, &t, cases[i].top, NULL), LMOE_E_CONFIG,
                       "token 2 (in document 0)");
        lmoe__tokens_close(&t);
    }
}
END_TEST

START_TEST(ids_that_no_model_has)
{
    static const struct {
        int code, item;
        int64_t id;
        const char *said;
    } cases[] = {{2, 1, -1, "is -1;"},
                 {4, 4, INT32_MIN, "is -2147483648;"},
                 {5, 8, (int64_t)1 << 40, "is 1099511627776;"},
                 {5, 8, INT64_MIN, "is -9223372036854775808;"}};
    for (int i = 0; i < 4; i++) {
        int64_t ids[5000] = {0};
        ids[4999] = cases[i].id;
        pair p = {cases[i].code, cases[i].item, (int32_t[]){5000}, 1, (int64_t[]){0, 1}, 2, false};
        lmoe__tokens t;
        save_pair("d", &p, ids, 5000);
        ck_assert_int_eq(lmoe__tokens_open(&ctx, "d", &t), LMOE_OK);
        expect_message(lmoe__tokens_verify(&ctx, &t, 0, NULL), LMOE_E_CONFIG, cases[i].said);
        lmoe__tokens_close(&t);
    }
}
END_TEST

START_TEST(documents_are_found)
{
    static const int32_t lengths[] = {0, 3, 0, 0, 1, 4, 0};
    static const int32_t of[] = {1, 1, 1, 4, 5, 5, 5, 5};
    lmoe__tokens t;
    ck_assert_int_eq(save_numbers("n", lengths, 7), 8);
    ck_assert_int_eq(lmoe__tokens_open(&ctx, "n", &t), LMOE_OK);
    for (int i = 0; i < 8; i++) ck_assert_int_eq(lmoe__document_of(&t, i), of[i]);
    ck_assert_int_eq(lmoe__document_start(&t, 0), 0);
    ck_assert_int_eq(lmoe__document_start(&t, 2), 3);
    ck_assert_int_eq(lmoe__document_start(&t, 6), 8);
    lmoe__tokens_close(&t);
}
END_TEST

/* ---- damage ---- */

static const pair sound = {8, 2, (int32_t[]){2, 3, 1}, 3, (int64_t[]){0, 2, 3}, 3, false};

static lmoe_status open_damaged(const lmoe__text *idx, size_t n)
{
    lmoe__tokens t;
    save_file("x.idx", idx->data, n);
    lmoe_status status = lmoe__tokens_open(&ctx, "x", &t);
    if (status == LMOE_OK) lmoe__tokens_close(&t);
    return status;
}

START_TEST(every_truncation_of_an_index_is_seen)
{
    lmoe__text idx = idx_of(&sound);
    save_file("x.bin", "0123456789ab", 12);
    ck_assert_int_eq(open_damaged(&idx, idx.length), LMOE_OK);
    for (size_t n = 0; n < idx.length; n++)
        expect_message(open_damaged(&idx, n), LMOE_E_CONFIG, "x.idx: ");
    for (int more = 1; more < 10; more++) {
        lmoe__text_add_bytes(&idx, "", 1);
        lmoe_status status = open_damaged(&idx, idx.length);
        ck_assert_int_eq(status, more == 3 ? LMOE_OK : LMOE_E_CONFIG); /* 3: modes */
        lmoe__ctx_clear(&ctx);
    }
    lmoe__text_free(&idx);
}
END_TEST

START_TEST(every_changed_byte_of_an_index_is_seen)
{
    lmoe__text idx = idx_of(&sound);
    save_file("x.bin", "0123456789ab", 12);
    for (size_t i = 0; i < idx.length; i++) {
        idx.data[i] ^= (char)0x80;
        expect_message(open_damaged(&idx, idx.length), LMOE_E_CONFIG, "x.idx: ");
        idx.data[i] ^= (char)0x80;
    }
    ck_assert_int_eq(open_damaged(&idx, idx.length), LMOE_OK);
    lmoe__text_free(&idx);
}
END_TEST

START_TEST(impossible_fields_are_named)
{
    static const struct {
        size_t at;
        int bytes;
        uint64_t value;
        const char *said;
    } cases[] = {{0, 1, 'N', "MMIDIDX"},
                 {9, 8, 2, "the version is 2; expected 1"},
                 {17, 1, 0, "dtype code is 0"},
                 {17, 1, 6, "dtype code is 6"},
                 {17, 1, 7, "dtype code is 7"},
                 {17, 1, 255, "dtype code is 255"},
                 {18, 8, (uint64_t)1 << 61, "counts 2305843009213693952 sequences"},
                 {18, 8, UINT64_MAX, "sequences, more than"},
                 {26, 8, 0, "counts 0 document indices"},
                 {26, 8, (uint64_t)1 << 61, "document indices"},
                 {26, 8, UINT64_MAX, "document indices"},
                 {34, 4, UINT32_MAX, "length of sequence 0 is -1"},
                 {34, 4, INT32_MAX, "sequence 0 ends at byte 4294967294"},
                 {34, 4, 3, "offset of sequence 1 is 4; expected 6"},
                 {46, 8, 2, "offset of sequence 0 is 2; expected 0"},
                 {54, 8, UINT64_MAX, "offset of sequence 1 is -1"},
                 {62, 8, 12, "offset of sequence 2 is 12; expected 10"},
                 {42, 4, 0, "end at byte 10, but x.bin has 12"},
                 {70, 8, 1, "document index 0 is 1; expected 0"},
                 {78, 8, 4, "document index 1 is 4"},
                 {78, 8, UINT64_MAX, "document index 1 is -1"},
                 {86, 8, 1, "document index 2 is 1; expected 2"},
                 {86, 8, 2, "last document index is 2; expected 3"}};
    save_file("x.bin", "0123456789ab", 12);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lmoe__text idx = idx_of(&sound), changed = {0};
        add_number(&changed, cases[i].value, cases[i].bytes);
        memcpy(idx.data + cases[i].at, changed.data, changed.length);
        expect_message(open_damaged(&idx, idx.length), LMOE_E_CONFIG, cases[i].said);
        lmoe__text_free(&idx);
        lmoe__text_free(&changed);
    }
}
END_TEST

START_TEST(a_bin_of_another_size_is_refused)
{
    lmoe__text idx = idx_of(&sound);
    for (size_t n = 0; n <= 15; n++) {
        save_file("x.bin", "0123456789abcde", n);
        if (n == 12) continue;
        expect_message(open_damaged(&idx, idx.length), LMOE_E_CONFIG, "x.bin has ");
    }
    lmoe__text_free(&idx);
}
END_TEST

START_TEST(files_that_are_not_there)
{
    lmoe__tokens t;
    save_text("lone.bin", "xx");
    save_text("only.idx", "xx");
    ck_assert_int_eq(mkdir("folder", 0777), 0);
    expect_message(lmoe__tokens_open(&ctx, "none", &t), LMOE_E_CONFIG, "no token file none");
    expect_message(lmoe__tokens_open(&ctx, "lone.bin", &t), LMOE_E_CONFIG, "there is no lone.idx");
    expect_message(lmoe__tokens_open(&ctx, "lone", &t), LMOE_E_CONFIG, "there is no lone.idx");
    expect_message(lmoe__tokens_open(&ctx, "only.idx", &t), LMOE_E_CONFIG, "there is no only.bin");
    expect_message(lmoe__tokens_open(&ctx, "folder", &t), LMOE_E_CONFIG, "Is a directory");
    expect_message(lmoe__tokens_open(&ctx, "/dev/zero", &t), LMOE_E_CONFIG, "not a regular file");
}
END_TEST

START_TEST(text_is_one_document_of_bytes)
{
    lmoe__tokens t;
    int32_t ids[4];
    save_file("a.txt", "A\0\xff\n", 4);
    ck_assert_int_eq(lmoe__tokens_open(&ctx, "a.txt", &t), LMOE_OK);
    ck_assert_int_eq(t.count, 4);
    ck_assert_int_eq(t.documents, 1);
    ck_assert_int_eq(lmoe__document_start(&t, 0), 0);
    ck_assert_int_eq(lmoe__document_start(&t, 1), 4);
    ck_assert_int_eq(lmoe__document_of(&t, 3), 0);
    lmoe__tokens_read(&t, 0, 4, ids);
    ck_assert_int_eq(ids[0], 'A');
    ck_assert_int_eq(ids[1], 0);
    ck_assert_int_eq(ids[2], 255);
    ck_assert_int_eq(ids[3], '\n');
    lmoe__tokens_close(&t);
    save_file("empty.txt", "", 0);
    ck_assert_int_eq(lmoe__tokens_open(&ctx, "empty.txt", &t), LMOE_OK);
    ck_assert_int_eq(t.count, 0);
    ck_assert_int_eq(lmoe__tokens_verify(&ctx, &t, 256, NULL), LMOE_OK);
    lmoe__tokens_close(&t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("token_files");
    TCase *c = group(s, "pairs");
    tcase_add_test(c, writer_makes_the_bytes_of_the_format);
    tcase_add_test(c, large_vocabularies_take_four_bytes);
    tcase_add_test(c, every_integer_dtype_is_read);
    tcase_add_test(c, ids_that_no_model_has);
    tcase_add_test(c, documents_are_found);
    c = group(s, "damage");
    tcase_add_test(c, every_truncation_of_an_index_is_seen);
    tcase_add_test(c, every_changed_byte_of_an_index_is_seen);
    tcase_add_test(c, impossible_fields_are_named);
    tcase_add_test(c, a_bin_of_another_size_is_refused);
    tcase_add_test(c, files_that_are_not_there);
    tcase_add_test(c, text_is_one_document_of_bytes);
    return run_suite(s);
}
