/* SPDX-License-Identifier: Apache-2.0
 * tests/run/count_allocations.c: preloaded into a program, counts calls of malloc and its sisters
 * by the place that calls, and at exit writes to the file $ALLOCATIONS a line for each:
 *
 *   OBJECT OFFSET COUNT       the file of the program or library, the place in it (hexadecimal)
 *
 * What a library allocates on someone's behalf counts for the library.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);

enum { PLACES = 1 << 16 };
static struct {
    _Atomic(uintptr_t) address;
    atomic_ulong count;
} places[PLACES];

static void count(const void *caller)
{
    uintptr_t a = (uintptr_t)caller;
    for (uintptr_t i = a * 0x9e3779b97f4a7c15u >> 40;; i++) {
        uintptr_t none = 0;
        _Atomic(uintptr_t) *slot = &places[i % PLACES].address;
        if (atomic_load(slot) != a && !atomic_compare_exchange_strong(slot, &none, a) && none != a)
            continue;
        atomic_fetch_add(&places[i % PLACES].count, 1);
        return;
    }
}

void *malloc(size_t n)
{
    count(__builtin_return_address(0));
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    count(__builtin_return_address(0));
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    count(__builtin_return_address(0));
    return __libc_realloc(p, n);
}

void *memalign(size_t align, size_t n)
{
    count(__builtin_return_address(0));
    return __libc_memalign(align, n);
}

void *aligned_alloc(size_t align, size_t n)
{
    count(__builtin_return_address(0));
    return __libc_memalign(align, n);
}

int posix_memalign(void **p, size_t align, size_t n)
{
    count(__builtin_return_address(0));
    void *memory = __libc_memalign(align, n);
    if (memory) *p = memory;
    return memory ? 0 : ENOMEM;
}

static void __attribute__((destructor)) write_counts(void)
{
    const char *path = getenv("ALLOCATIONS");
    FILE *f = path ? fopen(path, "w") : NULL;
    for (int i = 0; f && i < PLACES; i++) {
        uintptr_t a = atomic_load(&places[i].address);
        Dl_info info;
        if (!a || !dladdr((void *)a, &info)) continue;
        fprintf(f, "%s %lx %lu\n", info.dli_fname, (unsigned long)(a - (uintptr_t)info.dli_fbase),
                atomic_load(&places[i].count));
    }
    if (f) fclose(f);
}
