/* SPDX-License-Identifier: Apache-2.0
 * core/ckpt/safetensors.c: reads and checks files of tensors; nothing in them is believed.
 */
#include "core/ckpt/ckpt.h"

#include <stdlib.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "files of tensors are little endian, and so must be the machine"
#endif

/* In the reference's order, which its writer sorts by. */
static const struct {
    const char *name;
    unsigned bits;
    lmoe_dtype dtype;
} dtypes[] = {{"BOOL", 8, LMOE_NONE},
              {"F4", 4, LMOE_NONE},
              {"F6_E2M3", 6, LMOE_NONE},
              {"F6_E3M2", 6, LMOE_NONE},
              {"U8", 8, LMOE_U8},
              {"I8", 8, LMOE_NONE},
              {"F8_E5M2", 8, LMOE_NONE},
              {"F8_E4M3", 8, LMOE_NONE},
              {"F8_E8M0", 8, LMOE_NONE},
              {"F8_E4M3FNUZ", 8, LMOE_NONE},
              {"F8_E5M2FNUZ", 8, LMOE_NONE},
              {"I16", 16, LMOE_NONE},
              {"U16", 16, LMOE_U16},
              {"F16", 16, LMOE_F16},
              {"BF16", 16, LMOE_BF16},
              {"I32", 32, LMOE_I32},
              {"U32", 32, LMOE_NONE},
              {"F32", 32, LMOE_F32},
              {"C64", 64, LMOE_NONE},
              {"F64", 64, LMOE_F64},
              {"I64", 64, LMOE_I64},
              {"U64", 64, LMOE_NONE}};
enum { DTYPES = sizeof dtypes / sizeof *dtypes };

int lmoe__st_dtype(lmoe_dtype dtype, const char **name)
{
    for (int i = 0; dtype != LMOE_NONE && i < DTYPES; i++) {
        if (dtypes[i].dtype != dtype) continue;
        if (name) *name = dtypes[i].name;
        return i;
    }
    return -1;
}

/* ---- sentences ---- */

static __attribute__((format(printf, 3, 4))) lmoe_status bad_file(lmoe_ctx *ctx, const lmoe__st *st,
                                                                  const char *format, ...)
{
    char what[400];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return lmoe_error(ctx, LMOE_E_CONFIG,
                      "%s: %s; the file is damaged or not in the safetensors format: copy or "
                      "convert it again",
                      st->path, what);
}

static __attribute__((format(printf, 4, 5))) lmoe_status bad_tensor(lmoe_ctx *ctx,
                                                                    const lmoe__st *st,
                                                                    const char *name,
                                                                    const char *format, ...)
{
    char what[250];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return bad_file(ctx, st, "tensor \"%.120s\": %s", name, what);
}

/* ---- one entry of the header ---- */

typedef struct place {
    uint64_t begin, end;
    int tensor;
} place;

