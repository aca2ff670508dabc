/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/scan.h: what the kernels of scan_diag share beside the recurrence
 * (scan_stream.h): heads, blocks of tokens in and out of memory, decays.
 */
#ifndef CPU_SCAN_H
#define CPU_SCAN_H

#include "scan_stream.h"
#include "vec.h"

/* A log below this forgets: exp(-40) is beyond the precision of f32. */
#define SCAN_FORGET (-40.0f)

/* ---- one head of one sequence ---- */

typedef struct scan_head {
    int64_t batch, seq, heads, b, h;
    const lmoe_buf *decay, *decay_v;
    const uint8_t *reset, *skip; /* of this sequence, or NULL */
} scan_head;

static inline scan_head scan_enter(const lmoe_buf *like, const lmoe_buf *decay,
                                   const lmoe_buf *decay_v, const lmoe_buf *reset,
                                   const lmoe_buf *skip, int64_t item)
{
    scan_head c = {.batch = like->dim[0],
                   .seq = like->dim[1],
                   .heads = like->dim[2],
                   .decay = decay,
                   .decay_v = decay_v};
    c.b = item / c.heads;
    c.h = item % c.heads;
    if (lmoe_buf_present(reset)) c.reset = (const uint8_t *)reset->data + c.b * c.seq;
    if (lmoe_buf_present(skip)) c.skip = (const uint8_t *)skip->data + c.b * c.seq;
    return c;
}

static inline int scan_resets(const scan_head *c, int64_t token)
{
    return c->reset && c->reset[token];
}

static inline int scan_skips(const scan_head *c, int64_t token)
{
    return c->skip && c->skip[token];
}

/* Row of token t of this head in a tensor (batch seq heads n). */
static inline float *scan_row(const scan_head *c, const lmoe_buf *x, int64_t t, int64_t n)
{
    return (float *)x->data + ((c->b * c->seq + t) * c->heads + c->h) * n;
}

/* Past the end of a head comes the next one. */
static inline void scan_go_on(scan_head *c, int64_t *begin)
{
    if (*begin < c->seq || c->b * c->heads + c->h + 1 >= c->batch * c->heads) return;
    *begin = 0;
    c->b += (c->h + 1) / c->heads;
    c->h = (c->h + 1) % c->heads;
}

/* Has the block of tokens that starts at `begin` fetched in x (batch seq heads n), if there is such
 * a block, to be read or written. */
static inline void scan_want(const scan_head *c, const lmoe_buf *x, int64_t n, int64_t begin,
                             int write, scan_ahead *a)
{
    if (!lmoe_buf_present(x) || begin < 0 || begin >= c->seq) return;
    int64_t row = n * (int64_t)sizeof(float), i = a->count++;
    a->tokens = cpu_min(SCAN_BLOCK, c->seq - begin);
    a->of[i].row = (const char *)scan_row(c, x, begin, n);
    a->of[i].step = c->heads * row;
    a->of[i].bytes = row;
    a->of[i].write = write;
}

/* Tokens begin ... begin+tokens-1 of x (batch seq heads n), times factor, into padded rows; zeros
 * for skipped tokens, and up to a whole group. */
static inline void scan_load(const scan_head *c, const lmoe_buf *x, int64_t n, int64_t begin,
                             int64_t tokens, float factor, float *to)
{
    int64_t padded = cpu_padded(n);
    for (int64_t t = 0; t < tokens; t++, to += padded) {
        const float *from = scan_row(c, x, begin + t, n);
        float f = scan_skips(c, begin + t) ? 0.0f : factor;
        if (f == 0.0f) {
            memset(to, 0, sizeof *to * (size_t)padded);
            continue;
        }
        CPU_SIMD
        for (int64_t d = 0; d < n; d++) to[d] = f * from[d];
        for (int64_t d = n; d < padded; d++) to[d] = 0;
    }
    int64_t rest = (SCAN_GROUP - tokens % SCAN_GROUP) % SCAN_GROUP;
    memset(to, 0, sizeof *to * (size_t)(rest * padded));
}

static inline void scan_store(const scan_head *c, const lmoe_buf *x, int64_t n, int64_t begin,
                              int64_t tokens, const float *from)
{
    int64_t padded = cpu_padded(n);
    if (!lmoe_buf_present(x)) return;
    for (int64_t t = 0; t < tokens; t++) {
        memcpy(scan_row(c, x, begin + t, n), from + t * padded, sizeof *from * (size_t)n);
    }
}

