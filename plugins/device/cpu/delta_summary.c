/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/delta_summary.c: what sequence parallelism needs of scan_delta (delta.h).
 *
 *   scan_delta_summary       M <- p M + m over the segment: m is the state that starts from zero, p
 *                            one that starts as the identity and is given no values. Both go
 *                            through the chunks side by side, as lanes of one state.
 *   scan_delta_grad_summary  the same from the segment's end, of the state's gradient
 *   scan_delta_combine       M <- p M + m over the segments before (or after) a rank
 */
#include "delta.h"

static const delta_ports forward_ports = {-1, 0, 1, 2, 3, 4, 5, 6, -1};
static const delta_ports backward_ports = {0, 1, -1, 2, 3, 4, 5, 6, 7};

typedef struct summary {
    const lmoe_args *args;
    const delta_ports *ports;
    delta d;
    float *m;         /* (k lanes): m, then p */
    float *e, *dx[2]; /* backwards: (read lanes), (step lanes) */
} summary;

static summary summary_of(const lmoe_args *args, const delta_ports *ports)
{
    summary s = {.args = args, .ports = ports};
    int64_t nk = args->in[ports->k].dim[args->in[ports->k].rank - 1];
    s.d = delta_of(args, *ports, cpu_padded(nk));
    return s;
}

static size_t cut(summary *s, char *memory)
{
    delta *d = &s->d;
    char *cursor = memory;
    delta_cut(d, &cursor, &d->room);
    s->m = cpu_take(&cursor, d->k * d->lanes);
    s->e = cpu_take(&cursor, DELTA_READS * d->lanes);
    for (int i = 0; i < d->streams; i++) s->dx[i] = cpu_take(&cursor, DELTA_STEPS * d->lanes);
    return (size_t)(cursor - memory);
}

/* The columns from `first` on, n of them, into x (batch heads k n). */
static void store_columns(const summary *s, const lmoe_buf *x, int64_t first, int64_t n)
{
    const delta *d = &s->d;
    if (!lmoe_buf_present(x)) return;
    float *to = (float *)x->data + (d->c.b * d->c.heads + d->c.h) * d->nk * n;
    for (int64_t i = 0; i < d->nk; i++)
        memcpy(to + i * n, s->m + i * d->lanes + first, sizeof *to * (size_t)n);
}

static void forwards(summary *s)
{
    delta *d = &s->d;
    for (int64_t at = 0; at < d->c.seq; at += delta_chunk_tokens(d)) {
        delta_open(d, at);
        delta_load_values(d);
        for (int w = 0; w < d->streams; w++) delta_pairs(d, w);
        delta_pass(d, d->reads, s->m);
    }
}

static void backwards(summary *s)
{
    delta *d = &s->d;
    const lmoe_buf *dy = &s->args->in[s->ports->dy];
    for (int64_t chunk = delta_chunks(d) - 1; chunk >= 0; chunk--) {
        delta_open(d, chunk * delta_chunk_tokens(d));
        for (int w = 0; w < d->streams; w++) delta_pairs(d, w);
        delta_load(d, dy, 1, d->tokens, 0, d->nv, 1, d->lanes, s->e + d->steps * d->lanes);
        delta_pass_back(d, s->e, s->dx, s->m);
        delta_retreat(d, s->e, s->m);
    }
}

static void run_heads(void *arg, int64_t begin, int64_t end, int thread)
{
    summary s = *(const summary *)arg;
    delta *d = &s.d;
    size_t bytes = cut(&s, NULL);
    cut(&s, (char *)s.args->workspace + (size_t)thread * bytes);
    for (int64_t item = begin; item < end; item++) {
        int64_t p = d->lanes - d->k;
        delta_enter(s.args, *s.ports, item, d);
        memset(s.m, 0, sizeof *s.m * (size_t)(d->k * d->lanes));
        for (int64_t i = 0; i < d->nk; i++) s.m[i * d->lanes + p + i] = 1;
        if (s.ports->dy < 0)
            forwards(&s);
        else
            backwards(&s);
        store_columns(&s, &s.args->out[0], p, d->nk);
        store_columns(&s, &s.args->out[1], 0, d->nv);
    }
}

