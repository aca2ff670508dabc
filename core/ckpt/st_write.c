/* SPDX-License-Identifier: Apache-2.0
 * core/ckpt/st_write.c: writes a file of tensors, one tensor in memory at a time.
 */
#define XXH_INLINE_ALL /* the header is the implementation: nothing to link */
#include <xxhash.h>

#include "core/ckpt/ckpt.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- lists of tensors ---- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool has_bytes(const lmoe_desc *d)
{
    int64_t n = (int64_t)lmoe_dtype_bytes(d->dtype);
    if (n == 0 || d->rank < 0 || d->rank > LMOE_MAX_DIMS) return false;
    for (int i = 0; i < d->rank; i++) {
        if (d->dim[i] < 0 || __builtin_mul_overflow(n, d->dim[i], &n)) return false;
    }
    return true;
}

static bool can_be_written(const char *name)
{
    if (strlen(name) > LMOE__ST_MAX_NAME || strcmp(name, "__metadata__") == 0) return false;
    json_t *text = json_string(name); /* NULL unless it is UTF-8 */
    json_decref(text);
    return text != NULL;
}

lmoe_status lmoe__ckpt_check(lmoe_ctx *ctx, const lmoe__ckpt_tensor *tensors, const int *which,
                             int n)
{
    const char **names = lmoe__malloc(sizeof *names * (size_t)(n + 1));
    lmoe_status status = LMOE_OK;
    for (int i = 0; i < n && status == LMOE_OK; i++) {
        const lmoe__ckpt_tensor *x = &tensors[which ? which[i] : i];
        names[i] = x->name;
        if (!can_be_written(x->name))
            status = lmoe_error(ctx, LMOE_E_USAGE,
                                "\"%.200s\" cannot be the name of a tensor in a file: expected "
                                "UTF-8 of at most %d bytes, not __metadata__",
                                x->name, LMOE__ST_MAX_NAME);
        else if (!has_bytes(&x->desc))
            status =
                lmoe_error(ctx, LMOE_E_USAGE,
                           "tensor \"%.200s\" has no dtype, or sizes that no tensor has", x->name);
    }
    if (status == LMOE_OK) {
        qsort(names, (size_t)n, sizeof *names, by_text);
        for (int i = 1; i < n && status == LMOE_OK; i++) {
            if (strcmp(names[i - 1], names[i]) == 0)
                status =
                    lmoe_error(ctx, LMOE_E_USAGE, "two tensors are named \"%.200s\"", names[i]);
        }
    }
    free(names);
    return status;
}

void *lmoe__ckpt_room(const lmoe__ckpt_tensor *tensors, const int *which, int n)
{
    size_t largest = 1;
    for (int i = 0; i < n; i++) {
        size_t bytes = (size_t)lmoe_desc_bytes(&tensors[which ? which[i] : i].desc);
        if (bytes > largest) largest = bytes;
    }
    if (largest > LMOE__CKPT_PIECE) largest = LMOE__CKPT_PIECE;
    return aligned_alloc(64, (largest + 63) / 64 * 64);
}

/* ---- a file being written ---- */

typedef struct out {
    int fd;
    int error; /* the first; what comes later is not written */
    uint64_t size;
    XXH3_state_t digest;
} out;

static void put(out *o, const void *data, size_t n)
{
    const char *p = data;
    XXH3_128bits_update(&o->digest, data, n);
    o->size += n;
    while (n > 0 && !o->error) {
        ssize_t done = write(o->fd, p, n < (size_t)1 << 30 ? n : (size_t)1 << 30);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) {
            o->error = errno;
        } else {
            p += done;
            n -= (size_t)done;
        }
    }
}

/* The digits that lmoe__digest_file gives. */
static void digest_text(const out *o, char hex[33])
{
    XXH128_canonical_t bytes;
    XXH128_canonicalFromHash(&bytes, XXH3_128bits_digest(&o->digest));
    for (int i = 0; i < 16; i++) snprintf(hex + 2 * i, 3, "%02x", bytes.digest[i]);
}

/* ---- header and tensors ---- */

typedef struct item {
    int index; /* in the list */
    int order; /* of its dtype */
    const char *name;
} item;

/* As the reference: wide dtypes first, so that each tensor is aligned to its element size. */
static int by_dtype(const void *a, const void *b)
{
    const item *x = a, *y = b;
    return x->order != y->order ? y->order - x->order : strcmp(x->name, y->name);
}

