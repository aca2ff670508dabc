/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/delta.h: scan_delta by chunks of DELTA_STEPS steps; what its kernels share.
 *
 * In a chunk, row r reads the state: first the rows a_i, each before step i, then the rows q_t,
 * each after the last step of token t. Stream w writes keys w_j times values x_j: one stream (k, u)
 * with u = v - M^T a, or where b is given two, (k, v) and (b, -M^T a). With M the state at the
 * chunk's start, and f(r), f(r, j), f(j) what the decays leave of it at r, of step j at r, and of
 * step j at the chunk's end:
 *
 *   p_rj = f(r, j) r . w_j for the steps j that r sees         (vector decays: within the product)
 *   y_r  = (f(r) r) M
 *   the last stream's x solves  x_i = (one stream: v_i) - y_{a_i} - sum over streams p_{a_i j} x_j
 *   y_{q_t} += sum over streams p_{q_t j} x_j
 *   M    = f M + sum over streams (f(j) w_j)^T x_j
 *
 * All f are exps of sums, or products of at most DELTA_STEPS factors, never quotients. A reset is a
 * factor 0 that acts before its token's first row reads.
 */
#ifndef CPU_DELTA_H
#define CPU_DELTA_H

#include "scan.h"
#include "tile.h"

enum { DELTA_STEPS = 16, DELTA_READS = 2 * DELTA_STEPS };

/* One thread's memory for a chunk; rows are padded. */
typedef struct delta_room {
    float *r, *r_faded;       /* (read k): rows a, then rows q times scale; times f(r) */
    float *w[2], *w_faded[2]; /* (step k): keys; times f(j) */
    float *x[2];              /* (step lanes): values */
    float *p[2];              /* (read step) */
    float *y;                 /* (read lanes) */
    float *turned, *left;     /* (k step): keys by channels; what is left of them */
    float *factor;            /* (step k): exp of the decays, if they differ by channel */
    float *pair;              /* (read step): f(r, j), if they do not */
    float *whole, *ones;      /* (k): f; 1 */
} delta_room;

/* A head of a sequence on its way. */
typedef struct delta {
    scan_head c;
    int64_t each;                        /* steps of a token */
    int64_t nk, nv, k, lanes;            /* channels; padded; lanes: of the state's rows */
    int streams;                         /* 1 or 2 */
    const lmoe_buf *q, *a, *v, *keys[2]; /* q, v: NULL if there are none */
    float scale;
    delta_room room;
    /* the chunk at hand */
    int64_t begin, tokens, steps, reads;
    scan_fade fade;                                   /* SCAN_KEEP, SCAN_ALL or SCAN_ROWS */
    uint8_t resets[DELTA_STEPS], decays[DELTA_STEPS]; /* of a step */
    float at_read[DELTA_READS], at_end[DELTA_STEPS];  /* f(r), f(j), if not by channel */
    const float *r_faded, *w_faded[2];                /* the room's, or r and w */
} delta;

/* Ports of the op at hand; -1: none. */
typedef struct delta_ports {
    int q, k, v, a, b, decay, reset, skip, dy;
} delta_ports;

/* Sizes and operands, without a head. lanes: padded lanes of the state beyond those of v or dy. */
static inline delta delta_of(const lmoe_args *args, delta_ports p, int64_t more)
{
    const lmoe_buf *in = args->in, *k = &in[p.k], *values = &in[p.v >= 0 ? p.v : p.dy];
    delta d = {.c = {.batch = k->dim[0], .seq = k->dim[1], .heads = k->dim[k->rank - 2]}};
    d.c.decay = &in[p.decay];
    d.each = k->rank == 5 ? k->dim[2] : 1;
    d.nk = k->dim[k->rank - 1];
    d.nv = values->dim[values->rank - 1];
    d.k = cpu_padded(d.nk);
    d.lanes = cpu_padded(d.nv) + more;
    d.q = p.q >= 0 ? &in[p.q] : NULL;
    d.v = p.v >= 0 ? &in[p.v] : NULL;
    d.a = &in[p.a];
    d.keys[0] = k;
    d.keys[1] = &in[p.b];
    d.streams = lmoe_buf_present(&in[p.b]) ? 2 : 1;
    d.scale = (float)((const lmoe_scan_delta_attrs *)args->attrs)->scale;
    return d;
}

