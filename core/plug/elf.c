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

lmoe_status lmoe__elf_check(lmoe_ctx *ctx, const char *path)
{
    ElfW(Ehdr) h;
    memset(&h, 0, sizeof h);
    FILE *f = fopen(path, "rb");
    if (!f) return lmoe_error(ctx, LMOE_E_IO, "%s: cannot be read", path);
    size_t n = fread(&h, 1, sizeof h, f);
    fclose(f);
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
    return LMOE_OK;
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
