/* SPDX-License-Identifier: Apache-2.0
 * core/data/tokens.c: token files, mapped and checked.
 */
#include "core/data/data.h"

#include <stdlib.h>
#include <sys/stat.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "token files are little endian, and so must be the machine"
#endif

/* By the code in the .idx; what has no size holds no token ids (6 f64, 7 f32). */
static const struct {
    unsigned char bytes;
    const char *name;
} dtypes[] = {{0, "none"}, {1, "u8"},  {1, "i8"},  {2, "i16"}, {4, "i32"},
              {8, "i64"},  {0, "f64"}, {0, "f32"}, {2, "u16"}};
enum { DTYPES = sizeof dtypes / sizeof *dtypes };

static int64_t item_bytes(const lmoe__tokens *t)
{
    return dtypes[t->code].bytes;
}

const char *lmoe__tokens_dtype(const lmoe__tokens *t)
{
    return dtypes[t->code].name;
}

/* ---- the arrays of the .idx; nothing in it is aligned ---- */

static int32_t sequence_length(const lmoe__tokens *t, int64_t s)
{
    int32_t x;
    memcpy(&x, t->idx.data + LMOE__IDX_HEADER + 4 * s, sizeof x);
    return x;
}

static int64_t sequence_offset(const lmoe__tokens *t, int64_t s)
{
    int64_t x;
    memcpy(&x, t->idx.data + LMOE__IDX_HEADER + 4 * t->sequences + 8 * s, sizeof x);
    return x;
}

static int64_t document_sequence(const lmoe__tokens *t, int64_t k)
{
    int64_t x;
    memcpy(&x, t->idx.data + LMOE__IDX_HEADER + 12 * t->sequences + 8 * k, sizeof x);
    return x;
}

static bool predicted(const lmoe__tokens *t, int64_t s)
{
    return t->idx.data[LMOE__IDX_HEADER + 12 * t->sequences + 8 * (t->documents + 1) + s] == 0;
}

/* ---- checks ---- */

static __attribute__((format(printf, 3, 4))) lmoe_status damaged(lmoe_ctx *ctx, const char *path,
                                                                 const char *format, ...)
{
    char what[512];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return lmoe_error(
        ctx, LMOE_E_CONFIG,
        "%s: %s; it is damaged, or not of this .bin: copy both files again, or make them with "
        "'lmoe data prepare'",
        path, what);
}

static lmoe_status check_header(lmoe_ctx *ctx, lmoe__tokens *t)
{
    const unsigned char *p = t->idx.data;
    const char *path = t->idx_path;
    uint64_t version, sequences, indices, size = t->idx.size;
    if (size < LMOE__IDX_HEADER)
        return damaged(ctx, path, "the file has %llu bytes, fewer than the header's %d",
                       (unsigned long long)size, LMOE__IDX_HEADER);
    if (memcmp(p, "MMIDIDX\0\0", 9) != 0)
        return damaged(ctx, path, "it does not begin with MMIDIDX, as a Megatron index does");
    memcpy(&version, p + 9, 8);
    t->code = p[17];
    memcpy(&sequences, p + 18, 8);
    memcpy(&indices, p + 26, 8);
    if (version != 1)
        return damaged(ctx, path, "the version is %llu; expected 1", (unsigned long long)version);
    if (t->code >= DTYPES || dtypes[t->code].bytes == 0)
        return damaged(ctx, path,
                       "the dtype code is %d; expected that of an integer: 1 u8, 2 i8, 3 i16, "
                       "4 i32, 5 i64 or 8 u16",
                       t->code);
    if (sequences > (size - LMOE__IDX_HEADER) / 12)
        return damaged(ctx, path, "it counts %llu sequences, more than its %llu bytes can hold",
                       (unsigned long long)sequences, (unsigned long long)size);
    uint64_t arrays = size - LMOE__IDX_HEADER - 12 * sequences;
    if (indices < 1 || indices > arrays / 8)
        return damaged(ctx, path,
                       "it counts %llu document indices; expected 1 to %llu, which its %llu bytes "
                       "can hold",
                       (unsigned long long)indices, (unsigned long long)(arrays / 8),
                       (unsigned long long)size);
    uint64_t rest = arrays - 8 * indices;
    if (rest != 0 && rest != sequences)
        return damaged(ctx, path,
                       "the file has %llu bytes; expected %llu for %llu sequences and %llu "
                       "document indices (or %llu with modes)",
                       (unsigned long long)size, (unsigned long long)(size - rest),
                       (unsigned long long)sequences, (unsigned long long)indices,
                       (unsigned long long)(size - rest + sequences));
    t->sequences = (int64_t)sequences;
    t->documents = (int64_t)indices - 1;
    t->modes = rest != 0;
    return LMOE_OK;
}

