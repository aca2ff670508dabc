/* SPDX-License-Identifier: Apache-2.0
 * core/data/tokenizer.c: the tokenizers that lmoe brings.
 */
#include "core/data/data.h"

static lmoe_status bytes_encode(const lmoe__tokenizer *t, const char *text, size_t n,
                                lmoe__ids_fn put, void *user)
{
    int32_t ids[4096];
    while (n > 0) {
        size_t piece = n < 4096 ? n : 4096;
        for (size_t i = 0; i < piece; i++) ids[i] = (unsigned char)text[i];
        LMOE_TRY(put(user, ids, (int64_t)piece));
        text += piece;
        n -= piece;
    }
    return LMOE_OK;
}

static size_t bytes_decode(const lmoe__tokenizer *t, int32_t id, char *out, size_t room)
{
    if (id < 0 || id > 255) return 0;
    if (room > 0) out[0] = (char)id;
    return 1;
}

const lmoe__tokenizer lmoe__tokenizer_bytes = {
    .name = "bytes", .vocab = 256, .encode = bytes_encode, .decode = bytes_decode};

static const lmoe__tokenizer *const all[] = {&lmoe__tokenizer_bytes};

const lmoe__tokenizer *lmoe__tokenizer_find(lmoe_ctx *ctx, const char *name)
{
    enum { COUNT = sizeof all / sizeof *all };
    const char *names[COUNT];
    lmoe__text list = {0};
    for (int i = 0; i < COUNT; i++) {
        if (strcmp(name, all[i]->name) == 0) {
            lmoe__text_free(&list);
            return all[i];
        }
        names[i] = all[i]->name;
        lmoe__text_add(&list, "%s%s", i ? ", " : "", names[i]);
    }
    const char *near = lmoe__nearest(name, names, COUNT);
    lmoe_error(ctx, LMOE_E_CONFIG, "there is no tokenizer \"%s\"%s%s%s; there is: %s", name,
               near ? " (did you mean \"" : "", near ? near : "", near ? "\"?)" : "", list.data);
    lmoe__text_free(&list);
    return NULL;
}