/* A whole number of [0, 2^63). */
static bool read_size(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static lmoe_status read_dtype(lmoe_ctx *ctx, const lmoe__st *st, const json_t *entry,
                              lmoe__st_tensor *x, unsigned *bits)
{
    const char *name = json_string_value(json_object_get(entry, "dtype"));
    if (!name) return bad_tensor(ctx, st, x->name, "it has no dtype that is a text");
    for (int i = 0; i < DTYPES; i++) {
        if (strcmp(dtypes[i].name, name) != 0) continue;
        x->dtype_name = dtypes[i].name;
        x->dtype = dtypes[i].dtype;
        *bits = dtypes[i].bits;
        return LMOE_OK;
    }
    return bad_tensor(ctx, st, x->name, "the dtype %.40s is not known", name);
}

/* shape -> sizes, and the bits of all elements */
static lmoe_status read_shape(lmoe_ctx *ctx, const lmoe__st *st, const json_t *entry,
                              lmoe__st_tensor *x, uint64_t *bits)
{
    const json_t *shape = json_object_get(entry, "shape");
    size_t rank = json_array_size(shape);
    if (!json_is_array(shape))
        return bad_tensor(ctx, st, x->name, "it has no shape that is a list");
    if (rank > LMOE__ST_MAX_RANK)
        return bad_tensor(ctx, st, x->name, "it has %zu dimensions; lmoe reads up to %d", rank,
                          LMOE__ST_MAX_RANK);
    int64_t *dim = LMOE_NEW_N(st->arena, int64_t, rank + 1);
    for (size_t i = 0; i < rank; i++) {
        uint64_t n;
        if (!read_size(json_array_get(shape, i), &n))
            return bad_tensor(ctx, st, x->name, "dimension %zu is not a whole number of 0 or more",
                              i);
        if (__builtin_mul_overflow(*bits, n, bits))
            return bad_tensor(ctx, st, x->name, "its shape has more than 2^64 bits");
        dim[i] = (int64_t)n;
    }
    x->rank = (int)rank;
    x->dim = dim;
    return LMOE_OK;
}

static lmoe_status read_entry(lmoe_ctx *ctx, const lmoe__st *st, const json_t *entry,
                              lmoe__st_tensor *x, place *p)
{
    unsigned item = 0;
    if (!json_is_object(entry)) return bad_tensor(ctx, st, x->name, "its entry is not an object");
    LMOE_TRY(read_dtype(ctx, st, entry, x, &item));
    uint64_t bits = item;
    LMOE_TRY(read_shape(ctx, st, entry, x, &bits));

    const json_t *offsets = json_object_get(entry, "data_offsets");
    if (json_array_size(offsets) != 2 || !read_size(json_array_get(offsets, 0), &p->begin) ||
        !read_size(json_array_get(offsets, 1), &p->end))
        return bad_tensor(ctx, st, x->name, "data_offsets must be two whole numbers of 0 or more");
    if (p->begin > p->end)
        return bad_tensor(ctx, st, x->name, "data_offsets begin at %llu and end at %llu",
                          (unsigned long long)p->begin, (unsigned long long)p->end);
    if (bits % 8 != 0) return bad_tensor(ctx, st, x->name, "its elements do not fill whole bytes");
    if (p->end - p->begin != bits / 8)
        return bad_tensor(ctx, st, x->name,
                          "data_offsets span %llu bytes; dtype and shape need %llu",
                          (unsigned long long)(p->end - p->begin), (unsigned long long)(bits / 8));
    x->bytes = (size_t)(bits / 8);
    return LMOE_OK;
}

/* ---- the header ---- */

static lmoe_status read_metadata(lmoe_ctx *ctx, lmoe__st *st, json_t *object)
{
    if (!json_is_object(object)) return bad_file(ctx, st, "__metadata__ is not an object");
    const char **out = LMOE_NEW_N(st->arena, const char *, 2 * json_object_size(object) + 1);
    const char *key;
    json_t *value;
    st->metadata = out;
    json_object_foreach(object, key, value)
    {
        if (!json_is_string(value))
            return bad_file(ctx, st, "__metadata__ has \"%.120s\", whose value is not a text", key);
        *out++ = lmoe__arena_strdup(st->arena, key);
        *out++ = lmoe__arena_strdup(st->arena, json_string_value(value));
    }
    return LMOE_OK;
}

static int by_place(const void *a, const void *b)
{
    const place *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

/* Tensors follow each other from 0 to the end of the file. */
static lmoe_status check_places(lmoe_ctx *ctx, lmoe__st *st, place *places,
                                const unsigned char *data, uint64_t size)
{
    uint64_t end = 0;
    qsort(places, (size_t)st->count, sizeof *places, by_place);
    for (int i = 0; i < st->count; i++) {
        lmoe__st_tensor *x = &st->tensors[places[i].tensor];
        if (places[i].begin != end)
            return bad_tensor(ctx, st, x->name,
                              "it begins at %llu, %s the tensor before it, at %llu",
                              (unsigned long long)places[i].begin,
                              places[i].begin > end ? "after a hole behind" : "before the end of",
                              (unsigned long long)end);
        end = places[i].end;
        if (end > size)
            return bad_tensor(ctx, st, x->name, "it ends at %llu, but the file has data up to %llu",
                              (unsigned long long)end, (unsigned long long)size);
        x->data = data + places[i].begin;
    }
    if (end == size) return LMOE_OK;
    return bad_file(ctx, st, "the tensors end at %llu, but the file has data up to %llu",
                    (unsigned long long)end, (unsigned long long)size);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const lmoe__st_tensor *)a)->name, ((const lmoe__st_tensor *)b)->name);
}

