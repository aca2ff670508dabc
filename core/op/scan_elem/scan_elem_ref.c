/* SPDX-License-Identifier: Apache-2.0
 * core/op/scan_elem/scan_elem_ref.c: reference kernels of scan_elem: token by token, in double. The
 * equations stand in scan_elem.c.
 */
#include "core/op/carry.h"

#include <math.h>
#include <stdlib.h>

typedef struct pair {
    double re, im;
} pair;

/* Sizes, and the operands by name; absent ones are absent buffers. */
typedef struct scan {
    const lmoe_buf *x, *step, *rate, *cos, *sin, *b, *c, *c_im, *reset, *skip, *dy;
    int64_t batch, seq, heads, channels, n, parts;
    int rank; /* of a row */
} scan;

/* One channel of one head of one sequence. */
typedef struct lane {
    int64_t b, h, c;
} lane;

/* The sizes, once the operands are known; row: x or dy. */
static void measure(scan *s, const lmoe_buf *row)
{
    const lmoe_buf *table = lmoe_buf_present(s->rate) ? s->rate : s->cos;
    s->batch = row->dim[0];
    s->seq = row->dim[1];
    s->rank = row->rank;
    s->heads = row->rank == 4 ? row->dim[2] : 1;
    s->channels = row->dim[row->rank - 1];
    s->parts = lmoe_buf_present(s->cos) ? 2 : 1;
    s->n = 1; /* unless the table of decays, or else what is written or read, has more */
    if (lmoe_buf_present(table) && table->rank != row->rank)
        s->n = table->dim[table->rank - 1];
    else if (lmoe_buf_present(s->b) || lmoe_buf_present(s->c))
        s->n = lmoe_buf_present(s->b) ? s->b->dim[s->b->rank - 1] : s->c->dim[s->c->rank - 1];
}

static lane lane_of(const scan *s, int64_t item)
{
    return (lane){item / s->channels / s->heads, item / s->channels % s->heads, item % s->channels};
}

static int64_t lanes(const scan *s)
{
    return s->batch * s->heads * s->channels;
}

static int64_t token(const scan *s, lane l, int64_t t)
{
    return l.b * s->seq + t;
}

static int64_t row_index(const scan *s, lane l, int64_t t)
{
    return (token(s, l, t) * s->heads + l.h) * s->channels + l.c;
}

static int64_t table_index(const scan *s, lane l, int64_t n)
{
    return (l.h * s->channels + l.c) * s->n + n;
}

/* Where a `b`, `c` (with axis seq) or `cos` stands. */
static int64_t read_index(const scan *s, const lmoe_buf *x, lane l, int64_t t, int64_t n)
{
    if (x->rank != s->rank) return table_index(s, l, n);
    return (token(s, l, t) * s->heads + l.h) * s->n + n;
}

static int64_t turn_index(const scan *s, lane l, int64_t t, int64_t n)
{
    return s->cos->rank == s->rank ? row_index(s, l, t) : table_index(s, l, n);
}

static int64_t state_index(const scan *s, lane l, int64_t n)
{
    return ((l.b * s->heads + l.h) * s->channels + l.c) * s->n * s->parts + n * s->parts;
}

static double or_else(const lmoe_buf *x, int64_t i, double absent)
{
    return lmoe_buf_present(x) ? lmoe_get(x, i) : absent;
}

/* exp(step rate) */
static double size_of(const scan *s, lane l, int64_t t, int64_t n)
{
    if (!lmoe_buf_present(s->step) && !lmoe_buf_present(s->rate)) return 1;
    return exp(or_else(s->step, row_index(s, l, t), 1) * or_else(s->rate, table_index(s, l, n), 1));
}

static pair turn_of(const scan *s, lane l, int64_t t, int64_t n)
{
    if (!lmoe_buf_present(s->cos)) return (pair){1, 0};
    int64_t i = turn_index(s, l, t, n);
    return (pair){lmoe_get(s->cos, i), lmoe_get(s->sin, i)};
}

static pair factor(const scan *s, lane l, int64_t t, int64_t n)
{
    double size = size_of(s, l, t, n);
    pair turn = turn_of(s, l, t, n);
    return (pair){size * turn.re, size * turn.im};
}

