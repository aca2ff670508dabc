/* SPDX-License-Identifier: Apache-2.0
 * core/op/scan_delta/scan_delta_ref.c: reference kernels of scan_delta: step by step, in double.
 * The equations stand in scan_delta.c.
 */
#include "core/op/carry.h"

#include <math.h>
#include <stdlib.h>

/* One head of one sequence of the batch. */
typedef struct lane {
    const lmoe_buf *q, *k, *v, *a, *b, *decay, *reset, *skip, *dy; /* b: k where it is absent */
    int64_t batch, seq, steps, heads, nk, nv;                      /* sizes */
    int64_t row, head;                                             /* which one */
    double scale;
} lane;

/* Operands by their ports; -1: the op has no such port. */
typedef struct places {
    int q, k, v, a, b, decay, reset, skip, dy;
} places;

static lane lane_of(const lmoe_args *args, places p)
{
    lane c = {.scale = ((const lmoe_scan_delta_attrs *)args->attrs)->scale};
    c.q = lmoe__buf_at(args->in, args->n_in, p.q);
    c.k = lmoe__buf_at(args->in, args->n_in, p.k);
    c.v = lmoe__buf_at(args->in, args->n_in, p.v);
    c.a = lmoe__buf_at(args->in, args->n_in, p.a);
    c.b = lmoe__buf_at(args->in, args->n_in, p.b);
    c.decay = lmoe__buf_at(args->in, args->n_in, p.decay);
    c.reset = lmoe__buf_at(args->in, args->n_in, p.reset);
    c.skip = lmoe__buf_at(args->in, args->n_in, p.skip);
    c.dy = lmoe__buf_at(args->in, args->n_in, p.dy);
    if (!lmoe_buf_present(c.b)) c.b = c.k;
    const lmoe_buf *v = lmoe_buf_present(c.v) ? c.v : c.dy;
    c.batch = c.k->dim[0];
    c.seq = c.k->dim[1];
    c.steps = c.k->rank == 5 ? c.k->dim[2] : 1;
    c.heads = c.k->dim[c.k->rank - 2];
    c.nk = c.k->dim[c.k->rank - 1];
    c.nv = v->dim[v->rank - 1];
    return c;
}

static void enter(lane *c, int64_t index)
{
    c->row = index / c->heads;
    c->head = index % c->heads;
}

static int64_t token(const lane *c, int64_t s)
{
    return c->row * c->seq + s;
}

/* Index of the first of n elements: of a token (b s h n), of a step (b s step h n). */
static int64_t at_token(const lane *c, int64_t s, int64_t n)
{
    return (token(c, s) * c->heads + c->head) * n;
}

static int64_t at_step(const lane *c, int64_t s, int64_t step, int64_t n)
{
    return ((token(c, s) * c->steps + step) * c->heads + c->head) * n;
}

static int64_t decay_index(const lane *c, int64_t s, int64_t i)
{
    return c->decay->rank == 1   ? c->head
           : c->decay->rank == 3 ? at_token(c, s, 1)
                                 : at_token(c, s, c->nk) + i;
}

static double decay_at(const lane *c, int64_t s, int64_t i)
{
    return lmoe_buf_present(c->decay) ? lmoe_get(c->decay, decay_index(c, s, i)) : 0;
}

/* exp(log) x; what is forgotten is gone, whatever it was. */
static double faded(double log, double x)
{
    double a = exp(log);
    return a == 0 ? 0 : a * x;
}

/* ---- states of one lane: (head_k columns) doubles ---- */

static void load(const lane *c, const lmoe_buf *carry, double *m)
{
    int64_t n = c->nk * c->nv, first = (c->row * c->heads + c->head) * n;
    for (int64_t i = 0; i < n; i++) m[i] = lmoe_get(carry, first + i); /* absent: 0 */
}

static void store(const lane *c, const lmoe_buf *out, int64_t columns, const double *m)
{
    int64_t n = c->nk * columns, first = (c->row * c->heads + c->head) * n;
    for (int64_t i = 0; i < n; i++) lmoe_put(out, first + i, m[i]);
}

static void fade(const lane *c, int64_t s, int64_t columns, double *m)
{
    for (int64_t i = 0; i < c->nk; i++) {
        double log = decay_at(c, s, i);
        for (int64_t j = 0; j < columns; j++) m[i * columns + j] = faded(log, m[i * columns + j]);
    }
}

/* sums_j = factor sum_i x_i m_ij, with x at `at` */
static void read(const lane *c, const lmoe_buf *x, int64_t at, double factor, int64_t columns,
                 const double *m, double *sums)
{
    for (int64_t j = 0; j < columns; j++) {
        sums[j] = 0;
        for (int64_t i = 0; i < c->nk; i++)
            sums[j] += factor * lmoe_get(x, at + i) * m[i * columns + j];
    }
}