static inline int64_t delta_heads(const delta *d)
{
    return d->c.batch * d->c.heads;
}

static inline int64_t delta_chunk_tokens(const delta *d)
{
    return DELTA_STEPS / d->each;
}

static inline int64_t delta_chunks(const delta *d)
{
    return (d->c.seq + delta_chunk_tokens(d) - 1) / delta_chunk_tokens(d);
}

static inline void delta_enter(const lmoe_args *args, delta_ports p, int64_t item, delta *d)
{
    const lmoe_buf *reset = &args->in[p.reset], *skip = &args->in[p.skip];
    d->c.b = item / d->c.heads;
    d->c.h = item % d->c.heads;
    d->c.reset = lmoe_buf_present(reset) ? (const uint8_t *)reset->data + d->c.b * d->c.seq : NULL;
    d->c.skip = lmoe_buf_present(skip) ? (const uint8_t *)skip->data + d->c.b * d->c.seq : NULL;
}

static inline int delta_can(const lmoe_args *args, delta_ports p)
{
    for (int i = 0; i < args->n_in; i++) {
        if (i != p.reset && i != p.skip && !cpu_f32_or_absent(&args->in[i])) return 0;
    }
    return args->in[p.k].rank == 4 || args->in[p.k].dim[2] <= DELTA_STEPS;
}

/* Cuts memory into the arrays; moves the cursor. */
static inline void delta_cut(const delta *d, char **cursor, delta_room *r)
{
    r->r = cpu_take(cursor, DELTA_READS * d->k);
    r->r_faded = cpu_take(cursor, DELTA_READS * d->k);
    for (int w = 0; w < d->streams; w++) {
        r->w[w] = cpu_take(cursor, DELTA_STEPS * d->k);
        r->w_faded[w] = cpu_take(cursor, DELTA_STEPS * d->k);
        r->x[w] = cpu_take(cursor, DELTA_STEPS * d->lanes);
        r->p[w] = cpu_take(cursor, DELTA_READS * DELTA_STEPS);
    }
    r->y = cpu_take(cursor, DELTA_READS * d->lanes);
    r->turned = cpu_take(cursor, DELTA_STEPS * d->k);
    r->left = cpu_take(cursor, DELTA_STEPS * d->k);
    r->factor = cpu_take(cursor, DELTA_STEPS * d->k);
    r->pair = cpu_take(cursor, DELTA_READS * DELTA_STEPS);
    r->whole = cpu_take(cursor, d->k);
    r->ones = cpu_take(cursor, d->k);
}

/* ---- rows in and out of memory ---- */

/* Row i of the chunk in x, which has `each` rows of n channels a token and head. */
static inline float *delta_row(const delta *d, const lmoe_buf *x, int64_t each, int64_t i,
                               int64_t n)
{
    int64_t row = (d->c.b * d->c.seq + d->begin) * each + i;
    return (float *)x->data + (row * d->c.heads + d->c.h) * n;
}

/* `rows` rows of x times factor; zeros for skipped tokens, past n, and in rows up to `all`. */
static inline void delta_load(const delta *d, const lmoe_buf *x, int64_t each, int64_t rows,
                              int64_t all, int64_t n, float factor, int64_t width, float *to)
{
    for (int64_t i = 0; i < rows; i++, to += width) {
        if (scan_skips(&d->c, d->begin + i / each)) {
            memset(to, 0, sizeof *to * (size_t)width);
            continue;
        }
        const float *from = delta_row(d, x, each, i, n);
        CPU_SIMD
        for (int64_t j = 0; j < n; j++) to[j] = factor * from[j];
        if (n < width) memset(to + n, 0, sizeof *to * (size_t)(width - n));
    }
    if (rows < all) memset(to, 0, sizeof *to * (size_t)((all - rows) * width));
}

static inline void delta_store(const delta *d, const lmoe_buf *x, int64_t each, int64_t rows,
                               int64_t n, float factor, int64_t width, const float *from)
{
    if (!lmoe_buf_present(x)) return;
    for (int64_t i = 0; i < rows; i++, from += width) {
        float *to = delta_row(d, x, each, i, n);
        CPU_SIMD
        for (int64_t j = 0; j < n; j++) to[j] = factor * from[j];
    }
}

