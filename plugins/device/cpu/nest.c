/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/nest.c: c = sum of a * b over nested loops.
 *
 * One loop is the inner one, chosen by its steps:
 *   DOTS    it is summed: each element of c is a sum over runs of a and b
 *   ROWS    it moves in c: a row of c adds up products of rows
 *   BLOCKS  nothing is summed, and c and an operand are contiguous along different loops: squares
 * The other loops over c are cut into items for threads; the other summed loops run within an item.
 * A long sum with few results is cut into parts, which lie in the workspace until they are added
 * up.
 */
#include "nest.h"

enum {
    ROW = 256,   /* elements of c that an item of ROWS makes */
    BLOCK = 32,  /* sides of the squares of BLOCKS */
    SHORT = 128, /* terms that are added up in one f32 before they go into the next sum */
    FEW = 32     /* with fewer items, sums are cut into parts */
};

typedef enum form { DOTS, ROWS, BLOCKS } form;

typedef struct plan {
    form form;
    cpu_loop inner, across; /* across: BLOCKS only, contiguous in c */
    int n_out, n_sum;
    cpu_loop out[CPU_MAX_LOOPS], sum[CPU_MAX_LOOPS];
    int64_t pieces; /* of the inner loop in ROWS; squares in BLOCKS; else 1 */
    int64_t items;  /* of one part */
    int64_t steps;  /* that an item costs */
    int cut;        /* which summed loop is cut into parts; n_sum: the inner one */
    int64_t parts, part_size;
    int64_t results; /* elements of c */
    const float *a, *b;
    float *c, *partial; /* partial: (part, c) */
} plan;

static int64_t pieces(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}

/* Reading in order matters more than writing in order. */
static int order_in_memory(const cpu_loop *l)
{
    return 2 * (l->a == 1) + 2 * (l->b == 1) + (l->c == 1);
}

static int choose_inner(const cpu_nest *nest)
{
    int best = 0;
    for (int i = 1; i < nest->n; i++) {
        int x = order_in_memory(&nest->loop[i]), y = order_in_memory(&nest->loop[best]);
        if (x > y || (x == y && nest->loop[i].size > nest->loop[best].size)) best = i;
    }
    return best;
}

/* A loop other than `inner` along which c is contiguous; -1: there is none. */
static int choose_across(const cpu_nest *nest, int inner)
{
    for (int i = 0; i < nest->n; i++)
        if (i != inner && nest->loop[i].c == 1) return i;
    return -1;
}

/* Cuts the longest summed loop into parts if there are few items but much to add up. */
static void cut_sum(plan *p)
{
    const int64_t worth = 32768, most = 64;
    int64_t longest = 0;
    p->parts = 1;
    for (int i = 0; i < p->n_sum + (p->form == DOTS); i++) {
        int64_t size = i < p->n_sum ? p->sum[i].size : p->inner.size;
        if (size <= longest) continue;
        longest = size;
        p->cut = i;
    }
    int64_t parts = cpu_min(cpu_min(most, longest), p->items * p->steps / worth);
    if (p->items >= FEW || parts < 2) return;
    p->part_size = pieces(longest, parts);
    p->parts = pieces(longest, p->part_size);
}

static void make_plan(const cpu_nest *nest, plan *p)
{
    memset(p, 0, sizeof *p);
    p->a = nest->a;
    p->b = nest->b;
    p->c = nest->c;
    p->inner = (cpu_loop){1, 0, 0, 1};
    int inner = nest->n ? choose_inner(nest) : -1, across = -1;
    int64_t summed = 1;
    for (int i = 0; i < nest->n; i++)
        if (nest->loop[i].c == 0) summed *= nest->loop[i].size;
    if (inner >= 0) {
        p->inner = nest->loop[inner];
        p->form = p->inner.c == 0 ? DOTS : ROWS;
        if (summed == 1 && p->inner.c != 1) across = choose_across(nest, inner);
        if (across >= 0) {
            p->form = BLOCKS;
            p->across = nest->loop[across];
        }
    } else {
        p->form = ROWS;
    }
    for (int i = 0; i < nest->n; i++) {
        if (i == inner || i == across) continue;
        if (nest->loop[i].c)
            p->out[p->n_out++] = nest->loop[i];
        else
            p->sum[p->n_sum++] = nest->loop[i];
    }
    p->results = cpu_rounds(p->out, p->n_out);
    p->pieces = 1;
    p->steps = summed;
    if (p->form == ROWS) {
        p->pieces = pieces(p->inner.size, ROW);
        p->steps *= cpu_min(p->inner.size, ROW);
        p->results *= p->inner.size;
    } else if (p->form == BLOCKS) {
        p->pieces = pieces(p->inner.size, BLOCK) * pieces(p->across.size, BLOCK);
        p->steps = cpu_min(p->inner.size, BLOCK) * cpu_min(p->across.size, BLOCK);
        p->results *= p->inner.size * p->across.size;
    }
    p->items = cpu_rounds(p->out, p->n_out) * p->pieces;
    cut_sum(p);
}