/* m_ij += factor x_i y_j, with x at `at` */
static void write(const lane *c, const lmoe_buf *x, int64_t at, double factor, const double *y,
                  int64_t columns, double *m)
{
    for (int64_t i = 0; i < c->nk; i++) {
        for (int64_t j = 0; j < columns; j++)
            m[i * columns + j] += factor * lmoe_get(x, at + i) * y[j];
    }
}

/* out_i (+)= factor sum_j m_ij y_j, i < nk, at `at` */
static void times(const lane *c, const double *m, const double *y, double factor,
                  const lmoe_buf *out, int64_t at, bool add)
{
    for (int64_t i = 0; i < c->nk; i++) {
        double sum = add ? lmoe_get(out, at + i) : 0;
        for (int64_t j = 0; j < c->nv; j++) sum += factor * m[i * c->nv + j] * y[j];
        lmoe_put(out, at + i, sum);
    }
}

static void get_row(const lmoe_buf *x, int64_t at, int64_t n, double *to)
{
    for (int64_t i = 0; i < n; i++) to[i] = lmoe_get(x, at + i);
}

static void put_row(const lmoe_buf *x, int64_t at, int64_t n, const double *from)
{
    for (int64_t i = 0; i < n; i++) lmoe_put(x, at + i, from ? from[i] : 0);
}

/* One step: m <- decay m + k v^T - b (a^T m). z, v: room for `columns`. Without v nothing is
 * written: what the step makes of any m. */
static void advance(const lane *c, int64_t s, int64_t step, const lmoe_buf *v, int64_t columns,
                    double *m, double *z, double *value)
{
    int64_t at = at_step(c, s, step, c->nk);
    read(c, c->a, at, 1, columns, m, z);
    if (step == 0) fade(c, s, columns, m);
    if (v) {
        get_row(v, at_step(c, s, step, columns), columns, value);
        write(c, c->k, at, 1, value, columns, m);
    }
    write(c, c->b, at, -1, z, columns, m);
}

/* The same backwards, of G: g <- decay g - a (b^T g). */
static void retreat(const lane *c, int64_t s, int64_t step, int64_t columns, double *g, double *z)
{
    int64_t at = at_step(c, s, step, c->nk);
    read(c, c->b, at, 1, columns, g, z);
    if (step == 0) fade(c, s, columns, g);
    write(c, c->a, at, -1, z, columns, g);
}

/* ---- the op ---- */

static const places op_places = {0, 1, 2, 3, 4, 5, 6, 7, -1};

lmoe_status lmoe__scan_delta_ref(const lmoe_args *args)
{
    lane c = lane_of(args, op_places);
    int64_t n = c.nk * c.nv;
    double *memory = lmoe__ref_doubles(args, n + 2 * c.nv);
    if (!memory) return LMOE_E_MEMORY;
    double *m = memory, *z = m + n, *value = z + c.nv;
    for (int64_t i = 0; i < c.batch * c.heads; i++) {
        enter(&c, i);
        load(&c, lmoe__buf_at(args->in, args->n_in, 8), m);
        for (int64_t s = 0; s < c.seq; s++) {
            int64_t y = at_token(&c, s, c.nv);
            if (lmoe__flag(c.reset, token(&c, s))) memset(m, 0, sizeof *m * (size_t)n);
            if (lmoe__flag(c.skip, token(&c, s))) {
                put_row(&args->out[0], y, c.nv, NULL);
                continue;
            }
            for (int64_t step = 0; step < c.steps; step++)
                advance(&c, s, step, c.v, c.nv, m, z, value);
            read(&c, c.q, at_token(&c, s, c.nk), c.scale, c.nv, m, z);
            put_row(&args->out[0], y, c.nv, z);
        }
        store(&c, lmoe__buf_at(args->out, args->n_out, 1), c.nv, m);
    }
    free(memory);
    return LMOE_OK;
}

/* ---- its derivative ---- */

/* What one lane's derivative works with; b's derivative goes to dk where b is absent. */
typedef struct derivative {
    const lmoe_buf *dq, *dk, *dv, *da, *db;
    double *m, *g;              /* (head_k head_v) */
    double *before;             /* M before each step (after the reset) */
    double *z, *value, *ddecay; /* rows (head_v); like decay */
} derivative;

/* Adds exp(decay_s) rowsum(g * m) to ddecay, which has decay's form. */
static void add_ddecay(const lane *c, int64_t s, const double *g, const double *m, double *ddecay)
{
    for (int64_t i = 0; lmoe_buf_present(c->decay) && i < c->nk; i++) {
        double sum = 0;
        for (int64_t j = 0; j < c->nv; j++) sum += g[i * c->nv + j] * m[i * c->nv + j];
        ddecay[decay_index(c, s, i)] += faded(decay_at(c, s, i), sum);
    }
}

