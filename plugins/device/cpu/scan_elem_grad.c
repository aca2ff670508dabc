/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/scan_elem_grad.c: scan_elem_grad/1 (scan_elem.h).
 *
 *   forwards:   h at the start of each block of tokens
 *   backwards:  h of the block's tokens once more, then, from its end,
 *     g = G + dy conj(c)    dc += dy conj(h)    dx = Re sum_n g b    db += Re g x
 *     da = g conj(h_before) G = conj(a) g
 *     dlog = size Re(da conj(turn)): dstep = sum_n dlog rate, drate += dlog step
 *     dcos + i dsin = size da
 *
 * A thread takes a group of strips of one sequence. What all channels share (db, dc of each token)
 * is summed in lanes over the strips of a group, then over the lanes, at last over the groups; the
 * tables' derivatives over the tokens of a sequence, then over the batch.
 */
#include "scan_elem.h"

enum { X, STEP, RATE, COS, SIN, B, C, C_IM, RESET, SKIP, DY, CARRY, DCARRY };
enum { DX, DSTEP, DRATE, DCOS, DSIN, DB, DC, DC_IM, DCARRY_OUT, SUMS = DCARRY_OUT };

/* Channels of a group; fixed, as it decides the order of additions. */
enum { ELEM_GROUP = 128, ELEM_GROUP_STRIPS = ELEM_GROUP / ELEM_LANES };

/* One strip of the group on its way back. */
typedef struct strip_room {
    float *starts;      /* (block part n lane) h at the start of each block */
    float *g;           /* (part n lane) */
    float *table[SUMS]; /* (n lane) sums for the derivatives of tables, where wanted */
} strip_room;

typedef struct room {
    elem_room elem;
    float *history;   /* (token + 1, part n lane) */
    float *dy;        /* (token lane) */
    float *row[SUMS]; /* (token n lane) sums over the group's strips, for db, dc, dc_im */
    strip_room strip[ELEM_GROUP_STRIPS];
} room;

typedef struct plan {
    const lmoe_args *a;
    elem_scan e;
    int64_t groups;
    int table[SUMS], read[SUMS]; /* which derivatives are of tables; of what all channels share */
    float *partial[SUMS];        /* tables: (batch ...); shared: (group ...) */
    size_t thread_bytes, bytes;
    char *threads;
} plan;

static void cut(const elem_scan *e, const plan *p, char **cursor, room *r)
{
    int64_t state = elem_state(e), table = e->n * ELEM_LANES;
    elem_cut(e, cursor, &r->elem);
    r->history = cpu_take(cursor, (ELEM_BLOCK + 1) * state);
    r->dy = cpu_take(cursor, ELEM_BLOCK * ELEM_LANES);
    for (int i = 0; i < SUMS; i++)
        r->row[i] = p->read[i] ? cpu_take(cursor, ELEM_BLOCK * table) : NULL;
    for (int k = 0; k < ELEM_GROUP_STRIPS; k++) {
        strip_room *s = &r->strip[k];
        s->starts = cpu_take(cursor, elem_blocks(e) * state);
        s->g = cpu_take(cursor, state);
        for (int i = 0; i < SUMS; i++) s->table[i] = p->table[i] ? cpu_take(cursor, table) : NULL;
    }
}

/* memory NULL: only counts. */
static plan plan_of(const lmoe_args *a, char *memory)
{
    const lmoe_buf *in = a->in;
    plan p = {.a = a};
    char *cursor = memory, *one = NULL;
    room r;
    p.e = (elem_scan){.x = &in[X],
                      .step = &in[STEP],
                      .rate = &in[RATE],
                      .cos = &in[COS],
                      .sin = &in[SIN],
                      .b = &in[B],
                      .c = &in[C],
                      .c_im = &in[C_IM],
                      .reset = &in[RESET],
                      .skip = &in[SKIP]};
    elem_measure(&p.e, &in[X]);
    p.groups = (elem_strips(&p.e) + ELEM_GROUP_STRIPS - 1) / ELEM_GROUP_STRIPS;
    for (int i = DRATE; i < SUMS; i++) {
        int wanted = lmoe_buf_present(&a->out[i]), token = in[i].rank == in[X].rank;
        p.read[i] = wanted && token && i >= DB;
        p.table[i] = wanted && !token;
        int64_t copies = p.read[i] ? p.groups : p.e.batch;
        if (p.read[i] || p.table[i])
            p.partial[i] = cpu_take(&cursor, copies * lmoe_buf_count(&in[i]));
    }
    p.threads = cursor;
    cut(&p.e, &p, &one, &r);
    p.thread_bytes = (size_t)one;
    p.bytes = (size_t)(cursor - memory) + p.thread_bytes * (size_t)lmoe_threads(a->ctx);
    return p;
}

