/* SPDX-License-Identifier: Apache-2.0
 * core/check/symbols.c: the dynamic symbols of a plugin's file, and the libraries that it names.
 */
#include "core/check/check.h"

#include <link.h>

typedef struct image {
    const unsigned char *data;
    size_t size;
} image;

/* n bytes of the file at an offset; NULL if it does not have them. */
static const void *piece(const image *f, uint64_t at, uint64_t n)
{
    return at <= f->size && n <= f->size - at ? f->data + at : NULL;
}

/* A text of a string table. */
static const char *text_at(const image *f, const ElfW(Shdr) * strings, uint64_t at)
{
    const char *table = piece(f, strings->sh_offset, strings->sh_size);
    if (!table || at >= strings->sh_size || !memchr(table + at, 0, strings->sh_size - at))
        return NULL;
    return table + at;
}

static void read_symbols(const image *f, const ElfW(Shdr) * s, const ElfW(Shdr) * strings,
                         lmoe__arena *a, lmoe__dynamic *out)
{
    size_t n = s->sh_size / sizeof(ElfW(Sym));
    const ElfW(Sym) *symbols = piece(f, s->sh_offset, s->sh_size);
    if (!symbols) return;
    out->symbols = LMOE_NEW_N(a, lmoe__symbol, n + 1);
    for (size_t i = 1; i < n; i++) {
        const char *name = text_at(f, strings, symbols[i].st_name);
        int bind = ELF64_ST_BIND(symbols[i].st_info); /* the same in 32 bits */
        if (!name || !*name || bind == STB_LOCAL) continue;
        out->symbols[out->n_symbols++] = (lmoe__symbol){
            lmoe__arena_strdup(a, name), symbols[i].st_shndx != SHN_UNDEF, bind == STB_WEAK};
    }
}

static void read_needed(const image *f, const ElfW(Shdr) * s, const ElfW(Shdr) * strings,
                        lmoe__arena *a, lmoe__dynamic *out)
{
    size_t n = s->sh_size / sizeof(ElfW(Dyn));
    const ElfW(Dyn) *entries = piece(f, s->sh_offset, s->sh_size);
    if (!entries) return;
    out->needed = LMOE_NEW_N(a, const char *, n + 1);
    for (size_t i = 0; i < n && entries[i].d_tag != DT_NULL; i++) {
        const char *name =
            entries[i].d_tag == DT_NEEDED ? text_at(f, strings, entries[i].d_un.d_val) : NULL;
        if (name) out->needed[out->n_needed++] = lmoe__arena_strdup(a, name);
    }
}

lmoe_status lmoe__elf_dynamic(lmoe_ctx *ctx, lmoe__arena *a, const char *path, lmoe__dynamic *out)
{
    lmoe__map map = {.fd = -1};
    memset(out, 0, sizeof *out);
    LMOE_TRY(lmoe__elf_check(ctx, path));
    LMOE_TRY(lmoe__map_file(ctx, path, &map));
    image f = {map.data, map.size};
    const ElfW(Ehdr) *h = piece(&f, 0, sizeof *h);
    const ElfW(Shdr) *s = h ? piece(&f, h->e_shoff, (uint64_t)h->e_shnum * sizeof *s) : NULL;
    for (int i = 0; s && i < h->e_shnum; i++) {
        if (s[i].sh_link >= h->e_shnum) continue;
        if (s[i].sh_type == SHT_DYNSYM) read_symbols(&f, &s[i], &s[s[i].sh_link], a, out);
        if (s[i].sh_type == SHT_DYNAMIC) read_needed(&f, &s[i], &s[s[i].sh_link], a, out);
    }
    lmoe__map_close(&map);
    if (out->n_symbols > 0) return LMOE_OK;
    return lmoe_error(ctx, LMOE_E_CONFIG, "%s: has no table of dynamic symbols", path);
}
