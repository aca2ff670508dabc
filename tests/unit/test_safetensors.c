/* SPDX-License-Identifier: Apache-2.0
 * tests/unit/test_safetensors.c: files of tensors: the bytes written, and every way to lie in one.
 */
#include "core/ckpt/ckpt.h"

#include "folder.h"

/* N, the header, and `bytes` bytes 0, 1, 2, ... of data */
static lmoe_status open_header(const char *header, size_t n, size_t bytes, lmoe__st *st)
{
    lmoe__text s = {0};
    uint64_t length = n;
    lmoe__text_add_bytes(&s, (char *)&length, 8);
    lmoe__text_add_bytes(&s, header, n);
    for (size_t i = 0; i < bytes; i++) lmoe__text_add_bytes(&s, (char[]){(char)i}, 1);
    save_file("x.safetensors", s.data, s.length);
    lmoe__text_free(&s);
    return lmoe__st_open(&ctx, "x.safetensors", st);
}

static void expect_refused(const char *header, size_t bytes, const char *said)
{
    lmoe__st st;
    lmoe_status status = open_header(header, strlen(header), bytes, &st);
    if (status == LMOE_OK) lmoe__st_close(&st);
    ck_assert_msg(status != LMOE_OK, "%.200s is read", header);
    ck_assert_int_eq(strncmp(ctx.message, "x.safetensors: ", 15), 0);
    expect_message(status, LMOE_E_CONFIG, said);
}

/* ---- writing ---- */

/* Tensor i is filled with bytes i+1, i+2, ... */
typedef struct source {
    const lmoe__ckpt_tensor *tensors;
    int fails_at; /* -1: never */
    int calls;
} source;

static lmoe_status fill(void *user, int index, size_t at, void *host, size_t n)
{
    source *s = user;
    ck_assert_uint_eq((uintptr_t)host % 64, 0);
    if (s->calls++ == s->fails_at) return lmoe_error(&ctx, LMOE_E_DEVICE, "no answer");
    for (size_t i = 0; i < n; i++)
        ((unsigned char *)host)[i] = (unsigned char)((size_t)index + 1 + at + i);
    return LMOE_OK;
}

static const lmoe__ckpt_tensor few[] = {
    {"b.weight", {.dtype = LMOE_BF16, .rank = 2, .dim = {1, 2}}, 0},
    {"bytes", {.dtype = LMOE_U8, .rank = 1, .dim = {3}}, 0},
    {"a \"x\"", {.dtype = LMOE_F32, .rank = 0}, 0},
    {"a", {.dtype = LMOE_F32, .rank = 3, .dim = {2, 0, 2}}, 0},
    {"z", {.dtype = LMOE_I64, .rank = 1, .dim = {1}}, 0}};

/* In the order of the reference writer: I64, F32 by name, BF16, U8; header padded to 8. */
START_TEST(the_bytes_are_those_of_the_reference)
{
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\",\"step\":\"7\"},"
        "\"z\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[2,0,2],\"data_offsets\":[8,8]},"
        "\"a \\\"x\\\"\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[8,12]},"
        "\"b.weight\":{\"dtype\":\"BF16\",\"shape\":[1,2],\"data_offsets\":[12,16]},"
        "\"bytes\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[16,19]}}";
    static const unsigned char data[] = {5, 6, 7, 8, 9, 10, 11, 12, 3, 4,
                                         5, 6, 1, 2, 3, 4,  2,  3,  4};
    static const char *const metadata[] = {"step", "7", NULL};
    source s = {few, -1, 0};
    lmoe__st_file f = {"f.safetensors", few, (int[]){0, 1, 2, 3, 4}, 5, metadata, fill, &s, 0, {0}};
    ck_assert_int_eq(lmoe__st_write(&ctx, &f), LMOE_OK);

    lmoe__text expected = {0};
    uint64_t n = (sizeof header - 1 + 7) / 8 * 8;
    lmoe__text_add_bytes(&expected, (char *)&n, 8);
    lmoe__text_add(&expected, "%s", header);
    while (expected.length % 8) lmoe__text_add(&expected, " ");
    lmoe__text_add_bytes(&expected, (const char *)data, sizeof data);
    char *have, digest[33];
    size_t size;
    ck_assert_int_eq(lmoe__read_file(&ctx, "f.safetensors", &have, &size), LMOE_OK);
    ck_assert_uint_eq(size, expected.length);
    ck_assert_mem_eq(have, expected.data, size);
    ck_assert_uint_eq(f.size, size);
    lmoe__digest_bytes(have, size, digest);
    ck_assert_str_eq(f.digest, digest);
    free(have);
    lmoe__text_free(&expected);
}
END_TEST

