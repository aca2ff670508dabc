/* SPDX-License-Identifier: Apache-2.0
 * core/base/arena.c: arenas, and malloc that does not return without memory.
 */
#include "core/base/base.h"

#include <stdlib.h>

enum { ALIGN = 64, FIRST_BLOCK = 16 << 10, LARGEST_BLOCK = 1 << 20 };

typedef struct block {
    struct block *next;
    void *memory; /* what calloc returned */
} block;

struct lmoe__arena {
    block *blocks;
    unsigned char *free; /* aligned; NULL before the first block */
    size_t left;
    size_t next_size;
};

static void out_of_memory(size_t bytes)
{
    fprintf(stderr, "lmoe: error: out of memory: %zu bytes were asked for\n", bytes);
    abort();
}

void *lmoe__malloc(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    if (!p) out_of_memory(bytes);
    return p;
}

void *lmoe__realloc(void *p, size_t bytes)
{
    p = realloc(p, bytes ? bytes : 1);
    if (!p) out_of_memory(bytes);
    return p;
}

lmoe__arena *lmoe__arena_new(void)
{
    lmoe__arena *a = lmoe__malloc(sizeof *a);
    *a = (lmoe__arena){.next_size = FIRST_BLOCK};
    return a;
}

void lmoe__arena_free(lmoe__arena *a)
{
    if (!a) return;
    for (block *b = a->blocks, *next; b; b = next) {
        next = b->next;
        free(b->memory);
    }
    free(a);
}

/* Memory of its own for `size` bytes (a multiple of ALIGN), behind a header. calloc rather than
 * aligned_alloc: large blocks come as untouched zero pages. */
static unsigned char *new_block(lmoe__arena *a, size_t size)
{
    void *memory = calloc(1, size + 2 * ALIGN);
    if (!memory) out_of_memory(size);
    uintptr_t start = ((uintptr_t)memory + ALIGN - 1) / ALIGN * ALIGN;
    block *b = (block *)start;
    b->memory = memory;
    b->next = a->blocks;
    a->blocks = b;
    return (unsigned char *)start + ALIGN;
}

void *lmoe__arena_alloc(lmoe__arena *a, size_t bytes)
{
    if (bytes > PTRDIFF_MAX - 4 * ALIGN) out_of_memory(bytes);
    bytes = bytes ? (bytes + ALIGN - 1) / ALIGN * ALIGN : ALIGN;
    if (bytes > a->left) {
        if (bytes > a->next_size / 4) return new_block(a, bytes);
        a->free = new_block(a, a->next_size);
        a->left = a->next_size;
        if (a->next_size < LARGEST_BLOCK) a->next_size *= 2;
    }
    void *p = a->free;
    a->free += bytes;
    a->left -= bytes;
    return p;
}

char *lmoe__arena_strdup(lmoe__arena *a, const char *text)
{
    size_t n = strlen(text) + 1;
    return memcpy(lmoe__arena_alloc(a, n), text, n);
}

char *lmoe__arena_printf(lmoe__arena *a, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = lmoe__arena_alloc(a, n < 0 ? 1 : (size_t)n + 1);
    if (n >= 0) vsnprintf(text, (size_t)n + 1, format, again);
    va_end(again);
    return text;
}