/* ---- one token ---- */

/* Sums of a token that stay with its channels. */
typedef struct own {
    cpu_vec dx, dstep, dcos, dsin;
} own;

CPU_INLINE void add_to(float *sum, int64_t at, cpu_vec x)
{
    if (sum) cpu_store(sum + at, cpu_load(sum + at) + x);
}

/* before, after: states; b, c, c_im: as elem_token. row: this token's sums (n lane). */
CPU_INLINE own back_token(const elem_scan *e, const elem_room *r, int complex_too, elem_read read,
                          int64_t t, cpu_vec dy, const float *b, const float *c, const float *c_im,
                          const float *before, const float *after, const strip_room *s,
                          float *const row[SUMS])
{
    const float *sizes = r->size + t * r->size_t;
    const float *cos = r->cos + t * r->turn_t, *sin = r->sin + t * r->turn_t;
    cpu_vec x = cpu_load(r->x + t * ELEM_LANES), zero = cpu_all(0);
    cpu_vec step = cpu_all(1);
    if (r->size_t) step = cpu_load(r->step + t * ELEM_LANES);
    own sum = {zero, zero, zero, zero};
    int64_t im = e->n * ELEM_LANES;
    float *const *of_c = read == ELEM_TABLE ? s->table : row;
    for (int64_t n = 0, at = 0; n < e->n; n++, at += ELEM_LANES) {
        cpu_vec size = cpu_load(sizes + n * r->size_n), dlog;
        cpu_vec g = cpu_load(s->g + at) + dy * elem_c(read, c, n, 1), h = cpu_load(before + at);
        add_to(of_c[DC], at, dy * cpu_load(after + at));
        cpu_vec written = g;
        if (b) written *= b[n];
        sum.dx += written;
        add_to(row[DB], at, g * x);
        if (complex_too) {
            cpu_vec gi = cpu_load(s->g + im + at) - dy * elem_c(read, c_im, n, 0);
            cpu_vec hi = cpu_load(before + im + at);
            cpu_vec u = cpu_load(cos + n * r->turn_n), w = cpu_load(sin + n * r->turn_n);
            cpu_vec da = size * (g * h + gi * hi), dai = size * (gi * h - g * hi);
            add_to(of_c[DC_IM], at, -(dy * cpu_load(after + im + at)));
            dlog = da * u + dai * w;
            sum.dcos += da;
            sum.dsin += dai;
            add_to(s->table[DCOS], at, da);
            add_to(s->table[DSIN], at, dai);
            u *= size;
            w *= size;
            cpu_store(s->g + at, u * g + w * gi);
            cpu_store(s->g + im + at, u * gi - w * g);
        } else {
            cpu_store(s->g + at, size * g);
            dlog = size * g * h;
        }
        add_to(s->table[DRATE], at, dlog * step);
        if (r->size_n) dlog *= cpu_load(r->rate + at);
        sum.dstep += dlog;
    }
    return sum;
}

static own back_one(const elem_scan *e, const elem_room *r, int64_t t, cpu_vec dy, const float *b,
                    const float *c, const float *c_im, const float *before, const float *after,
                    const strip_room *s, float *const row[SUMS])
{
    if (e->parts == 1 && e->read == ELEM_TOKEN)
        return back_token(e, r, 0, ELEM_TOKEN, t, dy, b, c, c_im, before, after, s, row);
    if (e->parts == 1)
        return back_token(e, r, 0, ELEM_TABLE, t, dy, b, c, c_im, before, after, s, row);
    if (e->read == ELEM_TOKEN)
        return back_token(e, r, 1, ELEM_TOKEN, t, dy, b, c, c_im, before, after, s, row);
    return back_token(e, r, 1, ELEM_TABLE, t, dy, b, c, c_im, before, after, s, row);
}

