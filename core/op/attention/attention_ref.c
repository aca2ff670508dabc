/* SPDX-License-Identifier: Apache-2.0
 * core/op/attention/attention_ref.c: reference kernels of attention: one query after another, in
 * double. The equations stand in attention.c.
 *
 * Keys are numbered 0 ... context-1 (cached), then the segment's own.
 */
#include "core/op/carry.h"

#include <math.h>
#include <stdlib.h>

/* Operands and sizes; what a call lacks is absent. */
typedef struct view {
    const lmoe_buf *q, *k, *v, *positions, *document, *skip, *y, *lse, *dy;
    const lmoe_buf *keys, *values, *key_positions;
    int64_t batch, seq, heads, groups, nk, nv, context, own; /* own: keys of the segment, or 0 */
    const lmoe_attention_attrs *o;
} view;

/* From the number of the operand that each member is; -1: the op does not have it. */
static view view_of(const lmoe_args *a, const int port[12])
{
    const lmoe_buf *p[12];
    for (int i = 0; i < 12; i++) p[i] = lmoe__buf_at(a->in, a->n_in, port[i]);
    view w = {.q = p[0], .k = p[1], .v = p[2], .positions = p[3], .document = p[4], .skip = p[5]};
    w.y = p[6], w.lse = p[7], w.dy = p[8];
    w.keys = p[9], w.values = p[10], w.key_positions = p[11];
    const lmoe_buf *k = lmoe_buf_present(w.k) ? w.k : w.keys;
    const lmoe_buf *v = lmoe_buf_present(w.v) ? w.v : w.values;
    w.batch = w.q->dim[0];
    w.seq = w.q->dim[1];
    w.heads = w.q->dim[2];
    w.nk = w.q->dim[3];
    w.groups = k->dim[2];
    w.nv = v->dim[3];
    w.context = lmoe_buf_present(w.keys) ? w.keys->dim[1] : 0;
    w.o = a->attrs;
    w.own = lmoe_buf_present(w.k) && !w.o->past ? w.seq : 0;
    return w;
}

static double key(const view *w, int64_t b, int64_t j, int64_t g, int64_t i)
{
    if (j < w->context)
        return lmoe_get(w->keys, ((b * w->context + j) * w->groups + g) * w->nk + i);
    return lmoe_get(w->k, ((b * w->seq + j - w->context) * w->groups + g) * w->nk + i);
}

static double value(const view *w, int64_t b, int64_t j, int64_t g, int64_t i)
{
    if (j < w->context)
        return lmoe_get(w->values, ((b * w->context + j) * w->groups + g) * w->nv + i);
    return lmoe_get(w->v, ((b * w->seq + j - w->context) * w->groups + g) * w->nv + i);
}

static bool skipped(const view *w, int64_t b, int64_t s)
{
    return lmoe__flag(w->skip, b * w->seq + s);
}

/* Query s sees key j. */
static bool sees(const view *w, int64_t b, int64_t s, int64_t j)
{
    int64_t own = j - w->context, at = b * w->seq + s;
    int64_t p = (int64_t)lmoe_get(w->positions, at), from = (int64_t)lmoe_get(w->document, at);
    if (skipped(w, b, s) || own > s || (own >= 0 && skipped(w, b, own))) return false;
    if (w->o->window > 0 && p - w->o->window + 1 > from) from = p - w->o->window + 1;
    int64_t position = own < 0 ? (int64_t)lmoe_get(w->key_positions, b * w->context + j)
                               : (int64_t)lmoe_get(w->positions, b * w->seq + own);
    return position >= 0 && position >= from && position <= p;
}

static double score(const view *w, int64_t b, int64_t s, int64_t h, int64_t j)
{
    double sum = 0;
    for (int64_t i = 0; i < w->nk; i++)
        sum += lmoe_get(w->q, ((b * w->seq + s) * w->heads + h) * w->nk + i) *
               key(w, b, j, h * w->groups / w->heads, i);
    return w->o->scale * sum;
}

/* ---- the op ---- */

/* One query; p: room for a score of every key. */
static void attend(const view *w, int64_t b, int64_t s, int64_t h, double *p, const lmoe_args *a)
{
    int64_t row = (b * w->seq + s) * w->heads + h, n = w->context + w->own;
    double most = -INFINITY, sum = 0;
    for (int64_t j = 0; j < n; j++) {
        p[j] = sees(w, b, s, j) ? score(w, b, s, h, j) : -INFINITY;
        if (p[j] > most) most = p[j];
    }
    for (int64_t j = 0; j < n; j++) {
        p[j] = p[j] == -INFINITY ? 0 : exp(p[j] - most);
        sum += p[j];
    }
    for (int64_t i = 0; i < w->nv; i++) {
        double y = 0;
        for (int64_t j = 0; j < n; j++) {
            if (p[j] > 0) y += p[j] / sum * value(w, b, j, h * w->groups / w->heads, i);
        }
        lmoe_put(&a->out[0], row * w->nv + i, y);
    }
    lmoe_put(lmoe__buf_at(a->out, a->n_out, 1), row, sum > 0 ? most + log(sum) : -INFINITY);
}

