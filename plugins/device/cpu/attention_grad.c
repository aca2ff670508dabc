/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/attention_grad.c: attention_grad/1 and attention_grad_summary/1, from the
 * forward op's log-sum-exp (attention.h).
 *
 *   p = exp(scale q . k - lse)          ds = p (dy . v - dy . y)
 *   dq = scale sum of ds k              dk = scale sum of ds q         dv = sum of p dy
 *
 * A thread takes a kv head of a sequence and owns the gradients of its keys: blocks of queries add
 * to them one after another.
 */
#include "attention.h"

/* A call. What the op does not have is NULL: own keys, and what belongs to them. */
typedef struct work {
    const lmoe_args *a;
    attention t;
    const lmoe_buf *q, *y, *lse, *dy, *dk_more, *dv_more;
    const lmoe_buf *dq, *dk, *dv, *dkeys, *dvalues;
} work;

/* A thread's memory. */
typedef struct room {
    attention_block q;
    float *query, *query_t; /* (lane k), (k lane), both times scale */
    float *dy, *dy_t;       /* (lane v), (v lane) */
    float *dq;              /* (lane k) */
    float *lse, *dot;       /* (lane); dot: dy . y */
    float *keys, *values;   /* (key k), (key v) of a tile */
    float *p, *ds;          /* (key lane) */
    float *part;            /* (key k) or (key v): what a block adds to the gradients of a tile */
    float *dkeys, *dvalues; /* (keys k), (keys v): all keys */
} room;

static size_t cut(char *memory, const attention *t, room *r)
{
    char *cursor = memory;
    r->query = cpu_take(&cursor, t->lanes * t->kp);
    r->query_t = cpu_take(&cursor, t->kp * t->lanes);
    r->dy = cpu_take(&cursor, t->lanes * t->vp);
    r->dy_t = cpu_take(&cursor, t->vp * t->lanes);
    r->dq = cpu_take(&cursor, t->lanes * t->kp);
    r->lse = cpu_take(&cursor, t->lanes);
    r->dot = cpu_take(&cursor, t->lanes);
    r->keys = cpu_take(&cursor, ATTENTION_KEYS * t->kp);
    r->values = cpu_take(&cursor, ATTENTION_KEYS * t->vp);
    r->p = cpu_take(&cursor, ATTENTION_KEYS * t->lanes);
    r->ds = cpu_take(&cursor, ATTENTION_KEYS * t->lanes);
    r->part = cpu_take(&cursor, ATTENTION_KEYS * cpu_max(t->kp, t->vp));
    r->dkeys = cpu_take(&cursor, t->keys * t->kp);
    r->dvalues = cpu_take(&cursor, t->keys * t->vp);
    attention_take(&cursor, t, &r->q);
    return (size_t)(cursor - memory);
}

/* Lanes of x as padded rows, times factor; zeros past the last. */
static void load_lanes(const attention *t, const attention_block *q, const lmoe_buf *x, int64_t n,
                       float factor, float *to)
{
    int64_t padded = cpu_padded(n);
    memset(to, 0, sizeof *to * (size_t)(t->lanes * padded));
    for (int64_t l = 0; l < q->n; l++) {
        const float *from = attention_lane(t, q, x, l, n);
        CPU_SIMD
        for (int64_t d = 0; d < n; d++) to[l * padded + d] = factor * from[d];
    }
}

static void load_block(const work *w, room *r)
{
    const attention *t = &w->t;
    attention_block *q = &r->q;
    attention_enter(t, 0, t->keys, q);
    load_lanes(t, q, w->q, t->nk, t->scale, r->query);
    load_lanes(t, q, w->dy, t->nv, 1, r->dy);
    attention_turn(t, q, w->q, t->nk, t->scale, r->query_t);
    attention_turn(t, q, w->dy, t->nv, 1, r->dy_t);
    memset(r->dq, 0, sizeof *r->dq * (size_t)(t->lanes * t->kp));
    for (int64_t l = 0; l < t->lanes; l++) {
        float lse = 0, dot = 0;
        if (l < q->n) {
            const float *dy = r->dy + l * t->vp, *y = attention_lane(t, q, w->y, l, t->nv);
            CPU_SIMD_SUM(dot)
            for (int64_t d = 0; d < t->nv; d++) dot += dy[d] * y[d];
            lse = *attention_lane(t, q, w->lse, l, 1);
        }
        r->lse[l] = lse == -INFINITY ? INFINITY : lse; /* sees nothing */
        r->dot[l] = dot;
    }
}

