/* SPDX-License-Identifier: Apache-2.0
 * tests/unit/test_data.c: token files, rows of a run, lmoe data.
 */
#include "core/data/data.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- a folder for each test ---- */

static char folder[] = "/tmp/lmoe-data-XXXXXX";
static lmoe_ctx ctx;

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *at)
{
    return remove(path);
}

static void enter_folder(void)
{
    strcpy(folder + sizeof folder - 7, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    ck_assert_int_eq(chdir(folder), 0);
    lmoe__ctx_init(&ctx);
}

static void leave_folder(void)
{
    ck_assert_int_eq(chdir("/"), 0);
    nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void save(const char *path, const void *data, size_t n)
{
    unlink(path); /* cutting an old file short would wait for the disk */
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(data, 1, n, f), n);
    ck_assert_int_eq(fclose(f), 0);
}

static void save_text(const char *path, const char *text)
{
    save(path, text, strlen(text));
}

static void expect_file(const char *path, const void *data, size_t n)
{
    char *have;
    size_t size;
    ck_assert_int_eq(lmoe__read_file(&ctx, path, &have, &size), LMOE_OK);
    ck_assert_uint_eq(size, n);
    ck_assert_mem_eq(have, data, n);
    free(have);
}

static int files_here(void)
{
    FILE *p = popen("ls -A | wc -l", "r");
    int n = -1;
    ck_assert_int_eq(fscanf(p, "%d", &n), 1);
    pclose(p);
    return n;
}

static void expect_message(lmoe_status status, lmoe_status expected, const char *part)
{
    ck_assert_int_eq(status, expected);
    ck_assert_msg(strstr(ctx.message, part) != NULL, "\"%s\" is not in: %s", part, ctx.message);
    lmoe__ctx_clear(&ctx);
}

/* ---- renames that fail on demand: the library's calls come here ---- */

static int renames_left = -1; /* so many succeed, then one fails; -1: all succeed */

int rename(const char *from, const char *to)
{
    if (renames_left >= 0 && renames_left-- == 0) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

/* ---- pairs by hand, as the format describes them ---- */

static void add_number(lmoe__text *s, uint64_t x, int bytes)
{
    for (int i = 0; i < bytes; i++) {
        char c = (char)(x >> 8 * i);
        lmoe__text_add_bytes(s, &c, 1);
    }
}

typedef struct pair {
    int code, item;
    const int32_t *lengths;
    int sequences;
    const int64_t *documents;
    int indices;
    bool modes;
} pair;

static lmoe__text idx_of(const pair *p)
{
    lmoe__text s = {0};
    int64_t offset = 0;
    lmoe__text_add_bytes(&s, "MMIDIDX\0\0", 9);
    add_number(&s, 1, 8);
    add_number(&s, (uint64_t)p->code, 1);
    add_number(&s, (uint64_t)p->sequences, 8);
    add_number(&s, (uint64_t)p->indices, 8);
    for (int i = 0; i < p->sequences; i++) add_number(&s, (uint64_t)p->lengths[i], 4);
    for (int i = 0; i < p->sequences; i++) {
        add_number(&s, (uint64_t)offset, 8);
        offset += (int64_t)p->lengths[i] * p->item;
    }
    for (int i = 0; i < p->indices; i++) add_number(&s, (uint64_t)p->documents[i], 8);
    for (int i = 0; p->modes && i < p->sequences; i++) add_number(&s, 0, 1);
    return s;
}

static void save_pair(const char *prefix, const pair *p, const int64_t *ids, int64_t n)
{
    char path[64];
    lmoe__text idx = idx_of(p), bin = {0};
    for (int64_t i = 0; i < n; i++) add_number(&bin, (uint64_t)ids[i], p->item);
    snprintf(path, sizeof path, "%s.idx", prefix);
    save(path, idx.data, idx.length);
    snprintf(path, sizeof path, "%s.bin", prefix);
    save(path, bin.data ? bin.data : "", bin.length);
    lmoe__text_free(&idx);
    lmoe__text_free(&bin);
}

/* Documents of these lengths (0 allowed); token i of the file has id i, so that an id tells where
 * it is from. */
static int64_t save_numbers(const char *prefix, const int32_t *lengths, int n)
{
    int64_t *documents = calloc((size_t)n + 1, sizeof *documents), count = 0;
    for (int i = 0; i <= n; i++) documents[i] = i;
    for (int i = 0; i < n; i++) count += lengths[i];
    int64_t *ids = calloc((size_t)count + 1, sizeof *ids);
    for (int64_t i = 0; i < count; i++) ids[i] = i;
    save_pair(prefix, &(pair){4, 4, lengths, n, documents, n + 1, false}, ids, count);
    free(documents);
    free(ids);
    return count;
}

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
    save("x.idx", idx->data, n);
    lmoe_status status = lmoe__tokens_open(&ctx, "x", &t);
    if (status == LMOE_OK) lmoe__tokens_close(&t);
    return status;
}

START_TEST(every_truncation_of_an_index_is_seen)
{
    lmoe__text idx = idx_of(&sound);
    save("x.bin", "0123456789ab", 12);
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
    save("x.bin", "0123456789ab", 12);
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
    save("x.bin", "0123456789ab", 12);
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
        save("x.bin", "0123456789abcde", n);
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
    save("a.txt", "A\0\xff\n", 4);
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
    save("empty.txt", "", 0);
    ck_assert_int_eq(lmoe__tokens_open(&ctx, "empty.txt", &t), LMOE_OK);
    ck_assert_int_eq(t.count, 0);
    ck_assert_int_eq(lmoe__tokens_verify(&ctx, &t, 256, NULL), LMOE_OK);
    lmoe__tokens_close(&t);
}
END_TEST

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

/* ---- commands ---- */

static lmoe__text output; /* of the last command, both streams */

static int command(const char *words)
{
    char text[1024], *argv[64];
    int argc = 0;
    snprintf(text, sizeof text, "%s", words);
    for (char *save_at, *w = strtok_r(text, " ", &save_at); w; w = strtok_r(NULL, " ", &save_at))
        argv[argc++] = w;
    fflush(stdout);
    FILE *f = tmpfile();
    int keep[2] = {dup(1), dup(2)};
    dup2(fileno(f), 1);
    dup2(fileno(f), 2);
    lmoe__ctx_clear(&ctx);
    int code = lmoe__cli_data(&ctx, argc, argv);
    fflush(stdout);
    dup2(keep[0], 1);
    dup2(keep[1], 2);
    close(keep[0]);
    close(keep[1]);
    long n = ftell(f);
    lmoe__text_free(&output);
    rewind(f);
    n = lseek(fileno(f), 0, SEEK_END);
    rewind(f);
    char *data = malloc((size_t)n + 1);
    ck_assert_uint_eq(fread(data, 1, (size_t)n, f), (size_t)n);
    lmoe__text_add_bytes(&output, data, (size_t)n);
    free(data);
    fclose(f);
    lmoe__ctx_clear(&ctx);
    return code;
}

static void expect_command(const char *words, int code, const char *said)
{
    int got = command(words);
    ck_assert_msg(got == code, "%s: %d, said: %s", words, got, output.data);
    ck_assert_msg(strstr(output.data, said) != NULL, "%s: \"%s\" is not in: %s", words, said,
                  output.data);
}

START_TEST(prepare_makes_documents)
{
    save_text("a.txt", "first\n");
    save_text("e.txt", "");
    save_text("b.jsonl", "{\"text\": \"se\\u0000c\", \"id\": 123456789012345678901234567890}\r\n"
                         "\n"
                         "{\"n\": 1, \"text\": \"\"}\n"
                         "{\"text\": \"d\\u00e9\\n\"}");
    expect_command("prepare --in a.txt e.txt b.jsonl --out t --end 256", 0,
                   "t.bin, t.idx: 3 documents, 17 tokens; 2 documents without text left out\n");
    lmoe__tokens t;
    int32_t ids[17];
    static const int32_t expected[] = {'f', 'i', 'r', 's', 't',  '\n', 256,  's', 'e',
                                       0,   'c', 256, 'd', 0xc3, 0xa9, '\n', 256};
    ck_assert_int_eq(lmoe__tokens_open(&ctx, "t", &t), LMOE_OK);
    ck_assert_int_eq(t.count, 17);
    ck_assert_int_eq(lmoe__document_start(&t, 1), 7);
    ck_assert_int_eq(lmoe__document_start(&t, 2), 12);
    lmoe__tokens_read(&t, 0, 17, ids);
    ck_assert_mem_eq(ids, expected, sizeof ids);
    lmoe__tokens_close(&t);

    expect_command("peek t", 0, "t.bin: 3 documents, 17 tokens (u16)\n");
    ck_assert_ptr_nonnull(strstr(output.data, "document 0: 7 tokens\n  text \"first\\n<256>\"\n"
                                              "  ids  102 105 114 115 116 10 256\n"));
    ck_assert_ptr_nonnull(strstr(output.data, "  text \"se\\x00c<256>\"\n"));
    expect_command("peek --n 1 t.bin", 0, "first");
    ck_assert_ptr_null(strstr(output.data, "document 1"));
    expect_command("peek a.txt", 0, "a.txt: 1 documents, 6 tokens (u8)\n");
    expect_command("verify t --vocab 257", 0, "t.bin: sound; 3 documents, 3 sequences, 17 tokens");
    expect_command("verify t", 0, "the largest is 256\n");
    expect_command("verify t --vocab 256", 2, "token 6 (in document 0) is 256; expected 0 to 255");
    expect_command("verify none", 2, "there is no token file none");
    expect_command("prepare --in a.txt --out t --format jsonl", 2, "a.txt:1: this is not JSON");
    expect_command("prepare --in b.jsonl --out u --format text", 0, "1 documents");
}
END_TEST

START_TEST(lines_that_cannot_be_used)
{
    static const struct {
        const char *lines, *said;
    } cases[] = {
        {"{\"text\": \"a\"}\n{\"text\": \n", "x.jsonl:2: this is not JSON"},
        {"{\"text\": \"a\"}\n\n{\"body\": \"a\"}\n", "x.jsonl:3: the object has no such field"},
        {"{\"text\": 5}", "x.jsonl:1: the field is not a string"},
        {"[\"text\"]", "x.jsonl:1: this is JSON, but not an object"},
        {"{\"text\": \"a\"} x", "x.jsonl:1: this is not JSON"},
        {"{\"text\": \"a\", \"text\": \"b\"}", "x.jsonl:1: this is not JSON (duplicate"},
        {"{\"text\": \"\\ud800\"}", "x.jsonl:1: this is not JSON"},
        {"{\"text\": \"\xc0\xaf\"}", "x.jsonl:1: this is not JSON"},
        {"\n \n", "there is no text in x.jsonl: nothing was written"},
        {"{\"text\": \"\"}", "there is no text in x.jsonl"}};
    save_text("t.bin", "old");
    save_text("t.idx", "index");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        save_text("x.jsonl", cases[i].lines);
        expect_command("prepare --in x.jsonl --out t", 2, cases[i].said);
        expect_file("t.bin", "old", 3);
        expect_file("t.idx", "index", 5);
        ck_assert_int_eq(files_here(), 3);
    }
    save_text("x.jsonl", "{\"body\": \"a\"}\n");
    expect_command("prepare --in x.jsonl --out t --field body", 0, "1 documents, 1 tokens");
    expect_command("prepare --in none --out t", 2, "cannot read none: No such file");
    expect_command("prepare --in none.jsonl --out t", 2, "cannot read none.jsonl");
    expect_command("prepare --in x.jsonl --out none/t", 1, "cannot create none/t.bin.");
    ck_assert_int_eq(files_here(), 3);
}
END_TEST

