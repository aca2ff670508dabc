/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/einsum.c: einsum/1 as matrix products over strided operands, without a copy.
 *
 * Every letter is a loop with its steps in a, b and c; letters of size 1 go, letters that lie next
 * to each other wherever they occur become one. One loop each over m (in a and c), n (in b and c)
 * and k (in a and b) makes the matrix product, such that each matrix is contiguous along one side;
 * what is left is looped around it. "b s e, e h k -> b s h k": m = b s, n = h k, k = e.
 * What is no matrix product worth the name goes to nest.c.
 */
#include "gemm.h"
#include "nest.h"

#include <lmoe/einsum.h>

/* Elements between neighbours along dimension d; 0 if the tensor lacks the letter. */
static int64_t step(const lmoe_buf *x, int d)
{
    int64_t n = d >= 0;
    for (int i = d + 1; d >= 0 && i < x->rank; i++) n *= x->dim[i];
    return n;
}

static int follows(int64_t outer, int64_t inner, int64_t size)
{
    return outer == inner * size;
}

/* Makes one loop of two wherever the first steps over the whole second. */
static void merge(cpu_nest *nest)
{
    for (int i = 0; i < nest->n; i++) {
        for (int j = 0; j < nest->n; j++) {
            cpu_loop *x = &nest->loop[i], *y = &nest->loop[j];
            if (i == j || !follows(x->a, y->a, y->size) || !follows(x->b, y->b, y->size) ||
                !follows(x->c, y->c, y->size))
                continue;
            y->size *= x->size;
            *x = nest->loop[--nest->n];
            i = -1; /* from the beginning */
            break;
        }
    }
}

/* The loops of the call. Returns 0 if it cannot be done. */
static int read_loops(const lmoe_args *args, cpu_nest *nest)
{
    static const float one = 1.0f;
    const lmoe_einsum_attrs *o = args->attrs;
    lmoe_einsum_form f;
    if (lmoe_einsum_parse(o->text, &f)) return 0;
    const lmoe_buf *a = &args->in[0], *b = f.operands == 2 ? &args->in[1] : NULL;
    *nest = (cpu_nest){.a = a->data, .b = b ? b->data : &one, .c = args->out[0].data};
    for (int i = 0; i < f.letters; i++) {
        const lmoe_einsum_letter *l = &f.letter[i];
        int64_t size = lmoe_einsum_size(l, a->dim, b ? b->dim : NULL);
        if (size == 1) continue;
        nest->loop[nest->n++] =
            (cpu_loop){size, step(a, l->a), b ? step(b, l->b) : 0, step(&args->out[0], l->out)};
    }
    merge(nest);
    return 1;
}

/* ---- as a matrix product ---- */

/* Which loops are m, n and k; their sizes multiplied, 0 if there are no such loops. */
typedef struct core {
    int m, n, k;
    double size;
} core;

static int has_contiguous_side(int64_t x, int64_t y)
{
    return x == 1 || y == 1;
}

static core choose_core(const cpu_nest *nest)
{
    core best = {0, 0, 0, 0};
    for (int m = 0; m < nest->n; m++) {
        const cpu_loop *x = &nest->loop[m];
        if (!x->a || x->b || !x->c) continue;
        for (int n = 0; n < nest->n; n++) {
            const cpu_loop *y = &nest->loop[n];
            if (y->a || !y->b || !y->c || !has_contiguous_side(x->c, y->c)) continue;
            for (int k = 0; k < nest->n; k++) {
                const cpu_loop *z = &nest->loop[k];
                double size = (double)x->size * (double)y->size * (double)z->size;
                if (!z->a || !z->b || z->c || size <= best.size) continue;
                if (has_contiguous_side(x->a, z->a) && has_contiguous_side(y->b, z->b))
                    best = (core){m, n, k, size};
            }
        }
    }
    return best;
}

/* Below this, the calls cost more than the products. */
static int is_worth_it(const cpu_nest *nest, core c)
{
    return c.size >= 2048 && nest->loop[c.k].size >= 4;
}

static cpu_loop swapped(cpu_loop l)
{
    return (cpu_loop){l.size, l.b, l.a, l.c};
}

/* c = a b, or, where c is contiguous along m, its transpose = b^T a^T. */
static void make_product(const cpu_nest *nest, core o, cpu_product *p)
{
    cpu_loop m = nest->loop[o.m], n = nest->loop[o.n], k = nest->loop[o.k];
    int swap = n.c != 1;
    *p = (cpu_product){.alpha = 1.0f, .a = nest->a, .b = nest->b, .c = nest->c};
    for (int i = 0; i < nest->n; i++) {
        if (i == o.m || i == o.n || i == o.k) continue;
        cpu_loop l = swap ? swapped(nest->loop[i]) : nest->loop[i];
        if (l.c)
            p->batch[p->n_batch++] = l;
        else
            p->sum[p->n_sum++] = l;
    }
    if (swap) {
        cpu_loop t = swapped(m);
        m = swapped(n);
        n = t;
        k = swapped(k);
        p->a = nest->b;
        p->b = nest->a;
    }
    p->m = m.size;
    p->n = n.size;
    p->k = k.size;
    p->ta = k.a != 1;
    p->tb = n.b != 1;
    p->lda = p->ta ? k.a : m.a;
    p->ldb = p->tb ? n.b : k.b;
    p->ldc = m.c;
}

static int can(const lmoe_args *a)
{
    cpu_nest nest;
    if (!cpu_is_f32(&a->in[0]) || !cpu_is_f32(&a->out[0])) return 0;
    if (a->n_in > 1 && lmoe_buf_present(&a->in[1]) && !cpu_is_f32(&a->in[1])) return 0;
    return read_loops(a, &nest);
}

static size_t workspace(const lmoe_args *a)
{
    cpu_nest nest;
    if (!read_loops(a, &nest) || is_worth_it(&nest, choose_core(&nest))) return 0;
    return cpu_nest_workspace(&nest);
}

static lmoe_status launch(const lmoe_args *a)
{
    cpu_nest nest;
    cpu_product product;
    read_loops(a, &nest);
    core o = choose_core(&nest);
    if (!is_worth_it(&nest, o)) return cpu_nest_run(a->ctx, &nest, a->workspace);
    make_product(&nest, o, &product);
    return cpu_gemm_many(a->ctx, &product);
}

CPU_KERNEL(einsum, 1, can, workspace, launch)
