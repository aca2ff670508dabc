/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/scan_elem.h: what the kernels of scan_elem share: strips of channels, decays
 * of a block of tokens, the recurrence over it.
 *
 *   h_s[c,n] = a_s[c,n] h_{s-1}[c,n] + x_s[c] b_s[n]        y_s[c] = Re sum_n h_s[c,n] c_s[n]
 *   a_s[c,n] = exp(step_s[c] rate[c,n]) (cos + i sin)
 *
 * A strip is as many channels of one head as a register has lanes; its state is turned to (n lane),
 * the real parts and then the imaginary ones, so that nothing is summed across lanes. Decays are
 * made for a block of tokens at a time and only for the axes that they really have.
 */
#ifndef CPU_SCAN_ELEM_H
#define CPU_SCAN_ELEM_H

#include "lanes.h"
#include "vec.h"

enum { ELEM_BLOCK = 16, ELEM_LANES = CPU_LANES };

/* How c is given: not wanted; one number for all lanes, or absent (1); a table of its own. */
typedef enum elem_read { ELEM_NONE, ELEM_TOKEN, ELEM_TABLE } elem_read;

/* A call: operands (absent ones have no data) and sizes. */
typedef struct elem_scan {
    const lmoe_buf *x, *step, *rate, *cos, *sin, *b, *c, *c_im, *reset, *skip;
    int64_t batch, seq, heads, channels, n;
    int parts;     /* 2: complex */
    int turn_rows; /* cos and sin of each token and channel */
    elem_read read;
} elem_scan;

/* Sizes from the operands; row: x or dy. */
static inline void elem_measure(elem_scan *e, const lmoe_buf *row)
{
    const lmoe_buf *table = lmoe_buf_present(e->rate) ? e->rate : e->cos;
    e->batch = row->dim[0];
    e->seq = row->dim[1];
    e->heads = row->rank == 4 ? row->dim[2] : 1;
    e->channels = row->dim[row->rank - 1];
    e->parts = lmoe_buf_present(e->cos) ? 2 : 1;
    e->turn_rows = e->parts == 2 && e->cos->rank == row->rank;
    int c_table = lmoe_buf_present(e->c) && e->c->rank != row->rank;
    e->read = c_table ? ELEM_TABLE : ELEM_TOKEN;
    e->n = 1;
    if (lmoe_buf_present(table) && table->rank != row->rank)
        e->n = table->dim[table->rank - 1];
    else if (lmoe_buf_present(e->b))
        e->n = e->b->dim[e->b->rank - 1];
    else if (lmoe_buf_present(e->c))
        e->n = e->c->dim[e->c->rank - 1];
}

static inline int64_t elem_strips(const elem_scan *e)
{
    return (e->channels + ELEM_LANES - 1) / ELEM_LANES;
}

static inline int64_t elem_blocks(const elem_scan *e)
{
    return (e->seq + ELEM_BLOCK - 1) / ELEM_BLOCK;
}

/* Numbers of a strip's state. */
static inline int64_t elem_state(const elem_scan *e)
{
    return e->parts * e->n * ELEM_LANES;
}

typedef struct elem_strip {
    int64_t b, h, first, width; /* which channels */
} elem_strip;

static inline elem_strip elem_enter(const elem_scan *e, int64_t bh, int64_t strip)
{
    int64_t first = strip * ELEM_LANES;
    return (elem_strip){bh / e->heads, bh % e->heads, first,
                        cpu_min(ELEM_LANES, e->channels - first)};
}

static inline int elem_flag(const elem_scan *e, const lmoe_buf *flags, int64_t b, int64_t t)
{
    return lmoe_buf_present(flags) && ((const uint8_t *)flags->data)[b * e->seq + t];
}

/* The strip's part of token t in a row operand. */
static inline float *elem_row(const elem_scan *e, const elem_strip *s, const lmoe_buf *x, int64_t t)
{
    int64_t row = (s->b * e->seq + t) * e->heads + s->h;
    return (float *)x->data + row * e->channels + s->first;
}