/* Afterwards every offset lies in the .bin, and sums of lengths have not overflowed: each of at
 * most 2^63 / 12 sequences is below the size of the .bin. */
static lmoe_status check_sequences(lmoe_ctx *ctx, const lmoe__tokens *t)
{
    int64_t end = 0, bytes = (int64_t)t->bin.size;
    for (int64_t s = 0; s < t->sequences; s++) {
        int64_t length = sequence_length(t, s), offset = sequence_offset(t, s);
        if (length < 0)
            return damaged(ctx, t->idx_path,
                           "the length of sequence %lld is %lld; expected 0 or more", (long long)s,
                           (long long)length);
        if (offset != end)
            return damaged(ctx, t->idx_path,
                           "the offset of sequence %lld is %lld; expected %lld, the bytes of the "
                           "sequences before it",
                           (long long)s, (long long)offset, (long long)end);
        end += length * item_bytes(t);
        if (end > bytes)
            return damaged(ctx, t->idx_path,
                           "sequence %lld ends at byte %lld, but %s has only %lld bytes",
                           (long long)s, (long long)end, t->path, (long long)bytes);
    }
    if (end == bytes) return LMOE_OK;
    return damaged(ctx, t->idx_path, "the sequences end at byte %lld, but %s has %lld bytes",
                   (long long)end, t->path, (long long)bytes);
}

static lmoe_status check_documents(lmoe_ctx *ctx, const lmoe__tokens *t)
{
    int64_t last = 0;
    for (int64_t k = 0; k <= t->documents; k++) {
        int64_t s = document_sequence(t, k);
        if (k == 0 && s != 0)
            return damaged(ctx, t->idx_path, "document index 0 is %lld; expected 0", (long long)s);
        if (s < last || s > t->sequences)
            return damaged(ctx, t->idx_path,
                           "document index %lld is %lld; expected %lld (the one before) to %lld "
                           "(the number of sequences)",
                           (long long)k, (long long)s, (long long)last, (long long)t->sequences);
        last = s;
    }
    if (last == t->sequences) return LMOE_OK;
    return damaged(ctx, t->idx_path,
                   "the last document index is %lld; expected %lld, the number of sequences",
                   (long long)last, (long long)t->sequences);
}

/* ---- opening ---- */

static bool has_ending(const char *path, const char *ending)
{
    size_t n = strlen(path), m = strlen(ending);
    return n > m && strcmp(path + n - m, ending) == 0;
}

static char *joined(const char *path, size_t n, const char *ending)
{
    char *s = lmoe__malloc(n + strlen(ending) + 1);
    memcpy(s, path, n);
    strcpy(s + n, ending);
    return s;
}

static bool exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

static lmoe_status open_pair(lmoe_ctx *ctx, const char *path, size_t prefix, lmoe__tokens *t)
{
    t->path = joined(path, prefix, ".bin");
    t->idx_path = joined(path, prefix, ".idx");
    const char *missing = !exists(t->path) ? t->path : !exists(t->idx_path) ? t->idx_path : NULL;
    if (missing)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "there is no %s; tokens are read from a pair of files, .bin and .idx, as "
                          "'lmoe data prepare' and Megatron write them, or from plain text",
                          missing);
    LMOE_TRY(lmoe__map_file(ctx, t->path, &t->bin));
    LMOE_TRY(lmoe__map_file(ctx, t->idx_path, &t->idx));
    LMOE_TRY(check_header(ctx, t));
    LMOE_TRY(check_sequences(ctx, t));
    LMOE_TRY(check_documents(ctx, t));
    t->count = (int64_t)t->bin.size / item_bytes(t);
    return LMOE_OK;
}

static lmoe_status open_text(lmoe_ctx *ctx, const char *path, lmoe__tokens *t)
{
    t->path = joined(path, strlen(path), "");
    LMOE_TRY(lmoe__map_file(ctx, t->path, &t->bin));
    t->code = 1;
    t->count = (int64_t)t->bin.size;
    t->sequences = t->documents = 1;
    return LMOE_OK;
}

static lmoe_status open_any(lmoe_ctx *ctx, const char *path, lmoe__tokens *t)
{
    size_t n = strlen(path);
    if (has_ending(path, ".bin") || has_ending(path, ".idx")) return open_pair(ctx, path, n - 4, t);
    if (exists(path)) return open_text(ctx, path, t);
    char *bin = joined(path, n, ".bin");
    bool pair = exists(bin);
    free(bin);
    if (pair) return open_pair(ctx, path, n, t);
    return lmoe_error(ctx, LMOE_E_CONFIG, "there is no token file %s, nor %s.bin with %s.idx", path,
                      path, path);
}