/* Copies the carry in and writes the own keys into the ring, in order. Without a carry in the ring
 * starts empty. */
static void put_ring(const view *w, int64_t b, const lmoe_args *a)
{
    const lmoe_buf *keys = lmoe__buf_at(a->out, a->n_out, 2);
    const lmoe_buf *values = lmoe__buf_at(a->out, a->n_out, 3);
    const lmoe_buf *key_positions = lmoe__buf_at(a->out, a->n_out, 4);
    int64_t slots = w->context > 0 ? w->context : w->seq, nk = w->groups * w->nk,
            nv = w->groups * w->nv;
    bool given = w->context > 0;
    for (int64_t slot = b * slots; slot < (b + 1) * slots; slot++) {
        for (int64_t i = 0; i < nk; i++)
            lmoe_put(keys, slot * nk + i, lmoe_get(w->keys, slot * nk + i)); /* absent: 0 */
        for (int64_t i = 0; i < nv; i++)
            lmoe_put(values, slot * nv + i, lmoe_get(w->values, slot * nv + i));
        lmoe_put(key_positions, slot, given ? lmoe_get(w->key_positions, slot) : -1);
    }
    for (int64_t s = 0; s < w->own; s++) {
        int64_t at = b * w->seq + s, position = (int64_t)lmoe_get(w->positions, at);
        if (skipped(w, b, s) || position < 0) continue;
        int64_t slot = b * slots + position % slots;
        for (int64_t i = 0; i < nk; i++) lmoe_put(keys, slot * nk + i, lmoe_get(w->k, at * nk + i));
        for (int64_t i = 0; i < nv; i++)
            lmoe_put(values, slot * nv + i, lmoe_get(w->v, at * nv + i));
        lmoe_put(key_positions, slot, (double)position);
    }
}

lmoe_status lmoe__attention_ref(const lmoe_args *a)
{
    view w = view_of(a, (const int[12]){0, 1, 2, 3, 4, 5, -1, -1, -1, 6, 7, 8});
    double *p = lmoe__ref_doubles(a, w.context + w.seq);
    if (!p) return LMOE_E_MEMORY;
    for (int64_t b = 0; b < w.batch; b++) {
        for (int64_t s = 0; s < w.seq; s++)
            for (int64_t h = 0; h < w.heads; h++) attend(&w, b, s, h, p, a);
        put_ring(&w, b, a);
    }
    free(p);
    return LMOE_OK;
}

/* ---- its derivative ---- */

/* Adds the part of query s, head h, to dq (head_k), dkeys (keys kv_heads head_k) and dvalues (keys
 * kv_heads head_v), cached keys first. */
static void differentiate(const view *w, int64_t b, int64_t s, int64_t h, double *dq, double *dkeys,
                          double *dvalues)
{
    int64_t row = (b * w->seq + s) * w->heads + h, g = h * w->groups / w->heads;
    double lse = lmoe_get(w->lse, row), dy_y = 0;
    for (int64_t i = 0; i < w->nv; i++)
        dy_y += lmoe_get(w->dy, row * w->nv + i) * lmoe_get(w->y, row * w->nv + i);
    for (int64_t j = 0; j < w->context + w->own; j++) {
        if (!sees(w, b, s, j)) continue;
        double p = exp(score(w, b, s, h, j) - lse), dp = 0;
        for (int64_t i = 0; i < w->nv; i++) {
            double dy = lmoe_get(w->dy, row * w->nv + i);
            dp += dy * value(w, b, j, g, i);
            dvalues[(j * w->groups + g) * w->nv + i] += p * dy;
        }
        double ds = w->o->scale * p * (dp - dy_y);
        for (int64_t i = 0; i < w->nk; i++) {
            dq[i] += ds * key(w, b, j, g, i);
            dkeys[(j * w->groups + g) * w->nk + i] += ds * lmoe_get(w->q, row * w->nk + i);
        }
    }
}

/* Writes n elements of `out` from `at` on: x + more (which may be absent). */
static void put_sum(const lmoe_buf *out, int64_t at, int64_t n, const double *x,
                    const lmoe_buf *more)
{
    for (int64_t i = 0; i < n; i++) lmoe_put(out, at + i, (x ? x[i] : 0) + lmoe_get(more, at + i));
}

/* Gradients of all keys that the call knows: outputs dq, dk, dv (absent in a summary), dkeys,
 * dvalues. */
