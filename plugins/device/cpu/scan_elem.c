/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/scan_elem.c: scan_elem/1, and what sequence parallelism needs of it
 * (scan_elem.h). A thread takes a strip of channels of a sequence.
 *
 *   scan_elem               y, and h after the last token
 *   scan_elem_summary       m: h from zero over the segment; a: the product of its decays
 *   scan_elem_grad_summary  m: dh from zero, from the segment's end; a: the product, conjugated
 *   scan_elem_combine       h <- a h + m over the segments before (or after) a rank
 */
#include "scan_elem.h"

/* What a launch does with each strip. */
typedef struct job {
    const lmoe_args *a;
    elem_scan e;
    const lmoe_buf *dy; /* of the derivative's summary */
    void (*run)(const struct job *j, const elem_strip *s, elem_room *r);
} job;

static size_t room_bytes(const elem_scan *e)
{
    char *cursor = NULL;
    elem_room r;
    elem_cut(e, &cursor, &r);
    return (size_t)cursor;
}

static void run_strips(void *arg, int64_t begin, int64_t end, int thread)
{
    const job *j = arg;
    int64_t strips = elem_strips(&j->e);
    char *cursor = (char *)j->a->workspace + (size_t)thread * room_bytes(&j->e);
    elem_room r;
    elem_cut(&j->e, &cursor, &r);
    for (int64_t i = begin; i < end; i++) {
        elem_strip s = elem_enter(&j->e, i / strips, i % strips);
        elem_load_tables(&j->e, &s, &r);
        j->run(j, &s, &r);
    }
}

static lmoe_status run_job(job j)
{
    int64_t items = j.e.batch * j.e.heads * elem_strips(&j.e);
    return lmoe_parallel(j.a->ctx, items, cpu_grain(j.e.seq * j.e.n * ELEM_LANES), run_strips, &j);
}

static size_t workspace_of(job j)
{
    return (size_t)lmoe_threads(j.a->ctx) * room_bytes(&j.e);
}

/* ---- the op ---- */

static void forward_strip(const job *j, const elem_strip *s, elem_room *r)
{
    const lmoe_buf *y = &j->a->out[0];
    elem_load_state(&j->e, s, &j->a->in[10], r->h);
    elem_sweep(&j->e, s, r, j->e.read, y, NULL); /* the same bits whether y is wanted or not */
    elem_store_state(&j->e, s, &j->a->out[1], r->h);
}

static job forward_job(const lmoe_args *a)
{
    const lmoe_buf *in = a->in;
    job j = {.a = a, .run = forward_strip};
    j.e = (elem_scan){.x = &in[0],
                      .step = &in[1],
                      .rate = &in[2],
                      .cos = &in[3],
                      .sin = &in[4],
                      .b = &in[5],
                      .c = &in[6],
                      .c_im = &in[7],
                      .reset = &in[8],
                      .skip = &in[9]};
    elem_measure(&j.e, &in[0]);
    return j;
}

static lmoe_status launch(const lmoe_args *a)
{
    return run_job(forward_job(a));
}

static size_t workspace(const lmoe_args *a)
{
    return workspace_of(forward_job(a));
}

static int can(const lmoe_args *a)
{
    return elem_can(a, 8, 10);
}

CPU_KERNEL(scan_elem, 1, can, workspace, launch)

/* ---- products of decays ---- */

typedef struct wide {
    double re, im;
} wide;

