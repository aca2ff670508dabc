/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/cpu.c: class device/cpu: host memory, and the list of kernels.
 */
#define _GNU_SOURCE /* sched_getaffinity */
#include "cpu.h"

#include <lmoe/device.h>
#include <lmoe/plugin.h>

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if CPU_BLAS
#include <cblas.h>
#endif

typedef struct cpu_options {
    int64_t threads;
} cpu_options;

static const lmoe_option options[] = {
    {"threads", LMOE_OPTION_INT, offsetof(cpu_options, threads), "0", 0, 1024, NULL, NULL,
     "Threads of a run; 0: one for each core that the process may use."},
    LMOE_OPTION_END};

int cpu_supports(int level)
{
#if CPU_X86
    __builtin_cpu_init();
    if (level == 1) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (level == 2)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return level == 0;
}

static int32_t threads(const void *opt)
{
    const cpu_options *o = opt;
    if (o->threads > 0) return (int32_t)o->threads;
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    return CPU_COUNT(&set);
}

/* Host memory needs no state: the value only has to differ from NULL. */
static lmoe_status open_device(lmoe_ctx *ctx, const void *opt, void **dev)
{
    static const char host = 0;
#if CPU_BLAS
    openblas_set_num_threads(1); /* the tiles are cut in gemm.c */
#endif
    *dev = (void *)(uintptr_t)&host;
    return LMOE_OK;
}

static void close_device(void *dev)
{
    (void)dev;
}

static void processor_name(char *name, size_t n)
{
    snprintf(name, n, "processor cores");
    FILE *f = fopen("/proc/cpuinfo", "r");
    if (!f) return;
    char line[256];
    while (fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        snprintf(name, n, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
        break;
    }
    fclose(f);
}

static lmoe_status info(void *dev, lmoe_device_info *out)
{
    int64_t page = sysconf(_SC_PAGESIZE);
    processor_name(out->name, sizeof out->name);
    out->peak_flops = 0;
    out->memory = sysconf(_SC_PHYS_PAGES) * page;
    out->memory_used = out->memory - sysconf(_SC_AVPHYS_PAGES) * page;
    return LMOE_OK;
}

static void *stream(void *dev)
{
    return NULL;
}

/* Large blocks start on a huge page, so that the kernel of the system can back them by such. */
static lmoe_status alloc_memory(void *dev, size_t bytes, void **p)
{
    const size_t huge = (size_t)2 << 20;
    size_t align = bytes >= 2 * huge ? huge : 64;
    size_t whole = (bytes + align - 1) & ~(align - 1);
    *p = aligned_alloc(align, whole ? whole : align);
    if (!*p) return LMOE_E_MEMORY;
    if (align == huge) madvise(*p, whole, MADV_HUGEPAGE);
    return LMOE_OK;
}

static void free_memory(void *dev, void *p)
{
    free(p);
}

static lmoe_status copy(void *dev, void *dst, const void *src, size_t bytes)
{
    memcpy(dst, src, bytes);
    return LMOE_OK;
}

static lmoe_status zero(void *dev, void *dst, size_t bytes)
{
    memset(dst, 0, bytes);
    return LMOE_OK;
}

static lmoe_status synchronize(void *dev)
{
    return LMOE_OK;
}

#if CPU_X86
#define CPU_OP(op) extern const lmoe_kernel cpu_##op##_base, cpu_##op##_avx2, cpu_##op##_avx512;
#include "kernels.def"
#undef CPU_OP
#define CPU_OP(op) &cpu_##op##_base, &cpu_##op##_avx2, &cpu_##op##_avx512,
#else
#define CPU_OP(op) extern const lmoe_kernel cpu_##op##_base;
#include "kernels.def"
#undef CPU_OP
#define CPU_OP(op) &cpu_##op##_base,
#endif

static const lmoe_kernel *const kernels[] = {
#include "kernels.def"
    NULL};

static const lmoe_device device_cpu = {
    .base = {.size = sizeof(lmoe_device),
             .kind = LMOE_KIND_DEVICE,
             .name = "device/cpu",
             .summary = "The cores of this machine: host memory, vector code, a library's matrix "
                        "products on tiles cut here.",
             .options = options,
             .options_size = sizeof(cpu_options)},
    .device = "cpu",
    .kernels = kernels,
    .open = open_device,
    .close = close_device,
    .info = info,
    .stream = stream,
    .alloc = alloc_memory,
    .free = free_memory,
    .upload = copy,
    .download = copy,
    .zero = zero,
    .synchronize = synchronize,
    .threads = threads,
};

static const lmoe_class *const classes[] = {&device_cpu.base, NULL};

LMOE_PLUGIN(.id = "device/cpu", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