/* to (columns rows) = from (rows columns) transposed; both multiples of 4 */
static inline void delta_turn(int64_t rows, int64_t columns, const float *from, int64_t from_row,
                              float *to, int64_t to_row)
{
    for (int64_t i = 0; i < rows; i += 4) {
        for (int64_t j = 0; j < columns; j += 4) {
            const float *p[4];
            for (int k = 0; k < 4; k++) p[k] = from + (i + k) * from_row + j;
            cpu_turn(p, to + j * to_row + i, to_row);
        }
    }
}

/* ---- decays ---- */

/* The row q that reads after step i, or -1. */
static inline int64_t delta_read_after(const delta *d, int64_t i)
{
    return d->q && (i + 1) % d->each == 0 ? d->steps + i / d->each : -1;
}

/* How many steps row r sees. */
static inline int64_t delta_seen(const delta *d, int64_t r)
{
    return r < d->steps ? r : (r - d->steps + 1) * d->each;
}

static inline void delta_pair_row(const float *sums, int64_t seen, float *to)
{
    float f[DELTA_STEPS];
    CPU_SIMD
    for (int j = 0; j < DELTA_STEPS; j++) f[j] = scan_exp(sums[j]);
    for (int j = 0; j < DELTA_STEPS; j++) to[j] = j < seen ? f[j] : 0.0f;
}

/* One factor for all channels: the f of all rows, from sums of logs. */
static inline void delta_fade_all(delta *d)
{
    const delta_room *r = &d->room;
    float sums[DELTA_STEPS] = {0}, start = 0; /* since step j; since the chunk's start */
    const float *logs = d->c.decay->data;
    for (int64_t i = 0; i < d->steps; i++) {
        if (d->resets[i]) {
            for (int j = 0; j < i; j++) sums[j] = -INFINITY;
            start = -INFINITY;
        }
        delta_pair_row(sums, i, r->pair + i * DELTA_STEPS);
        d->at_read[i] = scan_exp(start);
        if (d->decays[i]) {
            int64_t token = d->begin + i / d->each;
            float log =
                d->c.decay->rank == 1 ? logs[d->c.h] : *scan_row(&d->c, d->c.decay, token, 1);
            for (int j = 0; j < i; j++) sums[j] += log;
            start += log;
        }
        int64_t read = delta_read_after(d, i);
        if (read < 0) continue;
        delta_pair_row(sums, i + 1, r->pair + read * DELTA_STEPS);
        d->at_read[read] = scan_exp(start);
    }
    for (int j = 0; j < d->steps; j++) d->at_end[j] = scan_exp(sums[j]);
    start = scan_exp(start);
    for (int64_t i = 0; i < d->k; i++) r->whole[i] = start;
}

/* A factor for each channel: exps of the logs and of their sums. */
static inline void delta_load_factors(delta *d)
{
    const delta_room *r = &d->room;
    int gone = 0;
    memset(r->whole, 0, sizeof *r->whole * (size_t)d->k);
    for (int64_t i = 0; i < d->steps; i++) {
        gone |= d->resets[i];
        if (!d->decays[i]) continue;
        const float *logs = scan_row(&d->c, d->c.decay, d->begin + i / d->each, d->nk);
        float *to = r->factor + i * d->k;
        CPU_SIMD
        for (int64_t j = 0; j < d->nk; j++) {
            to[j] = scan_exp(logs[j]);
            r->whole[j] += logs[j];
        }
        for (int64_t j = d->nk; j < d->k; j++) to[j] = 1;
    }
    CPU_SIMD
    for (int64_t j = 0; j < d->k; j++) r->whole[j] = gone ? 0.0f : scan_exp(r->whole[j]);
}

static inline void delta_load_decays(delta *d)
{
    int fades = lmoe_buf_present(d->c.decay);
    for (int64_t i = 0; i < d->steps; i++) {
        int64_t token = d->begin + i / d->each;
        int first = i % d->each == 0;
        d->resets[i] = first && scan_resets(&d->c, token);
        d->decays[i] = first && lmoe_buf_present(d->c.decay) && !scan_skips(&d->c, token);
        fades |= d->resets[i];
    }
    d->fade = !fades ? SCAN_KEEP : d->c.decay->rank == 4 ? SCAN_ROWS : SCAN_ALL;
    if (d->fade == SCAN_ALL) delta_fade_all(d);
    if (d->fade == SCAN_ROWS) delta_load_factors(d);
}