static void grad_step(const lane *c, int64_t s, int64_t step, const derivative *d)
{
    int64_t of_k = at_step(c, s, step, c->nk), of_v = at_step(c, s, step, c->nv);
    const double *m = d->before + (s * c->steps + step) * c->nk * c->nv;
    bool own_b = c->b != c->k; /* whether or not db is wanted */
    get_row(c->v, of_v, c->nv, d->value);
    times(c, d->g, d->value, 1, d->dk, of_k, false);
    read(c, c->a, of_k, 1, c->nv, m, d->z);
    times(c, d->g, d->z, -1, own_b ? d->db : d->dk, of_k, !own_b);
    read(c, c->k, of_k, 1, c->nv, d->g, d->z);
    put_row(d->dv, of_v, c->nv, d->z);
    read(c, c->b, of_k, 1, c->nv, d->g, d->z);
    times(c, m, d->z, -1, d->da, of_k, false);
    if (step == 0) add_ddecay(c, s, d->g, m, d->ddecay);
    retreat(c, s, step, c->nv, d->g, d->z);
}

static void grad_token(const lane *c, int64_t s, const derivative *d)
{
    int64_t n = c->nk * c->nv, q = at_token(c, s, c->nk);
    if (lmoe__flag(c->skip, token(c, s))) {
        put_row(d->dq, q, c->nk, NULL);
        for (int64_t step = 0; step < c->steps; step++) {
            int64_t of_k = at_step(c, s, step, c->nk);
            put_row(d->dk, of_k, c->nk, NULL);
            put_row(d->da, of_k, c->nk, NULL);
            if (lmoe_buf_present(d->db)) put_row(d->db, of_k, c->nk, NULL);
            put_row(d->dv, at_step(c, s, step, c->nv), c->nv, NULL);
        }
    } else {
        memcpy(d->m, d->before + ((s + 1) * c->steps - 1) * n, sizeof(double) * (size_t)n);
        advance(c, s, c->steps - 1, c->v, c->nv, d->m, d->z, d->value);
        get_row(c->dy, at_token(c, s, c->nv), c->nv, d->value);
        times(c, d->m, d->value, c->scale, d->dq, q, false);
        write(c, c->q, q, c->scale, d->value, c->nv, d->g);
        for (int64_t step = c->steps - 1; step >= 0; step--) grad_step(c, s, step, d);
    }
    if (lmoe__flag(c->reset, token(c, s))) memset(d->g, 0, sizeof(double) * (size_t)n);
}

static const places grad_places = {0, 1, 2, 3, 4, 5, 6, 7, 8};

lmoe_status lmoe__scan_delta_grad_ref(const lmoe_args *args)
{
    const lmoe_buf *out = args->out;
    lane c = lane_of(args, grad_places);
    derivative d = {&out[0], &out[1], &out[2], &out[3], &out[4], 0, 0, 0, 0, 0, 0};
    int64_t n = c.nk * c.nv, decays = lmoe_buf_present(c.decay) ? lmoe_buf_count(c.decay) : 0;
    double *memory = lmoe__ref_doubles(args, n * (c.seq * c.steps + 2) + 2 * c.nv + decays);
    if (!memory) return LMOE_E_MEMORY;
    d.m = memory, d.g = d.m + n, d.z = d.g + n, d.value = d.z + c.nv, d.ddecay = d.value + c.nv;
    d.before = d.ddecay + decays;
    for (int64_t i = 0; i < c.batch * c.heads; i++) {
        enter(&c, i);
        load(&c, &args->in[9], d.m);
        for (int64_t s = 0; s < c.seq; s++) {
            if (lmoe__flag(c.reset, token(&c, s))) memset(d.m, 0, sizeof(double) * (size_t)n);
            if (lmoe__flag(c.skip, token(&c, s))) continue;
            for (int64_t step = 0; step < c.steps; step++) {
                memcpy(d.before + (s * c.steps + step) * n, d.m, sizeof(double) * (size_t)n);
                advance(&c, s, step, c.v, c.nv, d.m, d.z, d.value);
            }
        }
        load(&c, &args->in[10], d.g);
        for (int64_t s = c.seq - 1; s >= 0; s--) grad_token(&c, s, &d);
        store(&c, &out[6], c.nv, d.g);
    }
    for (int64_t i = 0; i < decays; i++) lmoe_put(&out[5], i, d.ddecay[i]);
    free(memory);
    return LMOE_OK;
}

/* ---- summaries: p starts as the identity and goes the way of M without values ---- */