lmoe_status lmoe__tokens_open(lmoe_ctx *ctx, const char *path, lmoe__tokens *t)
{
    *t = (lmoe__tokens){.bin.fd = -1, .idx.fd = -1};
    lmoe_status status = open_any(ctx, path, t);
    if (status != LMOE_OK) lmoe__tokens_close(t);
    return status;
}

void lmoe__tokens_close(lmoe__tokens *t)
{
    lmoe__map_close(&t->bin);
    lmoe__map_close(&t->idx);
    free(t->path);
    free(t->idx_path);
    *t = (lmoe__tokens){.bin.fd = -1, .idx.fd = -1};
}

/* ---- documents ---- */

int64_t lmoe__document_start(const lmoe__tokens *t, int64_t k)
{
    if (k >= t->documents) return t->count;
    if (!t->idx_path) return 0;
    int64_t s = document_sequence(t, k);
    return s == t->sequences ? t->count : sequence_offset(t, s) / item_bytes(t);
}

/* The last one that starts at or before i: empty ones before it start there too. */
int64_t lmoe__document_of(const lmoe__tokens *t, int64_t i)
{
    int64_t low = 0, high = t->documents; /* start(low) <= i < start(high) */
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (lmoe__document_start(t, middle) <= i) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

/* ---- ids ---- */

#define READ_AS(type, code_)                                 \
    case code_:                                              \
        for (int64_t i = 0; i < n; i++) {                    \
            type x;                                          \
            memcpy(&x, p + i * (int64_t)sizeof x, sizeof x); \
            ids[i] = x;                                      \
        }                                                    \
        break;

void lmoe__tokens_read(const lmoe__tokens *t, int64_t first, int64_t n, int32_t *ids)
{
    const unsigned char *p = t->bin.data + first * item_bytes(t);
    switch (t->code) {
        READ_AS(uint8_t, 1)
        READ_AS(int8_t, 2)
        READ_AS(int16_t, 3)
        READ_AS(int32_t, 4)
        READ_AS(uint16_t, 8)
    default:
        for (int64_t i = 0; i < n; i++) {
            int64_t x = lmoe__token(t, first + i);
            ids[i] = x < 0 || x > INT32_MAX ? -1 : (int32_t)x;
        }
    }
}

/* The last sequence that starts at or before a token holds it: empty ones before it start there,
 * too. */
static int64_t sequence_of(const lmoe__tokens *t, int64_t i)
{
    int64_t low = 0, high = t->sequences, at = i * item_bytes(t);
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (sequence_offset(t, middle) <= at) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

void lmoe__tokens_mask(const lmoe__tokens *t, int64_t first, int64_t n, int32_t *labels)
{
    if (!t->modes || n < 1) return;
    int64_t s = sequence_of(t, first), end;
    for (int64_t i = 0; i < n; i = end, s++) {
        end = (sequence_offset(t, s) / item_bytes(t)) + sequence_length(t, s) - first;
        if (end > n) end = n;
        for (int64_t k = i; k < end && !predicted(t, s); k++) labels[k] = -1;
    }
}

int64_t lmoe__token(const lmoe__tokens *t, int64_t i)
{
    int64_t x;
    int32_t small;
    if (t->code == 5) {
        memcpy(&x, t->bin.data + 8 * i, sizeof x);
        return x;
    }
    lmoe__tokens_read(t, i, 1, &small);
    return small;
}

lmoe_status lmoe__tokens_refuse(lmoe_ctx *ctx, const lmoe__tokens *t, int64_t i, int64_t vocab)
{
    return lmoe_error(ctx, LMOE_E_CONFIG,
                      "%s: token %lld (in document %lld) is %lld; expected 0 to %lld: the file was "
                      "made with another tokenizer or is damaged; set vocab_size to that of its "
                      "tokenizer, or make the file again",
                      t->path, (long long)i, (long long)lmoe__document_of(t, i),
                      (long long)lmoe__token(t, i), (long long)(vocab > 0 ? vocab - 1 : INT32_MAX));
}

lmoe_status lmoe__tokens_verify(lmoe_ctx *ctx, const lmoe__tokens *t, int64_t vocab,
                                int64_t *largest)
{
    enum { PIECE = 4096 };
    int32_t ids[PIECE];
    int64_t top = -1;
    for (int64_t first = 0; first < t->count; first += PIECE) {
        int64_t n = t->count - first < PIECE ? t->count - first : PIECE;
        lmoe__tokens_read(t, first, n, ids);
        for (int64_t i = 0; i < n; i++) {
            if (ids[i] < 0 || (vocab > 0 && ids[i] >= vocab))
                return lmoe__tokens_refuse(ctx, t, first + i, vocab);
            if (ids[i] > top) top = ids[i];
        }
    }
    if (largest) *largest = top;
    return LMOE_OK;
}