/* What all channels read of token t: (n); NULL if absent. */
static inline float *elem_token_row(const elem_scan *e, const elem_strip *s, const lmoe_buf *x,
                                    int64_t t)
{
    if (!lmoe_buf_present(x)) return NULL;
    return (float *)x->data + ((s->b * e->seq + t) * e->heads + s->h) * e->n;
}

static inline void elem_load_row(const elem_scan *e, const elem_strip *s, const lmoe_buf *x,
                                 int64_t t, float *to)
{
    const float *from = elem_row(e, s, x, t);
    if (s->width == ELEM_LANES) {
        cpu_store(to, cpu_load(from));
        return;
    }
    for (int64_t i = 0; i < ELEM_LANES; i++) to[i] = i < s->width ? from[i] : 0;
}

static inline void elem_store_row(const elem_scan *e, const elem_strip *s, const lmoe_buf *x,
                                  int64_t t, cpu_vec from)
{
    float *to = elem_row(e, s, x, t);
    for (int64_t i = 0; s->width < ELEM_LANES && i < s->width; i++) to[i] = from[i];
    if (s->width == ELEM_LANES) cpu_store(to, from);
}

/* A table's first number of this strip; the next channel's is n further. */
static inline float *elem_table(const elem_scan *e, const elem_strip *s, const lmoe_buf *x)
{
    return (float *)x->data + (s->h * e->channels + s->first) * e->n;
}

static inline void elem_load_table(const elem_scan *e, const elem_strip *s, const lmoe_buf *x,
                                   float *to)
{
    memset(to, 0, sizeof *to * (size_t)(e->n * ELEM_LANES));
    if (!lmoe_buf_present(x)) return;
    const float *from = elem_table(e, s, x);
    for (int64_t i = 0; i < s->width; i++) {
        for (int64_t n = 0; n < e->n; n++) to[n * ELEM_LANES + i] = from[i * e->n + n];
    }
}

/* The strip's state in a carry (batch heads channel n part). */
static inline float *elem_home(const elem_scan *e, const elem_strip *s, const lmoe_buf *carry)
{
    int64_t channel = (s->b * e->heads + s->h) * e->channels + s->first;
    return (float *)carry->data + channel * e->n * e->parts;
}

/* The strip's state; none if it is absent, or if the first token forgets it anyway. */
static inline void elem_load_state(const elem_scan *e, const elem_strip *s, const lmoe_buf *carry,
                                   float *to)
{
    memset(to, 0, sizeof *to * (size_t)elem_state(e));
    if (!lmoe_buf_present(carry)) return;
    const float *from = elem_home(e, s, carry);
    for (int64_t i = 0; i < s->width; i++) {
        for (int64_t n = 0; n < e->n; n++) {
            for (int p = 0; p < e->parts; p++, from++) to[(p * e->n + n) * ELEM_LANES + i] = *from;
        }
    }
}

static inline void elem_store_state(const elem_scan *e, const elem_strip *s, const lmoe_buf *carry,
                                    const float *from)
{
    if (!lmoe_buf_present(carry)) return;
    float *to = elem_home(e, s, carry);
    for (int64_t i = 0; i < s->width; i++) {
        for (int64_t n = 0; n < e->n; n++) {
            for (int p = 0; p < e->parts; p++) *to++ = from[(p * e->n + n) * ELEM_LANES + i];
        }
    }
}

/* ---- decays ---- */

/* One strip's tables, and rows of a block of tokens. */
typedef struct elem_room {
    float *h, *none;                        /* (part n lane); none: zeros */
    float *x, *step;                        /* (token lane) */
    float *rate, *c, *c_im;                 /* (n lane) */
    float *size, *cos, *sin;                /* (token n lane), without the axes they do not have */
    int64_t size_t, size_n, turn_t, turn_n; /* their steps; 0: no such axis */
} elem_room;

