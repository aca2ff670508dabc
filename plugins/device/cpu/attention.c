/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/attention.c: attention/1: tiles of keys, softmax as they come (attention.h).
 *
 *   most' = max(most, scores)   p = exp(scores - most')   f = exp(most - most')
 *   sum' = f sum + sum of p     y' = f y + p^T values     at the end y / sum, lse = most + log sum
 *
 * Where there are few blocks of queries and many keys (decoding), the keys are cut into parts too,
 * which are put together at the end.
 */
#include "attention.h"

enum { Q, K, V, POSITIONS, DOCUMENT, SKIP, KEYS, VALUES, KEY_POSITIONS };
enum { Y, LSE, KEYS_OUT, VALUES_OUT, KEY_POSITIONS_OUT };

typedef struct work {
    attention t;
    const lmoe_args *a;
    int64_t items;  /* blocks of queries, of all kv heads and sequences */
    int64_t parts;  /* of the keys */
    size_t room;    /* bytes of a thread's memory */
    int64_t result; /* floats of what a part leaves: y (lane v), most, sum (lane) */
} work;

/* A thread's memory. */
typedef struct room {
    attention_block q;
    float *query;          /* (k lane) times scale */
    float *keys, *values;  /* (key k), (key v) */
    float *scores;         /* (key lane) */
    float *y, *most, *sum; /* (lane v), (lane) */
    float *factor;         /* (lane) */
} room;

static size_t cut(char *memory, const attention *t, room *r)
{
    char *cursor = memory;
    r->query = cpu_take(&cursor, t->kp * t->lanes);
    r->keys = cpu_take(&cursor, ATTENTION_KEYS * t->kp);
    r->values = cpu_take(&cursor, ATTENTION_KEYS * t->vp);
    r->scores = cpu_take(&cursor, ATTENTION_KEYS * t->lanes);
    r->y = cpu_take(&cursor, t->lanes * (t->vp + 2));
    r->most = r->y + t->lanes * t->vp;
    r->sum = r->most + t->lanes;
    r->factor = cpu_take(&cursor, t->lanes);
    attention_take(&cursor, t, &r->q);
    return (size_t)(cursor - memory);
}

/* Parts of the keys: enough work for many cores, each worth a hand-over. Depends on shapes alone.
 */
static work work_of(const lmoe_args *a)
{
    const int64_t enough = 32, least_keys = 256;
    work w = {.a = a, .t = attention_of(a, &a->in[Q], &a->in[K], &a->in[POSITIONS], &a->in[KEYS])};
    room r;
    w.items = w.t.batch * w.t.groups * w.t.blocks;
    w.parts = cpu_min((enough + w.items - 1) / cpu_max(w.items, 1), w.t.keys / least_keys);
    w.parts = cpu_max(w.parts, 1);
    w.room = cut(NULL, &w.t, &r);
    w.result = w.t.lanes * (w.t.vp + 2);
    return w;
}

static float *part_at(const work *w, int64_t item, int64_t part)
{
    char *after = (char *)w->a->workspace + (size_t)lmoe_threads(w->a->ctx) * w->room;
    return (float *)(void *)after + (item * w->parts + part) * w->result;
}

/* Scores become exp(scores - most), most and sum go on, factor is what the past is worth. */
static void soften(int64_t count, int64_t lanes, float *restrict scores, float *restrict most,
                   float *restrict sum, float *restrict factor)
{
    CPU_SIMD
    for (int64_t l = 0; l < lanes; l++) factor[l] = most[l];
    for (int64_t j = 0; j < count; j++) {
        CPU_SIMD
        for (int64_t l = 0; l < lanes; l++) {
            float x = scores[j * lanes + l];
            most[l] = x > most[l] ? x : most[l];
        }
    }
    CPU_SIMD
    for (int64_t l = 0; l < lanes; l++) {
        float base = most[l] == -INFINITY ? 0.0f : most[l];
        factor[l] = cpu_expf(factor[l] - base);
        sum[l] *= factor[l];
    }
    for (int64_t j = 0; j < count; j++) {
        CPU_SIMD
        for (int64_t l = 0; l < lanes; l++) {
            float base = most[l] == -INFINITY ? 0.0f : most[l];
            float p = cpu_expf(scores[j * lanes + l] - base);
            scores[j * lanes + l] = p;
            sum[l] += p;
        }
    }
}

/* Queries of r->q against keys begin ... end-1: leaves y, most, sum. */
static void attend(const work *w, int64_t begin, int64_t end, room *r)
{
    const attention *t = &w->t;
    attention_block *q = &r->q;
    attention_enter(t, begin, end, q);
    attention_turn(t, q, t->q, t->nk, t->scale, r->query);
    memset(r->y, 0, sizeof *r->y * (size_t)(t->lanes * t->vp));
    for (int64_t l = 0; l < t->lanes; l++) {
        r->most[l] = -INFINITY;
        r->sum[l] = 0;
    }
    for (int64_t first = 0; first < q->listed; first += ATTENTION_KEYS) {
        int64_t n = cpu_min(ATTENTION_KEYS, q->listed - first);
        attention_gather(t, q, t->k, t->cached_k, t->nk, first, n, r->keys);
        attention_gather(t, q, t->v, t->cached_v, t->nv, first, n, r->values);
        tile_multiply(n, t->lanes, t->kp, r->keys, t->kp, r->query, t->lanes, r->scores, t->lanes);
        attention_mask(t, q, first, n, r->scores);
        soften(n, t->lanes, r->scores, r->most, r->sum, r->factor);
        for (int64_t l = 0; l < q->n; l++) {
            float f = r->factor[l];
            CPU_SIMD
            for (int64_t d = 0; d < (f != 1.0f ? t->vp : 0); d++) r->y[l * t->vp + d] *= f;
        }
        tile_add_transposed(q->n, t->vp, n, r->scores, t->lanes, r->values, t->vp, r->y, t->vp);
    }
}

/* Results of a block of queries, from y, most, sum. */
static void put(const work *w, const room *r)
{
    const attention *t = &w->t;
    const lmoe_buf *y = &w->a->out[Y], *lse = &w->a->out[LSE];
    for (int64_t l = 0; l < r->q.n; l++) {
        float sum = r->sum[l], f = sum > 0 ? 1.0f / sum : 0.0f;
        if (lmoe_buf_present(lse))
            *attention_lane(t, &r->q, lse, l, 1) =
                sum > 0 ? (float)((double)r->most[l] + log((double)sum)) : -INFINITY;
        if (!lmoe_buf_present(y)) continue;
        float *to = attention_lane(t, &r->q, y, l, t->nv);
        const float *from = r->y + l * t->vp;
        CPU_SIMD
        for (int64_t d = 0; d < t->nv; d++) to[d] = f * from[d];
    }
}

/* Which queries: later blocks see more keys, so early and late ones alternate. */
static void find(const work *w, int64_t item, attention_block *q)
{
    int64_t i = item % w->t.blocks, of = item / w->t.blocks;
    int64_t block = i % 2 == 0 ? i / 2 : w->t.blocks - 1 - i / 2;
    q->b = of / w->t.groups;
    q->g = of % w->t.groups;
    q->first = block * w->t.queries;
}

static void run(void *arg, int64_t begin, int64_t end, int thread)
{
    const work *w = arg;
    room r;
    cut((char *)w->a->workspace + (size_t)thread * w->room, &w->t, &r);
    for (int64_t i = begin; i < end; i++) {
        int64_t item = i / w->parts, part = i % w->parts;
        find(w, item, &r.q);
        attend(w, w->t.keys * part / w->parts, w->t.keys * (part + 1) / w->parts, &r);
        if (w->parts == 1)
            put(w, &r);
        else
            memcpy(part_at(w, item, part), r.y, sizeof *r.y * (size_t)w->result);
    }
}

/* Puts the parts of an item together. */
static void merge(void *arg, int64_t begin, int64_t end, int thread)
{
    const work *w = arg;
    const attention *t = &w->t;
    room r;
    cut((char *)w->a->workspace + (size_t)thread * w->room, t, &r);
    for (int64_t item = begin; item < end; item++) {
        find(w, item, &r.q);
        r.q.n = cpu_min(t->queries, t->seq - r.q.first) * t->share;
        for (int64_t l = 0; l < r.q.n; l++) {
            float most = -INFINITY, *y = r.y + l * t->vp;
            for (int64_t p = 0; p < w->parts; p++)
                most = fmaxf(most, part_at(w, item, p)[t->lanes * t->vp + l]);
            memset(y, 0, sizeof *y * (size_t)t->vp);
            r.most[l] = most;
            r.sum[l] = 0;
            for (int64_t p = 0; p < w->parts && most > -INFINITY; p++) {
                const float *part = part_at(w, item, p), *of = part + t->lanes * t->vp + l;
                float f = cpu_expf(of[0] - most);
                r.sum[l] += f * of[t->lanes];
                CPU_SIMD
                for (int64_t d = 0; d < t->vp; d++) y[d] += f * part[l * t->vp + d];
            }
        }
        put(w, &r);
    }
}

/* ---- the ring of keys ---- */

/* One sequence's cache (slot groups n) after this segment; from: before it, or NULL. */
static void put_ring(const attention *t, int64_t b, int64_t n, const float *own, const float *from,
                     const lmoe_buf *out)
{
    int64_t slots = out->dim[1], row = t->groups * n;
    float *to = (float *)out->data + b * slots * row;
    if (from)
        from += b * slots * row;
    else
        memset(to, 0, sizeof *to * (size_t)(slots * row));
    if (from && from != to) memcpy(to, from, sizeof *to * (size_t)(slots * row));
    for (int64_t s = 0; s < (t->k ? t->seq : 0); s++) { /* past: none is added */
        int32_t p = attention_position(t, b, t->context + s);
        if (p >= 0)
            memcpy(to + p % slots * row, own + (b * t->seq + s) * row, sizeof *to * (size_t)row);
    }
}

static void put_positions(const attention *t, int64_t b, const lmoe_buf *out)
{
    int64_t slots = out->dim[1];
    int32_t *to = (int32_t *)out->data + b * slots;
    for (int64_t i = 0; i < slots; i++)
        to[i] = t->cached_positions ? t->cached_positions[b * slots + i] : -1;
    for (int64_t s = 0; s < (t->k ? t->seq : 0); s++) { /* past: none is added */
        int32_t p = attention_position(t, b, t->context + s);
        if (p >= 0) to[p % slots] = p;
    }
}

static void put_rings(void *arg, int64_t begin, int64_t end, int thread)
{
    const work *w = arg;
    const attention *t = &w->t;
    const lmoe_buf *out = w->a->out;
    for (int64_t b = begin; b < end; b++) {
        if (lmoe_buf_present(&out[KEYS_OUT]))
            put_ring(t, b, t->nk, t->k, t->cached_k, &out[KEYS_OUT]);
        if (lmoe_buf_present(&out[VALUES_OUT]))
            put_ring(t, b, t->nv, t->v, t->cached_v, &out[VALUES_OUT]);
        if (lmoe_buf_present(&out[KEY_POSITIONS_OUT])) put_positions(t, b, &out[KEY_POSITIONS_OUT]);
    }
}

/* ---- the kernel ---- */

static lmoe_status launch(const lmoe_args *a)
{
    work w = work_of(a);
    int64_t cost = w.t.lanes * w.t.keys / w.parts * (w.t.kp + w.t.vp) / 32;
    if (lmoe_buf_present(&a->out[Y]) || lmoe_buf_present(&a->out[LSE])) {
        LMOE_TRY(lmoe_parallel(a->ctx, w.items * w.parts, cpu_grain(cost), run, &w));
        if (w.parts > 1)
            LMOE_TRY(lmoe_parallel(a->ctx, w.items, cpu_grain(w.parts * w.result), merge, &w));
    }
    /* Last: the cache may be changed in place. */
    return lmoe_parallel(a->ctx, w.t.batch, cpu_grain(w.t.keys * w.t.groups * w.t.kp), put_rings,
                         &w);
}

static size_t workspace(const lmoe_args *a)
{
    work w = work_of(a);
    size_t parts = w.parts > 1 ? (size_t)(w.items * w.parts * w.result) * sizeof(float) : 0;
    return (size_t)lmoe_threads(a->ctx) * w.room + parts;
}

static int can(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[Q]) && cpu_is_f32(&a->in[K]) && cpu_is_f32(&a->in[V]) &&
           cpu_f32_or_absent(&a->in[KEYS]) && cpu_f32_or_absent(&a->in[VALUES]);
}

CPU_KERNEL(attention, 1, can, workspace, launch)
