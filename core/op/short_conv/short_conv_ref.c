/* SPDX-License-Identifier: Apache-2.0
 * core/op/short_conv/short_conv_ref.c: reference kernels of short_conv, in double. The equations
 * stand in short_conv.c.
 *
 * Each sequence is first written out as the list of its inputs, oldest first: the valid rows of the
 * tail, then the tokens that are not skipped. Every sum is then a loop over the end of a list.
 */
#include "core/op/carry.h"

#include <math.h>
#include <stdlib.h>

/* One sequence of the batch. Sources: 0 ... tail_rows-1 are rows of the tail, then the tokens. */
typedef struct sequence {
    const lmoe_buf *x, *weight, *reset, *skip, *tail, *count;
    int64_t b, seq, width, kernel, tail_rows; /* width: elements of a token */
    int silu;
    int64_t *source; /* the list */
    int64_t n;       /* its length so far */
    int64_t start;   /* entries before it are forgotten */
    double *dsource; /* gradients of the sources (tail_rows + seq, width), when differentiating */
} sequence;

static lmoe_status sequence_new(const lmoe_args *a, sequence *q)
{
    memset(q, 0, sizeof *q);
    q->x = &a->in[0];
    q->weight = &a->in[1];
    q->reset = lmoe__buf_at(a->in, a->n_in, 2);
    q->skip = lmoe__buf_at(a->in, a->n_in, 3);
    q->tail = q->count = lmoe__buf_at(NULL, 0, 0);
    q->seq = q->x->dim[1];
    q->kernel = q->weight->dim[q->weight->rank - 1];
    q->width = lmoe_buf_count(q->weight) / q->kernel;
    q->tail_rows = q->kernel - 1;
    q->silu = ((const lmoe_conv_attrs *)a->attrs)->silu;
    q->source = malloc(sizeof *q->source * (size_t)(q->tail_rows + q->seq));
    q->dsource = lmoe__ref_doubles(a, (q->tail_rows + q->seq) * q->width);
    if (q->source && q->dsource) return LMOE_OK;
    free(q->source);
    free(q->dsource);
    return lmoe_error(a->ctx, LMOE_E_MEMORY, "out of memory in a reference kernel");
}

static void sequence_free(sequence *q)
{
    free(q->source);
    free(q->dsource);
}

/* Starts sequence b: the list holds what the tail hands over. */
static void enter(sequence *q, int64_t b)
{
    int64_t rows = lmoe_buf_present(q->tail) ? (int64_t)lmoe_get(q->count, b) : 0;
    q->b = b;
    q->n = 0;
    q->start = 0;
    for (int64_t row = q->tail_rows - rows; row < q->tail_rows; row++) q->source[q->n++] = row;
    memset(q->dsource, 0, sizeof *q->dsource * (size_t)((q->tail_rows + q->seq) * q->width));
}

/* Appends token s; false if it is skipped. */
static bool append(sequence *q, int64_t s)
{
    if (lmoe__flag(q->reset, q->b * q->seq + s)) q->start = q->n;
    if (lmoe__flag(q->skip, q->b * q->seq + s)) return false;
    q->source[q->n++] = q->tail_rows + s;
    return true;
}

/* How many entries at the end of the list are seen, at most `most`. */
static int64_t visible(const sequence *q, int64_t most)
{
    return q->n - q->start < most ? q->n - q->start : most;
}

/* The source that is the j-th from the end. */
static int64_t back(const sequence *q, int64_t j)
{
    return q->source[q->n - 1 - j];
}

static double input(const sequence *q, int64_t source, int64_t d)
{
    if (source < q->tail_rows)
        return lmoe_get(q->tail, (q->b * q->tail_rows + source) * q->width + d);
    return lmoe_get(q->x, (q->b * q->seq + source - q->tail_rows) * q->width + d);
}

static double tap(const sequence *q, int64_t d, int64_t j)
{
    return lmoe_get(q->weight, d * q->kernel + q->kernel - 1 - j);
}

/* p of the newest entry. */
static double convolve(const sequence *q, int64_t d)
{
    double p = 0;
    for (int64_t j = 0; j < visible(q, q->kernel); j++) p += tap(q, d, j) * input(q, back(q, j), d);
    return p;
}

static double silu(double p)
{
    return p / (1 + exp(-p));
}

static double silu_slope(double p)
{
    double sigmoid = 1 / (1 + exp(-p));
    return sigmoid * (1 + p * (1 - sigmoid));
}

