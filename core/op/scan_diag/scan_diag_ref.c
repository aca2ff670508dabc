/* SPDX-License-Identifier: Apache-2.0
 * core/op/scan_diag/scan_diag_ref.c: reference kernels of scan_diag: token by token, in double. The
 * equations stand in scan_diag.c.
 */
#include "core/op/carry.h"

#include <math.h>
#include <stdlib.h>

/* One head of one sequence of the batch. */
typedef struct lane {
    const lmoe_buf *q, *k, *v, *decay, *decay_v, *reset, *skip, *dy;
    int64_t b, h;                      /* which one */
    int64_t batch, seq, heads, nk, nv; /* sizes */
    double scale;
} lane;

static void enter(lane *c, int64_t index)
{
    c->b = index / c->heads;
    c->h = index % c->heads;
}

static int64_t token(const lane *c, int64_t s)
{
    return c->b * c->seq + s;
}

/* Index of element (b, s, h, i) in a tensor whose last axis has n elements. */
static int64_t at(const lane *c, int64_t s, int64_t n, int64_t i)
{
    return (token(c, s) * c->heads + c->h) * n + i;
}

/* Where the decay of (token s, row i of the state) stands. */
static int64_t decay_index(const lane *c, int64_t s, int64_t i)
{
    return c->decay->rank == 1 ? c->h : c->decay->rank == 3 ? at(c, s, 1, 0) : at(c, s, c->nk, i);
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

/* The same for a token's decay: below -40 the past is forgotten. */
static double faded_once(double log, double x)
{
    return log < -40 ? 0 : faded(log, x);
}

/* ---- states of one lane: (head_k head_v) doubles ---- */

static void load(const lane *c, const lmoe_buf *carry, double *m)
{
    int64_t n = c->nk * c->nv, first = (c->b * c->heads + c->h) * n;
    for (int64_t i = 0; i < n; i++) m[i] = lmoe_get(carry, first + i); /* absent: 0 */
}

static void store(const lane *c, const lmoe_buf *carry, const double *m)
{
    int64_t n = c->nk * c->nv, first = (c->b * c->heads + c->h) * n;
    for (int64_t i = 0; i < n; i++) lmoe_put(carry, first + i, m[i]);
}

static void forget(const lane *c, double *m)
{
    memset(m, 0, sizeof *m * (size_t)(c->nk * c->nv));
}

static double decay_v_at(const lane *c, int64_t s, int64_t j)
{
    return lmoe_buf_present(c->decay_v) ? lmoe_get(c->decay_v, at(c, s, c->nv, j)) : 0;
}

static void fade(const lane *c, int64_t s, double *m)
{
    for (int64_t i = 0; i < c->nk; i++) {
        double log = decay_at(c, s, i);
        for (int64_t j = 0; j < c->nv; j++)
            m[i * c->nv + j] = faded_once(log, faded_once(decay_v_at(c, s, j), m[i * c->nv + j]));
    }
}

/* m += scale x y^T for the rows of token s */
static void add_outer(const lane *c, int64_t s, double scale, const lmoe_buf *x, const lmoe_buf *y,
                      double *m)
{
    for (int64_t i = 0; i < c->nk; i++) {
        for (int64_t j = 0; j < c->nv; j++)
            m[i * c->nv + j] +=
                scale * lmoe_get(x, at(c, s, c->nk, i)) * lmoe_get(y, at(c, s, c->nv, j));
    }
}

/* out_s = scale m y_s: (head_k) */
static void times(const lane *c, int64_t s, double scale, const double *m, const lmoe_buf *y,
                  const lmoe_buf *out)
{
    for (int64_t i = 0; i < c->nk; i++) {
        double sum = 0;
        for (int64_t j = 0; j < c->nv; j++)
            sum += m[i * c->nv + j] * lmoe_get(y, at(c, s, c->nv, j));
        lmoe_put(out, at(c, s, c->nk, i), scale * sum);
    }
}

/* out_s = scale m^T x_s: (head_v) */
static void times_transposed(const lane *c, int64_t s, double scale, const double *m,
                             const lmoe_buf *x, const lmoe_buf *out)
{
    for (int64_t j = 0; j < c->nv; j++) {
        double sum = 0;
        for (int64_t i = 0; i < c->nk; i++)
            sum += m[i * c->nv + j] * lmoe_get(x, at(c, s, c->nk, i));
        lmoe_put(out, at(c, s, c->nv, j), scale * sum);
    }
}

static void put_row(const lane *c, int64_t s, const lmoe_buf *out, int64_t n, double x)
{
    for (int64_t i = 0; i < n; i++) lmoe_put(out, at(c, s, n, i), x);
}

/* The sizes, from a tensor (b s h k) and one (b s h v). */
static lane lane_of(const lmoe_args *a, const lmoe_buf *k, const lmoe_buf *v)
{
    lane c = {.batch = k->dim[0], .seq = k->dim[1], .heads = k->dim[2]};
    c.nk = k->dim[3];
    c.nv = v->dim[3];
    c.scale = ((const lmoe_scan_diag_attrs *)a->attrs)->scale;
    return c;
}

/* ---- the op ---- */

lmoe_status lmoe__scan_diag_ref(const lmoe_args *a)
{
    lane c = lane_of(a, &a->in[1], &a->in[2]);
    c.q = &a->in[0], c.k = &a->in[1], c.v = &a->in[2];
    c.decay = lmoe__buf_at(a->in, a->n_in, 3);
    c.reset = lmoe__buf_at(a->in, a->n_in, 4);
    c.skip = lmoe__buf_at(a->in, a->n_in, 5);
    c.decay_v = lmoe__buf_at(a->in, a->n_in, 7);
    double *m = lmoe__ref_doubles(a, c.nk * c.nv);
    if (!m) return LMOE_E_MEMORY;
    for (int64_t i = 0; i < c.batch * c.heads; i++) {
        enter(&c, i);
        load(&c, lmoe__buf_at(a->in, a->n_in, 6), m);
        for (int64_t s = 0; s < c.seq; s++) {
            if (lmoe__flag(c.reset, token(&c, s))) forget(&c, m);
            if (lmoe__flag(c.skip, token(&c, s))) {
                put_row(&c, s, &a->out[0], c.nv, 0);
                continue;
            }
            fade(&c, s, m);
            add_outer(&c, s, 1, c.k, c.v, m);
            times_transposed(&c, s, c.scale, m, c.q, &a->out[0]);
        }
        store(&c, lmoe__buf_at(a->out, a->n_out, 1), m);
    }
    free(m);
    return LMOE_OK;
}

/* ---- its derivative ---- */

/* Adds row and column sums of g * F_s(before) to ddecay, which has decay's form, and ddecay_v. */
static void add_ddecay(const lane *c, int64_t s, const double *g, const double *before,
                       double *ddecay, double *ddecay_v)
{
    bool rows = lmoe_buf_present(c->decay), columns = lmoe_buf_present(c->decay_v);
    for (int64_t i = 0; i < c->nk; i++) {
        for (int64_t j = 0; j < c->nv; j++) {
            double x = g[i * c->nv + j] * before[i * c->nv + j];
            x = faded_once(decay_at(c, s, i), faded_once(decay_v_at(c, s, j), x));
            if (rows) ddecay[decay_index(c, s, i)] += x;
            if (columns) ddecay_v[at(c, s, c->nv, j)] += x;
        }
    }
}

/* One lane: forwards to know the state before each token (after its reset), then backwards. */
static void grad_lane(const lane *c, const lmoe_args *a, double *before, double *m, double *g,
                      double *ddecay, double *ddecay_v)
{
    int64_t n = c->nk * c->nv;
    const lmoe_buf *dq = &a->out[0], *dk = &a->out[1], *dv = &a->out[2];
    load(c, lmoe__buf_at(a->in, a->n_in, 7), m);
    for (int64_t s = 0; s < c->seq; s++) {
        if (lmoe__flag(c->reset, token(c, s))) forget(c, m);
        memcpy(before + s * n, m, sizeof *m * (size_t)n);
        if (lmoe__flag(c->skip, token(c, s))) continue;
        fade(c, s, m);
        add_outer(c, s, 1, c->k, c->v, m);
    }
    load(c, lmoe__buf_at(a->in, a->n_in, 8), g);
    for (int64_t s = c->seq - 1; s >= 0; s--) {
        if (lmoe__flag(c->skip, token(c, s))) {
            put_row(c, s, dq, c->nk, 0);
            put_row(c, s, dk, c->nk, 0);
            put_row(c, s, dv, c->nv, 0);
        } else {
            memcpy(m, before + s * n, sizeof *m * (size_t)n);
            fade(c, s, m);
            add_outer(c, s, 1, c->k, c->v, m);
            add_outer(c, s, c->scale, c->q, c->dy, g);
            times(c, s, c->scale, m, c->dy, dq);
            times(c, s, 1, g, c->v, dk);
            times_transposed(c, s, 1, g, c->k, dv);
            add_ddecay(c, s, g, before + s * n, ddecay, ddecay_v);
            fade(c, s, g);
        }
        if (lmoe__flag(c->reset, token(c, s))) forget(c, g);
    }
    store(c, lmoe__buf_at(a->out, a->n_out, 4), g);
}

lmoe_status lmoe__scan_diag_grad_ref(const lmoe_args *a)
{
    lane c = lane_of(a, &a->in[1], &a->in[2]);
    c.q = &a->in[0], c.k = &a->in[1], c.v = &a->in[2], c.dy = &a->in[6];
    c.decay = &a->in[3], c.reset = &a->in[4], c.skip = &a->in[5];
    c.decay_v = lmoe__buf_at(a->in, a->n_in, 9);
    int64_t n = c.nk * c.nv, decays = lmoe_buf_present(c.decay) ? lmoe_buf_count(c.decay) : 0;
    int64_t decays_v = lmoe_buf_present(c.decay_v) ? lmoe_buf_count(c.decay_v) : 0;
    double *memory = lmoe__ref_doubles(a, n * (c.seq + 2) + decays + decays_v);
    if (!memory) return LMOE_E_MEMORY;
    double *m = memory, *g = m + n, *before = g + n, *ddecay = before + n * c.seq;
    double *ddecay_v = ddecay + decays;
    for (int64_t i = 0; i < c.batch * c.heads; i++) {
        enter(&c, i);
        grad_lane(&c, a, before, m, g, ddecay, ddecay_v);
    }
    for (int64_t i = 0; i < decays; i++) lmoe_put(&a->out[3], i, ddecay[i]);
    for (int64_t i = 0; i < decays_v; i++)
        lmoe_put(lmoe__buf_at(a->out, a->n_out, 5), i, ddecay_v[i]);
    free(memory);
    return LMOE_OK;
}

/* ---- summaries ---- */

/* log_a or log_c of one lane: the sum of its decays, -infinity if it is reset anywhere. */
static void put_log(const lane *c, const lmoe_buf *out, int64_t n,
                    double (*decay)(const lane *c, int64_t s, int64_t i))
{
    for (int64_t i = 0; lmoe_buf_present(out) && i < n; i++) {
        double sum = 0;
        for (int64_t s = 0; s < c->seq; s++) {
            if (lmoe__flag(c->reset, token(c, s))) sum = -INFINITY;
            if (!lmoe__flag(c->skip, token(c, s))) sum += decay(c, s, i);
        }
        lmoe_put(out, (c->b * c->heads + c->h) * n + i, sum);
    }
}

static void put_summary(const lane *c, const lmoe_args *a, const double *m)
{
    put_log(c, &a->out[0], c->nk, decay_at);
    store(c, &a->out[1], m);
    put_log(c, lmoe__buf_at(a->out, a->n_out, 2), c->nv, decay_v_at);
}

lmoe_status lmoe__scan_diag_summary_ref(const lmoe_args *a)
{
    lane c = lane_of(a, &a->in[0], &a->in[1]);
    c.k = &a->in[0], c.v = &a->in[1];
    c.decay = lmoe__buf_at(a->in, a->n_in, 2);
    c.reset = lmoe__buf_at(a->in, a->n_in, 3);
    c.skip = lmoe__buf_at(a->in, a->n_in, 4);
    c.decay_v = lmoe__buf_at(a->in, a->n_in, 5);
    double *m = lmoe__ref_doubles(a, c.nk * c.nv);
    if (!m) return LMOE_E_MEMORY;
    for (int64_t i = 0; i < c.batch * c.heads; i++) {
        enter(&c, i);
        forget(&c, m);
        for (int64_t s = 0; s < c.seq; s++) {
            if (lmoe__flag(c.reset, token(&c, s))) forget(&c, m);
            if (lmoe__flag(c.skip, token(&c, s))) continue;
            fade(&c, s, m);
            add_outer(&c, s, 1, c.k, c.v, m);
        }
        put_summary(&c, a, m);
    }
    free(m);
    return LMOE_OK;
}

lmoe_status lmoe__scan_diag_grad_summary_ref(const lmoe_args *a)
{
    lane c = lane_of(a, &a->in[0], &a->in[4]);
    c.q = &a->in[0], c.decay = &a->in[1], c.reset = &a->in[2], c.skip = &a->in[3];
    c.dy = &a->in[4], c.decay_v = lmoe__buf_at(a->in, a->n_in, 5);
    double *g = lmoe__ref_doubles(a, c.nk * c.nv);
    if (!g) return LMOE_E_MEMORY;
    for (int64_t i = 0; i < c.batch * c.heads; i++) {
        enter(&c, i);
        forget(&c, g);
        for (int64_t s = c.seq - 1; s >= 0; s--) {
            if (!lmoe__flag(c.skip, token(&c, s))) {
                add_outer(&c, s, c.scale, c.q, c.dy, g);
                fade(&c, s, g);
            }
            if (lmoe__flag(c.reset, token(&c, s))) forget(&c, g);
        }
        put_summary(&c, a, g);
    }
    free(g);
    return LMOE_OK;
}

/* carry = the segments before `rank` in order (reverse: those after it, from the last):
 * M <- exp(log_a) M exp(log_c) + m */
lmoe_status lmoe__scan_diag_combine_ref(const lmoe_args *a)
{
    const lmoe_combine_attrs *o = a->attrs;
    const lmoe_buf *log_a = &a->in[0], *m = &a->in[1], *log_c = lmoe__buf_at(a->in, a->n_in, 2);
    int64_t rows = lmoe_buf_count(log_a) / o->ranks, nk = m->dim[3], nv = m->dim[4];
    int64_t first = o->reverse ? o->ranks - 1 : 0, step = o->reverse ? -1 : 1;
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t j = 0; j < nv; j++) {
            double sum = 0;
            for (int64_t r = first; r != o->rank; r += step) {
                int64_t at = r * rows + row;
                if (lmoe_buf_present(log_c)) sum = faded(lmoe_get(log_c, at / nk * nv + j), sum);
                sum = faded(lmoe_get(log_a, at), sum) + lmoe_get(m, at * nv + j);
            }
            lmoe_put(&a->out[0], row * nv + j, sum);
        }
    }
    return LMOE_OK;
}
