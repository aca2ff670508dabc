/* SPDX-License-Identifier: Apache-2.0
 * tests/unit/pair.h: token files made by hand, as their format describes them.
 */
#ifndef LMOE_TESTS_PAIR_H
#define LMOE_TESTS_PAIR_H

#include "folder.h"

static inline void add_number(lmoe__text *s, uint64_t x, int bytes)
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

static inline lmoe__text idx_of(const pair *p)
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

static inline void save_pair(const char *prefix, const pair *p, const int64_t *ids, int64_t n)
{
    char path[64];
    lmoe__text idx = idx_of(p), bin = {0};
    for (int64_t i = 0; i < n; i++) add_number(&bin, (uint64_t)ids[i], p->item);
    snprintf(path, sizeof path, "%s.idx", prefix);
    save_file(path, idx.data, idx.length);
    snprintf(path, sizeof path, "%s.bin", prefix);
    save_file(path, bin.data ? bin.data : "", bin.length);
    lmoe__text_free(&idx);
    lmoe__text_free(&bin);
}

/* Documents of these lengths (0 allowed); token i of the file has id i, so that an id tells where
 * it is from. */
static inline int64_t save_numbers(const char *prefix, const int32_t *lengths, int n)
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

static inline void expect_file(const char *path, const void *data, size_t n)
{
    char *have;
    size_t size;
    ck_assert_int_eq(lmoe__read_file(&ctx, path, &have, &size), LMOE_OK);
    ck_assert_uint_eq(size, n);
    ck_assert_mem_eq(have, data, n);
    free(have);
}

#endif
