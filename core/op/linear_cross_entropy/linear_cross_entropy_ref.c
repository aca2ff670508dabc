/* SPDX-License-Identifier: Apache-2.0
 * core/op/linear_cross_entropy/linear_cross_entropy_ref.c: token by token; with l the token's
 * logits:
 *
 *   loss      += factor * (logsumexp(l) - l[label])
 *   c[v]       = factor * (exp(l[v] - logsumexp(l)) - (v == label))      derivative of l[v]
 *   dx         = sum over v of c[v] table[v]
 *   dtable[v] += c[v] x
 */
#include "core/op/op.h"

#include <math.h>
#include <stdlib.h>

lmoe_status lmoe__linear_cross_entropy_reference(const lmoe_args *args);

enum { X, TABLE, LABELS, FACTOR };

/* Fills c with the derivatives of the logits of token t; returns its loss. */
static double token_loss(const lmoe_args *args, int64_t t, int64_t label, double *c)
{
    const lmoe_buf *x = &args->in[X], *table = &args->in[TABLE];
    int64_t rows = table->dim[0], width = table->dim[1];
    double factor = lmoe_get(&args->in[FACTOR], 0), most = -INFINITY, sum = 0;
    for (int64_t v = 0; v < rows; v++) {
        c[v] = 0;
        for (int64_t e = 0; e < width; e++)
            c[v] += lmoe_get(x, t * width + e) * lmoe_get(table, v * width + e);
        most = fmax(most, c[v]);
    }
    for (int64_t v = 0; v < rows; v++) sum += exp(c[v] - most);
    double lse = most + log(sum), loss = factor * (lse - c[label]);
    for (int64_t v = 0; v < rows; v++) c[v] = factor * (exp(c[v] - lse) - (v == label));
    return loss;
}

/* dx of token t, and its part of the table's derivative (NULL: not wanted). */
static void token_derivatives(const lmoe_args *args, int64_t t, const double *c, double *dtable)
{
    const lmoe_buf *x = &args->in[X], *table = &args->in[TABLE], *dx = &args->out[1];
    int64_t rows = table->dim[0], width = table->dim[1];
    for (int64_t e = 0; e < width && lmoe_buf_present(dx); e++) {
        double sum = 0;
        for (int64_t v = 0; v < rows; v++) sum += c[v] * lmoe_get(table, v * width + e);
        lmoe_put(dx, t * width + e, sum);
    }
    for (int64_t v = 0; v < rows && dtable; v++) {
        for (int64_t e = 0; e < width; e++)
            dtable[v * width + e] += c[v] * lmoe_get(x, t * width + e);
    }
}

lmoe_status lmoe__linear_cross_entropy_reference(const lmoe_args *args)
{
    const int32_t *labels = args->in[LABELS].data;
    int64_t rows = args->in[TABLE].dim[0], count = lmoe_buf_count(&args->in[TABLE]);
    bool want_table = lmoe_buf_present(&args->out[2]);
    double *c = calloc((size_t)(rows + (want_table ? count : 0)), sizeof *c);
    if (!c) return lmoe_error(args->ctx, LMOE_E_MEMORY, "linear_cross_entropy: out of memory");
    double *dtable = want_table ? c + rows : NULL, loss = 0;
    for (int64_t t = 0; t < lmoe_buf_count(&args->in[LABELS]); t++) {
        if (labels[t] >= 0 && labels[t] < rows)
            loss += token_loss(args, t, labels[t], c);
        else
            memset(c, 0, (size_t)rows * sizeof *c);
        token_derivatives(args, t, c, dtable);
    }
    if (lmoe_buf_present(&args->out[0])) lmoe_put(&args->out[0], 0, loss);
    for (int64_t i = 0; i < count && want_table; i++) lmoe_put(&args->out[2], i, dtable[i]);
    free(c);
    return LMOE_OK;
}