/* ---- a block of tokens of one strip ---- */

static void put_row(const plan *p, const elem_strip *s, int output, int64_t t, cpu_vec x)
{
    const lmoe_buf *to = &p->a->out[output];
    if (lmoe_buf_present(to) && !p->table[output]) elem_store_row(&p->e, s, to, t, x);
}

static void back_block(const plan *p, const elem_strip *s, const room *r, const strip_room *of,
                       int64_t begin, int64_t tokens)
{
    const elem_scan *e = &p->e;
    int64_t state = elem_state(e), table = e->n * ELEM_LANES;
    for (int64_t t = tokens - 1; t >= 0; t--) {
        int reset = elem_flag(e, e->reset, s->b, begin + t);
        const float *before = reset ? r->elem.none : r->history + t * state;
        const float *after = r->history + (t + 1) * state;
        float *row[SUMS];
        own sum = {cpu_all(0), cpu_all(0), cpu_all(0), cpu_all(0)};
        if (!elem_flag(e, e->skip, s->b, begin + t)) {
            int c_table = e->read == ELEM_TABLE;
            const float *c = c_table ? r->elem.c : elem_token_row(e, s, e->c, begin + t);
            const float *c_im = c_table ? r->elem.c_im : elem_token_row(e, s, e->c_im, begin + t);
            for (int i = 0; i < SUMS; i++) row[i] = r->row[i] ? r->row[i] + t * table : NULL;
            sum = back_one(e, &r->elem, t, cpu_load(r->dy + t * ELEM_LANES),
                           elem_token_row(e, s, e->b, begin + t), c, c_im, before, after, of, row);
        }
        put_row(p, s, DX, begin + t, sum.dx);
        put_row(p, s, DSTEP, begin + t, sum.dstep);
        put_row(p, s, DCOS, begin + t, sum.dcos);
        put_row(p, s, DSIN, begin + t, sum.dsin);
        if (reset) memset(of->g, 0, sizeof *of->g * (size_t)state);
    }
}

/* ---- a group of strips ---- */

static void enter_strip(const plan *p, const elem_strip *s, room *r, strip_room *of)
{
    const elem_scan *e = &p->e;
    elem_load_tables(e, s, &r->elem);
    elem_load_state(e, s, &p->a->in[CARRY], r->elem.h);
    elem_sweep(e, s, &r->elem, ELEM_NONE, NULL, of->starts);
    elem_load_state(e, s, &p->a->in[DCARRY], of->g);
    for (int i = 0; i < SUMS; i++) {
        if (of->table[i]) memset(of->table[i], 0, sizeof(float) * (size_t)(e->n * ELEM_LANES));
    }
}

static void leave_strip(const plan *p, const elem_strip *s, const strip_room *of)
{
    const elem_scan *e = &p->e;
    int64_t channel = (s->b * e->heads + s->h) * e->channels + s->first;
    elem_store_state(e, s, &p->a->out[DCARRY_OUT], of->g);
    for (int i = 0; i < SUMS; i++) {
        for (int64_t c = 0; of->table[i] && c < s->width; c++) {
            float *to = p->partial[i] + (channel + c) * e->n;
            for (int64_t n = 0; n < e->n; n++) to[n] = of->table[i][n * ELEM_LANES + c];
        }
    }
}

/* The block's sums over the strips, summed over the lanes, become the group's part. */
static void put_shared(const plan *p, const elem_strip *s, const room *r, int64_t group,
                       int64_t begin, int64_t tokens)
{
    const elem_scan *e = &p->e;
    for (int i = 0; i < SUMS; i++) {
        if (!r->row[i]) continue;
        float *part = p->partial[i] + group * lmoe_buf_count(&p->a->in[i]);
        for (int64_t t = 0; t < tokens; t++) {
            float *to = part + ((s->b * e->seq + begin + t) * e->heads + s->h) * e->n;
            for (int64_t n = 0; n < e->n; n++)
                to[n] = cpu_sum(cpu_load(r->row[i] + (t * e->n + n) * ELEM_LANES));
        }
    }
}