static lmoe_status backward(const lmoe_args *a, const view *w, const lmoe_buf *const out[5],
                            const lmoe_buf *dk_more, const lmoe_buf *dv_more)
{
    static const lmoe_buf none;
    int64_t nk = w->groups * w->nk, nv = w->groups * w->nv, keys = w->context + w->own;
    double *memory = lmoe__ref_doubles(a, w->nk + keys * (nk + nv));
    if (!memory) return LMOE_E_MEMORY;
    double *dq = memory, *dkeys = dq + w->nk, *dvalues = dkeys + keys * nk;
    for (int64_t b = 0; b < w->batch; b++) {
        memset(dkeys, 0, sizeof *dkeys * (size_t)(keys * (nk + nv)));
        for (int64_t row = 0; row < w->seq * w->heads; row++) {
            memset(dq, 0, sizeof *dq * (size_t)w->nk);
            differentiate(w, b, row / w->heads, row % w->heads, dq, dkeys, dvalues);
            put_sum(out[0], (b * w->seq * w->heads + row) * w->nk, w->nk, dq, &none);
        }
        put_sum(out[3], b * w->context * nk, w->context * nk, dkeys, &none);
        put_sum(out[4], b * w->context * nv, w->context * nv, dvalues, &none);
        const double *dk = w->own ? dkeys + w->context * nk : NULL;
        const double *dv = w->own ? dvalues + w->context * nv : NULL;
        put_sum(out[1], b * w->seq * nk, w->seq * nk, dk, dk_more);
        put_sum(out[2], b * w->seq * nv, w->seq * nv, dv, dv_more);
    }
    free(memory);
    return LMOE_OK;
}

lmoe_status lmoe__attention_grad_ref(const lmoe_args *a)
{
    view w = view_of(a, (const int[12]){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
    const lmoe_buf *out[5];
    for (int i = 0; i < 5; i++) out[i] = lmoe__buf_at(a->out, a->n_out, i);
    return backward(a, &w, out, lmoe__buf_at(a->in, a->n_in, 12), lmoe__buf_at(a->in, a->n_in, 13));
}

lmoe_status lmoe__attention_grad_summary_ref(const lmoe_args *a)
{
    static const lmoe_buf none;
    view w = view_of(a, (const int[12]){0, -1, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9});
    const lmoe_buf *out[5] = {&none, &none, &none, &a->out[0], &a->out[1]};
    return backward(a, &w, out, &none, &none);
}

/* ---- summaries of segments, and what one gets of all of them ---- */

static void copy(const lmoe_buf *to, int64_t at, const lmoe_buf *from, int64_t first, int64_t n)
{
    for (int64_t i = 0; i < n; i++) lmoe_put(to, at + i, lmoe_get(from, first + i));
}

lmoe_status lmoe__attention_summary_ref(const lmoe_args *a)
{
    const lmoe_attention_attrs *o = a->attrs;
    const lmoe_buf *positions = &a->in[2], *skip = lmoe__buf_at(a->in, a->n_in, 3);
    copy(&a->out[0], 0, &a->in[0], 0, lmoe_buf_count(&a->in[0]));
    copy(&a->out[1], 0, &a->in[1], 0, lmoe_buf_count(&a->in[1]));
    for (int64_t i = 0; i < lmoe_buf_count(positions); i++)
        lmoe_put(&a->out[2], i, o->past || lmoe__flag(skip, i) ? -1 : lmoe_get(positions, i));
    return LMOE_OK;
}

lmoe_status lmoe__attention_combine_ref(const lmoe_args *a)
{
    const lmoe_combine_attrs *o = a->attrs;
    int64_t ranks = o->ranks, batch = a->in[2].dim[1], seq = a->in[2].dim[2];
    for (int64_t i = 0; i < ranks * batch; i++) {
        int64_t r = i / batch, b = i % batch;
        for (int m = 0; m < 3; m++) { /* (rank batch seq ...) -> (batch rank seq ...) */
            int64_t n = lmoe_buf_count(&a->in[m]) / (ranks * batch);
            copy(&a->out[m], (b * ranks + r) * n, &a->in[m], i * n, n);
        }
        for (int64_t s = 0; r >= o->rank && s < seq; s++)
            lmoe_put(&a->out[2], (b * ranks + r) * seq + s, -1);
    }
    return LMOE_OK;
}

/* Element i of the gradient of this rank's keys: what every later segment has for them. */
lmoe_status lmoe__attention_grad_combine_ref(const lmoe_args *a)
{
    const lmoe_combine_attrs *o = a->attrs;
    int64_t ranks = o->ranks, batch = a->in[0].dim[1];
    for (int m = 0; m < 2; m++) { /* (rank batch rank seq ...) */
        int64_t n = lmoe_buf_count(&a->in[m]) / (ranks * batch * ranks);
        for (int64_t i = 0; i < batch * n; i++) {
            double sum = 0;
            for (int64_t r = o->rank + 1; r < ranks; r++)
                sum += lmoe_get(&a->in[m], ((r * batch + i / n) * ranks + o->rank) * n + i % n);
            lmoe_put(&a->out[m], i, sum);
        }
    }
    return LMOE_OK;
}