START_TEST(command_lines_that_cannot_be_used)
{
    expect_command("", 2, "say what to do");
    expect_command("--help", 0, "usage: lmoe data prepare");
    expect_command("prepair", 2, "there is no command prepair");
    expect_command("prepare --out t", 2, "needs --in");
    expect_command("prepare --in a", 2, "needs --out");
    expect_command("prepare --in --out t", 2, "nothing after --in");
    expect_command("prepare --in a --out", 2, "nothing after --out");
    expect_command("prepare --in a --in b --out t", 2, "one --in");
    expect_command("prepare --im a --out t", 2, "did you mean --in?");
    expect_command("peek a --vocab 3", 2, "there is no option --vocab");
    expect_command("prepare --in a --out t --vocab 3", 2, "belongs to --task mqar: --vocab");
    expect_command("prepare --task mqra --out t", 2, "--task is mqar, not mqra");
    expect_command("prepare --task mqar --in a --out t", 2, "reads no file");
    expect_command("prepare --task mqar --out t --pairs 0", 2, "not 0");
    expect_command("prepare --task mqar --out t --pairs 17", 2, "even length of 68");
    expect_command("prepare --in a --out t --format json", 2, "not json");
    expect_command("prepare --in a --out t --end -2", 2, "not -2");
    expect_command("prepare --in a --out t --tokenizer byte", 2, "did you mean \"bytes\"?");
    expect_command("prepare a --out t", 2, "belong to: a");
    expect_command("peek", 2, "needs a PREFIX");
    expect_command("peek a b", 2, "not also b");
    expect_command("peek a --n 0", 2, "not 0");
    expect_command("verify t --vocab 99999999999999999999", 2, "--vocab is a number");
    ck_assert_int_eq(files_here(), 0);
}
END_TEST

