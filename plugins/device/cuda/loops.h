/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/loops.h: einsum/1 as nested loops over strided operands.
 *
 * Every letter is a loop with its steps in a, b and c (0: it does not occur there); letters of size
 * 1 go, and letters that lie next to each other wherever they occur are one loop.
 */
#ifndef CUDA_LOOPS_H
#define CUDA_LOOPS_H

#include "cuda.h"

#include <lmoe/einsum.h>

enum { CUDA_MAX_LOOPS = 2 * LMOE_MAX_DIMS };

typedef struct cuda_loop {
    int64_t size, a, b, c; /* steps in elements */
} cuda_loop;

typedef struct cuda_nest {
    int n;
    cuda_loop loop[CUDA_MAX_LOOPS];
} cuda_nest;

/* Elements between neighbours along dimension d; 0 if the tensor lacks the letter. */
static inline int64_t cuda_step(const lmoe_buf *x, int d)
{
    int64_t n = d >= 0;
    for (int i = d + 1; d >= 0 && i < x->rank; i++) n *= x->dim[i];
    return n;
}

/* Does x step over the whole of y, in every tensor? */
static inline int cuda_encloses(const cuda_loop *x, const cuda_loop *y)
{
    return x->a == y->a * y->size && x->b == y->b * y->size && x->c == y->c * y->size;
}

static inline void cuda_merge_loops(cuda_nest *nest)
{
    for (int i = 0; i < nest->n; i++) {
        for (int j = 0; j < nest->n; j++) {
            cuda_loop *x = &nest->loop[i], *y = &nest->loop[j];
            if (i == j || !cuda_encloses(x, y)) continue;
            y->size *= x->size;
            *x = nest->loop[--nest->n];
            i = -1; /* from the beginning */
            break;
        }
    }
}

/* The loops of a call. Returns 0 if the text cannot be read. */
static inline int cuda_read_loops(const lmoe_args *args, cuda_nest *nest)
{
    lmoe_einsum_form f;
    nest->n = 0;
    if (lmoe_einsum_parse(((const lmoe_einsum_attrs *)args->attrs)->text, &f)) return 0;
    const lmoe_buf *a = &args->in[0], *b = cuda_at(args->in, f.operands, 1);
    for (int i = 0; i < f.letters; i++) {
        const lmoe_einsum_letter *l = &f.letter[i];
        int64_t size = lmoe_einsum_size(l, a->dim, b->dim);
        if (size == 1) continue;
        cuda_loop x = {size, cuda_step(a, l->a), cuda_step(b, l->b),
                       cuda_step(&args->out[0], l->out)};
        nest->loop[nest->n++] = x;
    }
    cuda_merge_loops(nest);
    return 1;
}

#endif