static inline void delta_scale(const float *from, float factor, int64_t n, float *to)
{
    CPU_SIMD
    for (int64_t j = 0; j < n; j++) to[j] = factor * from[j];
}

/* r and w times their f. */
static inline void delta_fade_by_channel(const delta *d)
{
    const delta_room *r = &d->room;
    for (int64_t c = 0; c < d->k; c += CPU_LANES) {
        cpu_vec f = cpu_all(1);
        for (int64_t i = 0; i < d->steps; i++) {
            if (d->resets[i]) f = cpu_all(0);
            cpu_store(r->r_faded + i * d->k + c, f * cpu_load(r->r + i * d->k + c));
            if (d->decays[i]) f *= cpu_load(r->factor + i * d->k + c);
            int64_t read = delta_read_after(d, i);
            if (read >= 0)
                cpu_store(r->r_faded + read * d->k + c, f * cpu_load(r->r + read * d->k + c));
        }
        f = cpu_all(1);
        for (int64_t i = d->steps - 1; i >= 0; i--) {
            for (int w = 0; w < d->streams; w++)
                cpu_store(r->w_faded[w] + i * d->k + c, f * cpu_load(r->w[w] + i * d->k + c));
            if (d->decays[i]) f *= cpu_load(r->factor + i * d->k + c);
            if (d->resets[i]) f = cpu_all(0);
        }
    }
}

static inline void delta_fade(delta *d)
{
    const delta_room *r = &d->room;
    int faded = d->fade != SCAN_KEEP;
    d->r_faded = faded ? r->r_faded : r->r;
    for (int w = 0; w < d->streams; w++) d->w_faded[w] = faded ? r->w_faded[w] : r->w[w];
    if (d->fade == SCAN_ROWS) delta_fade_by_channel(d);
    if (d->fade != SCAN_ALL) return;
    for (int64_t i = 0; i < d->reads; i++)
        delta_scale(r->r + i * d->k, d->at_read[i], d->k, r->r_faded + i * d->k);
    for (int w = 0; w < d->streams; w++) {
        for (int64_t i = 0; i < d->steps; i++)
            delta_scale(r->w[w] + i * d->k, d->at_end[i], d->k, r->w_faded[w] + i * d->k);
    }
}

/* ---- pairs ---- */

/* One step of the pairs by channel: row a reads what is left of the keys, the decay acts, key i
 * comes in, row q reads. left, keys: (k step). */
static inline void delta_pair_step(int64_t n, int64_t i, const float *a, const float *factor,
                                   const float *q, const float *keys, float *left, float *p_a,
                                   float *p_q)
{
    static const int32_t number[DELTA_STEPS] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                8, 9, 10, 11, 12, 13, 14, 15};
    for (int64_t lane = 0; lane < DELTA_STEPS; lane += CPU_LANES) {
        cpu_vec sa[2] = {{0}}, sq[2] = {{0}};
        cpu_ivec mine = *(const cpu_ivec *)(const void *)(number + lane) == (int32_t)i;
        for (int64_t c = 0; c < n; c += 2) {
            CPU_UNROLL
            for (int h = 0; h < 2; h++) {
                int64_t at = (c + h) * DELTA_STEPS + lane;
                cpu_vec f = cpu_load(left + at);
                sa[h] += a[c + h] * f;
                f = f * factor[c + h] + cpu_where(mine, cpu_load(keys + at));
                sq[h] += q[c + h] * f;
                cpu_store(left + at, f);
            }
        }
        cpu_store(p_a + lane, sa[0] + sa[1]);
        cpu_store(p_q + lane, sq[0] + sq[1]);
    }
}