static lmoe_status read_entries(lmoe_ctx *ctx, lmoe__st *st, json_t *header, place *places)
{
    const char *key;
    json_t *value;
    json_object_foreach(header, key, value)
    {
        if (strcmp(key, "__metadata__") == 0) {
            LMOE_TRY(read_metadata(ctx, st, value));
            continue;
        }
        if (strlen(key) > LMOE__ST_MAX_NAME)
            return bad_tensor(ctx, st, key, "its name has %zu bytes; lmoe reads up to %d",
                              strlen(key), LMOE__ST_MAX_NAME);
        lmoe__st_tensor *x = &st->tensors[st->count];
        x->name = lmoe__arena_strdup(st->arena, key);
        places[st->count].tensor = st->count;
        LMOE_TRY(read_entry(ctx, st, value, x, &places[st->count]));
        st->count++;
    }
    return LMOE_OK;
}

static lmoe_status read_header(lmoe_ctx *ctx, lmoe__st *st, json_t *header, uint64_t n)
{
    size_t count = json_object_size(header);
    if (count > LMOE__ST_MAX_TENSORS)
        return bad_file(ctx, st, "it has %zu tensors; lmoe reads up to %d", count,
                        LMOE__ST_MAX_TENSORS);
    st->tensors = LMOE_NEW_N(st->arena, lmoe__st_tensor, count + 1);
    place *places = lmoe__malloc(sizeof *places * (count + 1));
    lmoe_status status = read_entries(ctx, st, header, places);
    if (status == LMOE_OK)
        status = check_places(ctx, st, places, st->map.data + 8 + n, st->map.size - 8 - n);
    free(places);
    qsort(st->tensors, (size_t)st->count, sizeof *st->tensors, by_name);
    return status;
}

static lmoe_status read_file(lmoe_ctx *ctx, lmoe__st *st)
{
    uint64_t n, size = st->map.size;
    if (size < 8)
        return bad_file(ctx, st, "it has %llu bytes; expected 8 or more", (unsigned long long)size);
    memcpy(&n, st->map.data, 8);
    if (n > LMOE__ST_MAX_HEADER)
        return bad_file(ctx, st, "its header has %llu bytes; expected up to %d",
                        (unsigned long long)n, LMOE__ST_MAX_HEADER);
    if (n > size - 8)
        return bad_file(ctx, st, "its header has %llu bytes, but only %llu are there",
                        (unsigned long long)n, (unsigned long long)(size - 8));
    if (n == 0 || st->map.data[8] != '{')
        return bad_file(ctx, st, "its header does not begin with {");
    json_error_t error;
    json_t *header =
        json_loadb((const char *)st->map.data + 8, (size_t)n, JSON_REJECT_DUPLICATES, &error);
    if (!header)
        return bad_file(ctx, st, "its header is not JSON: %s, at byte %d", error.text,
                        error.position + 8);
    lmoe_status status = read_header(ctx, st, header, n);
    json_decref(header);
    return status;
}

lmoe_status lmoe__st_open(lmoe_ctx *ctx, const char *path, lmoe__st *st)
{
    *st = (lmoe__st){.arena = lmoe__arena_new()};
    st->path = lmoe__arena_strdup(st->arena, path);
    lmoe_status status = lmoe__map_file(ctx, path, &st->map);
    if (status == LMOE_OK) status = read_file(ctx, st);
    if (status != LMOE_OK) lmoe__st_close(st);
    return status;
}

void lmoe__st_close(lmoe__st *st)
{
    lmoe__map_close(&st->map);
    lmoe__arena_free(st->arena);
    *st = (lmoe__st){.map.fd = -1};
}

const lmoe__st_tensor *lmoe__st_find(const lmoe__st *st, const char *name)
{
    lmoe__st_tensor key = {.name = name};
    return bsearch(&key, st->tensors, (size_t)st->count, sizeof key, by_name);
}

const char *lmoe__st_metadata(const lmoe__st *st, const char *key)
{
    for (const char **m = st->metadata; m && *m; m += 2) {
        if (strcmp(m[0], key) == 0) return m[1];
    }
    return NULL;
}