/* ---- the inner loops ---- */

CPU_INLINE void row(float *y, const float *a, int64_t sa, const float *b, int64_t sb, int64_t n,
                    int add)
{
    CPU_SIMD
    for (int64_t i = 0; i < n; i++) y[i] = a[i * sa] * b[i * sb] + (add ? y[i] : 0.0f);
}

/* y = a b, or y += a b, element by element; a copy of the loop for each usual pair of steps. */
static void make_row(float *y, const float *a, int64_t sa, const float *b, int64_t sb, int64_t n)
{
    if (sa == 1 && sb == 1)
        row(y, a, 1, b, 1, n, 0);
    else if (sa == 1 && sb == 0)
        row(y, a, 1, b, 0, n, 0);
    else if (sa == 0 && sb == 1)
        row(y, a, 0, b, 1, n, 0);
    else
        row(y, a, sa, b, sb, n, 0);
}

static void add_row(float *y, const float *a, int64_t sa, const float *b, int64_t sb, int64_t n)
{
    if (sa == 1 && sb == 1)
        row(y, a, 1, b, 1, n, 1);
    else if (sa == 1 && sb == 0)
        row(y, a, 1, b, 0, n, 1);
    else if (sa == 0 && sb == 1)
        row(y, a, 0, b, 1, n, 1);
    else
        row(y, a, sa, b, sb, n, 1);
}

static float short_dot(const float *a, int64_t sa, const float *b, int64_t sb, int64_t n)
{
    float s = 0;
    if (sa == 1 && sb == 1) {
        CPU_SIMD_SUM(s)
        for (int64_t i = 0; i < n; i++) s += a[i] * b[i];
    } else if (sa == 1 && sb == 0) {
        CPU_SIMD_SUM(s)
        for (int64_t i = 0; i < n; i++) s += a[i];
        s *= b[0];
    } else {
        CPU_SIMD_SUM(s)
        for (int64_t i = 0; i < n; i++) s += a[i * sa] * b[i * sb];
    }
    return s;
}

static double dot(const float *a, int64_t sa, const float *b, int64_t sb, int64_t n)
{
    const int64_t run = 4 * SHORT;
    double s = 0;
    for (int64_t i = 0; i < n; i += run)
        s += short_dot(a + i * sa, sa, b + i * sb, sb, cpu_min(run, n - i));
    return s;
}

/* ---- items ---- */

static void dots_item(const plan *p, cpu_place at, float *c)
{
    double s = 0;
    int64_t sums = cpu_rounds(p->sum, p->n_sum);
    cpu_walk w;
    cpu_walk_from(&w, p->sum, p->n_sum, 0);
    for (int64_t k = 0; k < sums; k++, cpu_walk_next(&w, p->sum, p->n_sum))
        s += dot(p->a + at.a + w.at.a, p->inner.a, p->b + at.b + w.at.b, p->inner.b, p->inner.size);
    c[at.c] = (float)s;
}