static inline void delta_pairs_by_channel(const delta *d, int w)
{
    const delta_room *r = &d->room;
    float unread[DELTA_STEPS];
    for (int64_t c = 0; c < d->k; c++) r->ones[c] = 1;
    memset(r->left, 0, sizeof *r->left * (size_t)(d->k * DELTA_STEPS));
    for (int64_t i = 0; i < d->steps; i++) {
        int64_t read = delta_read_after(d, i);
        if (d->resets[i]) memset(r->left, 0, sizeof *r->left * (size_t)(d->k * DELTA_STEPS));
        delta_pair_step(d->k, i, r->r + i * d->k, d->decays[i] ? r->factor + i * d->k : r->ones,
                        read >= 0 ? r->r + read * d->k : r->ones, r->turned, r->left,
                        r->p[w] + i * DELTA_STEPS,
                        read >= 0 ? r->p[w] + read * DELTA_STEPS : unread);
    }
}

static inline void delta_pairs(const delta *d, int w)
{
    const delta_room *r = &d->room;
    delta_turn(DELTA_STEPS, d->k, r->w[w], d->k, r->turned, DELTA_STEPS);
    if (d->fade == SCAN_ROWS) {
        delta_pairs_by_channel(d, w);
        return;
    }
    tile_multiply(d->reads, DELTA_STEPS, d->k, r->r, d->k, r->turned, DELTA_STEPS, r->p[w],
                  DELTA_STEPS);
    for (int64_t i = 0; i < d->reads; i++) {
        int seen = (int)delta_seen(d, i);
        float *p = r->p[w] + i * DELTA_STEPS;
        const float *f = r->pair + i * DELTA_STEPS;
        if (d->fade == SCAN_ALL) {
            for (int j = 0; j < DELTA_STEPS; j++) p[j] = j < seen ? f[j] * p[j] : 0.0f;
        } else {
            for (int j = 0; j < DELTA_STEPS; j++) p[j] = j < seen ? p[j] : 0.0f;
        }
    }
}

/* ---- a chunk ---- */

/* The chunk that starts at token `begin`: its rows, keys and decays. */
static inline void delta_open(delta *d, int64_t begin)
{
    const delta_room *r = &d->room;
    d->begin = begin;
    d->tokens = cpu_min(delta_chunk_tokens(d), d->c.seq - begin);
    d->steps = d->tokens * d->each;
    d->reads = d->steps + (d->q ? d->tokens : 0);
    delta_load(d, d->a, d->each, d->steps, 0, d->nk, 1, d->k, r->r);
    if (d->q) delta_load(d, d->q, 1, d->tokens, 0, d->nk, d->scale, d->k, r->r + d->steps * d->k);
    for (int w = 0; w < d->streams; w++)
        delta_load(d, d->keys[w], d->each, d->steps, DELTA_STEPS, d->nk, 1, d->k, r->w[w]);
    delta_load_decays(d);
    delta_fade(d);
}

static inline void delta_load_values(const delta *d)
{
    delta_load(d, d->v, d->each, d->steps, DELTA_STEPS, d->nv, 1, d->lanes, d->room.x[0]);
}

/* The last stream's values, and what rows q read beside the state, added to y. */
static inline void delta_solve(const delta *d)
{
    const delta_room *r = &d->room;
    int last = d->streams - 1;
    int64_t n = d->lanes;
    for (int64_t c = 0; c < n; c += CPU_LANES) {
        cpu_vec x[DELTA_STEPS];
        for (int64_t i = 0; i < d->steps; i++) {
            const float *p = r->p[last] + i * DELTA_STEPS, *known = r->p[0] + i * DELTA_STEPS;
            cpu_vec s = -cpu_load(r->y + i * n + c), odd = {0};
            if (last == 0) s += cpu_load(r->x[0] + i * n + c);
            for (int64_t j = 0; last > 0 && j < i; j++)
                odd -= known[j] * cpu_load(r->x[0] + j * n + c);
            for (int64_t j = 0; j + 1 < i; j += 2) {
                s -= p[j] * x[j];
                odd -= p[j + 1] * x[j + 1];
            }
            if (i % 2) s -= p[i - 1] * x[i - 1];
            x[i] = s + odd;
        }
        for (int64_t i = 0; i < d->steps; i++) cpu_store(r->x[last] + i * n + c, x[i]);
        for (int64_t i = d->steps; i < d->reads; i++) {
            const float *p = r->p[last] + i * DELTA_STEPS, *known = r->p[0] + i * DELTA_STEPS;
            cpu_vec s = cpu_load(r->y + i * n + c), odd = {0};
            int64_t seen = delta_seen(d, i);
            for (int64_t j = 0; j < seen; j++) s += p[j] * x[j];
            for (int64_t j = 0; last > 0 && j < seen; j++)
                odd += known[j] * cpu_load(r->x[0] + j * n + c);
            cpu_store(r->y + i * n + c, s + odd);
        }
    }
}