/* A limit on the size of files stands in for a full disk, at every size that is too small. */
START_TEST(a_full_disk_loses_nothing)
{
    enum { TOKENS = 9000 };
    char text[TOKENS];
    memset(text, 'x', TOKENS);
    save("in.txt", text, TOKENS);
    save_text("t.bin", "old");
    save_text("t.idx", "index");
    fflush(stdout);
    for (rlim_t limit = 0; limit < 2 * TOKENS; limit += 999) {
        pid_t child = fork();
        if (child == 0) {
            signal(SIGXFSZ, SIG_IGN);
            setrlimit(RLIMIT_FSIZE, &(struct rlimit){limit, limit});
            lmoe__prepare_result r;
            char *in[] = {"in.txt"};
            lmoe__prepare_options o = {
                .in = in, .count = 1, .out = "t", .end = -1, .tokenizer = &lmoe__tokenizer_bytes};
            lmoe_status status = lmoe__prepare(&ctx, &o, &r);
            bool said = strstr(ctx.message, "cannot write t.bin: File too large; nothing was");
            _exit(status == LMOE_E_IO && said ? 0 : 1);
        }
        int code;
        ck_assert_int_eq(waitpid(child, &code, 0), child);
        ck_assert_int_eq(code, 0);
        expect_file("t.bin", "old", 3);
        expect_file("t.idx", "index", 5);
        ck_assert_int_eq(files_here(), 3);
    }
    expect_command("prepare --in in.txt --out t", 0, "9000 tokens");
    expect_command("verify t", 0, "sound");
}
END_TEST