static void rows_item(const plan *p, cpu_place at, int64_t piece, float *c)
{
    int64_t i = piece * ROW, n = cpu_min(ROW, p->inner.size - i);
    int64_t sa = p->inner.a, sb = p->inner.b, sc = p->inner.c;
    const float *a = p->a + at.a + i * sa, *b = p->b + at.b + i * sb;
    float recent[ROW], total[ROW];
    c += at.c + i * sc;
    int64_t sums = cpu_rounds(p->sum, p->n_sum);
    cpu_walk w;
    if (sums == 1) {
        make_row(sc == 1 ? c : total, a, sa, b, sb, n);
    } else {
        memset(total, 0, sizeof total);
        cpu_walk_from(&w, p->sum, p->n_sum, 0);
        for (int64_t k = 0; k < sums;) {
            int64_t end = cpu_min(sums, k + SHORT);
            make_row(recent, a + w.at.a, sa, b + w.at.b, sb, n);
            cpu_walk_next(&w, p->sum, p->n_sum);
            for (k++; k < end; k++, cpu_walk_next(&w, p->sum, p->n_sum))
                add_row(recent, a + w.at.a, sa, b + w.at.b, sb, n);
            CPU_SIMD
            for (int64_t j = 0; j < n; j++) total[j] += recent[j];
        }
        if (sc == 1) memcpy(c, total, sizeof(float) * (size_t)n);
    }
    for (int64_t j = 0; sc != 1 && j < n; j++) c[j * sc] = total[j];
}

/* A square of c, contiguous along `across`; an operand is contiguous along `inner`. */
static void blocks_item(const plan *p, cpu_place at, int64_t piece, float *c)
{
    const cpu_loop *u = &p->inner, *v = &p->across;
    int64_t per_row = pieces(v->size, BLOCK);
    int64_t i0 = piece / per_row * BLOCK, j0 = piece % per_row * BLOCK;
    int64_t rows = cpu_min(BLOCK, u->size - i0), columns = cpu_min(BLOCK, v->size - j0);
    const float *a = p->a + at.a + i0 * u->a + j0 * v->a;
    const float *b = p->b + at.b + i0 * u->b + j0 * v->b;
    c += at.c + i0 * u->c + j0;
    for (int64_t i = 0; i < rows; i++)
        make_row(c + i * u->c, a + i * u->a, v->a, b + i * u->b, v->b, columns);
}

/* The plan of one part: its range of the loop that is cut. */
static plan part_of(const plan *p, int64_t part)
{
    plan q = *p;
    if (p->parts == 1) return q;
    cpu_loop *l = p->cut < p->n_sum ? &q.sum[p->cut] : &q.inner;
    int64_t begin = part * p->part_size;
    q.a += begin * l->a;
    q.b += begin * l->b;
    l->size = cpu_min(p->part_size, l->size - begin);
    return q;
}

static void run_items(void *arg, int64_t begin, int64_t end, int thread)
{
    const plan *p = arg;
    for (int64_t i = begin; i < end;) {
        int64_t part = i / p->items, last = cpu_min(end, (part + 1) * p->items);
        plan q = part_of(p, part);
        float *c = p->parts > 1 ? p->partial + part * p->results : p->c;
        cpu_walk w;
        cpu_walk_from(&w, q.out, q.n_out, i % q.items / q.pieces);
        for (; i < last; i++) {
            int64_t piece = i % q.items % q.pieces;
            if (q.form == DOTS)
                dots_item(&q, w.at, c);
            else if (q.form == ROWS)
                rows_item(&q, w.at, piece, c);
            else
                blocks_item(&q, w.at, piece, c);
            if (piece == q.pieces - 1) cpu_walk_next(&w, q.out, q.n_out);
        }
    }
}

static void add_parts(void *arg, int64_t begin, int64_t end, int thread)
{
    const plan *p = arg;
    for (int64_t i = begin; i < end; i++) {
        double s = 0;
        for (int64_t part = 0; part < p->parts; part++) s += p->partial[part * p->results + i];
        p->c[i] = (float)s;
    }
}

size_t cpu_nest_workspace(const cpu_nest *nest)
{
    plan p;
    make_plan(nest, &p);
    return p.parts > 1 ? cpu_floats(p.parts * p.results) : 0;
}

lmoe_status cpu_nest_run(lmoe_ctx *ctx, const cpu_nest *nest, void *workspace)
{
    plan p;
    make_plan(nest, &p);
    p.partial = workspace;
    LMOE_TRY(
        lmoe_parallel(ctx, p.items * p.parts, cpu_grain(p.steps / p.parts / 4), run_items, &p));
    if (p.parts == 1) return LMOE_OK;
    return lmoe_parallel(ctx, p.results, cpu_grain(p.parts), add_parts, &p);
}