static void run_group(const plan *p, int64_t bh, int64_t group, room *r)
{
    const elem_scan *e = &p->e;
    int64_t first = group * ELEM_GROUP_STRIPS, state = elem_state(e);
    int64_t strips = cpu_min(ELEM_GROUP_STRIPS, elem_strips(e) - first);
    elem_strip s[ELEM_GROUP_STRIPS];
    for (int64_t k = 0; k < strips; k++) {
        s[k] = elem_enter(e, bh, first + k);
        enter_strip(p, &s[k], r, &r->strip[k]);
    }
    for (int64_t block = elem_blocks(e) - 1; block >= 0; block--) {
        int64_t begin = block * ELEM_BLOCK, tokens = cpu_min(ELEM_BLOCK, e->seq - begin);
        for (int i = 0; i < SUMS; i++) {
            int64_t n = ELEM_BLOCK * e->n * ELEM_LANES;
            if (r->row[i]) memset(r->row[i], 0, sizeof(float) * (size_t)n);
        }
        for (int64_t k = 0; k < strips; k++) {
            if (strips > 1) elem_load_tables(e, &s[k], &r->elem);
            elem_load_block(e, &s[k], begin, tokens, &r->elem);
            for (int64_t t = 0; t < tokens; t++)
                elem_load_row(e, &s[k], &p->a->in[DY], begin + t, r->dy + t * ELEM_LANES);
            cpu_copy(r->history, r->strip[k].starts + block * state, state);
            elem_run_block(e, &s[k], &r->elem, ELEM_NONE, begin, tokens, NULL, r->history);
            back_block(p, &s[k], r, &r->strip[k], begin, tokens);
        }
        put_shared(p, &s[0], r, group, begin, tokens);
    }
    for (int64_t k = 0; k < strips; k++) leave_strip(p, &s[k], &r->strip[k]);
}

static void run_groups(void *arg, int64_t begin, int64_t end, int thread)
{
    const plan *p = arg;
    char *cursor = p->threads + (size_t)thread * p->thread_bytes;
    room r;
    cut(&p->e, p, &cursor, &r);
    for (int64_t i = begin; i < end; i++) run_group(p, i / p->groups, i % p->groups, &r);
}

/* ---- sums of the parts ---- */

typedef struct joint {
    const plan *p;
    int output;
} joint;

static void sum_parts(void *arg, int64_t begin, int64_t end, int thread)
{
    const joint *j = arg;
    int64_t parts = j->p->read[j->output] ? j->p->groups : j->p->e.batch;
    int64_t count = lmoe_buf_count(&j->p->a->out[j->output]);
    const float *from = j->p->partial[j->output];
    float *to = j->p->a->out[j->output].data;
    memcpy(to + begin, from + begin, sizeof *to * (size_t)(end - begin));
    for (int64_t k = 1; k < parts; k++) {
        CPU_SIMD
        for (int64_t i = begin; i < end; i++) to[i] += from[k * count + i];
    }
}

static lmoe_status launch(const lmoe_args *a)
{
    plan p = plan_of(a, a->workspace);
    int64_t work = p.e.seq * p.e.n * ELEM_GROUP;
    LMOE_TRY(
        lmoe_parallel(a->ctx, p.e.batch * p.e.heads * p.groups, cpu_grain(work), run_groups, &p));
    for (int i = 0; i < SUMS; i++) {
        joint j = {&p, i};
        if (!p.read[i] && !p.table[i]) continue;
        LMOE_TRY(lmoe_parallel(a->ctx, lmoe_buf_count(&a->out[i]), cpu_grain(p.groups + p.e.batch),
                               sum_parts, &j));
    }
    return LMOE_OK;
}

static size_t workspace(const lmoe_args *a)
{
    return plan_of(a, NULL).bytes;
}

static int can(const lmoe_args *a)
{
    return elem_can(a, RESET, DCARRY);
}

CPU_KERNEL(scan_elem_grad, 1, can, workspace, launch)