START_TEST(renames_that_fail_are_undone)
{
    save_text("in.txt", "new text");
    for (int old = 0; old < 2; old++) {
        if (old) {
            save_text("t.bin", "old");
            save_text("t.idx", "index");
        }
        for (int k = 0; k < 4; k++) {
            renames_left = k;
            expect_command("prepare --in in.txt --out t", 1,
                           "cannot write t.bin: Input/output error; nothing was changed");
            ck_assert_int_eq(renames_left, -1);
            ck_assert_int_eq(files_here(), 1 + 2 * old);
            if (!old) continue;
            expect_file("t.bin", "old", 3);
            expect_file("t.idx", "index", 5);
        }
    }
    expect_command("prepare --in in.txt --out t", 0, "8 tokens");
    ck_assert_int_eq(files_here(), 3);
}
END_TEST

static TCase *group(Suite *s, const char *name)
{
    TCase *c = tcase_create(name);
    tcase_set_timeout(c, 60);
    tcase_add_checked_fixture(c, enter_folder, leave_folder);
    suite_add_tcase(s, c);
    return c;
}

int main(void)
{
    Suite *s = suite_create("data");
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
    c = group(s, "rows");
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
    c = group(s, "commands");
    tcase_add_test(c, prepare_makes_documents);
    tcase_add_test(c, lines_that_cannot_be_used);
    tcase_add_test(c, command_lines_that_cannot_be_used);
    tcase_add_test(c, a_full_disk_loses_nothing);
    tcase_add_test(c, renames_that_fail_are_undone);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
