/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/scan_summary.c: what sequence parallelism needs of scan_diag (scan_stream.h).
 *
 *   scan_diag_summary       M from zero over the segment, and log_a, log_c, the sums of its decays
 *   scan_diag_grad_summary  the same from the segment's end, of dM and scale q dy^T
 *   scan_diag_combine       M <- exp(log_a) M exp(log_c) + m over the segments before (or after) a rank
 */
#include "scan.h"

/* ---- summaries ---- */

/* x y^T is added to the state: k v^T, or scale q dy^T. */
typedef struct summary {
    const lmoe_args *a;
    const lmoe_buf *x, *y, *decay, *reset, *skip, *decay_v;
    int backwards;
    float scale;
} summary;

static summary forward_summary(const lmoe_args *a)
{
    const lmoe_buf *in = a->in;
    return (summary){a, &in[0], &in[1], &in[2], &in[3], &in[4], &in[5], 0, 1.0f};
}

static summary backward_summary(const lmoe_args *a)
{
    const lmoe_buf *in = a->in;
    float scale = (float)((const lmoe_scan_diag_attrs *)a->attrs)->scale;
    return (summary){a, &in[0], &in[4], &in[1], &in[2], &in[3], &in[5], 1, scale};
}

/* One thread's memory. */
typedef struct room {
    float *m;           /* (k v) */
    float *x, *faded;   /* (token k); faded to the group's end, or from its start if backwards */
    float *y, *y_faded; /* (token v); y_faded: y itself if values do not decay */
    scan_decays decays;
} room;

static size_t cut(char *memory, const summary *s, room *r)
{
    char *cursor = memory;
    int64_t k = cpu_padded(s->x->dim[3]), v = cpu_padded(s->y->dim[3]);
    r->m = cpu_take(&cursor, k * v);
    r->x = cpu_take(&cursor, SCAN_BLOCK * k);
    r->faded = cpu_take(&cursor, SCAN_BLOCK * k);
    r->y = cpu_take(&cursor, SCAN_BLOCK * v);
    int values = lmoe_buf_present(s->decay_v);
    r->y_faded = values ? cpu_take(&cursor, SCAN_BLOCK * v) : r->y;
    scan_take_decays(&cursor, k, values ? v : 0, &r->decays);
    return (size_t)(cursor - memory);
}

static void add_block(const summary *s, const scan_head *c, int64_t block, room *r)
{
    int64_t nk = s->x->dim[3], nv = s->y->dim[3], kp = cpu_padded(nk), vp = cpu_padded(nv);
    int64_t begin = block * SCAN_BLOCK, tokens = cpu_min(SCAN_BLOCK, c->seq - begin);
    int64_t next = begin + (s->backwards ? -SCAN_BLOCK : SCAN_BLOCK);
    scan_ahead ahead = {0};
    scan_want(c, s->x, nk, next, 0, &ahead);
    scan_want(c, s->y, nv, next, 0, &ahead);
    if (c->decay->rank == 4) scan_want(c, c->decay, nk, next, 0, &ahead);
    const scan_decays *d = &r->decays;
    scan_load(c, s->x, nk, begin, tokens, s->scale, r->x);
    scan_load(c, s->y, nv, begin, tokens, 1, r->y);
    scan_load_decays(c, nk, nv, begin, tokens, &r->decays);
    if (s->backwards) {
        if (d->fade == SCAN_ALL) scan_from_start(SCAN_ALL, tokens, kp, d->a, r->x, r->faded);
        if (d->fade == SCAN_ROWS) scan_from_start(SCAN_ROWS, tokens, kp, d->a, r->x, r->faded);
        if (d->values) scan_from_start(SCAN_ROWS, tokens, vp, d->a_v, r->y, r->y_faded);
    } else {
        if (d->fade == SCAN_ALL) scan_to_end(SCAN_ALL, tokens, kp, d->a, r->x, r->faded);
        if (d->fade == SCAN_ROWS) scan_to_end(SCAN_ROWS, tokens, kp, d->a, r->x, r->faded);
        if (d->values) scan_to_end(SCAN_ROWS, tokens, vp, d->a_v, r->y, r->y_faded);
    }
    const float *w = d->fade == SCAN_KEEP ? r->x : r->faded;
    scan_stream stream = {.tokens = tokens,
                          .rows = kp,
                          .lanes = vp,
                          .backwards = s->backwards,
                          .m = r->m,
                          .x = w, /* not read */
                          .w = w,
                          .u = r->y_faded,
                          .e = d->e,
                          .e_lanes = d->e_v,
                          .ahead = &ahead};
    scan_run(&stream, scan_fade_of(d, 0));
}