/* The end of the list as a tail. Oldest row first: the tail may be the very buffer that is read. */
static void put_tail(const sequence *q, const lmoe_buf *tail, const lmoe_buf *count)
{
    int64_t rows = visible(q, q->tail_rows);
    for (int64_t j = q->tail_rows - 1; j >= 0; j--) {
        for (int64_t d = 0; d < q->width; d++)
            lmoe_put(tail, (q->b * q->tail_rows + q->tail_rows - 1 - j) * q->width + d,
                     j < rows ? input(q, back(q, j), d) : 0);
    }
    lmoe_put(count, q->b, (double)rows);
}

lmoe_status lmoe__short_conv_ref(const lmoe_args *a)
{
    sequence q;
    LMOE_TRY(sequence_new(a, &q));
    q.tail = lmoe__buf_at(a->in, a->n_in, 4);
    q.count = lmoe__buf_at(a->in, a->n_in, 5);
    for (int64_t b = 0; b < q.x->dim[0]; b++) {
        enter(&q, b);
        for (int64_t s = 0; s < q.seq; s++) {
            bool kept = append(&q, s);
            for (int64_t d = 0; d < q.width; d++) {
                double p = kept ? convolve(&q, d) : 0;
                lmoe_put(&a->out[0], (b * q.seq + s) * q.width + d, q.silu ? silu(p) : p);
            }
        }
        put_tail(&q, lmoe__buf_at(a->out, a->n_out, 1), lmoe__buf_at(a->out, a->n_out, 2));
    }
    sequence_free(&q);
    return LMOE_OK;
}

/* ---- derivative ---- */

/* Gradients of every source and (unless NULL) of the weights, (width kernel), are added up. */
static void backward(sequence *q, const lmoe_buf *dy, const lmoe_buf *dtail, double *dweight)
{
    for (int64_t s = 0; s < q->seq; s++) {
        if (!append(q, s)) continue;
        for (int64_t d = 0; d < q->width; d++) {
            double dp = lmoe_get(dy, (q->b * q->seq + s) * q->width + d);
            if (q->silu) dp *= silu_slope(convolve(q, d));
            for (int64_t j = 0; j < visible(q, q->kernel); j++) {
                q->dsource[back(q, j) * q->width + d] += tap(q, d, j) * dp;
                if (dweight)
                    dweight[d * q->kernel + q->kernel - 1 - j] += input(q, back(q, j), d) * dp;
            }
        }
    }
    for (int64_t j = 0; j < visible(q, q->tail_rows); j++) {
        int64_t row = q->b * q->tail_rows + q->tail_rows - 1 - j;
        for (int64_t d = 0; d < q->width; d++)
            q->dsource[back(q, j) * q->width + d] += lmoe_get(dtail, row * q->width + d);
    }
}

static void put_dtail(const sequence *q, const lmoe_buf *dtail)
{
    int64_t n = q->tail_rows * q->width;
    for (int64_t i = 0; i < n; i++) lmoe_put(dtail, q->b * n + i, q->dsource[i]);
}

lmoe_status lmoe__short_conv_grad_ref(const lmoe_args *a)
{
    sequence q;
    LMOE_TRY(sequence_new(a, &q));
    double *dweight = lmoe__ref_doubles(a, q.width * q.kernel);
    if (!dweight) {
        sequence_free(&q);
        return LMOE_E_MEMORY;
    }
    q.tail = lmoe__buf_at(a->in, a->n_in, 5);
    q.count = lmoe__buf_at(a->in, a->n_in, 6);
    for (int64_t b = 0; b < q.x->dim[0]; b++) {
        enter(&q, b);
        backward(&q, &a->in[4], lmoe__buf_at(a->in, a->n_in, 7), dweight);
        for (int64_t i = 0, n = q.seq * q.width; i < n; i++)
            lmoe_put(&a->out[0], b * n + i, q.dsource[q.tail_rows * q.width + i]);
        put_dtail(&q, lmoe__buf_at(a->out, a->n_out, 2));
    }
    for (int64_t i = 0; i < q.width * q.kernel; i++) lmoe_put(&a->out[1], i, dweight[i]);
    free(dweight);
    sequence_free(&q);
    return LMOE_OK;
}

/* ---- summaries ---- */

static double holds_reset(const sequence *q)
{
    for (int64_t s = 0; s < q->seq; s++) {
        if (lmoe__flag(q->reset, q->b * q->seq + s)) return 1;
    }
    return 0;
}

