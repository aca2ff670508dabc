/* SPDX-License-Identifier: Apache-2.0
 * core/generate/generate.c: prefill in chunks, decode, state.
 */
#include "core/generate/generate.h"

#include <stdlib.h>

static lmoe_status make(lmoe__generator *g, int64_t seq, int64_t context, lmoe__program **out)
{
    lmoe__model_shape shape = {.batch = 1, .seq = seq, .carries = true, .context = context};
    shape.skips = seq > 1; /* the first chunk may be part-filled */
    return lmoe__engine_program(g->engine, LMOE__GENERATE, &shape, out);
}

lmoe_status lmoe__generator_init(lmoe__generator *g, lmoe__engine *e, int64_t chunk,
                                 int64_t context)
{
    memset(g, 0, sizeof *g);
    g->engine = e;
    g->chunk = chunk;
    g->vocab = e->model->o.vocab_size;
    if (chunk > 1) LMOE_TRY(make(g, chunk, context, &g->prefill));
    LMOE_TRY(make(g, 1, context, &g->decode));
    LMOE_TRY(lmoe__engine_bind(e));
    g->logits = LMOE_NEW_N(e->arena, double, g->vocab);
    g->weight = LMOE_NEW_N(e->arena, double, g->vocab);
    g->order = LMOE_NEW_N(e->arena, int32_t, g->vocab);
    g->tokens = LMOE_NEW_N(e->arena, int32_t, chunk);
    g->positions = LMOE_NEW_N(e->arena, int32_t, chunk);
    g->document = LMOE_NEW_N(e->arena, int32_t, chunk);
    g->skip = LMOE_NEW_N(e->arena, uint8_t, chunk);
    return LMOE_OK;
}

lmoe_status lmoe__generator_restart(lmoe__generator *g)
{
    g->position = 0;
    return lmoe__program_clear_carries(g->engine, g->decode);
}

/* `n` tokens at the end of a program of `size` tokens; those before them are skipped. */
static lmoe_status run(lmoe__generator *g, lmoe__program *p, int64_t size, const int32_t *tokens,
                       int64_t n)
{
    lmoe__engine *e = g->engine;
    int64_t pad = size - n;
    for (int64_t i = 0; i < size; i++) {
        g->skip[i] = i < pad;
        g->tokens[i] = i < pad ? 0 : tokens[i - pad];
        g->positions[i] = (int32_t)(i < pad ? g->position : g->position + i - pad);
        g->document[i] = 0;
    }
    LMOE_TRY(lmoe__program_set(e, p, "in:tokens", g->tokens));
    LMOE_TRY(lmoe__program_set(e, p, "in:positions", g->positions));
    LMOE_TRY(lmoe__program_set(e, p, "in:document", g->document));
    LMOE_TRY(lmoe__program_set(e, p, "in:skip", g->skip));
    LMOE_TRY(lmoe__program_run(e, p));
    g->position += n;
    return LMOE_OK;
}

lmoe_status lmoe__generator_feed(lmoe__generator *g, const int32_t *tokens, int64_t n)
{
    int64_t first = n % g->chunk; /* the odd piece first, so that the last token ends a chunk */
    if (n == 0) return LMOE_OK;
    if (first == 1 || g->chunk == 1) {
        LMOE_TRY(run(g, g->decode, 1, tokens, 1));
        first = 1;
    } else if (first > 0) {
        LMOE_TRY(run(g, g->prefill, g->chunk, tokens, first));
    }
    for (int64_t i = first; i < n; i += g->chunk)
        LMOE_TRY(run(g, g->chunk == 1 ? g->decode : g->prefill, g->chunk, tokens + i, g->chunk));
    lmoe__engine_read(g->engine, "out:logits", g->logits, g->vocab);
    return LMOE_OK;
}

/* ---- state ---- */

typedef struct state_head {
    uint64_t magic, bytes;
    int64_t position;
} state_head;

enum { STATE_MAGIC = 0x314d4c }; /* "LM1" */

size_t lmoe__generator_state_bytes(const lmoe__generator *g)
{
    size_t n = sizeof(state_head) + sizeof(double) * (size_t)g->vocab;
    for (int i = 0; i < g->decode->n_carries; i++)
        n += (size_t)lmoe_desc_bytes(&g->decode->carries[i].desc);
    return n;
}

lmoe_status lmoe__generator_state_get(lmoe__generator *g, void *state)
{
    lmoe__engine *e = g->engine;
    state_head head = {STATE_MAGIC, lmoe__generator_state_bytes(g), g->position};
    char *at = (char *)state + sizeof head;
    memcpy(state, &head, sizeof head);
    memcpy(at, g->logits, sizeof(double) * (size_t)g->vocab);
    at += sizeof(double) * (size_t)g->vocab;
    for (int i = 0; i < g->decode->n_carries; i++) {
        size_t n = (size_t)lmoe_desc_bytes(&g->decode->carries[i].desc);
        lmoe__buffer *b = lmoe__store_find(&e->store, g->decode->carries[i].name);
        LMOE_TRY(e->device->download(e->dev, at, b->data, n));
        at += n;
    }
    return LMOE_OK;
}

lmoe_status lmoe__generator_state_put(lmoe__generator *g, const void *state)
{
    lmoe__engine *e = g->engine;
    state_head head;
    const char *at = (const char *)state + sizeof head;
    memcpy(&head, state, sizeof head);
    if (head.magic != STATE_MAGIC || head.bytes != lmoe__generator_state_bytes(g))
        return lmoe_error(
            e->ctx, LMOE_E_CONFIG,
            "this is not a generation state of this model and context (%llu bytes, %zu expected)",
            (unsigned long long)head.bytes, lmoe__generator_state_bytes(g));
    memcpy(g->logits, at, sizeof(double) * (size_t)g->vocab);
    at += sizeof(double) * (size_t)g->vocab;
    for (int i = 0; i < g->decode->n_carries; i++) {
        size_t n = (size_t)lmoe_desc_bytes(&g->decode->carries[i].desc);
        lmoe__buffer *b = lmoe__store_find(&e->store, g->decode->carries[i].name);
        LMOE_TRY(e->device->upload(e->dev, b->data, at, n));
        at += n;
    }
    g->position = head.position;
    return LMOE_OK;
}
