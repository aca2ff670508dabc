/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/attention.h: what the kernels of attention share.
 *
 * Queries go in blocks of about 64 lanes: a lane is a query of one head, and heads that read the
 * same kv head lie in one block. Keys go in tiles of KEYS, gathered from the cache and the segment:
 * only those that some query of the block may see, so that empty slots, other documents and what is
 * out of the window cost nothing. Scores are kept as (key lane): whatever is done for each query is
 * then vertical, and of the products' operands only the queries are transposed, once a block.
 */
#ifndef CPU_ATTENTION_H
#define CPU_ATTENTION_H

#include "tile.h"
#include "vec.h"

enum { ATTENTION_KEYS = 64, ATTENTION_LANES = 64 };

typedef struct attention {
    int64_t batch, seq, heads, groups, context, keys; /* keys: cached and own */
    int64_t nk, nv, kp, vp;                           /* sizes of heads, and padded */
    int64_t share;                                    /* heads of a kv head */
    int64_t queries, blocks, lanes; /* of a block (lanes: padded), and how many there are */
    int64_t window;
    float scale;
    const lmoe_buf *q;
    const float *k, *v, *cached_k, *cached_v;
    const int32_t *positions, *document, *cached_positions;
    const uint8_t *skip; /* or NULL */
} attention;

/* q: (batch seq heads head_k), then k, v or NULL; three buffers from `masks` on: positions,
 * document, skip; from `cached` on, maybe absent: keys, values, their positions. Some keys there
 * must be. */
static inline attention attention_of(const lmoe_args *a, const lmoe_buf *q, const lmoe_buf *own,
                                     const lmoe_buf *masks, const lmoe_buf *cached)
{
    const lmoe_attention_attrs *o = a->attrs;
    const lmoe_buf *k = own ? own : cached;
    if (o->past) own = NULL; /* sizes are theirs all the same */
    attention t = {.batch = q->dim[0], .seq = q->dim[1], .heads = q->dim[2]};
    t.groups = k[0].dim[2];
    t.share = t.heads / t.groups;
    t.context = lmoe_buf_present(cached) ? cached->dim[1] : 0;
    t.keys = t.context + (own ? t.seq : 0);
    t.nk = k[0].dim[3];
    t.nv = k[1].dim[3];
    t.kp = cpu_padded(t.nk);
    t.vp = cpu_padded(t.nv);
    t.queries = cpu_min(t.seq, cpu_max(1, ATTENTION_LANES / t.share));
    t.blocks = (t.seq + t.queries - 1) / cpu_max(t.queries, 1);
    t.lanes = cpu_padded(t.queries * t.share);
    t.window = o->window;
    t.scale = (float)o->scale;
    t.q = q;
    t.k = own ? own[0].data : NULL;
    t.v = own ? own[1].data : NULL;
    t.positions = masks[0].data;
    t.document = masks[1].data;
    t.skip = masks[2].data;
    if (t.context > 0) {
        t.cached_k = cached[0].data;
        t.cached_v = cached[1].data;
        t.cached_positions = cached[2].data;
    }
    return t;
}

/* ---- a block of queries ---- */

typedef struct attention_block {
    int64_t b, g, first, queries, n; /* sequence, kv head, first query, how many; lanes in use */
    int32_t *from, *to, *self;       /* (lane) positions seen; own keys seen: up to this token */
    int32_t *list;                   /* keys that some query may see */
    int64_t listed;
    int32_t most_from, least_to, least_self;
} attention_block;

/* Memory of a block. */
static inline void attention_take(char **cursor, const attention *t, attention_block *q)
{
    q->from = (int32_t *)(void *)cpu_take(cursor, t->lanes);
    q->to = (int32_t *)(void *)cpu_take(cursor, t->lanes);
    q->self = (int32_t *)(void *)cpu_take(cursor, t->lanes);
    q->list = (int32_t *)(void *)cpu_take(cursor, t->keys);
}

/* Positions that query s sees; none: from > to. */
static inline void attention_range(const attention *t, int64_t b, int64_t s, int32_t *from,
                                   int32_t *to)
{
    int64_t at = b * t->seq + s, last = t->positions[at], first = t->document[at];
    if (t->window > 0) first = cpu_max(first, last - t->window + 1);
    int none = first > last || last < 0 || (t->skip && t->skip[at]);
    *from = none ? INT32_MAX : (int32_t)cpu_max(first, 0);
    *to = none ? -1 : (int32_t)last;
}

/* Position of key i (cached keys first); -1: never seen. */
static inline int32_t attention_position(const attention *t, int64_t b, int64_t i)
{
    if (i < t->context) return t->cached_positions[b * t->context + i];
    int64_t at = b * t->seq + i - t->context;
    return t->skip && t->skip[at] ? -1 : t->positions[at];
}

/* Lanes of queries first ..., and the keys begin ... end-1 that they may see. from, to, self, list:
 * memory. Lanes past the last one see what the first one sees, and count nowhere. */