lmoe_status lmoe__short_conv_summary_ref(const lmoe_args *a)
{
    sequence q;
    LMOE_TRY(sequence_new(a, &q));
    for (int64_t b = 0; b < q.x->dim[0]; b++) {
        enter(&q, b);
        for (int64_t s = 0; s < q.seq; s++) append(&q, s);
        put_tail(&q, &a->out[0], &a->out[1]);
        lmoe_put(&a->out[2], b, holds_reset(&q));
    }
    sequence_free(&q);
    return LMOE_OK;
}

lmoe_status lmoe__short_conv_grad_summary_ref(const lmoe_args *a)
{
    sequence q;
    LMOE_TRY(sequence_new(a, &q));
    q.tail = lmoe__buf_at(a->in, a->n_in, 5);
    q.count = lmoe__buf_at(a->in, a->n_in, 6);
    for (int64_t b = 0; b < q.x->dim[0]; b++) {
        enter(&q, b);
        backward(&q, &a->in[4], lmoe__buf_at(NULL, 0, 0), NULL);
        put_dtail(&q, &a->out[0]);
        int64_t tokens = 0;
        for (int64_t s = 0; s < q.seq; s++) tokens += !lmoe__flag(q.skip, b * q.seq + s);
        lmoe_put(&a->out[1], b, (double)(tokens < q.tail_rows ? tokens : q.tail_rows));
    }
    sequence_free(&q);
    return LMOE_OK;
}

/* ---- combine: tail (rank batch kernel-1 width), count and fresh (rank batch) ---- */

lmoe_status lmoe__short_conv_combine_ref(const lmoe_args *a)
{
    const lmoe_combine_attrs *o = a->attrs;
    const lmoe_buf *tail = &a->in[0], *count = &a->in[1], *fresh = &a->in[2];
    int64_t batch = tail->dim[1], rows = tail->dim[2];
    int64_t width = lmoe_buf_count(tail) / (o->ranks * batch * rows);
    lmoe__buf_fill(&a->out[0], 0);
    for (int64_t b = 0; b < batch; b++) {
        int64_t n = 0; /* rows taken, from the newest */
        for (int64_t r = o->rank - 1; r >= 0; r--) {
            int64_t have = (int64_t)lmoe_get(count, r * batch + b);
            for (int64_t i = 0; i < have && n < rows; i++, n++) {
                int64_t from = (r * batch + b) * rows + rows - 1 - i;
                int64_t to = b * rows + rows - 1 - n;
                for (int64_t d = 0; d < width; d++)
                    lmoe_put(&a->out[0], to * width + d, lmoe_get(tail, from * width + d));
            }
            if (lmoe__flag(fresh, r * batch + b)) break; /* nothing older is seen */
        }
        lmoe_put(lmoe__buf_at(a->out, a->n_out, 1), b, (double)n);
    }
    return LMOE_OK;
}

/* From the last segment on: a row of d(tail in) is the segment's own, and what d(tail out) has at
 * the place to which the segment's tokens pushed it. (A row that a reset forgot has no gradient
 * there.) */
lmoe_status lmoe__short_conv_grad_combine_ref(const lmoe_args *a)
{
    const lmoe_combine_attrs *o = a->attrs;
    const lmoe_buf *dtail = &a->in[0], *count = &a->in[1];
    int64_t batch = dtail->dim[1], rows = dtail->dim[2];
    int64_t width = lmoe_buf_count(dtail) / (o->ranks * batch * rows);
    double *d = lmoe__ref_doubles(a, rows);
    if (!d) return LMOE_E_MEMORY;
    for (int64_t i = 0; i < batch * width; i++) {
        int64_t b = i / width, e = i % width;
        memset(d, 0, sizeof *d * (size_t)rows);
        for (int64_t r = o->ranks - 1; r > o->rank; r--) {
            int64_t tokens = (int64_t)lmoe_get(count, r * batch + b);
            for (int64_t row = rows - 1; row >= 0; row--) {
                d[row] = lmoe_get(dtail, ((r * batch + b) * rows + row) * width + e) +
                         (row >= tokens ? d[row - tokens] : 0);
            }
        }
        for (int64_t row = 0; row < rows; row++)
            lmoe_put(&a->out[0], (b * rows + row) * width + e, d[row]);
    }
    free(d);
    return LMOE_OK;
}
