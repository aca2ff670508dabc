/* SPDX-License-Identifier: Apache-2.0
 * core/plug/elf.c: what a plugin file is built for, said before the dynamic linker refuses it in
 * words of its own; and which libraries it asks for.
 */
#include "core/plug/plug.h"

#include <dlfcn.h>
#include <link.h>

/* The header of the program that holds this code: what a plugin must agree with. */
extern const ElfW(Ehdr) __ehdr_start __attribute__((visibility("hidden")));

static const char *machine_text(unsigned machine, char *buf, size_t n)
{
    static const struct {
        unsigned machine;
        const char *name;
    } names[] = {
        {EM_386, "x86 (32 bit)"}, {EM_X86_64, "x86-64"},      {EM_ARM, "ARM (32 bit)"},
        {EM_AARCH64, "AArch64"},  {EM_PPC64, "64-bit POWER"}, {EM_S390, "s390"},
        {EM_RISCV, "RISC-V"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (names[i].machine == machine) return names[i].name;
    }
    snprintf(buf, n, "machine type %u", machine);
    return buf;
}

static lmoe_status check_header(lmoe_ctx *ctx, const char *path, FILE *f, ElfW(Ehdr) * header)
{
    ElfW(Ehdr) h;
    memset(&h, 0, sizeof h);
    size_t n = fread(&h, 1, sizeof h, f);
    if (n < sizeof h || memcmp(h.e_ident, ELFMAG, SELFMAG) != 0)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "%s: is not a shared library (it has no ELF header); a plugin is built "
                          "as a shared module",
                          path);
    const ElfW(Ehdr) *own = &__ehdr_start;
    char a[32], b[32];
    bool same_order = h.e_ident[EI_DATA] == own->e_ident[EI_DATA];
    if (!same_order || h.e_ident[EI_CLASS] != own->e_ident[EI_CLASS] ||
        h.e_machine != own->e_machine)
        return lmoe_error(
            ctx, LMOE_E_UNSUPPORTED,
            "%s: is built for %s; this program runs on %s: build the plugin for this "
            "machine",
            path, same_order ? machine_text(h.e_machine, a, sizeof a) : "another byte order",
            machine_text(own->e_machine, b, sizeof b));
    *header = h;
    return LMOE_OK;
}

/* The dynamic linker maps segments unseen: of a file that was cut off, it dies by SIGBUS. */
static lmoe_status check_length(lmoe_ctx *ctx, const char *path, FILE *f, const ElfW(Ehdr) * h)
{
    uint64_t need = (uint64_t)h->e_phoff + (uint64_t)h->e_phnum * sizeof(ElfW(Phdr)), size;
    if (fseek(f, 0, SEEK_END) != 0) return lmoe_error(ctx, LMOE_E_IO, "%s: cannot be read", path);
    size = (uint64_t)ftell(f);
    for (int i = 0; need <= size && i < h->e_phnum; i++) {
        ElfW(Phdr) p;
        if (fseek(f, (long)(h->e_phoff + (size_t)i * sizeof p), SEEK_SET) != 0 ||
            fread(&p, sizeof p, 1, f) != 1)
            return lmoe_error(ctx, LMOE_E_IO, "%s: cannot be read", path);
        if (p.p_type != PT_LOAD) continue;
        uint64_t end = p.p_offset > UINT64_MAX - p.p_filesz ? UINT64_MAX : p.p_offset + p.p_filesz;
        if (end > need) need = end;
    }
    if (need <= size) return LMOE_OK;
    return lmoe_error(ctx, LMOE_E_CONFIG,
                      "%s: is cut off: it has %llu bytes, and speaks of %llu; copy or build it "
                      "again",
                      path, (unsigned long long)size, (unsigned long long)need);
}

lmoe_status lmoe__elf_check(lmoe_ctx *ctx, const char *path)
{
    ElfW(Ehdr) h;
    FILE *f = fopen(path, "rb");
    if (!f) return lmoe_error(ctx, LMOE_E_IO, "%s: cannot be read", path);
    lmoe_status status = check_header(ctx, path, f, &h);
    if (status == LMOE_OK) status = check_length(ctx, path, f, &h);
    fclose(f);
    return status;
}

const char *lmoe__elf_needs(void *handle, const char *prefix)
{
    struct link_map *map;
    if (dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0) return NULL;
    const char *strings = NULL;
    for (const ElfW(Dyn) *d = map->l_ld; d->d_tag != DT_NULL; d++) {
        if (d->d_tag != DT_STRTAB) continue;
        /* Most machines' dynamic linkers have added the load address already. */
        ElfW(Addr) at = d->d_un.d_ptr;
        strings = (const char *)(at < map->l_addr ? at + map->l_addr : at);
    }
    for (const ElfW(Dyn) *d = map->l_ld; strings && d->d_tag != DT_NULL; d++) {
        const char *name = strings + d->d_un.d_val;
        if (d->d_tag == DT_NEEDED && strncmp(name, prefix, strlen(prefix)) == 0) return name;
    }
    return NULL;
}