static inline void attention_enter(const attention *t, int64_t begin, int64_t end,
                                   attention_block *q)
{
    int32_t least = INT32_MAX, most = -1;
    q->queries = cpu_min(t->queries, t->seq - q->first);
    q->n = q->queries * t->share;
    q->most_from = -1;
    q->least_to = q->least_self = INT32_MAX;
    for (int64_t i = 0; i < t->lanes; i++) {
        int64_t s = q->first + (i < q->n ? i / t->share : 0);
        attention_range(t, q->b, s, &q->from[i], &q->to[i]);
        q->self[i] = (int32_t)s;
        least = q->from[i] < least ? q->from[i] : least;
        most = q->to[i] > most ? q->to[i] : most;
        q->most_from = q->from[i] > q->most_from ? q->from[i] : q->most_from;
        q->least_to = q->to[i] < q->least_to ? q->to[i] : q->least_to;
        q->least_self = q->self[i] < q->least_self ? q->self[i] : q->least_self;
    }
    q->listed = 0;
    end = cpu_min(end, cpu_min(t->keys, t->context + q->first + q->queries));
    for (int64_t i = begin; i < end; i++) {
        int32_t p = attention_position(t, q->b, i);
        if (p >= least && p <= most) q->list[q->listed++] = (int32_t)i;
    }
}

/* Row of lane i in a tensor (batch seq heads n). */
static inline float *attention_lane(const attention *t, const attention_block *q, const lmoe_buf *x,
                                    int64_t i, int64_t n)
{
    int64_t token = q->b * t->seq + q->first + i / t->share;
    return (float *)x->data + (token * t->heads + q->g * t->share + i % t->share) * n;
}

/* to (padded n, lanes) = factor x^T over the lanes of the block */
static inline void attention_turn(const attention *t, const attention_block *q, const lmoe_buf *x,
                                  int64_t n, float factor, float *to)
{
    memset(to, 0, sizeof *to * (size_t)(cpu_padded(n) * t->lanes));
    int64_t i = 0;
    for (; i + 4 <= q->n; i += 4) {
        const float *from[4];
        int64_t d = 0;
        for (int r = 0; r < 4; r++) from[r] = attention_lane(t, q, x, i + r, n);
        for (; d + 4 <= n; d += 4) {
            cpu_turn(from, to + d * t->lanes + i, t->lanes);
            for (int r = 0; r < 4; r++) from[r] += 4;
        }
        for (; d < n; d++) {
            for (int r = 0; r < 4; r++) to[d * t->lanes + i + r] = *from[r]++;
        }
    }
    for (; i < q->n; i++) {
        const float *from = attention_lane(t, q, x, i, n);
        for (int64_t d = 0; d < n; d++) to[d * t->lanes + i] = from[d];
    }
    CPU_SIMD
    for (int64_t j = 0; j < (factor != 1.0f ? n * t->lanes : 0); j++) to[j] *= factor;
}

/* ---- a tile of keys ---- */

/* Row of key i in k or v (n: head_k or head_v). */
static inline const float *attention_key(const attention *t, const attention_block *q,
                                         const float *own, const float *cached, int64_t i,
                                         int64_t n)
{
    int64_t row = i < t->context ? q->b * t->context + i : q->b * t->seq + i - t->context;
    return (i < t->context ? cached : own) + (row * t->groups + q->g) * n;
}

/* Listed keys first ... first+count-1 as padded rows. */
static inline void attention_gather(const attention *t, const attention_block *q, const float *own,
                                    const float *cached, int64_t n, int64_t first, int64_t count,
                                    float *to)
{
    int64_t padded = cpu_padded(n);
    for (int64_t j = first; j < first + count; j++, to += padded) {
        if (j + ATTENTION_KEYS < q->listed) {
            int64_t far = q->list[j + ATTENTION_KEYS];
            const char *line = (const char *)attention_key(t, q, own, cached, far, n);
            for (int64_t i = 0; i < n * 4; i += 64) __builtin_prefetch(line + i, 0, 2);
        }
        cpu_copy(to, attention_key(t, q, own, cached, q->list[j], n), n);
        for (int64_t d = n; d < padded; d++) to[d] = 0;
    }
}

/* Scores (key lane) of what a query does not see become -infinity. */
static inline void attention_mask(const attention *t, const attention_block *q, int64_t first,
                                  int64_t count, float *scores)
{
    const int32_t *from = q->from, *to = q->to, *self = q->self;
    for (int64_t j = 0; j < count; j++, scores += t->lanes) {
        int64_t i = q->list[first + j];
        int32_t p = attention_position(t, q->b, i);
        int32_t own = i < t->context ? -1 : (int32_t)(i - t->context);
        if (p >= q->most_from && p <= q->least_to && own <= q->least_self) continue;
        CPU_SIMD
        for (int64_t l = 0; l < t->lanes; l++) {
            int seen = (p >= from[l]) & (p <= to[l]) & (own <= self[l]);
            scores[l] = seen ? scores[l] : -INFINITY;
        }
    }
}

#endif
