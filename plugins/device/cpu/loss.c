/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/loss.c: linear_cross_entropy/1 in chunks of rows, without the whole logits.
 *
 * For each chunk of tokens: logits = x table^T; each row becomes its derivative, factor * (softmax
 * - one at the label); dx = that table; dtable += that^T x. Losses are added up in double, in
 * order.
 */
#include "gemm.h"
#include "vec.h"

enum { X, TABLE, LABELS, FACTOR };

typedef struct work {
    int64_t tokens, width, rows; /* of the table */
    int64_t chunk, first;        /* tokens at a time, and the first of this chunk */
    float factor;
    int want_grad;
    const int32_t *labels;
    float *logits; /* (chunk, rows) */
    double *loss;  /* (tokens), without the factor */
} work;

/* Long chunks spread the cost of reading and writing dtable, short ones keep the logits small. */
static int64_t chunk_of(int64_t tokens, int64_t rows)
{
    const int64_t usual = 256, logits = (int64_t)1 << 24, most = (int64_t)1 << 26;
    int64_t chunk = cpu_max(usual, cpu_min(4096, logits / rows));
    chunk = cpu_min(chunk, cpu_max(16, most / rows));
    return cpu_min(tokens, chunk);
}

static void token(const work *w, int64_t i)
{
    int64_t label = w->labels[w->first + i], n = w->rows;
    float *c = w->logits + i * n, sum = 0;
    if (label < 0 || label >= n) {
        w->loss[w->first + i] = 0;
        if (w->want_grad) memset(c, 0, sizeof *c * (size_t)n);
        return;
    }
    float most = cpu_largest(c, n), own = c[label];
    CPU_SIMD_SUM(sum)
    for (int64_t v = 0; v < n; v++) {
        float e = cpu_expf(c[v] - most);
        c[v] = e;
        sum += e;
    }
    w->loss[w->first + i] = log((double)sum) + ((double)most - (double)own);
    if (!w->want_grad) return;
    float scale = w->factor / sum;
    CPU_SIMD
    for (int64_t v = 0; v < n; v++) c[v] *= scale;
    /* softmax - 1 at the label, without cancellation where the label has nearly all of it */
    c[label] = -w->factor * ((sum - cpu_expf(own - most)) / sum);
}

static void run(void *arg, int64_t begin, int64_t end, int thread)
{
    for (int64_t i = begin; i < end; i++) token(arg, i);
}

static int can(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[X]) && cpu_is_f32(&a->in[TABLE]) && cpu_is_f32(&a->in[FACTOR]);
}

static size_t workspace(const lmoe_args *a)
{
    int64_t tokens = lmoe_buf_count(&a->in[LABELS]), rows = a->in[TABLE].dim[0];
    return cpu_floats(chunk_of(tokens, rows) * rows) + cpu_floats(2 * tokens);
}

static lmoe_status launch(const lmoe_args *a)
{
    const lmoe_buf *table = &a->in[TABLE];
    const float *x = a->in[X].data, *t = table->data;
    float *dx = a->out[1].data, *dtable = a->out[2].data;
    char *cursor = a->workspace;
    work w = {.tokens = lmoe_buf_count(&a->in[LABELS]),
              .rows = table->dim[0],
              .width = table->dim[1],
              .labels = a->in[LABELS].data,
              .want_grad = dx || dtable};
    w.factor = *(const float *)a->in[FACTOR].data;
    w.chunk = chunk_of(w.tokens, w.rows);
    w.logits = cpu_take(&cursor, w.chunk * w.rows);
    w.loss = (double *)(void *)cpu_take(&cursor, 2 * w.tokens);

    for (w.first = 0; w.first < w.tokens; w.first += w.chunk) {
        int64_t n = cpu_min(w.chunk, w.tokens - w.first);
        const float *xs = x + w.first * w.width;
        LMOE_TRY(cpu_gemm(a->ctx, 0, 1, n, w.rows, w.width, 1, xs, w.width, t, w.width, 0, w.logits,
                          w.rows));
        LMOE_TRY(lmoe_parallel(a->ctx, n, cpu_grain(4 * w.rows), run, &w));
        if (dx)
            LMOE_TRY(cpu_gemm(a->ctx, 0, 0, n, w.width, w.rows, 1, w.logits, w.rows, t, w.width, 0,
                              dx + w.first * w.width, w.width));
        if (dtable)
            LMOE_TRY(cpu_gemm(a->ctx, 1, 0, w.rows, w.width, n, 1, w.logits, w.rows, xs, w.width,
                              w.first > 0, dtable, w.width));
    }
    double loss = 0;
    for (int64_t i = 0; i < w.tokens; i++) loss += w.loss[i];
    if (a->out[0].data) *(float *)a->out[0].data = (float)(w.factor * loss);
    return LMOE_OK;
}

CPU_KERNEL(linear_cross_entropy, 1, can, workspace, launch)