/* p: scores become exp(scores - lse); ds: dy . v becomes p (dy . v - dot) */
static void soften(int64_t count, int64_t lanes, const float *restrict lse,
                   const float *restrict dot, float *restrict p, float *restrict ds)
{
    for (int64_t j = 0; j < count; j++, p += lanes, ds += lanes) {
        CPU_SIMD
        for (int64_t l = 0; l < lanes; l++) {
            float e = cpu_expf(p[l] - lse[l]);
            p[l] = e;
            ds[l] = e * (ds[l] - dot[l]);
        }
    }
}

/* Adds the rows of a tile to those of its keys. */
static void add_part(const attention_block *q, int64_t first, int64_t count, int64_t n,
                     const float *restrict part, float *restrict all)
{
    for (int64_t j = 0; j < count; j++, part += n) {
        float *restrict to = all + q->list[first + j] * n;
        CPU_SIMD
        for (int64_t d = 0; d < n; d++) to[d] += part[d];
    }
}

static void add_tile(const work *w, room *r, int64_t first)
{
    const attention *t = &w->t;
    const attention_block *q = &r->q;
    int64_t n = cpu_min(ATTENTION_KEYS, q->listed - first), lanes = t->lanes;
    attention_gather(t, q, t->k, t->cached_k, t->nk, first, n, r->keys);
    attention_gather(t, q, t->v, t->cached_v, t->nv, first, n, r->values);
    tile_multiply(n, lanes, t->kp, r->keys, t->kp, r->query_t, lanes, r->p, lanes);
    tile_multiply(n, lanes, t->vp, r->values, t->vp, r->dy_t, lanes, r->ds, lanes);
    attention_mask(t, q, first, n, r->p);
    soften(n, lanes, r->lse, r->dot, r->p, r->ds);
    tile_multiply(n, t->vp, q->n, r->p, lanes, r->dy, t->vp, r->part, t->vp);
    add_part(q, first, n, t->vp, r->part, r->dvalues);
    tile_multiply(n, t->kp, q->n, r->ds, lanes, r->query, t->kp, r->part, t->kp);
    add_part(q, first, n, t->kp, r->part, r->dkeys);
    if (w->dq) tile_add_transposed(q->n, t->kp, n, r->ds, lanes, r->keys, t->kp, r->dq, t->kp);
}

static void put_dq(const attention *t, const room *r, const lmoe_buf *dq)
{
    for (int64_t l = 0; l < r->q.n; l++) {
        float *to = attention_lane(t, &r->q, dq, l, t->nk);
        const float *from = r->dq + l * t->kp;
        CPU_SIMD
        for (int64_t d = 0; d < t->nk; d++) to[d] = t->scale * from[d];
    }
}

/* out (batch row kv_heads n) of one kv head = gradients (row padded n) + more; each may be absent or
 * NULL. */
static void put_keys(const attention *t, const attention_block *q, const lmoe_buf *out,
                     const lmoe_buf *more, int64_t n, const float *from)
{
    if (!out || !lmoe_buf_present(out)) return;
    const float *plus = more ? more->data : NULL;
    for (int64_t i = 0; i < out->dim[1]; i++, from += from ? cpu_padded(n) : 0) {
        int64_t at = ((q->b * out->dim[1] + i) * t->groups + q->g) * n;
        float *to = (float *)out->data + at;
        if (from)
            cpu_copy(to, from, n);
        else
            memset(to, 0, sizeof *to * (size_t)n);
        for (int64_t d = 0; d < (plus ? n : 0); d++) to[d] += plus[at + d];
    }
}