/* The state with which a head starts: none if its first token forgets it, whatever is in it. */
static inline const lmoe_buf *scan_first(const scan_head *c, const lmoe_buf *carry)
{
    static const lmoe_buf none;
    return c->seq > 0 && scan_resets(c, 0) ? &none : carry;
}

/* The state of this head, x (batch heads k v), as padded rows; transposed: (v k). Absent: zeros. */
static inline void scan_load_state(const scan_head *c, const lmoe_buf *x, int64_t k, int64_t v,
                                   int transposed, float *to)
{
    int64_t kp = cpu_padded(k), vp = cpu_padded(v);
    memset(to, 0, sizeof *to * (size_t)(kp * vp));
    if (!lmoe_buf_present(x)) return;
    const float *from = (const float *)x->data + (c->b * c->heads + c->h) * k * v;
    for (int64_t i = 0; i < k; i++) {
        if (!transposed) memcpy(to + i * vp, from + i * v, sizeof *to * (size_t)v);
        for (int64_t j = 0; transposed && j < v; j++) to[j * kp + i] = from[i * v + j];
    }
}

static inline void scan_store_state(const scan_head *c, const lmoe_buf *x, int64_t k, int64_t v,
                                    const float *from)
{
    if (!lmoe_buf_present(x)) return;
    float *to = (float *)x->data + (c->b * c->heads + c->h) * k * v;
    for (int64_t i = 0; i < k; i++)
        memcpy(to + i * v, from + i * cpu_padded(v), sizeof *to * (size_t)v);
}

/* Memory for the pairs of a block's groups. */
static inline scan_pairs *scan_take_pairs(char **cursor)
{
    return (scan_pairs *)(void *)cpu_take(cursor, SCAN_BLOCK * SCAN_GROUP);
}

/* ---- decays of a block of tokens ---- */

/* Factors of tokens and groups: (token) and (group), or (token k) and (group k). With `values` there
 * are always k of them, and those of the values' channels. */
typedef struct scan_decays {
    scan_fade fade;   /* SCAN_KEEP, SCAN_ALL or SCAN_ROWS */
    int values;       /* 1: the values decay too */
    float *a;         /* exp(decay), exactly 0 where the past is forgotten */
    float *e;         /* product of a over the group */
    float *a_v, *e_v; /* (token v), (group v): the same of decay_v */
} scan_decays;

/* How the state fades: k its rows, or its lanes. */
static inline scan_fade scan_fade_of(const scan_decays *d, int k_lanes)
{
    return d->values ? SCAN_BOTH : d->fade == SCAN_ROWS && k_lanes ? SCAN_LANES : d->fade;
}

/* Room for the factors of a block; k, v: padded, v 0 if the values never decay. */
static inline void scan_take_decays(char **cursor, int64_t k, int64_t v, scan_decays *d)
{
    d->a = cpu_take(cursor, SCAN_BLOCK * k);
    d->e = cpu_take(cursor, SCAN_GROUPS * k);
    d->a_v = cpu_take(cursor, SCAN_BLOCK * v);
    d->e_v = cpu_take(cursor, SCAN_GROUPS * v);
}

/* exp for what decays can be: 0 below -87, where f32 ends. */
static inline float scan_exp(float x)
{
    int32_t n;
    float r = cpu_reduce(x < -87.0f ? -87.0f : x, &n);
    float y = ((cpu_exp_tail(r) * r) * r + r + 1.0f) * cpu_pow2(n);
    return x < -87.0f ? 0.0f : y;
}

/* The log that counts. */
static inline float scan_log(float log)
{
    return log < SCAN_FORGET ? -INFINITY : log;
}

/* The log decay of a token whose channels share it. */
static inline float scan_shared_log(const scan_head *c, const lmoe_buf *x, int64_t token)
{
    if (!lmoe_buf_present(x)) return 0;
    return scan_log(x->rank == 1 ? ((const float *)x->data)[c->h] : *scan_row(c, x, token, 1));
}

/* E is the exp of a sum, not a product of rounded factors: over a long memory their errors would
 * add up. */