/* log_a, log_c: the sum of a decay, -infinity if the head is reset anywhere. */
static void put_log(const scan_head *c, const lmoe_buf *decay, int64_t n, const lmoe_buf *out)
{
    if (!lmoe_buf_present(out)) return;
    float *to = (float *)out->data + (c->b * c->heads + c->h) * n;
    int64_t rank = lmoe_buf_present(decay) ? decay->rank : 0;
    const float *logs = decay->data;
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        if (i > 0 && rank != 4) {
            to[i] = to[0];
            continue;
        }
        for (int64_t t = 0; t < c->seq; t++) {
            if (scan_resets(c, t)) sum = -INFINITY;
            if (rank > 0 && !scan_skips(c, t))
                sum += rank == 1 ? logs[c->h] : scan_row(c, decay, t, rank == 4 ? n : 1)[i];
        }
        to[i] = (float)sum;
    }
}

static void run_head(const summary *s, int64_t item, room *r)
{
    const lmoe_buf *m = &s->a->out[1];
    scan_head c = scan_enter(s->x, s->decay, s->decay_v, s->reset, s->skip, item);
    int64_t k = s->x->dim[3], v = s->y->dim[3], blocks = (c.seq + SCAN_BLOCK - 1) / SCAN_BLOCK;
    put_log(&c, s->decay, k, &s->a->out[0]);
    put_log(&c, s->decay_v, v, &s->a->out[2]);
    if (!lmoe_buf_present(m)) return;
    memset(r->m, 0, sizeof *r->m * (size_t)(cpu_padded(k) * cpu_padded(v)));
    for (int64_t i = 0; i < blocks; i++) add_block(s, &c, s->backwards ? blocks - 1 - i : i, r);
    scan_store_state(&c, m, k, v, r->m);
}

static void run_heads(void *arg, int64_t begin, int64_t end, int thread)
{
    const summary *s = arg;
    room r;
    size_t bytes = cut(NULL, s, &r);
    cut((char *)s->a->workspace + (size_t)thread * bytes, s, &r);
    for (int64_t i = begin; i < end; i++) run_head(s, i, &r);
}

static lmoe_status run(summary s)
{
    int64_t work = s.x->dim[1] * s.x->dim[3] * s.y->dim[3] / 16;
    return lmoe_parallel(s.a->ctx, s.x->dim[0] * s.x->dim[2], cpu_grain(work), run_heads, &s);
}

static size_t memory(summary s)
{
    room r;
    return (size_t)lmoe_threads(s.a->ctx) * cut(NULL, &s, &r);
}

static int can(summary s)
{
    return cpu_is_f32(s.x) && cpu_is_f32(s.y) && cpu_f32_or_absent(s.decay) &&
           cpu_f32_or_absent(s.decay_v);
}

static lmoe_status launch_forward(const lmoe_args *a)
{
    return run(forward_summary(a));
}

static size_t workspace_forward(const lmoe_args *a)
{
    return memory(forward_summary(a));
}

static int can_forward(const lmoe_args *a)
{
    return can(forward_summary(a));
}

static lmoe_status launch_backward(const lmoe_args *a)
{
    return run(backward_summary(a));
}

static size_t workspace_backward(const lmoe_args *a)
{
    return memory(backward_summary(a));
}

static int can_backward(const lmoe_args *a)
{
    return can(backward_summary(a));
}

CPU_KERNEL(scan_diag_summary, 1, can_forward, workspace_forward, launch_forward)
CPU_KERNEL(scan_diag_grad_summary, 1, can_backward, workspace_backward, launch_backward)

/* ---- combine: log_a (rank row), m (rank row v), log_c (rank head v) or absent -> (row v); a row is
 * a channel of a head ---- */

static void combine_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    const lmoe_combine_attrs *o = a->attrs;
    int64_t rows = lmoe_buf_count(&a->in[0]) / o->ranks, v = a->in[1].dim[4];
    int64_t first = o->reverse ? o->ranks - 1 : 0, step = o->reverse ? -1 : 1;
    int64_t k = a->in[1].dim[3];
    for (int64_t row = begin; row < end; row++) {
        float *to = (float *)a->out[0].data + row * v;
        memset(to, 0, sizeof *to * (size_t)v);
        for (int64_t r = first; r != o->rank; r += step) {
            const float *m = (const float *)a->in[1].data + (r * rows + row) * v;
            float f = expf(((const float *)a->in[0].data)[r * rows + row]);
            if (lmoe_buf_present(&a->in[2])) {
                const float *log_c = (const float *)a->in[2].data + (r * rows + row) / k * v;
                CPU_SIMD
                for (int64_t j = 0; j < v; j++) to[j] *= scan_exp(log_c[j]);
            }
            CPU_SIMD
            for (int64_t j = 0; j < v; j++) to[j] = f * to[j] + m[j];
        }
    }
}

static lmoe_status launch_combine(const lmoe_args *a)
{
    const lmoe_combine_attrs *o = a->attrs;
    return lmoe_parallel(a->ctx, lmoe_buf_count(&a->in[0]) / o->ranks,
                         cpu_grain(o->ranks * a->in[1].dim[4]), combine_rows, (void *)a);
}

static int can_combine(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[0]) && cpu_is_f32(&a->in[1]) && cpu_f32_or_absent(&a->in[2]);
}

CPU_KERNEL(scan_diag_combine, 1, can_combine, NULL, launch_combine)