/* m (k lanes) times f, row by row; what is forgotten is gone, whatever it was. */
static inline void delta_fade_state(const delta *d, int64_t lanes, float *m)
{
    for (int64_t i = 0; d->fade != SCAN_KEEP && i < d->k; i++) {
        float f = d->room.whole[i];
        if (f == 0)
            memset(m + i * lanes, 0, sizeof *m * (size_t)lanes);
        else if (f != 1)
            delta_scale(m + i * lanes, f, lanes, m + i * lanes);
    }
}

/* Values and, if `reads` is all of them, results of an open chunk; m becomes that at its end. */
static inline void delta_pass(const delta *d, int64_t reads, float *m)
{
    const delta_room *r = &d->room;
    tile_multiply(reads, d->lanes, d->k, d->r_faded, d->k, m, d->lanes, r->y, d->lanes);
    delta_solve(d);
    delta_fade_state(d, d->lanes, m);
    for (int w = 0; w < d->streams; w++)
        tile_add_transposed(d->k, d->lanes, d->steps, d->w_faded[w], d->k, r->x[w], d->lanes, m,
                            d->lanes);
}

/* ---- backwards ---- */

/* grad: (read lanes), rows q given: dy; on return rows a too. dx, for each stream (step lanes):
 * what the state's gradient gives to the values; on return dx[0] is the gradient of v. */
static inline void delta_solve_back(const delta *d, float *grad, float *const dx[2])
{
    const delta_room *r = &d->room;
    int last = d->streams - 1;
    int64_t n = d->lanes;
    for (int64_t c = 0; c < n; c += CPU_LANES) {
        cpu_vec g[DELTA_STEPS];
        for (int64_t j = d->steps - 1; j >= 0; j--) {
            const float *p = r->p[last] + j;
            cpu_vec s = cpu_load(dx[last] + j * n + c), odd = {0};
            for (int64_t i = d->steps + j / d->each; i < d->reads; i++)
                odd += p[i * DELTA_STEPS] * cpu_load(grad + i * n + c);
            for (int64_t i = j + 1; i < d->steps; i++) s -= p[i * DELTA_STEPS] * g[i];
            g[j] = s + odd;
        }
        for (int64_t j = 0; j < d->steps; j++) {
            cpu_store(grad + j * n + c, -g[j]);
            if (last == 0) {
                cpu_store(dx[0] + j * n + c, g[j]);
                continue;
            }
            const float *p = r->p[0] + j;
            cpu_vec s = cpu_load(dx[0] + j * n + c), odd = {0};
            for (int64_t i = d->steps + j / d->each; i < d->reads; i++)
                odd += p[i * DELTA_STEPS] * cpu_load(grad + i * n + c);
            for (int64_t i = j + 1; i < d->steps; i++) s -= p[i * DELTA_STEPS] * g[i];
            cpu_store(dx[0] + j * n + c, s + odd);
        }
    }
}

/* Gradients of the values and of what reads, from the state's gradient g (k lanes) at the chunk's
 * end and rows q of grad. */
static inline void delta_pass_back(const delta *d, float *grad, float *const dx[2], float *g)
{
    for (int w = 0; w < d->streams; w++)
        tile_multiply(d->steps, d->lanes, d->k, d->w_faded[w], d->k, g, d->lanes, dx[w], d->lanes);
    delta_solve_back(d, grad, dx);
}

/* g becomes the gradient at the chunk's start. */
static inline void delta_retreat(const delta *d, const float *grad, float *g)
{
    delta_fade_state(d, d->lanes, g);
    tile_add_transposed(d->k, d->lanes, d->reads, d->r_faded, d->k, grad, d->lanes, g, d->lanes);
}

#endif
