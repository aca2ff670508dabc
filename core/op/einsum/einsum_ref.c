/* SPDX-License-Identifier: Apache-2.0
 * core/op/einsum/einsum_ref.c: for each element of the result, the sum over the summed letters.
 */
#include "core/op/op.h"

#include <lmoe/einsum.h>

lmoe_status lmoe__einsum_reference(const lmoe_args *args);

/* Loops over some letters: their sizes, and how far one step of each moves in a and in b. */
typedef struct loops {
    int n;
    int64_t size[2 * LMOE_MAX_DIMS], a[2 * LMOE_MAX_DIMS], b[2 * LMOE_MAX_DIMS];
} loops;

/* Elements between neighbours along dimension d of a row-major tensor; 0 if it lacks the letter. */
static int64_t stride(const lmoe_buf *x, int d)
{
    int64_t n = d >= 0;
    for (int i = d + 1; d >= 0 && i < x->rank; i++) n *= x->dim[i];
    return n;
}

static void add_loop(loops *l, const lmoe_einsum_letter *letter, const lmoe_args *args)
{
    const lmoe_buf *a = &args->in[0], *b = args->n_in > 1 ? &args->in[1] : NULL;
    l->size[l->n] = lmoe_einsum_size(letter, a->dim, b ? b->dim : NULL);
    l->a[l->n] = stride(a, letter->a);
    l->b[l->n] = letter->b >= 0 ? stride(b, letter->b) : 0;
    l->n++;
}

/* Offsets in a and b of iteration number i of the loops, the last one running fastest. */
static void locate(const loops *l, int64_t i, int64_t *a, int64_t *b)
{
    for (int k = l->n - 1; k >= 0; k--) {
        *a += i % l->size[k] * l->a[k];
        *b += i % l->size[k] * l->b[k];
        i /= l->size[k];
    }
}

lmoe_status lmoe__einsum_reference(const lmoe_args *args)
{
    const lmoe_einsum_attrs *o = args->attrs;
    lmoe_einsum_form f;
    const char *wrong = lmoe_einsum_parse(o->text, &f);
    if (wrong) return lmoe_error(args->ctx, LMOE_E_USAGE, "einsum '%s': %s", o->text, wrong);

    loops outer = {0}, inner = {0};
    for (const char *p = f.out; *p; p++) {
        for (int i = 0; i < f.letters; i++) {
            if (f.letter[i].name == *p) add_loop(&outer, &f.letter[i], args);
        }
    }
    for (int i = 0; i < f.letters; i++) {
        if (f.letter[i].out < 0) add_loop(&inner, &f.letter[i], args);
    }
    if (inner.n == 0) inner = (loops){.n = 1, .size = {1}}; /* nothing is summed: one product */
    int last = --inner.n; /* the fastest loop is written out, the others are counted together */
    int64_t rest = 1;
    for (int k = 0; k < last; k++) rest *= inner.size[k];
    for (int64_t i = 0; i < lmoe_buf_count(&args->out[0]); i++) {
        int64_t a0 = 0, b0 = 0;
        double sum = 0;
        locate(&outer, i, &a0, &b0);
        for (int64_t r = 0; r < rest; r++) {
            int64_t a = a0, b = b0;
            locate(&inner, r, &a, &b);
            for (int64_t k = 0; k < inner.size[last]; k++) {
                double x = lmoe_get(&args->in[0], a + k * inner.a[last]);
                sum += f.operands == 2 ? x * lmoe_get(&args->in[1], b + k * inner.b[last]) : x;
            }
        }
        lmoe_put(&args->out[0], i, sum);
    }
    return LMOE_OK;
}