static lmoe_status run(summary s)
{
    int64_t work = s.d.c.seq * s.d.each * s.d.k * s.d.lanes / 4;
    return lmoe_parallel(s.args->ctx, delta_heads(&s.d), cpu_grain(work), run_heads, &s);
}

static size_t memory(summary s)
{
    return (size_t)lmoe_threads(s.args->ctx) * cut(&s, NULL);
}

static lmoe_status launch_forward(const lmoe_args *a)
{
    return run(summary_of(a, &forward_ports));
}

static size_t workspace_forward(const lmoe_args *a)
{
    return memory(summary_of(a, &forward_ports));
}

static int can_forward(const lmoe_args *a)
{
    return delta_can(a, forward_ports);
}

static lmoe_status launch_backward(const lmoe_args *a)
{
    return run(summary_of(a, &backward_ports));
}

static size_t workspace_backward(const lmoe_args *a)
{
    return memory(summary_of(a, &backward_ports));
}

static int can_backward(const lmoe_args *a)
{
    return delta_can(a, backward_ports);
}

CPU_KERNEL(scan_delta_summary, 1, can_forward, workspace_forward, launch_forward)
CPU_KERNEL(scan_delta_grad_summary, 1, can_backward, workspace_backward, launch_backward)

/* ---- combine: p (rank head k k), m (rank head k v) -> (head k v) ---- */

/* Rows of x (rows n) into padded ones. */
static void pad(const float *x, int64_t rows, int64_t n, float *to)
{
    int64_t width = cpu_padded(n);
    memset(to, 0, sizeof *to * (size_t)(cpu_padded(rows) * width));
    for (int64_t i = 0; i < rows; i++) memcpy(to + i * width, x + i * n, sizeof *to * (size_t)n);
}

/* One thread's memory: p, M now and next. */
static size_t cut_combine(const lmoe_args *a, char *memory, float *room[3])
{
    char *cursor = memory;
    int64_t k = cpu_padded(a->in[0].dim[3]), v = cpu_padded(a->in[1].dim[4]);
    for (int i = 0; i < 3; i++) room[i] = cpu_take(&cursor, k * (i == 0 ? k : v));
    return (size_t)(cursor - memory);
}

static void combine_heads(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    const lmoe_combine_attrs *o = a->attrs;
    const lmoe_buf *m = &a->in[1];
    int64_t nk = a->in[0].dim[3], nv = m->dim[4], heads = m->dim[1] * m->dim[2];
    int64_t k = cpu_padded(nk), v = cpu_padded(nv);
    int64_t first = o->reverse ? o->ranks - 1 : 0, step = o->reverse ? -1 : 1;
    float *room[3];
    size_t bytes = cut_combine(a, NULL, room);
    cut_combine(a, (char *)a->workspace + (size_t)thread * bytes, room);
    for (int64_t h = begin; h < end; h++) {
        float *now = room[1], *next = room[2], *to = (float *)a->out[0].data + h * nk * nv;
        memset(now, 0, sizeof *now * (size_t)(k * v));
        for (int64_t r = first; r != o->rank; r += step) {
            int64_t at = r * heads + h;
            pad((const float *)m->data + at * nk * nv, nk, nv, next);
            if (r != first) {
                pad((const float *)a->in[0].data + at * nk * nk, nk, nk, room[0]);
                tile_product(0, 1, nk, v, nk, room[0], k, now, v, next, v);
            }
            float *swap = now;
            now = next;
            next = swap;
        }
        for (int64_t i = 0; i < nk; i++) memcpy(to + i * nv, now + i * v, sizeof *to * (size_t)nv);
    }
}

static lmoe_status launch_combine(const lmoe_args *a)
{
    const lmoe_combine_attrs *o = a->attrs;
    const lmoe_buf *m = &a->in[1];
    int64_t work = o->ranks * m->dim[3] * m->dim[3] * m->dim[4] / 16;
    return lmoe_parallel(a->ctx, m->dim[1] * m->dim[2], cpu_grain(work), combine_heads, (void *)a);
}

static size_t workspace_combine(const lmoe_args *a)
{
    float *room[3];
    return (size_t)lmoe_threads(a->ctx) * cut_combine(a, NULL, room);
}

static int can_combine(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[0]) && cpu_is_f32(&a->in[1]);
}

CPU_KERNEL(scan_delta_combine, 1, can_combine, workspace_combine, launch_combine)