static inline void elem_cut(const elem_scan *e, char **cursor, elem_room *r)
{
    int64_t row = ELEM_LANES, table = e->n * row;
    int step = lmoe_buf_present(e->step), rate = lmoe_buf_present(e->rate);
    r->size_n = rate ? row : 0;
    r->size_t = step ? (rate ? table : row) : 0;
    r->turn_t = e->turn_rows ? row : 0;
    r->turn_n = e->turn_rows ? 0 : row;
    r->h = cpu_take(cursor, e->parts * table);
    r->none = cpu_take(cursor, e->parts * table);
    r->x = cpu_take(cursor, ELEM_BLOCK * row);
    r->step = cpu_take(cursor, ELEM_BLOCK * row);
    r->rate = cpu_take(cursor, table);
    r->c = cpu_take(cursor, table);
    r->c_im = cpu_take(cursor, table);
    r->size = cpu_take(cursor, (step ? ELEM_BLOCK : 1) * (rate ? table : row));
    r->cos = cpu_take(cursor, cpu_max(table, ELEM_BLOCK * row));
    r->sin = cpu_take(cursor, cpu_max(table, ELEM_BLOCK * row));
}

/* What does not change along seq. */
static inline void elem_load_tables(const elem_scan *e, const elem_strip *s, elem_room *r)
{
    int64_t table = e->n * ELEM_LANES;
    memset(r->none, 0, sizeof *r->none * (size_t)elem_state(e));
    if (lmoe_buf_present(e->rate)) elem_load_table(e, s, e->rate, r->rate);
    if (e->read == ELEM_TABLE) {
        elem_load_table(e, s, e->c, r->c);
        elem_load_table(e, s, e->c_im, r->c_im);
    }
    if (e->parts == 2 && !e->turn_rows) {
        elem_load_table(e, s, e->cos, r->cos);
        elem_load_table(e, s, e->sin, r->sin);
    }
    if (lmoe_buf_present(e->step)) return;
    for (int64_t i = 0; r->size_n == 0 && i < ELEM_LANES; i++) r->size[i] = 1;
    CPU_SIMD
    for (int64_t i = 0; i < table * (r->size_n != 0); i++) r->size[i] = cpu_expf(r->rate[i]);
}

static inline void elem_load_sizes(const elem_scan *e, const elem_room *r, int64_t t)
{
    const float *step = r->step + t * ELEM_LANES;
    float *size = r->size + t * r->size_t;
    if (r->size_n == 0) {
        CPU_SIMD
        for (int i = 0; i < ELEM_LANES; i++) size[i] = cpu_expf(step[i]);
        return;
    }
    for (int64_t n = 0; n < e->n; n++) {
        const float *rate = r->rate + n * ELEM_LANES;
        CPU_SIMD
        for (int i = 0; i < ELEM_LANES; i++) size[n * ELEM_LANES + i] = cpu_expf(step[i] * rate[i]);
    }
}

/* Tokens begin ...; x may be absent. */
static inline void elem_load_block(const elem_scan *e, const elem_strip *s, int64_t begin,
                                   int64_t tokens, elem_room *r)
{
    for (int64_t t = 0; t < tokens; t++) {
        int64_t at = t * ELEM_LANES;
        if (elem_flag(e, e->skip, s->b, begin + t)) continue;
        if (lmoe_buf_present(e->x)) elem_load_row(e, s, e->x, begin + t, r->x + at);
        if (r->size_t) {
            elem_load_row(e, s, e->step, begin + t, r->step + at);
            elem_load_sizes(e, r, t);
        }
        if (r->turn_t) {
            elem_load_row(e, s, e->cos, begin + t, r->cos + at);
            elem_load_row(e, s, e->sin, begin + t, r->sin + at);
        }
    }
}

/* ---- the recurrence ---- */

/* What the channels write to and read from element n. */
CPU_INLINE cpu_vec elem_c(elem_read read, const float *c, int64_t n, float absent)
{
    if (read == ELEM_TABLE) return cpu_load(c + n * ELEM_LANES);
    return cpu_all(c ? c[n] : absent);
}

