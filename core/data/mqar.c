/* SPDX-License-Identifier: Apache-2.0
 * core/data/mqar.c: multi-query associative recall (Arora et al. 2023, arXiv 2312.04927): the task
 * on which models with too small or too careless a state fail.
 *
 *   k_1 v_1 k_2 v_2 ... k_n v_n   . . k_3 v_3 . . k_1 v_1 . . . .
 *
 * The first half shows n pairs; keys differ within a document. Then each key is asked for once, and
 * its value is what must be predicted; nothing else is. Between the questions there is token 0.
 * The slots of questions (two tokens each) are drawn without repetition with a probability that
 * falls as 1 / distance^0.99 from the pairs. Ids: 0 blank, keys 1 ... K, values K+1 ... 2K, with
 * K = (vocab - 1) / 2. A document is a function of (seed, its number).
 */
#include "core/data/data.h"

#include <math.h>
#include <stdlib.h>

static const double distance_power = 0.99;

enum { STREAM_KEYS, STREAM_VALUES, STREAM_SLOTS };

static uint64_t stream(int64_t document, int which)
{
    return lmoe__hash_text("mqar") + 4 * (uint64_t)document + (uint64_t)which;
}

typedef struct slot {
    double time;
    int64_t number;
} slot;

static int by_time(const void *a, const void *b)
{
    const slot *x = a, *y = b;
    if (x->time != y->time) return x->time < y->time ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

/* The first `pairs` of exponential clocks with the slots' probabilities as rates: a draw without
 * repetition. */
static void draw_slots(const lmoe__mqar_options *o, int64_t document, slot *slots, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        double u = lmoe__uniform((uint64_t)o->seed, stream(document, STREAM_SLOTS), (uint64_t)i);
        slots[i] = (slot){-log1p(-u) * pow((double)(i + 1), distance_power), i};
    }
    qsort(slots, (size_t)n, sizeof *slots, by_time);
}

static void make_document(const lmoe__mqar_options *o, int64_t document, int32_t *ids,
                          uint8_t *asked, slot *slots)
{
    uint64_t seed = (uint64_t)o->seed, kinds = (uint64_t)(o->vocab - 1) / 2;
    memset(ids, 0, sizeof *ids * (size_t)o->length);
    memset(asked, 0, (size_t)o->length);
    draw_slots(o, document, slots, o->length / 2 - o->pairs);
    for (int64_t i = 0; i < o->pairs; i++) {
        uint64_t at = (uint64_t)i;
        uint64_t key = lmoe__permute(seed, stream(document, STREAM_KEYS), at, kinds);
        uint64_t value = lmoe__below(seed, stream(document, STREAM_VALUES), at, kinds);
        int64_t question = 2 * (o->pairs + slots[i].number);
        ids[2 * i] = ids[question] = (int32_t)(1 + key);
        ids[2 * i + 1] = ids[question + 1] = (int32_t)(1 + kinds + value);
        asked[question + 1] = 1;
    }
}

/* Runs of tokens of one kind. */
static lmoe_status put_document(lmoe__tokens_writer *w, const int32_t *ids, const uint8_t *asked,
                                int64_t n)
{
    for (int64_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && asked[end] == asked[i]; end++) {
        }
        lmoe__tokens_context(w, !asked[i]);
        LMOE_TRY(lmoe__tokens_put(w, ids + i, end - i));
    }
    lmoe__tokens_end_document(w);
    return LMOE_OK;
}

lmoe_status lmoe__mqar(lmoe_ctx *ctx, const lmoe__mqar_options *o, lmoe__prepare_result *r)
{
    lmoe__tokens_writer *w;
    if (o->length % 2 != 0 || o->length / 4 < o->pairs)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "mqar: %lld pairs and as many questions need an even length of %lld "
                          "tokens or more; found %lld",
                          (long long)o->pairs, (long long)(4 * o->pairs), (long long)o->length);
    if ((o->vocab - 1) / 2 < o->pairs)
        return lmoe_error(
            ctx, LMOE_E_CONFIG,
            "mqar: %lld keys that differ need a vocabulary of %lld or more; found %lld",
            (long long)o->pairs, (long long)(2 * o->pairs + 1), (long long)o->vocab);
    LMOE_TRY(lmoe__tokens_create(ctx, o->out, o->vocab, &w));
    int32_t *ids = lmoe__malloc(sizeof *ids * (size_t)o->length);
    uint8_t *asked = lmoe__malloc((size_t)o->length);
    slot *slots = lmoe__malloc(sizeof *slots * (size_t)o->length);
    lmoe_status status = LMOE_OK;
    for (int64_t k = 0; k < o->documents && status == LMOE_OK; k++) {
        make_document(o, k, ids, asked, slots);
        status = put_document(w, ids, asked, o->length);
    }
    free(ids);
    free(asked);
    free(slots);
    if (status != LMOE_OK) {
        lmoe__tokens_discard(w);
        return status;
    }
    r->tokens = lmoe__tokens_written(w, &r->documents);
    return lmoe__tokens_finish(w);
}
