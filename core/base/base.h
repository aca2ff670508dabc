/* SPDX-License-Identifier: Apache-2.0
 * core/base/base.h: what every private file may use: contexts, memory, text, random numbers,
 * hashes, threads. No mutable global state: a rank of comm/loop is a thread, and each has a context
 * of its own.
 */
#ifndef LMOE_CORE_BASE_H
#define LMOE_CORE_BASE_H

#include <lmoe/api.h>

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define LMOE_VERSION "0.1.0"

/* ---- context: who runs, with which threads, and what went wrong first ---- */

typedef struct lmoe__team lmoe__team;

struct lmoe_ctx {
    lmoe__team *team;   /* NULL: lmoe_parallel runs on the caller alone */
    int rank, ranks;    /* in the world; 0 of 1 without a communicator */
    int log_level;      /* LMOE_LOG_...; messages above it are dropped */
    lmoe_status status; /* of the first failure recorded since the last clear */
    char message[1024];
};

void lmoe__ctx_init(lmoe_ctx *ctx);
void lmoe__ctx_clear(lmoe_ctx *ctx);
/* lmoe_error (lmoe/api.h) records; the first message is kept until cleared. */

/* Writes "lmoe: message" (with the level's word and the rank if there are several) to stderr. */
void lmoe__log(lmoe_ctx *ctx, int level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- arena: memory of one lifetime; zeroed, 64-byte aligned, freed as a whole ---- */

typedef struct lmoe__arena lmoe__arena;
lmoe__arena *lmoe__arena_new(void);
void lmoe__arena_free(lmoe__arena *a); /* NULL is fine */
void *lmoe__arena_alloc(lmoe__arena *a,
                        size_t bytes); /* aborts the process when memory is exhausted */
char *lmoe__arena_strdup(lmoe__arena *a, const char *text);
char *lmoe__arena_printf(lmoe__arena *a, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
#define LMOE_NEW(arena, type)      ((type *)lmoe__arena_alloc((arena), sizeof(type)))
#define LMOE_NEW_N(arena, type, n) ((type *)lmoe__arena_alloc((arena), sizeof(type) * (size_t)(n)))

/* malloc that aborts with a message when memory is exhausted (small host objects only). */
void *lmoe__malloc(size_t bytes);
void *lmoe__realloc(void *p, size_t bytes);

/* Growing array: LMOE_PUSH(items, count, capacity, value). */
#define LMOE_PUSH(items, count, capacity, value)                                    \
    do {                                                                            \
        if ((count) == (capacity)) {                                                \
            (capacity) = (capacity) ? (capacity)*2 : 16;                            \
            (items) = lmoe__realloc((items), sizeof *(items) * (size_t)(capacity)); \
        }                                                                           \
        (items)[(count)++] = (value);                                               \
    } while (0)

/* ---- text ---- */

typedef struct lmoe__text {
    char *data; /* NUL-terminated once anything was added; NULL when empty */
    size_t length, capacity;
} lmoe__text;
void lmoe__text_add(lmoe__text *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
void lmoe__text_add_bytes(lmoe__text *s, const char *bytes, size_t n);
void lmoe__text_add_json(lmoe__text *s, const char *text); /* a JSON string with its quotes */
void lmoe__text_free(lmoe__text *s);

/* The candidate nearest to `word` by edit distance, or NULL if none is near enough to be meant. */
const char *lmoe__nearest(const char *word, const char *const *candidates, int n);
/* Whole file into memory (NUL appended); free with free(). LMOE_E_CONFIG with a sentence if it
 * cannot be read. */
lmoe_status lmoe__read_file(lmoe_ctx *ctx, const char *path, char **data, size_t *size);
/* Writes a file aside and renames it into place, file and directory synced. */
lmoe_status lmoe__write_file(lmoe_ctx *ctx, const char *path, const void *data, size_t size);
/* Makes a rename or a new name in the folder of `path` last. 0, or -1 with errno. */
int lmoe__sync_folder(const char *path);

/* A regular file mapped for reading; any byte of [data, data + size) may be read as long as no one
 * shortens the file. Who reads for long asks map_check before each use: LMOE_E_IO with a sentence
 * if the file has changed its size, instead of death by SIGBUS. */
typedef struct lmoe__map {
    const unsigned char *data;
    size_t size;
    int fd; /* -1: nothing is mapped */
} lmoe__map;
lmoe_status lmoe__map_file(lmoe_ctx *ctx, const char *path, lmoe__map *map);
lmoe_status lmoe__map_check(lmoe_ctx *ctx, const char *path, const lmoe__map *map);
void lmoe__map_close(lmoe__map *map); /* what {.fd = -1} or an open map is; -1 again afterwards */

/* 1234567 -> "1.23 M" (powers of 1000) and bytes -> "1.2 GiB", into a caller's buffer; returned. */
const char *lmoe__count_text(char *buf, size_t n, double count);
const char *lmoe__bytes_text(char *buf, size_t n, double bytes);

/* ---- counter-based random numbers (Philox 4x32-10): a function of (seed, stream, index) ---- */

uint64_t lmoe__hash_text(const char *text); /* FNV-1a; names streams */
void lmoe__philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]);
double lmoe__uniform(uint64_t seed, uint64_t stream, uint64_t index); /* [0, 1), 53 bits */
double lmoe__normal(uint64_t seed, uint64_t stream, uint64_t index);  /* mean 0, deviation 1 */
uint64_t lmoe__below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n); /* [0, n) */
/* i-th element of a random permutation of [0, n), without storing it (Feistel network, cycle
 * walking). */
uint64_t lmoe__permute(uint64_t seed, uint64_t stream, uint64_t i, uint64_t n);

/* 128-bit XXH3 digest of a file or of bytes, as 32 hexadecimal digits. */
void lmoe__digest_bytes(const void *data, size_t size, char hex[33]);
lmoe_status lmoe__digest_file(lmoe_ctx *ctx, const char *path, char hex[33]);

/* ---- threads ---- */

/* A team of `threads` (the caller is one of them). Workers spin shortly, then sleep. Made by the
 * thread that uses it; after fork, only in the child. NULL if the system gives no more threads. */
lmoe__team *lmoe__team_new(int threads);
void lmoe__team_free(lmoe__team *team);

double lmoe__now(void); /* seconds, monotonic */

#endif