/* Token t of the block: state `from` to state `to` (may be the same); returns y. */
CPU_INLINE cpu_vec elem_token(const elem_scan *e, const elem_room *r, int complex_too,
                              elem_read read, int64_t t, const float *b, const float *c,
                              const float *c_im, const float *from, float *to)
{
    const float *size = r->size + t * r->size_t;
    const float *cos = r->cos + t * r->turn_t, *sin = r->sin + t * r->turn_t;
    cpu_vec x = cpu_load(r->x + t * ELEM_LANES), y = cpu_all(0);
    int64_t imaginary = e->n * ELEM_LANES;
    for (int64_t n = 0, at = 0; n < e->n; n++, at += ELEM_LANES) {
        cpu_vec a = cpu_load(size + n * r->size_n), re = cpu_load(from + at);
        cpu_vec v = x;
        if (b) v *= b[n];
        if (complex_too) {
            cpu_vec u = a * cpu_load(cos + n * r->turn_n), w = a * cpu_load(sin + n * r->turn_n);
            cpu_vec im = cpu_load(from + imaginary + at);
            cpu_vec turned = u * im + w * re;
            re = u * re - w * im + v;
            cpu_store(to + imaginary + at, turned);
            if (read != ELEM_NONE) y -= turned * elem_c(read, c_im, n, 0);
        } else {
            re = a * re + v;
        }
        cpu_store(to + at, re);
        if (read != ELEM_NONE) y += re * elem_c(read, c, n, 1);
    }
    return y;
}

/* A block of tokens, from state r->h. y: outputs, if present; history: (token part n lane), the state
 * before the block's first token and after each, or NULL. */
CPU_INLINE void elem_tokens(const elem_scan *e, const elem_strip *s, elem_room *r, int complex_too,
                            elem_read read, int64_t begin, int64_t tokens, const lmoe_buf *y,
                            float *history)
{
    int64_t state = elem_state(e);
    float *h = history ? history : r->h;
    for (int64_t t = 0; t < tokens; t++) {
        const float *from = h;
        float *to = history ? h + state : h;
        cpu_vec out = cpu_all(0);
        if (elem_flag(e, e->reset, s->b, begin + t)) from = r->none;
        if (elem_flag(e, e->skip, s->b, begin + t)) {
            if (to != from) cpu_copy(to, from, state);
        } else {
            const float *b = elem_token_row(e, s, e->b, begin + t), *c = r->c, *c_im = r->c_im;
            if (read == ELEM_TOKEN) {
                c = elem_token_row(e, s, e->c, begin + t);
                c_im = elem_token_row(e, s, e->c_im, begin + t);
            }
            out = elem_token(e, r, complex_too, read, t, b, c, c_im, from, to);
        }
        if (read != ELEM_NONE && lmoe_buf_present(y)) elem_store_row(e, s, y, begin + t, out);
        h = to;
    }
}

/* With read ELEM_NONE only the state is computed, and y is not used. */
static inline void elem_run_block(const elem_scan *e, const elem_strip *s, elem_room *r,
                                  elem_read read, int64_t begin, int64_t tokens, const lmoe_buf *y,
                                  float *history)
{
#define ELEM_CASE(parts_, read_)             \
    if (e->parts == parts_ && read == read_) \
        elem_tokens(e, s, r, parts_ == 2, read_, begin, tokens, y, history);
    ELEM_CASE(1, ELEM_NONE)
    ELEM_CASE(1, ELEM_TOKEN)
    ELEM_CASE(1, ELEM_TABLE)
    ELEM_CASE(2, ELEM_NONE)
    ELEM_CASE(2, ELEM_TOKEN)
    ELEM_CASE(2, ELEM_TABLE)
#undef ELEM_CASE
}

/* The whole of seq from state r->h; `starts` (block part n lane), or NULL: the state before each
 * block. */
static inline void elem_sweep(const elem_scan *e, const elem_strip *s, elem_room *r, elem_read read,
                              const lmoe_buf *y, float *starts)
{
    for (int64_t begin = 0; begin < e->seq; begin += ELEM_BLOCK) {
        int64_t tokens = cpu_min(ELEM_BLOCK, e->seq - begin);
        if (starts) cpu_copy(starts + begin / ELEM_BLOCK * elem_state(e), r->h, elem_state(e));
        elem_load_block(e, s, begin, tokens, r);
        elem_run_block(e, s, r, read, begin, tokens, y, NULL);
    }
}

/* Inputs first ... last are f32 or absent, flags aside. */
static inline int elem_can(const lmoe_args *a, int reset, int last)
{
    for (int i = 0; i <= last; i++) {
        if (i != reset && i != reset + 1 && !cpu_f32_or_absent(&a->in[i])) return 0;
    }
    return 1;
}

#endif