static void run(void *arg, int64_t begin, int64_t end, int thread)
{
    const work *w = arg;
    const attention *t = &w->t;
    room r;
    size_t bytes = cut(NULL, t, &r);
    cut((char *)w->a->workspace + (size_t)thread * bytes, t, &r);
    for (int64_t i = begin; i < end; i++) {
        r.q.b = i / t->groups;
        r.q.g = i % t->groups;
        memset(r.dkeys, 0, sizeof *r.dkeys * (size_t)(t->keys * t->kp));
        memset(r.dvalues, 0, sizeof *r.dvalues * (size_t)(t->keys * t->vp));
        for (r.q.first = 0; r.q.first < t->seq; r.q.first += t->queries) {
            load_block(w, &r);
            for (int64_t first = 0; first < r.q.listed; first += ATTENTION_KEYS)
                add_tile(w, &r, first);
            if (w->dq && lmoe_buf_present(w->dq)) put_dq(t, &r, w->dq);
        }
        put_keys(t, &r.q, w->dkeys, NULL, t->nk, r.dkeys);
        put_keys(t, &r.q, w->dvalues, NULL, t->nv, r.dvalues);
        float *dk = t->k ? r.dkeys + t->context * t->kp : NULL; /* past: own keys are not seen */
        float *dv = t->k ? r.dvalues + t->context * t->vp : NULL;
        put_keys(t, &r.q, w->dk, w->dk_more, t->nk, dk);
        put_keys(t, &r.q, w->dv, w->dv_more, t->nv, dv);
    }
}

static lmoe_status launch(work w)
{
    int64_t cost = w.t.seq * w.t.share * w.t.keys * (w.t.kp + w.t.vp) / 16;
    return lmoe_parallel(w.a->ctx, w.t.batch * w.t.groups, cpu_grain(cost), run, &w);
}

static size_t workspace(work w)
{
    room r;
    return (size_t)lmoe_threads(w.a->ctx) * cut(NULL, &w.t, &r);
}

/* ---- attention_grad: q, k, v, positions, document, skip, y, lse, dy, keys, values, key_positions,
 * dk_more, dv_more -> dq, dk, dv, dkeys, dvalues ---- */

static work grad_of(const lmoe_args *a)
{
    const lmoe_buf *in = a->in, *out = a->out;
    return (work){.a = a,
                  .t = attention_of(a, &in[0], &in[1], &in[3], &in[9]),
                  .q = &in[0],
                  .y = &in[6],
                  .lse = &in[7],
                  .dy = &in[8],
                  .dk_more = &in[12],
                  .dv_more = &in[13],
                  .dq = &out[0],
                  .dk = &out[1],
                  .dv = &out[2],
                  .dkeys = &out[3],
                  .dvalues = &out[4]};
}

static lmoe_status launch_grad(const lmoe_args *a)
{
    return launch(grad_of(a));
}

static size_t workspace_grad(const lmoe_args *a)
{
    return workspace(grad_of(a));
}

/* ---- attention_grad_summary: q, positions, document, skip, y, lse, dy, keys, values,
 * key_positions -> dkeys, dvalues ---- */

static work summary_of(const lmoe_args *a)
{
    const lmoe_buf *in = a->in, *out = a->out;
    return (work){.a = a,
                  .t = attention_of(a, &in[0], NULL, &in[1], &in[7]),
                  .q = &in[0],
                  .y = &in[4],
                  .lse = &in[5],
                  .dy = &in[6],
                  .dkeys = &out[0],
                  .dvalues = &out[1]};
}

static lmoe_status launch_summary(const lmoe_args *a)
{
    return launch(summary_of(a));
}

static size_t workspace_summary(const lmoe_args *a)
{
    return workspace(summary_of(a));
}

/* Every float is f32. */
static int can(const lmoe_args *a)
{
    for (int i = 0; i < a->n_in; i++) {
        if (lmoe_dtype_is_float(a->in[i].dtype) && !cpu_is_f32(&a->in[i])) return 0;
    }
    return 1;
}

CPU_KERNEL(attention_grad, 1, can, workspace_grad, launch_grad)
CPU_KERNEL(attention_grad_summary, 1, can, workspace_summary, launch_summary)
