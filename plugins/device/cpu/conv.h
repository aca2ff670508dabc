/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/conv.h: what the kernels of short_conv share: which rows a token sees.
 *
 * A row is numbered by its source: s >= 0 is token s, -1, -2, ... are the rows of the tail, newest
 * first. Weights are turned to (kernel width), newest tap first, so that loops run along the width.
 */
#ifndef CPU_CONV_H
#define CPU_CONV_H

#include "cpu.h"

enum { CONV_TAPS = 16 }; /* longest kernel that these kernels do */

typedef struct conv_sizes {
    int64_t batch, seq, width, kernel;
} conv_sizes;

static inline conv_sizes conv_sizes_of(const lmoe_buf *x, const lmoe_buf *weight)
{
    conv_sizes n = {x->dim[0], x->dim[1], 0, weight->dim[weight->rank - 1]};
    n.width = lmoe_buf_count(weight) / n.kernel;
    return n;
}

/* to (kernel width) from weight (width kernel), whose last tap is the newest */
static inline void conv_turn(const conv_sizes *n, const float *weight, float *to)
{
    for (int64_t d = 0; d < n->width; d++) {
        for (int64_t j = 0; j < n->kernel; j++)
            to[j * n->width + d] = weight[d * n->kernel + n->kernel - 1 - j];
    }
}

/* One sequence of the batch, and what its newest token so far sees. */
typedef struct conv_walk {
    conv_sizes n;
    const float *x, *tail;       /* of this sequence; tail may be NULL */
    const uint8_t *reset, *skip; /* of this sequence, or NULL */
    int64_t count;               /* valid rows of the tail */
    int seen;                    /* rows, newest first, at most kernel */
    int64_t source[CONV_TAPS];
} conv_walk;

static inline conv_walk conv_enter(const conv_sizes *n, const lmoe_buf *x, const lmoe_buf *reset,
                                   const lmoe_buf *skip, const lmoe_buf *tail,
                                   const lmoe_buf *count, int64_t b)
{
    conv_walk w = {.n = *n, .x = (const float *)x->data + b * n->seq * n->width};
    if (lmoe_buf_present(reset)) w.reset = (const uint8_t *)reset->data + b * n->seq;
    if (lmoe_buf_present(skip)) w.skip = (const uint8_t *)skip->data + b * n->seq;
    if (lmoe_buf_present(tail) && lmoe_buf_present(count)) {
        w.tail = (const float *)tail->data + b * (n->kernel - 1) * n->width;
        w.count = ((const int32_t *)count->data)[b];
    }
    return w;
}

/* What is seen of the rows before token s, without s's own reset. */
static inline void conv_start(conv_walk *w, int64_t s)
{
    w->seen = 0;
    while (w->seen < w->n.kernel - 1 && --s >= -w->count) {
        if (s < 0 || !w->skip || !w->skip[s]) w->source[w->seen++] = s;
        if (s >= 0 && w->reset && w->reset[s]) break;
    }
}

/* Takes token s; 0 if it is skipped. */
static inline int conv_step(conv_walk *w, int64_t s)
{
    if (w->reset && w->reset[s]) w->seen = 0;
    if (w->skip && w->skip[s]) return 0;
    if (w->seen < w->n.kernel) w->seen++;
    for (int j = w->seen - 1; j > 0; j--) w->source[j] = w->source[j - 1];
    w->source[0] = s;
    return 1;
}

static inline const float *conv_row(const conv_walk *w, int j)
{
    int64_t s = w->source[j];
    return s >= 0 ? w->x + s * w->n.width : w->tail + (w->n.kernel - 1 + s) * w->n.width;
}

/* p[0 ... n-1] = sum over the rows seen (one or more) of weight * row, columns from d on */
static inline void conv_sum(const conv_walk *w, const float *weight, int64_t d, int64_t n,
                            float *restrict p)
{
    int64_t width = w->n.width;
    int j = w->seen >= 4 ? 4 : 1;
    const float *w0 = weight + d, *x0 = conv_row(w, 0) + d;
    if (j == 4) {
        const float *w1 = w0 + width, *w2 = w1 + width, *w3 = w2 + width;
        const float *x1 = conv_row(w, 1) + d, *x2 = conv_row(w, 2) + d, *x3 = conv_row(w, 3) + d;
        CPU_SIMD
        for (int64_t i = 0; i < n; i++)
            p[i] = w0[i] * x0[i] + w1[i] * x1[i] + w2[i] * x2[i] + w3[i] * x3[i];
    } else {
        CPU_SIMD
        for (int64_t i = 0; i < n; i++) p[i] = w0[i] * x0[i];
    }
    for (; j < w->seen; j++) {
        const float *wj = w0 + j * width, *x = conv_row(w, j) + d;
        CPU_SIMD
        for (int64_t i = 0; i < n; i++) p[i] += wj[i] * x[i];
    }
}

static inline int conv_can(const lmoe_args *a, int floats_first, int floats_last)
{
    const lmoe_buf *weight = &a->in[1];
    if (weight->dim[weight->rank - 1] > CONV_TAPS) return 0;
    for (int i = floats_first; i <= floats_last; i++) {
        lmoe_dtype d = a->in[i].dtype;
        if (lmoe_dtype_is_float(d) && d != LMOE_F32) return 0;
    }
    return 1;
}

#endif