static inline void scan_load_one(const scan_head *c, int64_t begin, int64_t tokens, scan_decays *d)
{
    const lmoe_buf *x = c->decay;
    for (int64_t first = 0; first < tokens; first += SCAN_GROUP) {
        float sum = 0;
        for (int64_t t = first; t < first + SCAN_GROUP; t++) {
            int64_t token = begin + t;
            float log = 0;
            if (t < tokens && scan_resets(c, token))
                log = -INFINITY;
            else if (t < tokens && !scan_skips(c, token))
                log = scan_shared_log(c, x, token);
            d->a[t] = scan_exp(log);
            sum += log;
        }
        d->e[first / SCAN_GROUP] = scan_exp(sum);
    }
}

/* One token's factors: n of logs, or `log` for all if logs is NULL; added to sum. */
static inline void scan_load_row(const float *logs, float log, int64_t n, float *a, float *sum)
{
    int64_t i = 0, padded = cpu_padded(n);
    if (logs) {
        CPU_SIMD
        for (i = 0; i < n; i++) {
            float x = scan_log(logs[i]);
            a[i] = scan_exp(x);
            sum[i] += x;
        }
    }
    for (float f = scan_exp(log); i < padded; i++) {
        a[i] = f;
        sum[i] += log;
    }
}

/* a: (token n), e: (group n) of the decay x, which may also be absent, (heads) or (b s heads). */
static inline void scan_load_each(const scan_head *c, const lmoe_buf *x, int64_t n, int64_t begin,
                                  int64_t tokens, float *a, float *e)
{
    int64_t padded = cpu_padded(n);
    for (int64_t first = 0; first < tokens; first += SCAN_GROUP) {
        float *sum = e + first / SCAN_GROUP * padded;
        memset(sum, 0, sizeof *sum * (size_t)padded);
        for (int64_t t = first; t < first + SCAN_GROUP; t++) {
            int64_t token = begin + t;
            const float *logs = NULL;
            float log = 0;
            if (t < tokens && scan_resets(c, token)) {
                log = -INFINITY;
            } else if (t < tokens && !scan_skips(c, token)) {
                if (x->rank == 4)
                    logs = scan_row(c, x, token, n);
                else
                    log = scan_shared_log(c, x, token);
            }
            scan_load_row(logs, log, n, a + t * padded, sum);
        }
        CPU_SIMD
        for (int64_t i = 0; i < padded; i++) sum[i] = scan_exp(sum[i]);
    }
}

/* The factors of tokens begin ...; with SCAN_KEEP they are not to be used. k, v: sizes. */
static inline void scan_load_decays(const scan_head *c, int64_t k, int64_t v, int64_t begin,
                                    int64_t tokens, scan_decays *d)
{
    int fades = lmoe_buf_present(c->decay);
    for (int64_t t = begin; t < begin + tokens; t++) fades |= scan_resets(c, t);
    d->values = lmoe_buf_present(c->decay_v);
    d->fade = d->values || (fades && c->decay->rank == 4) ? SCAN_ROWS
              : fades                                     ? SCAN_ALL
                                                          : SCAN_KEEP;
    if (d->fade == SCAN_ALL) scan_load_one(c, begin, tokens, d);
    if (d->fade == SCAN_ROWS) scan_load_each(c, c->decay, k, begin, tokens, d->a, d->e);
    if (d->values) scan_load_each(c, c->decay_v, v, begin, tokens, d->a_v, d->e_v);
}

/* from_start_i = x_i a_0 ... a_i: what x reads of the state at the group's start; n: padded. */
CPU_INLINE void scan_from_start(scan_fade fade, int64_t tokens, int64_t n, const float *a,
                                const float *x, float *to)
{
    for (int64_t first = 0; first < tokens; first += SCAN_GROUP) {
        for (int64_t d = 0; d < n; d += CPU_LANES) {
            cpu_vec f = cpu_all(1);
            CPU_UNROLL
            for (int64_t t = first; t < first + SCAN_GROUP; t++) {
                f *= scan_factor(fade, a, n, t, d);
                cpu_store(to + t * n + d, f * cpu_load(x + t * n + d));
            }
        }
    }
}

/* to_end_j = x_j a_{j+1} ... a_3: what is left of x at the group's end. */
CPU_INLINE void scan_to_end(scan_fade fade, int64_t tokens, int64_t n, const float *a,
                            const float *x, float *to)
{
    for (int64_t first = 0; first < tokens; first += SCAN_GROUP) {
        for (int64_t d = 0; d < n; d += CPU_LANES) {
            cpu_vec f = cpu_all(1);
            CPU_UNROLL
            for (int64_t t = first + SCAN_GROUP - 1; t >= first; t--) {
                cpu_store(to + t * n + d, f * cpu_load(x + t * n + d));
                f *= scan_factor(fade, a, n, t, d);
            }
        }
    }
}

