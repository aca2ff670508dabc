/* SPDX-License-Identifier: Apache-2.0
 * core/graph/store.c: the buffers that outlive plans (weights, gradients, optimiser states, inputs,
 * carries), by name. With sizes_only nothing is allocated; that is how `lmoe plan` knows a run's
 * memory.
 */
#include "core/graph/graph.h"

#include <stdlib.h>

void lmoe__store_init(lmoe__store *s, lmoe_ctx *ctx, const lmoe_device *device, void *dev)
{
    memset(s, 0, sizeof *s);
    s->ctx = ctx;
    s->device = device;
    s->dev = dev;
    s->arena = lmoe__arena_new();
}

void lmoe__store_free(lmoe__store *s)
{
    if (!s->sizes_only) {
        for (int i = 0; i < s->count; i++) s->device->free(s->dev, s->buffers[i].data);
    }
    free(s->buffers);
    free(s->table);
    lmoe__arena_free(s->arena);
    memset(s, 0, sizeof *s);
}

void *lmoe__store_block(lmoe__store *s, size_t bytes, int kind)
{
    void *data = NULL;
    if (bytes == 0) bytes = 1;
    s->bytes[kind] += (int64_t)bytes;
    if (s->sizes_only) return s->arena; /* anything but NULL: nobody reads it */
    if (s->device->alloc(s->dev, bytes, &data) != LMOE_OK || !data) {
        char text[32];
        lmoe_error(s->ctx, LMOE_E_MEMORY,
                   "%s has no room for %s more; take a smaller batch or sequence (lmoe plan shows "
                   "what needs memory)",
                   s->device->base.name, lmoe__bytes_text(text, sizeof text, (double)bytes));
        return NULL;
    }
    return data;
}

static int32_t *slot_of(lmoe__store *s, const char *name)
{
    uint64_t h = lmoe__hash_text(name);
    for (uint64_t i = h;; i++) {
        int32_t *slot = &s->table[i & (uint64_t)(s->table_size - 1)];
        if (*slot == 0 || strcmp(s->buffers[*slot - 1].name, name) == 0) return slot;
    }
}

static void grow_table(lmoe__store *s)
{
    int size = s->table_size ? s->table_size * 2 : 256;
    free(s->table);
    s->table = calloc((size_t)size, sizeof *s->table);
    s->table_size = size;
    for (int i = 0; i < s->count; i++) *slot_of(s, s->buffers[i].name) = i + 1;
}

static bool same_shape(const lmoe_desc *a, const lmoe_desc *b)
{
    if (a->dtype != b->dtype || a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++) {
        if (a->dim[i] != b->dim[i]) return false;
    }
    return true;
}

int lmoe__store_add(lmoe__store *s, const char *name, const lmoe_desc *desc, int kind)
{
    if ((s->count + 1) * 2 > s->table_size) grow_table(s);
    int32_t *slot = slot_of(s, name);
    if (*slot) {
        if (same_shape(&s->buffers[*slot - 1].desc, desc)) return *slot - 1;
        lmoe_error(s->ctx, LMOE_E_INTERNAL, "the buffer '%s' is wanted with two shapes", name);
        return -1;
    }
    lmoe__buffer b = {.desc = *desc, .kind = kind};
    b.name = lmoe__arena_strdup(s->arena, name);
    for (int i = 0; i < desc->rank; i++)
        b.desc.axis[i] = lmoe__arena_strdup(s->arena, desc->axis[i]);
    size_t bytes = (size_t)lmoe_desc_bytes(desc);
    b.data = lmoe__store_block(s, bytes, kind);
    if (!b.data) return -1;
    if (!s->sizes_only && s->device->zero(s->dev, b.data, bytes) != LMOE_OK) return -1;
    LMOE_PUSH(s->buffers, s->count, s->capacity, b);
    *slot = s->count;
    return s->count - 1;
}

lmoe__buffer *lmoe__store_find(lmoe__store *s, const char *name)
{
    if (!s->table_size) return NULL;
    int32_t *slot = slot_of(s, name);
    return *slot ? &s->buffers[*slot - 1] : NULL;
}

const char *lmoe__store_input(char *buf, size_t n, const char *name, const lmoe_desc *local)
{
    int used = snprintf(buf, n, "%s", name);
    for (int i = 0; i < local->rank && used > 0 && (size_t)used < n; i++)
        used += snprintf(buf + used, n - (size_t)used, "[%lld]", (long long)local->dim[i]);
    return buf;
}