START_TEST(what_is_written_is_read)
{
    static const lmoe_dtype dtypes[] = {LMOE_F32, LMOE_F64, LMOE_BF16, LMOE_F16,
                                        LMOE_I32, LMOE_I64, LMOE_U8};
    enum { COUNT = 300 };
    lmoe__ckpt_tensor *tensors = calloc(COUNT, sizeof *tensors);
    int which[COUNT];
    char names[COUNT][32];
    for (int i = 0; i < COUNT; i++) {
        lmoe_desc *d = &tensors[i].desc;
        snprintf(names[i], sizeof names[i], "layer.%d.w\xc3\xa9", i * 7919 % 1000);
        tensors[i].name = names[i];
        d->dtype = dtypes[i % 7];
        d->rank = i % (LMOE_MAX_DIMS + 1);
        for (int k = 0; k < d->rank; k++) d->dim[k] = (i + k) % 4;
        which[i] = i;
    }
    source s = {tensors, -1, 0};
    lmoe__st_file f = {"f.safetensors", tensors, which, COUNT, NULL, fill, &s, 0, {0}};
    ck_assert_int_eq(lmoe__st_write(&ctx, &f), LMOE_OK);
    ck_assert_int_eq(s.calls, COUNT);

    lmoe__st st;
    ck_assert_int_eq(lmoe__st_open(&ctx, "f.safetensors", &st), LMOE_OK);
    ck_assert_int_eq(st.count, COUNT);
    ck_assert_str_eq(lmoe__st_metadata(&st, "format"), "pt");
    ck_assert_ptr_null(lmoe__st_metadata(&st, "step"));
    ck_assert_ptr_null(lmoe__st_find(&st, "layer"));
    for (int i = 0; i < COUNT; i++) {
        const lmoe_desc *d = &tensors[i].desc;
        const lmoe__st_tensor *t = lmoe__st_find(&st, names[i]);
        ck_assert_ptr_nonnull(t);
        ck_assert_int_eq(t->dtype, d->dtype);
        ck_assert_int_eq(t->rank, d->rank);
        for (int k = 0; k < d->rank; k++) ck_assert_int_eq(t->dim[k], d->dim[k]);
        ck_assert_int_eq(t->bytes, lmoe_desc_bytes(d));
        for (size_t k = 0; k < t->bytes; k++) ck_assert_int_eq(t->data[k], (i + 1 + k) & 255);
    }
    lmoe__st_close(&st);
    free(tensors);
}
END_TEST

START_TEST(large_tensors_come_in_pieces)
{
    enum { BYTES = 2 * LMOE__CKPT_PIECE + 5 };
    static const lmoe__ckpt_tensor large[] = {
        {"large", {.dtype = LMOE_U8, .rank = 1, .dim = {BYTES}}, 0},
        {"small", {.dtype = LMOE_U8, .rank = 1, .dim = {3}}, 0}};
    source s = {large, -1, 0};
    lmoe__st_file f = {"l.safetensors", large, (int[]){0, 1}, 2, NULL, fill, &s, 0, {0}};
    ck_assert_int_eq(lmoe__st_write(&ctx, &f), LMOE_OK);
    ck_assert_int_eq(s.calls, 4);
    lmoe__st st;
    ck_assert_int_eq(lmoe__st_open(&ctx, "l.safetensors", &st), LMOE_OK);
    const lmoe__st_tensor *t = lmoe__st_find(&st, "large");
    ck_assert_uint_eq(t->bytes, BYTES);
    size_t i = 0;
    while (i < BYTES && t->data[i] == (unsigned char)(i + 1)) i++;
    ck_assert_uint_eq(i, BYTES);
    ck_assert_int_eq(lmoe__st_find(&st, "small")->data[2], 4);
    lmoe__st_close(&st);
}
END_TEST

