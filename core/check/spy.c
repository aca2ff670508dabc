/* SPDX-License-Identifier: Apache-2.0
 * core/check/spy.c: calls of a plugin's code to functions of other libraries go by a table in the
 * plugin (the GOT), which the dynamic linker fills in. The spy puts its own functions there; they
 * count, and do what was asked.
 */
#include "core/check/spy.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* What was called. The functions below are given no context by their callers; a checked plugin runs
 * in a process of its own, so that one record for the process is enough. */
static _Atomic(const char *) last;
static _Atomic int64_t calls;

static void saw(const char *name)
{
    last = name;
    calls++;
}

static void *spy_malloc(size_t n)
{
    saw("malloc");
    return malloc(n);
}

static void *spy_calloc(size_t n, size_t size)
{
    saw("calloc");
    return calloc(n, size);
}

static void *spy_realloc(void *p, size_t n)
{
    saw("realloc");
    return realloc(p, n);
}

static void *spy_aligned_alloc(size_t alignment, size_t n)
{
    saw("aligned_alloc");
    return aligned_alloc(alignment, n);
}

static int spy_posix_memalign(void **p, size_t alignment, size_t n)
{
    saw("posix_memalign");
    return posix_memalign(p, alignment, n);
}

static void *spy_new(size_t n)
{
    saw("operator new");
    return malloc(n ? n : 1);
}

static int spy_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *arg)
{
    saw("pthread_create");
    return pthread_create(t, a, f, arg);
}

/* Of the CUDA runtime: found when they are called, as lmoe is not linked to it. */
static void *real(const char *name)
{
    void *f = dlsym(RTLD_DEFAULT, name);
    for (int i = 13; i >= 11 && !f; i--) {
        char file[32];
        snprintf(file, sizeof file, "libcudart.so.%d", i);
        void *library = dlopen(file, RTLD_NOW | RTLD_NOLOAD);
        if (library) f = dlsym(library, name);
    }
    return f;
}

static int spy_cuda_malloc(void **p, size_t n)
{
    int (*f)(void **, size_t) = (int (*)(void **, size_t))(uintptr_t)real("cudaMalloc");
    saw("cudaMalloc");
    return f ? f(p, n) : 2;
}

static int spy_cuda_stream_synchronize(void *stream)
{
    int (*f)(void *) = (int (*)(void *))(uintptr_t)real("cudaStreamSynchronize");
    saw("cudaStreamSynchronize");
    return f ? f(stream) : 2;
}

static int spy_cuda_device_synchronize(void)
{
    int (*f)(void) = (int (*)(void))(uintptr_t)real("cudaDeviceSynchronize");
    saw("cudaDeviceSynchronize");
    return f ? f() : 2;
}

static uintptr_t replacement(const char *name)
{
    const struct {
        const char *name;
        uintptr_t function;
    } list[] = {
        {"malloc", (uintptr_t)spy_malloc},
        {"calloc", (uintptr_t)spy_calloc},
        {"realloc", (uintptr_t)spy_realloc},
        {"aligned_alloc", (uintptr_t)spy_aligned_alloc},
        {"posix_memalign", (uintptr_t)spy_posix_memalign},
        {"_Znwm", (uintptr_t)spy_new},
        {"_Znam", (uintptr_t)spy_new},
        {"pthread_create", (uintptr_t)spy_pthread_create},
        {"cudaMalloc", (uintptr_t)spy_cuda_malloc},
        {"cudaStreamSynchronize", (uintptr_t)spy_cuda_stream_synchronize},
        {"cudaDeviceSynchronize", (uintptr_t)spy_cuda_device_synchronize},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        if (strcmp(list[i].name, name) == 0) return list[i].function;
    }
    return 0;
}

/* The parts of a file's dynamic section that say where its table is. */
typedef struct tables {
    const char *strings;
    const ElfW(Sym) * symbols;
    const ElfW(Rela) * rela[2];
    size_t bytes[2];
} tables;

static void find_tables(const struct link_map *map, tables *t)
{
    memset(t, 0, sizeof *t);
    for (const ElfW(Dyn) *d = map->l_ld; d->d_tag != DT_NULL; d++) {
        /* Most machines' dynamic linkers have added the load address already. */
        ElfW(Addr) at = d->d_un.d_ptr < map->l_addr ? d->d_un.d_ptr + map->l_addr : d->d_un.d_ptr;
        switch (d->d_tag) {
        case DT_STRTAB: t->strings = (const char *)at; break;
        case DT_SYMTAB: t->symbols = (const ElfW(Sym) *)at; break;
        case DT_RELA: t->rela[0] = (const ElfW(Rela) *)at; break;
        case DT_RELASZ: t->bytes[0] = d->d_un.d_val; break;
        case DT_JMPREL: t->rela[1] = (const ElfW(Rela) *)at; break;
        case DT_PLTRELSZ: t->bytes[1] = d->d_un.d_val; break;
        default: break;
        }
    }
}

/* Writes an entry, whose page may be read-only. */
static bool put(uintptr_t at, uintptr_t function)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = at & ~(page - 1);
    size_t n = (size_t)(at + sizeof(uintptr_t) - from);
    if (mprotect((void *)from, n, PROT_READ | PROT_WRITE) != 0) return false;
    memcpy((void *)at, &function, sizeof function);
    return true;
}

bool lmoe__spy_on(const char *path)
{
    struct link_map *map;
    tables t;
    void *handle = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    if (!handle || dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0) return false;
    find_tables(map, &t);
    if (!t.strings || !t.symbols) return false;
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0; t.rela[k] && i < t.bytes[k] / sizeof(ElfW(Rela)); i++) {
            const ElfW(Rela) *r = &t.rela[k][i];
            const ElfW(Sym) *s = &t.symbols[ELF64_R_SYM(r->r_info)];
            uintptr_t function = replacement(t.strings + s->st_name);
            if (function && s->st_shndx == SHN_UNDEF && !put(map->l_addr + r->r_offset, function))
                return false;
        }
    }
    return true;
}

const char *lmoe__spy_ask(int64_t *count)
{
    const char *name = last;
    *count = calls;
    last = NULL;
    calls = 0;
    return name;
}