/* a x; what is forgotten is gone, whatever it was. */
static pair times(pair a, pair x)
{
    if (a.re == 0 && a.im == 0) return (pair){0, 0};
    return (pair){a.re * x.re - a.im * x.im, a.re * x.im + a.im * x.re};
}

static pair conjugate(pair x)
{
    return (pair){x.re, -x.im};
}

static pair c_of(const scan *s, lane l, int64_t t, int64_t n)
{
    int64_t i = read_index(s, s->c, l, t, n);
    return (pair){or_else(s->c, i, 1), or_else(s->c_im, i, 0)};
}

static double b_of(const scan *s, lane l, int64_t t, int64_t n)
{
    return or_else(s->b, read_index(s, s->b, l, t, n), 1);
}

/* ---- states of a lane: n pairs ---- */

static void load(const scan *s, lane l, const lmoe_buf *carry, pair *h)
{
    for (int64_t n = 0; n < s->n; n++) {
        int64_t i = state_index(s, l, n);
        h[n].re = lmoe_get(carry, i); /* absent: 0 */
        h[n].im = s->parts == 2 ? lmoe_get(carry, i + 1) : 0;
    }
}

static void store(const scan *s, lane l, const lmoe_buf *carry, const pair *h)
{
    for (int64_t n = 0; n < s->n; n++) {
        int64_t i = state_index(s, l, n);
        lmoe_put(carry, i, h[n].re);
        if (s->parts == 2) lmoe_put(carry, i + 1, h[n].im);
    }
}

static void forget(const scan *s, pair *h)
{
    memset(h, 0, sizeof *h * (size_t)s->n);
}

/* h = a h + x b */
static void go_on(const scan *s, lane l, int64_t t, pair *h)
{
    double x = lmoe_get(s->x, row_index(s, l, t));
    for (int64_t n = 0; n < s->n; n++) {
        h[n] = times(factor(s, l, t, n), h[n]);
        h[n].re += x * b_of(s, l, t, n);
    }
}

/* ---- the op ---- */

lmoe_status lmoe__scan_elem_ref(const lmoe_args *a)
{
    scan s = {0};
    const lmoe_buf **of[] = {&s.x, &s.step, &s.rate, &s.cos,   &s.sin,
                             &s.b, &s.c,    &s.c_im, &s.reset, &s.skip};
    for (int i = 0; i < 10; i++) *of[i] = lmoe__buf_at(a->in, a->n_in, i);
    measure(&s, s.x);
    pair *h = (pair *)lmoe__ref_doubles(a, 2 * s.n);
    if (!h) return LMOE_E_MEMORY;
    for (int64_t i = 0; i < lanes(&s); i++) {
        lane l = lane_of(&s, i);
        load(&s, l, lmoe__buf_at(a->in, a->n_in, 10), h);
        for (int64_t t = 0; t < s.seq; t++) {
            double y = 0;
            if (lmoe__flag(s.reset, token(&s, l, t))) forget(&s, h);
            if (!lmoe__flag(s.skip, token(&s, l, t))) {
                go_on(&s, l, t, h);
                for (int64_t n = 0; n < s.n; n++) y += times(h[n], c_of(&s, l, t, n)).re;
            }
            lmoe_put(&a->out[0], row_index(&s, l, t), y);
        }
        store(&s, l, &a->out[1], h);
    }
    free(h);
    return LMOE_OK;
}

/* ---- its derivative ---- */

enum { DX, DSTEP, DRATE, DCOS, DSIN, DB, DC, DC_IM, DCARRY, SUMS = DCARRY };