/* q faded from the group's start and k faded to its end, as the recurrence wants them. With
 * SCAN_KEEP qs, ke stay as they are. */
static inline void scan_fade_both(const scan_decays *d, int64_t tokens, int64_t n, const float *q,
                                  const float *k, float *qs, float *ke)
{
    if (d->fade == SCAN_ALL) {
        scan_from_start(SCAN_ALL, tokens, n, d->a, q, qs);
        scan_to_end(SCAN_ALL, tokens, n, d->a, k, ke);
    } else if (d->fade == SCAN_ROWS) {
        scan_from_start(SCAN_ROWS, tokens, n, d->a, q, qs);
        scan_to_end(SCAN_ROWS, tokens, n, d->a, k, ke);
    }
}

/* ---- what tokens of one group give each other ---- */

/* out_i, what the state at the group's start gives, becomes
 *   scale * ((a_0 ... a_i) out_i + sum_{j <= i} p_ij w_j a_{j+1} ... a_i)
 * and own, if not NULL, by_i * that sum without j = i. n: padded. */
CPU_INLINE void scan_finish_reads(scan_fade fade, int64_t tokens, int64_t n, const float *a,
                                  const scan_pairs *pairs, const float *w, float scale, float *out,
                                  const float *by, float *own)
{
    for (int64_t t = 0; t < tokens; t += SCAN_GROUP) {
        const float(*p)[SCAN_GROUP] = pairs[t / SCAN_GROUP];
        for (int64_t d = 0; d < n; d += CPU_LANES) {
            cpu_vec x[SCAN_GROUP], f = cpu_all(1);
            CPU_UNROLL
            for (int i = 0; i < SCAN_GROUP; i++) {
                int64_t at = (t + i) * n + d;
                cpu_vec sum = cpu_load(out + at);
                if (fade != SCAN_KEEP) {
                    cpu_vec factor = scan_factor(fade, a, n, t + i, d);
                    for (int j = 0; j < i; j++) x[j] *= factor;
                    sum *= f *= factor;
                }
                for (int j = 0; j < i; j++) sum += p[i][j] * x[j];
                if (own) cpu_store(own + at, sum * cpu_load(by + at));
                x[i] = cpu_load(w + at);
                sum += p[i][i] * x[i];
                cpu_store(out + at, scale * sum);
            }
        }
    }
}

/* out_j, what the state at the group's end gives, becomes
 *   (a_{j+1} ... a_3) out_j + sum_{i >= j} p_ij x_i a_{j+1} ... a_i
 * and own, if not NULL, less by_j * that sum without i = j. n: padded. */
CPU_INLINE void scan_finish_writes(scan_fade fade, int64_t tokens, int64_t n, const float *a,
                                   const scan_pairs *pairs, const float *x, float *out,
                                   const float *by, float *own)
{
    int64_t groups = (tokens + SCAN_GROUP - 1) / SCAN_GROUP;
    for (int64_t g = groups - 1; g >= 0; g--) {
        int64_t t = g * SCAN_GROUP;
        const float(*p)[SCAN_GROUP] = pairs[g];
        for (int64_t d = 0; d < n; d += CPU_LANES) {
            cpu_vec y[SCAN_GROUP], f = cpu_all(1), after = {0};
            CPU_UNROLL
            for (int j = SCAN_GROUP - 1; j >= 0; j--) {
                int64_t at = (t + j) * n + d;
                cpu_vec sum = cpu_load(out + at);
                if (fade != SCAN_KEEP) {
                    for (int i = j + 1; i < SCAN_GROUP; i++) y[i] *= after;
                    if (j < SCAN_GROUP - 1) sum *= f *= after;
                    after = scan_factor(fade, a, n, t + j, d);
                }
                for (int i = j + 1; i < SCAN_GROUP; i++) sum += p[i][j] * y[i];
                if (own) cpu_store(own + at, cpu_load(own + at) - cpu_load(by + at) * sum);
                y[j] = cpu_load(x + at);
                cpu_store(out + at, sum + p[j][j] * y[j]);
            }
        }
    }
}

#endif