static void add_header(lmoe__text *s, const lmoe__st_file *f, const item *items)
{
    int64_t offset = 0;
    lmoe__text_add(s, "{\"__metadata__\":{\"format\":\"pt\"");
    for (const char *const *m = f->metadata; m && *m; m += 2) {
        lmoe__text_add(s, ",");
        lmoe__text_add_json(s, m[0]);
        lmoe__text_add(s, ":");
        lmoe__text_add_json(s, m[1]);
    }
    lmoe__text_add(s, "}");
    for (int i = 0; i < f->n; i++) {
        const lmoe_desc *d = &f->tensors[items[i].index].desc;
        const char *dtype = "";
        lmoe__st_dtype(d->dtype, &dtype);
        lmoe__text_add(s, ",");
        lmoe__text_add_json(s, items[i].name);
        lmoe__text_add(s, ":{\"dtype\":\"%s\",\"shape\":[", dtype);
        for (int k = 0; k < d->rank; k++)
            lmoe__text_add(s, "%s%lld", k ? "," : "", (long long)d->dim[k]);
        lmoe__text_add(s, "],\"data_offsets\":[%lld,%lld]}", (long long)offset,
                       (long long)(offset + lmoe_desc_bytes(d)));
        offset += lmoe_desc_bytes(d);
    }
    lmoe__text_add(s, "}");
    while (s->length % 8) lmoe__text_add(s, " ");
}

static lmoe_status put_all(lmoe_ctx *ctx, const lmoe__st_file *f, out *o, const item *items,
                           void *host)
{
    lmoe__text header = {0};
    add_header(&header, f, items);
    uint64_t n = header.length;
    if (n <= LMOE__ST_MAX_HEADER) {
        put(o, &n, 8);
        put(o, header.data, header.length);
    }
    lmoe__text_free(&header);
    if (n > LMOE__ST_MAX_HEADER)
        return lmoe_error(ctx, LMOE_E_USAGE,
                          "%s: a header of %llu bytes is more than a file may have", f->path,
                          (unsigned long long)n);
    for (int i = 0; i < f->n && !o->error; i++) {
        size_t bytes = (size_t)lmoe_desc_bytes(&f->tensors[items[i].index].desc), at = 0;
        do {
            size_t piece = bytes - at < LMOE__CKPT_PIECE ? bytes - at : LMOE__CKPT_PIECE;
            LMOE_TRY(f->read(f->user, items[i].index, at, host, piece));
            put(o, host, piece);
            at += piece;
        } while (at < bytes && !o->error);
    }
    if (!o->error && fsync(o->fd) != 0) o->error = errno;
    return LMOE_OK;
}

static lmoe_status cannot_write(lmoe_ctx *ctx, const char *path, int error)
{
    return lmoe_error(ctx, LMOE_E_IO, "cannot write %s: %s", path, strerror(error));
}

lmoe_status lmoe__st_write(lmoe_ctx *ctx, lmoe__st_file *f)
{
    LMOE_TRY(lmoe__ckpt_check(ctx, f->tensors, f->which, f->n));
    out o = {.fd = open(f->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)};
    if (o.fd < 0) return cannot_write(ctx, f->path, errno);
    XXH3_128bits_reset(&o.digest);

    item *items = lmoe__malloc(sizeof *items * (size_t)(f->n + 1));
    for (int i = 0; i < f->n; i++) {
        const lmoe__ckpt_tensor *x = &f->tensors[f->which[i]];
        items[i] = (item){f->which[i], lmoe__st_dtype(x->desc.dtype, NULL), x->name};
    }
    qsort(items, (size_t)f->n, sizeof *items, by_dtype);
    void *host = lmoe__ckpt_room(f->tensors, f->which, f->n);
    lmoe_status status = host ? put_all(ctx, f, &o, items, host)
                              : lmoe_error(ctx, LMOE_E_MEMORY, "no memory to write %s", f->path);
    free(host);
    free(items);
    if (close(o.fd) != 0 && !o.error) o.error = errno;
    if (status == LMOE_OK && o.error) status = cannot_write(ctx, f->path, o.error);
    if (status != LMOE_OK) {
        unlink(f->path);
        return status;
    }
    f->size = o.size;
    digest_text(&o, f->digest);
    return LMOE_OK;
}