/* One token of a lane: adds to the sums, and takes g from after the token to before it. */
static void grad_token(const scan *s, lane l, int64_t t, const pair *before, pair *h, pair *g,
                       double *const *sum)
{
    double x = lmoe_get(s->x, row_index(s, l, t)), dy = lmoe_get(s->dy, row_index(s, l, t));
    memcpy(h, before, sizeof *h * (size_t)s->n);
    go_on(s, l, t, h);
    for (int64_t n = 0; n < s->n; n++) {
        pair c = c_of(s, l, t, n), turn = turn_of(s, l, t, n);
        double size = size_of(s, l, t, n);
        int64_t row = row_index(s, l, t), table = table_index(s, l, n);
        if (lmoe_buf_present(s->c)) {
            sum[DC][read_index(s, s->c, l, t, n)] += dy * h[n].re;
            if (lmoe_buf_present(s->c_im)) sum[DC_IM][read_index(s, s->c, l, t, n)] -= dy * h[n].im;
        }
        g[n].re += dy * c.re;
        g[n].im -= dy * c.im;
        sum[DX][row] += g[n].re * b_of(s, l, t, n);
        if (lmoe_buf_present(s->b)) sum[DB][read_index(s, s->b, l, t, n)] += g[n].re * x;
        pair da = times(g[n], conjugate(before[n]));
        double dlog = size == 0 ? 0 : size * (da.re * turn.re + da.im * turn.im);
        if (lmoe_buf_present(s->step)) sum[DSTEP][row] += dlog * or_else(s->rate, table, 1);
        if (lmoe_buf_present(s->rate)) sum[DRATE][table] += dlog * or_else(s->step, row, 1);
        if (lmoe_buf_present(s->cos)) {
            sum[DCOS][turn_index(s, l, t, n)] += size * da.re;
            sum[DSIN][turn_index(s, l, t, n)] += size * da.im;
        }
        g[n] = times(conjugate(factor(s, l, t, n)), g[n]);
    }
}

/* Forwards to know the state before each token (after its reset), then backwards. */
static void grad_lane(const scan *s, lane l, const lmoe_args *a, pair *before, pair *h, pair *g,
                      double *const *sum)
{
    load(s, l, &a->in[11], h);
    for (int64_t t = 0; t < s->seq; t++) {
        if (lmoe__flag(s->reset, token(s, l, t))) forget(s, h);
        memcpy(before + t * s->n, h, sizeof *h * (size_t)s->n);
        if (!lmoe__flag(s->skip, token(s, l, t))) go_on(s, l, t, h);
    }
    load(s, l, &a->in[12], g);
    for (int64_t t = s->seq - 1; t >= 0; t--) {
        if (!lmoe__flag(s->skip, token(s, l, t))) grad_token(s, l, t, before + t * s->n, h, g, sum);
        if (lmoe__flag(s->reset, token(s, l, t))) forget(s, g);
    }
    store(s, l, &a->out[DCARRY], g);
}

lmoe_status lmoe__scan_elem_grad_ref(const lmoe_args *a)
{
    scan s = {0};
    const lmoe_buf **of[] = {&s.x, &s.step, &s.rate,  &s.cos,  &s.sin, &s.b,
                             &s.c, &s.c_im, &s.reset, &s.skip, &s.dy};
    int64_t count[SUMS], total = 0;
    for (int i = 0; i < 11; i++) *of[i] = &a->in[i];
    measure(&s, s.x);
    for (int i = 0; i < SUMS; i++) {
        count[i] = lmoe_buf_present(&a->in[i]) ? lmoe_buf_count(&a->in[i]) : 0;
        total += count[i];
    }
    double *memory = lmoe__ref_doubles(a, total + 2 * s.n * (s.seq + 2)), *sum[SUMS],
           *cursor = memory;
    if (!memory) return LMOE_E_MEMORY;
    for (int i = 0; i < SUMS; cursor += count[i++]) sum[i] = cursor;
    pair *h = (pair *)cursor, *g = h + s.n, *before = g + s.n;
    for (int64_t i = 0; i < lanes(&s); i++) grad_lane(&s, lane_of(&s, i), a, before, h, g, sum);
    for (int k = 0; k < SUMS; k++) {
        for (int64_t i = 0; i < count[k]; i++) lmoe_put(&a->out[k], i, sum[k][i]);
    }
    free(memory);
    return LMOE_OK;
}

/* ---- summaries ---- */

/* The product of a lane's decays, 0 if it is reset anywhere. */
static void products(const scan *s, lane l, pair *a)
{
    for (int64_t n = 0; n < s->n; n++) {
        a[n] = (pair){1, 0};
        for (int64_t t = 0; t < s->seq; t++) {
            if (lmoe__flag(s->reset, token(s, l, t))) a[n] = (pair){0, 0};
            if (!lmoe__flag(s->skip, token(s, l, t))) a[n] = times(factor(s, l, t, n), a[n]);
        }
    }
}