START_TEST(lists_that_cannot_be_written)
{
    char long_name[LMOE__ST_MAX_NAME + 2];
    memset(long_name, 'n', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    const struct {
        lmoe__ckpt_tensor second;
        const char *said;
    } cases[] = {
        {{"first", {.dtype = LMOE_F32}, 0}, "two tensors are named \"first\""},
        {{"__metadata__", {.dtype = LMOE_F32}, 0}, "cannot be the name"},
        {{long_name, {.dtype = LMOE_F32}, 0}, "cannot be the name"},
        {{"\xff", {.dtype = LMOE_F32}, 0}, "cannot be the name"},
        {{"x", {.dtype = LMOE_NONE}, 0}, "\"x\" has no dtype, or sizes"},
        {{"x", {.dtype = LMOE_F32, .rank = 9}, 0}, "\"x\" has no dtype, or sizes"},
        {{"x", {.dtype = LMOE_F32, .rank = 1, .dim = {-1}}, 0}, "\"x\" has no dtype, or sizes"},
        {{"x", {.dtype = LMOE_F32, .rank = 2, .dim = {1LL << 32, 1LL << 30}}, 0}, "or sizes"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lmoe__ckpt_tensor list[] = {{"first", {.dtype = LMOE_U8}, 0}, cases[i].second};
        source s = {list, -1, 0};
        lmoe__st_file f = {"f.safetensors", list, (int[]){0, 1}, 2, NULL, fill, &s, 0, {0}};
        expect_message(lmoe__st_write(&ctx, &f), LMOE_E_USAGE, cases[i].said);
        ck_assert_int_ne(access("f.safetensors", F_OK), 0);
    }
    long_name[LMOE__ST_MAX_NAME] = '\0'; /* the longest that is allowed */
    lmoe__ckpt_tensor list[] = {{long_name, {.dtype = LMOE_U8}, 0}};
    source s = {list, -1, 0};
    lmoe__st_file f = {"f.safetensors", list, (int[]){0}, 1, NULL, fill, &s, 0, {0}};
    lmoe__st st;
    ck_assert_int_eq(lmoe__st_write(&ctx, &f), LMOE_OK);
    ck_assert_int_eq(lmoe__st_open(&ctx, "f.safetensors", &st), LMOE_OK);
    ck_assert_ptr_nonnull(lmoe__st_find(&st, long_name));
    lmoe__st_close(&st);
}
END_TEST

START_TEST(files_that_cannot_be_written)
{
    for (int i = 0; i < 5; i++) {
        source s = {few, i, 0};
        lmoe__st_file f = {"f.safetensors", few, (int[]){0, 1, 2, 3, 4}, 5, NULL, fill, &s, 0, {0}};
        expect_message(lmoe__st_write(&ctx, &f), LMOE_E_DEVICE, "no answer");
        ck_assert_int_ne(access("f.safetensors", F_OK), 0);
    }
    source s = {few, -1, 0};
    lmoe__st_file f = {"none/f.safetensors", few, (int[]){0}, 1, NULL, fill, &s, 0, {0}};
    expect_message(lmoe__st_write(&ctx, &f), LMOE_E_IO, "cannot write none/f.safetensors: No such");
    save_file("there", "x", 1);
    f.path = "there";
    expect_message(lmoe__st_write(&ctx, &f), LMOE_E_IO, "cannot write there: File exists");
    ck_assert_int_eq(access("there", F_OK), 0);
}
END_TEST

/* ---- reading ---- */

#define ENTRY(shape, begin, end) \
    "{\"dtype\":\"U8\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

START_TEST(files_of_others_are_read)
{
    static const struct {
        const char *header;
        size_t bytes;
        int count;
    } cases[] = {{"{}", 0, 0},
                 {"{}       ", 0, 0},
                 {"{\"__metadata__\":{}}", 0, 0},
                 {"{\"b\":" ENTRY("[2]", "1", "3") ",\"a\":" ENTRY("[]", "0", "1") "}", 3, 2},
                 {"{\"e\":" ENTRY("[0,5]", "1", "1") ",\"a\":" ENTRY("[1]", "0", "1") "}", 1, 2},
                 {"{\"a\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[0,2]}}", 2, 1},
                 {"{\"a\":{\"dtype\":\"F6_E2M3\",\"shape\":[4],\"data_offsets\":[0,3]}}", 3, 1},
                 {"{\"a\":{\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8, 1},
                 {"{\"a\":{\"dtype\":\"F8_E4M3FNUZ\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, 1},
                 {"{\"a\":" ENTRY("[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "0", "1") "}", 1, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lmoe__st st;
        lmoe_status status =
            open_header(cases[i].header, strlen(cases[i].header), cases[i].bytes, &st);
        ck_assert_msg(status == LMOE_OK, "%s", ctx.message);
        ck_assert_int_eq(st.count, cases[i].count);
        const lmoe__st_tensor *a = lmoe__st_find(&st, "a");
        if (cases[i].count) {
            ck_assert_ptr_nonnull(a);
            ck_assert_int_eq(a->data[0], 0);
        }
        if (i == 3) ck_assert_int_eq(lmoe__st_find(&st, "b")->data[1], 2);
        if (i >= 5 && i < 9) ck_assert_int_eq(a->dtype, LMOE_NONE);
        lmoe__st_close(&st);
    }
}
END_TEST

START_TEST(headers_that_lie)
{
    static const struct {
        const char *header;
        size_t bytes;
        const char *said;
    } cases[] = {
        {"", 0, "does not begin with {"},
        {" {}", 0, "does not begin with {"},
        {"[]", 0, "does not begin with {"},
        {"\xef\xbb\xbf{}", 0, "does not begin with {"},
        {"{", 0, "not JSON"},
        {"{}x", 0, "not JSON"},
        {"{}}", 0, "not JSON"},
        {"{\"a\xff\":1}", 0, "not JSON"},
        {"{\"a\xc0\xaf\":1}", 0, "not JSON"},
        {"{\"a\\u0000\":1}", 0, "not JSON"},
        {"{\"a\\ud800\":1}", 0, "not JSON"},
        {"{\"a\":" ENTRY("[1]", "0", "1") ",\"a\":" ENTRY("[1]", "0", "1") "}", 1, "duplicate"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "duplicate"},
        {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, "duplicate"},
        {"{\"__metadata__\":[]}", 0, "__metadata__ is not an object"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "whose value is not a text"},
        {"{\"a\":1}", 0, "tensor \"a\": its entry is not an object"},
        {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "no dtype"},
        {"{\"a\":{\"dtype\":5,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "no dtype"},
        {"{\"a\":{\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "dtype F31"},
        {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "no shape"},
        {"{\"a\":" ENTRY("5", "0", "1") "}", 1, "no shape"},
        {"{\"a\":" ENTRY("{\"0\":1}", "0", "1") "}", 1, "no shape"},
        {"{\"a\":" ENTRY("[-1]", "0", "1") "}", 1, "dimension 0 is not"},
        {"{\"a\":" ENTRY("[1,1.0]", "0", "1") "}", 1, "dimension 1 is not"},
        {"{\"a\":" ENTRY("[1e0]", "0", "1") "}", 1, "dimension 0 is not"},
        {"{\"a\":" ENTRY("[\"1\"]", "0", "1") "}", 1, "dimension 0 is not"},
        {"{\"a\":" ENTRY("[true]", "0", "1") "}", 1, "dimension 0 is not"},
        {"{\"a\":" ENTRY("[99999999999999999999]", "0", "1") "}", 1, "not JSON"},
        {"{\"a\":" ENTRY("[4294967296,4294967296]", "0", "0") "}", 0, "more than 2^64 bits"},
        {"{\"a\":" ENTRY("[4294967296,4294967296,0]", "0", "0") "}", 0, "more than 2^64 bits"},
        {"{\"a\":" ENTRY("[2305843009213693952]", "0", "0") "}", 0, "more than 2^64 bits"},
        {"{\"a\":" ENTRY("[9223372036854775807]", "0", "1") "}", 1, "more than 2^64 bits"},
        {"{\"a\":" ENTRY("[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "0", "1") "}", 1, "17 dimensions"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "two whole numbers"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1, "two whole"},
        {"{\"a\":" ENTRY("[1]", "-1", "0") "}", 1, "two whole numbers"},
        {"{\"a\":" ENTRY("[1]", "0", "1.0") "}", 1, "two whole numbers"},
        {"{\"a\":" ENTRY("[1]", "0", "1e0") "}", 1, "two whole numbers"},
        {"{\"a\":" ENTRY("[1]", "1", "0") "}", 1, "begin at 1 and end at 0"},
        {"{\"a\":" ENTRY("[1]", "0", "9007199254740993") "}", 1, "span 9007199254740993 bytes"},
        {"{\"a\":" ENTRY("[1]", "9223372036854775806", "9223372036854775807") "}", 1,
         "after a hole"},
        {"{\"a\":" ENTRY("[2]", "0", "1") "}", 1, "span 1 bytes; dtype and shape need 2"},
        {"{\"a\":" ENTRY("[0]", "0", "1") "}", 1, "span 1 bytes; dtype and shape need 0"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, "whole bytes"},
        {"{\"a\":" ENTRY("[1]", "1", "2") "}", 2, "begins at 1, after a hole"},
        {"{\"a\":" ENTRY("[1]", "0", "1") ",\"b\":" ENTRY("[1]", "2", "3") "}", 3,
         "\"b\": it begins at 2, after a hole"},
        {"{\"a\":" ENTRY("[2]", "0", "2") ",\"b\":" ENTRY("[2]", "1", "3") "}", 3,
         "\"b\": it begins at 1, before the end"},
        {"{\"a\":" ENTRY("[2]", "0", "2") ",\"b\":" ENTRY("[2]", "0", "2") "}", 2,
         "before the end"},
        {"{\"a\":" ENTRY("[2]", "0", "2") "}", 1, "it ends at 2, but the file has data up to 1"},
        {"{\"a\":" ENTRY("[2]", "0", "2") "}", 3, "the tensors end at 2, but"},
        {"{}", 1, "the tensors end at 0, but"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refused(cases[i].header, cases[i].bytes, cases[i].said);
}
END_TEST

START_TEST(lengths_of_the_header_that_lie)
{
    static const uint64_t lengths[] = {0, 7, 9, 100000000, 100000001, 1ull << 63, UINT64_MAX - 7};
    for (int i = 0; i < 7; i++) {
        char file[16];
        lmoe__st st;
        memcpy(file, &lengths[i], 8);
        memcpy(file + 8, "{      }", 8);
        save_file("x.safetensors", file, 16);
        expect_message(lmoe__st_open(&ctx, "x.safetensors", &st), LMOE_E_CONFIG, "its header");
    }
}
END_TEST

START_TEST(names_and_counts_have_limits)
{
    char header[LMOE__ST_MAX_NAME + 100], name[LMOE__ST_MAX_NAME + 2];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    snprintf(header, sizeof header, "{\"%s\":%s}", name, ENTRY("[1]", "0", "1"));
    expect_refused(header, 1, "its name has 1025 bytes");

    lmoe__text deep = {0}, many = {0};
    lmoe__text_add(&deep, "{\"a\":");
    for (int i = 0; i < 100000; i++) lmoe__text_add(&deep, "[");
    expect_refused(deep.data, 0, "not JSON");
    lmoe__text_free(&deep);

    lmoe__text_add(&many, "{");
    for (int i = 0; i <= LMOE__ST_MAX_TENSORS; i++)
        lmoe__text_add(&many, "%s\"%x\":0", i ? "," : "", (unsigned)i);
    lmoe__text_add(&many, "}");
    lmoe__st st;
    lmoe_status status = open_header(many.data, many.length, 0, &st);
    expect_message(status, LMOE_E_CONFIG, "it has 1048577 tensors");
    lmoe__text_free(&many);
}
END_TEST

START_TEST(every_truncation_is_seen)
{
    source s = {few, -1, 0};
    lmoe__st_file f = {"f.safetensors", few, (int[]){0, 1, 2, 3, 4}, 5, NULL, fill, &s, 0, {0}};
    char *have;
    size_t size;
    lmoe__st st;
    ck_assert_int_eq(lmoe__st_write(&ctx, &f), LMOE_OK);
    ck_assert_int_eq(lmoe__read_file(&ctx, "f.safetensors", &have, &size), LMOE_OK);
    for (size_t n = 0; n < size; n++) {
        save_file("f.safetensors", have, n);
        expect_message(lmoe__st_open(&ctx, "f.safetensors", &st), LMOE_E_CONFIG, "f.safetensors: ");
    }
    have[size] = 'x'; /* read_file puts a NUL there: room for one more */
    save_file("f.safetensors", have, size + 1);
    expect_message(lmoe__st_open(&ctx, "f.safetensors", &st), LMOE_E_CONFIG, "the tensors end at");
    free(have);
}
END_TEST

/* Whatever a changed byte makes of the header: a sentence, or tensors that lie within the file. */
START_TEST(changed_headers_do_no_harm)
{
    source s = {few, -1, 0};
    lmoe__st_file f = {"f.safetensors", few, (int[]){0, 1, 2, 3, 4}, 5, NULL, fill, &s, 0, {0}};
    char *have;
    size_t size;
    int refused = 0, read = 0;
    ck_assert_int_eq(lmoe__st_write(&ctx, &f), LMOE_OK);
    ck_assert_int_eq(lmoe__read_file(&ctx, "f.safetensors", &have, &size), LMOE_OK);
    for (size_t i = 0; i < size - 19; i++) {
        for (int bit = 0; bit < 8; bit++) {
            lmoe__st st;
            have[i] ^= (char)(1 << bit);
            save_file("x.safetensors", have, size);
            have[i] ^= (char)(1 << bit);
            if (lmoe__st_open(&ctx, "x.safetensors", &st) != LMOE_OK) {
                expect_message(LMOE_E_CONFIG, ctx.status, "x.safetensors: ");
                refused++;
                continue;
            }
            size_t bytes = 0;
            for (int k = 0; k < st.count; k++) {
                const lmoe__st_tensor *t = &st.tensors[k];
                ck_assert(t->data >= st.map.data + 8);
                ck_assert(t->data + t->bytes <= st.map.data + st.map.size);
                bytes += t->bytes;
            }
            ck_assert_uint_eq(bytes, 19);
            lmoe__st_close(&st);
            read++; /* a letter of a name, or of a key of the metadata */
        }
    }
    ck_assert_int_gt(refused, 4 * read);
    ck_assert_int_gt(read, 0);
    free(have);
}
END_TEST

START_TEST(paths_that_cannot_be_read)
{
    lmoe__st st;
    ck_assert_int_eq(mkdir("folder", 0777), 0);
    expect_message(lmoe__st_open(&ctx, "none", &st), LMOE_E_CONFIG, "cannot read none: No such");
    expect_message(lmoe__st_open(&ctx, "folder", &st), LMOE_E_CONFIG, "Is a directory");
    expect_message(lmoe__st_open(&ctx, "/dev/zero", &st), LMOE_E_CONFIG, "not a regular file");
    lmoe__st_close(&st); /* after a failure: nothing to do */
}
END_TEST

int main(void)
{
    Suite *s = suite_create("safetensors");
    TCase *c = group(s, "writing");
    tcase_add_test(c, the_bytes_are_those_of_the_reference);
    tcase_add_test(c, what_is_written_is_read);
    tcase_add_test(c, large_tensors_come_in_pieces);
    tcase_add_test(c, lists_that_cannot_be_written);
    tcase_add_test(c, files_that_cannot_be_written);
    c = group(s, "reading");
    tcase_add_test(c, files_of_others_are_read);
    tcase_add_test(c, headers_that_lie);
    tcase_add_test(c, lengths_of_the_header_that_lie);
    tcase_add_test(c, names_and_counts_have_limits);
    tcase_add_test(c, every_truncation_is_seen);
    tcase_add_test(c, changed_headers_do_no_harm);
    tcase_add_test(c, paths_that_cannot_be_read);
    return run_suite(s);
}