static wide wide_times(wide a, wide b)
{
    return (wide){a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

static wide wide_power(wide a, int64_t n)
{
    wide y = {1, 0};
    for (; n > 0; n /= 2, a = wide_times(a, a)) {
        if (n % 2) y = wide_times(y, a);
    }
    return y;
}

/* Of one strip, what its tokens amount to: how many, their steps, their turns (of rows). */
typedef struct total {
    int reset;
    int64_t tokens;
    double step[ELEM_LANES];
    wide turn[ELEM_LANES];
} total;

static void add_up(const elem_scan *e, const elem_strip *s, total *sum)
{
    *sum = (total){0, 0, {0}, {{0, 0}}};
    for (int64_t i = 0; i < ELEM_LANES; i++) sum->turn[i].re = 1;
    for (int64_t t = 0; t < e->seq; t++) {
        sum->reset |= elem_flag(e, e->reset, s->b, t);
        if (elem_flag(e, e->skip, s->b, t)) continue;
        sum->tokens++;
        for (int64_t i = 0; i < s->width && lmoe_buf_present(e->step); i++)
            sum->step[i] += elem_row(e, s, e->step, t)[i];
        for (int64_t i = 0; i < s->width && e->turn_rows; i++) {
            wide turn = {elem_row(e, s, e->cos, t)[i], elem_row(e, s, e->sin, t)[i]};
            sum->turn[i] = wide_times(sum->turn[i], turn);
        }
    }
}

/* The product of the decays of element n of channel i. */
static wide product(const elem_scan *e, const elem_room *r, const total *sum, int64_t i, int64_t n)
{
    int64_t at = n * ELEM_LANES + i;
    int step = lmoe_buf_present(e->step), rate = lmoe_buf_present(e->rate);
    double factor = rate ? (double)r->rate[at] : 1, log = sum->step[i] * factor;
    if (!step) log = rate && sum->tokens ? factor * (double)sum->tokens : 0;
    double size = sum->reset ? 0 : exp(log);
    wide turn = sum->turn[i];
    if (size == 0) return (wide){0, 0};
    if (e->parts == 2 && !e->turn_rows)
        turn = wide_power((wide){r->cos[at], r->sin[at]}, sum->tokens);
    return (wide){size * turn.re, size * turn.im};
}

static void put_products(const elem_scan *e, const elem_strip *s, const elem_room *r, int conjugate,
                         const lmoe_buf *a)
{
    total sum;
    if (!lmoe_buf_present(a)) return;
    float *to = elem_home(e, s, a);
    add_up(e, s, &sum);
    for (int64_t i = 0; i < s->width; i++) {
        for (int64_t n = 0; n < e->n; n++) {
            wide p = product(e, r, &sum, i, n);
            *to++ = (float)p.re;
            if (e->parts == 2) *to++ = (float)(conjugate ? -p.im : p.im);
        }
    }
}

/* ---- summaries ---- */

static const lmoe_buf none;

static void summary_strip(const job *j, const elem_strip *s, elem_room *r)
{
    put_products(&j->e, s, r, 0, &j->a->out[0]);
    if (!lmoe_buf_present(&j->a->out[1])) return;
    elem_load_state(&j->e, s, &none, r->h);
    elem_sweep(&j->e, s, r, ELEM_NONE, NULL, NULL);
    elem_store_state(&j->e, s, &j->a->out[1], r->h);
}

static job summary_job(const lmoe_args *a)
{
    const lmoe_buf *in = a->in;
    job j = {.a = a, .run = summary_strip};
    j.e = (elem_scan){.x = &in[0],
                      .step = &in[1],
                      .rate = &in[2],
                      .cos = &in[3],
                      .sin = &in[4],
                      .b = &in[5],
                      .c = &none,
                      .c_im = &none,
                      .reset = &in[6],
                      .skip = &in[7]};
    elem_measure(&j.e, &in[0]);
    return j;
}

static lmoe_status launch_summary(const lmoe_args *a)
{
    return run_job(summary_job(a));
}

static size_t workspace_summary(const lmoe_args *a)
{
    return workspace_of(summary_job(a));
}

static int can_summary(const lmoe_args *a)
{
    return elem_can(a, 6, 5);
}

CPU_KERNEL(scan_elem_summary, 1, can_summary, workspace_summary, launch_summary)

/* g = conj(a) (g + dy conj(c)) for token t of the block, whose row dy stands in r->x */
static void back_token(const elem_scan *e, const elem_room *r, int64_t t, const float *c,
                       const float *c_im)
{
    int64_t imaginary = e->n * ELEM_LANES;
    cpu_vec dy = cpu_load(r->x + t * ELEM_LANES);
    for (int64_t n = 0; n < e->n; n++) {
        float *g = r->h + n * ELEM_LANES;
        cpu_vec a = cpu_load(r->size + t * r->size_t + n * r->size_n);
        cpu_vec re = cpu_load(g) + dy * elem_c(e->read, c, n, 1);
        if (e->parts == 2) {
            cpu_vec im = cpu_load(g + imaginary) - dy * elem_c(e->read, c_im, n, 0);
            cpu_vec u = a * cpu_load(r->cos + t * r->turn_t + n * r->turn_n);
            cpu_vec w = a * cpu_load(r->sin + t * r->turn_t + n * r->turn_n);
            cpu_store(g, u * re + w * im);
            cpu_store(g + imaginary, u * im - w * re);
        } else {
            cpu_store(g, a * re);
        }
    }
}

static void grad_summary_strip(const job *j, const elem_strip *s, elem_room *r)
{
    const elem_scan *e = &j->e;
    put_products(e, s, r, 1, &j->a->out[0]);
    if (!lmoe_buf_present(&j->a->out[1])) return;
    elem_load_state(e, s, &none, r->h);
    for (int64_t block = elem_blocks(e) - 1; block >= 0; block--) {
        int64_t begin = block * ELEM_BLOCK, tokens = cpu_min(ELEM_BLOCK, e->seq - begin);
        elem_load_block(e, s, begin, tokens, r); /* dy in the place of x */
        for (int64_t t = tokens - 1; t >= 0; t--) {
            int table = e->read == ELEM_TABLE;
            if (!elem_flag(e, e->skip, s->b, begin + t))
                back_token(e, r, t, table ? r->c : elem_token_row(e, s, e->c, begin + t),
                           table ? r->c_im : elem_token_row(e, s, e->c_im, begin + t));
            if (elem_flag(e, e->reset, s->b, begin + t)) elem_load_state(e, s, &none, r->h);
        }
    }
    elem_store_state(e, s, &j->a->out[1], r->h);
}

static job grad_summary_job(const lmoe_args *a)
{
    const lmoe_buf *in = a->in;
    job j = {.a = a, .run = grad_summary_strip};
    j.e = (elem_scan){.x = &in[8],
                      .step = &in[0],
                      .rate = &in[1],
                      .cos = &in[2],
                      .sin = &in[3],
                      .b = &none,
                      .c = &in[4],
                      .c_im = &in[5],
                      .reset = &in[6],
                      .skip = &in[7]};
    elem_measure(&j.e, &in[8]);
    return j;
}

static lmoe_status launch_grad_summary(const lmoe_args *a)
{
    return run_job(grad_summary_job(a));
}

static size_t workspace_grad_summary(const lmoe_args *a)
{
    return workspace_of(grad_summary_job(a));
}

static int can_grad_summary(const lmoe_args *a)
{
    return elem_can(a, 6, 8);
}

CPU_KERNEL(scan_elem_grad_summary, 1, can_grad_summary, workspace_grad_summary, launch_grad_summary)

/* ---- combine: a, m (rank ... part) -> (... part) ---- */

static void combine_range(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    const lmoe_combine_attrs *o = a->attrs;
    const lmoe_buf *m = &a->in[1];
    int64_t parts = m->dim[m->rank - 1], count = lmoe_buf_count(m) / o->ranks;
    int64_t first = o->reverse ? o->ranks - 1 : 0, step = o->reverse ? -1 : 1;
    float *to = a->out[0].data;
    memset(to + begin * parts, 0, sizeof *to * (size_t)((end - begin) * parts));
    for (int64_t r = first; r != o->rank; r += step) {
        const float *factor = (const float *)a->in[0].data + r * count;
        const float *more = (const float *)m->data + r * count;
        for (int64_t i = begin; i < end && parts == 1; i++) to[i] = factor[i] * to[i] + more[i];
        for (int64_t i = 2 * begin; i < 2 * end && parts == 2; i += 2) {
            float re = to[i], im = to[i + 1];
            to[i] = factor[i] * re - factor[i + 1] * im + more[i];
            to[i + 1] = factor[i] * im + factor[i + 1] * re + more[i + 1];
        }
    }
}

static lmoe_status launch_combine(const lmoe_args *a)
{
    const lmoe_combine_attrs *o = a->attrs;
    const lmoe_buf *m = &a->in[1];
    int64_t states = lmoe_buf_count(m) / o->ranks / m->dim[m->rank - 1];
    return lmoe_parallel(a->ctx, states, cpu_grain(o->ranks), combine_range, (void *)a);
}

static int can_combine(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[0]) && cpu_is_f32(&a->in[1]);
}

CPU_KERNEL(scan_elem_combine, 1, can_combine, NULL, launch_combine)