lmoe_status lmoe__scan_elem_summary_ref(const lmoe_args *a)
{
    static const lmoe_buf none;
    scan s = {0};
    const lmoe_buf **of[] = {&s.x, &s.step, &s.rate, &s.cos, &s.sin, &s.b, &s.reset, &s.skip};
    for (int i = 0; i < 8; i++) *of[i] = lmoe__buf_at(a->in, a->n_in, i);
    s.c = s.c_im = &none;
    measure(&s, s.x);
    pair *h = (pair *)lmoe__ref_doubles(a, 2 * s.n);
    if (!h) return LMOE_E_MEMORY;
    for (int64_t i = 0; i < lanes(&s); i++) {
        lane l = lane_of(&s, i);
        products(&s, l, h);
        store(&s, l, &a->out[0], h);
        forget(&s, h);
        for (int64_t t = 0; t < s.seq; t++) {
            if (lmoe__flag(s.reset, token(&s, l, t))) forget(&s, h);
            if (!lmoe__flag(s.skip, token(&s, l, t))) go_on(&s, l, t, h);
        }
        store(&s, l, &a->out[1], h);
    }
    free(h);
    return LMOE_OK;
}

lmoe_status lmoe__scan_elem_grad_summary_ref(const lmoe_args *a)
{
    static const lmoe_buf none;
    scan s = {0};
    const lmoe_buf **of[] = {&s.step, &s.rate,  &s.cos,  &s.sin, &s.c,
                             &s.c_im, &s.reset, &s.skip, &s.dy};
    for (int i = 0; i < 9; i++) *of[i] = &a->in[i];
    s.b = &none;
    measure(&s, s.dy);
    pair *g = (pair *)lmoe__ref_doubles(a, 2 * s.n);
    if (!g) return LMOE_E_MEMORY;
    for (int64_t i = 0; i < lanes(&s); i++) {
        lane l = lane_of(&s, i);
        products(&s, l, g);
        for (int64_t n = 0; n < s.n; n++) g[n] = conjugate(g[n]);
        store(&s, l, &a->out[0], g);
        forget(&s, g);
        for (int64_t t = s.seq - 1; t >= 0; t--) {
            double dy = lmoe_get(s.dy, row_index(&s, l, t));
            for (int64_t n = 0; n < s.n && !lmoe__flag(s.skip, token(&s, l, t)); n++) {
                pair c = c_of(&s, l, t, n);
                g[n].re += dy * c.re;
                g[n].im -= dy * c.im;
                g[n] = times(conjugate(factor(&s, l, t, n)), g[n]);
            }
            if (lmoe__flag(s.reset, token(&s, l, t))) forget(&s, g);
        }
        store(&s, l, &a->out[1], g);
    }
    free(g);
    return LMOE_OK;
}

/* carry = the segments before `rank` in order (reverse: those after it, from the last):
 * h <- a h + m */
lmoe_status lmoe__scan_elem_combine_ref(const lmoe_args *a)
{
    const lmoe_combine_attrs *o = a->attrs;
    const lmoe_buf *factors = &a->in[0], *m = &a->in[1];
    int64_t parts = m->dim[m->rank - 1], count = lmoe_buf_count(m) / o->ranks;
    int64_t first = o->reverse ? o->ranks - 1 : 0, step = o->reverse ? -1 : 1;
    for (int64_t i = 0; i < count; i += parts) {
        pair h = {0, 0};
        for (int64_t r = first; r != o->rank; r += step) {
            int64_t at = r * count + i;
            pair f = {lmoe_get(factors, at), parts == 2 ? lmoe_get(factors, at + 1) : 0};
            h = times(f, h);
            h.re += lmoe_get(m, at);
            h.im += parts == 2 ? lmoe_get(m, at + 1) : 0;
        }
        lmoe_put(&a->out[0], i, h.re);
        if (parts == 2) lmoe_put(&a->out[0], i + 1, h.im);
    }
    return LMOE_OK;
}