static void identity(const lane *c, double *p)
{
    for (int64_t i = 0; i < c->nk * c->nk; i++) p[i] = i % (c->nk + 1) == 0;
}

lmoe_status lmoe__scan_delta_summary_ref(const lmoe_args *args)
{
    lane c = lane_of(args, (places){-1, 0, 1, 2, 3, 4, 5, 6, -1});
    int64_t n = c.nk * c.nv, square = c.nk * c.nk, wide = c.nk > c.nv ? c.nk : c.nv;
    double *memory = lmoe__ref_doubles(args, n + square + 2 * wide);
    if (!memory) return LMOE_E_MEMORY;
    double *m = memory, *p = m + n, *z = p + square, *value = z + wide;
    for (int64_t i = 0; i < c.batch * c.heads; i++) {
        enter(&c, i);
        memset(m, 0, sizeof *m * (size_t)n);
        identity(&c, p);
        for (int64_t s = 0; s < c.seq; s++) {
            if (lmoe__flag(c.reset, token(&c, s)))
                memset(m, 0, sizeof *m * (size_t)(n + square)); /* p lies behind m */
            if (lmoe__flag(c.skip, token(&c, s))) continue;
            for (int64_t step = 0; step < c.steps; step++) {
                advance(&c, s, step, c.v, c.nv, m, z, value);
                advance(&c, s, step, NULL, c.nk, p, z, value);
            }
        }
        store(&c, &args->out[0], c.nk, p);
        store(&c, &args->out[1], c.nv, m);
    }
    free(memory);
    return LMOE_OK;
}

lmoe_status lmoe__scan_delta_grad_summary_ref(const lmoe_args *args)
{
    lane c = lane_of(args, (places){0, 1, -1, 2, 3, 4, 5, 6, 7});
    int64_t n = c.nk * c.nv, square = c.nk * c.nk, wide = c.nk > c.nv ? c.nk : c.nv;
    double *memory = lmoe__ref_doubles(args, n + square + 2 * wide);
    if (!memory) return LMOE_E_MEMORY;
    double *g = memory, *p = g + n, *z = p + square, *value = z + wide;
    for (int64_t i = 0; i < c.batch * c.heads; i++) {
        enter(&c, i);
        memset(g, 0, sizeof *g * (size_t)n);
        identity(&c, p);
        for (int64_t s = c.seq - 1; s >= 0; s--) {
            if (!lmoe__flag(c.skip, token(&c, s))) {
                get_row(c.dy, at_token(&c, s, c.nv), c.nv, value);
                write(&c, c.q, at_token(&c, s, c.nk), c.scale, value, c.nv, g);
                for (int64_t step = c.steps - 1; step >= 0; step--) {
                    retreat(&c, s, step, c.nv, g, z);
                    retreat(&c, s, step, c.nk, p, z);
                }
            }
            if (lmoe__flag(c.reset, token(&c, s)))
                memset(g, 0, sizeof *g * (size_t)(n + square)); /* p lies behind g */
        }
        store(&c, &args->out[0], c.nk, p);
        store(&c, &args->out[1], c.nv, g);
    }
    free(memory);
    return LMOE_OK;
}

/* carry = the segments before `rank` in order (reverse: those after it, from the last):
 * M <- p M + m */
lmoe_status lmoe__scan_delta_combine_ref(const lmoe_args *args)
{
    const lmoe_combine_attrs *o = args->attrs;
    const lmoe_buf *p = &args->in[0], *m = &args->in[1];
    int64_t nk = p->dim[3], nv = m->dim[4], lanes = p->dim[1] * p->dim[2], n = nk * nv;
    int64_t first = o->reverse ? o->ranks - 1 : 0, step = o->reverse ? -1 : 1;
    double *memory = lmoe__ref_doubles(args, 2 * n);
    if (!memory) return LMOE_E_MEMORY;
    for (int64_t index = 0; index < lanes; index++) {
        double *now = memory, *next = memory + n;
        memset(now, 0, sizeof *now * (size_t)n);
        for (int64_t r = first; r != o->rank; r += step) {
            int64_t at = r * lanes + index;
            for (int64_t e = 0; e < n; e++) {
                next[e] = lmoe_get(m, at * n + e);
                for (int64_t i = 0; i < nk; i++) {
                    double f = lmoe_get(p, at * nk * nk + e / nv * nk + i);
                    next[e] += f == 0 ? 0 : f * now[i * nv + e % nv]; /* forgotten is gone */
                }
            }
            double *swap = now;
            now = next;
            next = swap;
        }
        for (int64_t e = 0; e < n; e++) lmoe_put(&args->out[0], index * n + e, now[e]);
    }
    free(memory);
    return LMOE_OK;
}
