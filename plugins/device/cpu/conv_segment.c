/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/conv_segment.c: what sequence parallelism needs of short_conv.
 *
 *   short_conv_summary       the tail that a segment alone leaves, and whether it holds a reset
 *   short_conv_combine       the newest rows of the segments before a rank
 *   short_conv_grad_summary  what a segment adds to the gradient of the tail before it
 *   short_conv_grad_combine  the same of all later segments: a row is pushed on by each one's tokens
 *
 * tail: (batch kernel-1 width), newest row last. A thread takes sequences of the batch.
 */
#include "conv.h"
#include "vec.h"

/* Sequences in parallel, each of which costs `work`. */
static lmoe_status each_sequence(const lmoe_args *a, int64_t batch, int64_t work, lmoe_range_fn fn)
{
    return lmoe_parallel(a->ctx, batch, cpu_grain(work), fn, (void *)a);
}

/* ---- summary: x, weight, reset, skip -> tail, count, fresh ---- */

static void run_summary(void *arg, int64_t begin, int64_t end, int thread)
{
    static const lmoe_buf none;
    const lmoe_args *a = arg;
    conv_sizes n = conv_sizes_of(&a->in[0], &a->in[1]);
    int64_t rows = n.kernel - 1, bytes = (int64_t)sizeof(float) * n.width;
    for (int64_t b = begin; b < end; b++) {
        conv_walk w = conv_enter(&n, &a->in[0], &a->in[2], &a->in[3], &none, &none, b);
        conv_start(&w, n.seq);
        float *tail = a->out[0].data;
        for (int64_t j = 0; tail && j < rows; j++) {
            float *to = tail + (b * rows + rows - 1 - j) * n.width;
            if (j < w.seen)
                memcpy(to, conv_row(&w, (int)j), (size_t)bytes);
            else
                memset(to, 0, (size_t)bytes);
        }
        if (a->out[1].data) ((int32_t *)a->out[1].data)[b] = w.seen;
        if (!lmoe_buf_present(&a->out[2])) continue;
        int fresh = w.reset && memchr(w.reset, 1, (size_t)n.seq) != NULL;
        lmoe_put(&a->out[2], b, fresh);
    }
}

static lmoe_status launch_summary(const lmoe_args *a)
{
    conv_sizes n = conv_sizes_of(&a->in[0], &a->in[1]);
    return each_sequence(a, n.batch, n.kernel * n.width + n.seq / 16, run_summary);
}

static int can_summary(const lmoe_args *a)
{
    return conv_can(a, 0, 1);
}

CPU_KERNEL(short_conv_summary, 1, can_summary, NULL, launch_summary)

/* ---- combine: tail (rank batch kernel-1 width), count, fresh (rank batch) -> tail, count ---- */

typedef struct tails {
    int64_t ranks, batch, rows, width;
} tails;

static tails tails_of(const lmoe_args *a)
{
    const lmoe_buf *x = &a->in[0];
    tails n = {((const lmoe_combine_attrs *)a->attrs)->ranks, x->dim[1], x->dim[2], 1};
    for (int i = 3; i < x->rank; i++) n.width *= x->dim[i];
    return n;
}

static void run_combine(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    const int32_t *count = a->in[1].data;
    tails n = tails_of(a);
    int64_t rank = ((const lmoe_combine_attrs *)a->attrs)->rank;
    for (int64_t b = begin; b < end; b++) {
        float *tail = a->out[0].data, *to = tail ? tail + b * n.rows * n.width : NULL;
        int64_t taken = 0; /* rows, from the newest */
        for (int64_t r = rank - 1; r >= 0 && taken < n.rows; r--) {
            const float *from = (const float *)a->in[0].data + (r * n.batch + b) * n.rows * n.width;
            int64_t have = cpu_min(count[r * n.batch + b], n.rows - taken);
            if (to)
                memcpy(to + (n.rows - taken - have) * n.width, from + (n.rows - have) * n.width,
                       sizeof *to * (size_t)(have * n.width));
            taken += have;
            if (lmoe_get(&a->in[2], r * n.batch + b) != 0) break; /* nothing older is seen */
        }
        if (to) memset(to, 0, sizeof *to * (size_t)((n.rows - taken) * n.width));
        if (lmoe_buf_present(&a->out[1])) ((int32_t *)a->out[1].data)[b] = (int32_t)taken;
    }
}

static lmoe_status launch_combine(const lmoe_args *a)
{
    tails n = tails_of(a);
    return each_sequence(a, n.batch, n.rows * n.width, run_combine);
}

static int can_combine(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[0]);
}

CPU_KERNEL(short_conv_combine, 1, can_combine, NULL, launch_combine)

/* ---- grad_summary: x, weight, reset, skip, dy, tail, count -> dtail, count ---- */

/* One token that sees rows of the tail. dp: (width) */
static void add_token(const lmoe_args *a, const conv_walk *w, int64_t b, int64_t s,
                      const float *weight, float *restrict dp, float *dtail)
{
    int64_t width = w->n.width;
    const float *restrict dy = (const float *)a->in[4].data + (b * w->n.seq + s) * width;
    if (((const lmoe_conv_attrs *)a->attrs)->silu) {
        conv_sum(w, weight, 0, width, dp);
        CPU_SIMD
        for (int64_t i = 0; i < width; i++) {
            float f = cpu_sigmoidf(dp[i]);
            dp[i] = dy[i] * f * (1.0f + dp[i] * (1.0f - f));
        }
    } else {
        memcpy(dp, dy, sizeof *dp * (size_t)width);
    }
    for (int j = w->seen - 1; j >= 0 && w->source[j] < 0; j--) {
        const float *restrict tap = weight + j * width;
        float *restrict to = dtail + (w->n.kernel - 1 + w->source[j]) * width;
        CPU_SIMD
        for (int64_t i = 0; i < width; i++) to[i] += tap[i] * dp[i];
    }
}

/* Workspace: weights (kernel width), dp (batch width). */
static void add_sequence(const lmoe_args *a, conv_walk *w, int64_t b, float *dtail)
{
    const float *weight = a->workspace;
    float *dp = (float *)a->workspace + (w->n.kernel + b) * w->n.width;
    memset(dtail, 0, sizeof *dtail * (size_t)((w->n.kernel - 1) * w->n.width));
    conv_start(w, 0);
    for (int64_t s = 0; s < w->n.seq; s++) {
        if (!conv_step(w, s)) continue;
        if (w->source[w->seen - 1] >= 0) break; /* nor will later ones see the tail */
        add_token(a, w, b, s, weight, dp, dtail);
    }
}

static void run_grad_summary(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    const lmoe_buf *in = a->in;
    conv_sizes n = conv_sizes_of(&in[0], &in[1]);
    int64_t rows = n.kernel - 1;
    for (int64_t b = begin; b < end; b++) {
        conv_walk w = conv_enter(&n, &in[0], &in[2], &in[3], &in[5], &in[6], b);
        float *dtail = a->out[0].data;
        if (dtail) add_sequence(a, &w, b, dtail + b * rows * n.width);
        int64_t tokens = 0;
        for (int64_t s = 0; s < n.seq && tokens < rows; s++) tokens += !w.skip || !w.skip[s];
        if (lmoe_buf_present(&a->out[1])) ((int32_t *)a->out[1].data)[b] = (int32_t)tokens;
    }
}

static lmoe_status launch_grad_summary(const lmoe_args *a)
{
    conv_sizes n = conv_sizes_of(&a->in[0], &a->in[1]);
    conv_turn(&n, a->in[1].data, a->workspace);
    return each_sequence(a, n.batch, n.kernel * n.kernel * n.width, run_grad_summary);
}

static size_t workspace_grad_summary(const lmoe_args *a)
{
    conv_sizes n = conv_sizes_of(&a->in[0], &a->in[1]);
    return cpu_floats((n.kernel + n.batch) * n.width);
}

static int can_grad_summary(const lmoe_args *a)
{
    return conv_can(a, 0, 6);
}

CPU_KERNEL(short_conv_grad_summary, 1, can_grad_summary, workspace_grad_summary,
           launch_grad_summary)

/* ---- grad_combine: dtail (rank batch kernel-1 width), count (rank batch) -> dtail ---- */

static void run_grad_combine(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    const int32_t *count = a->in[1].data;
    tails n = tails_of(a);
    int64_t rank = ((const lmoe_combine_attrs *)a->attrs)->rank;
    for (int64_t b = begin; b < end; b++) {
        float *to = (float *)a->out[0].data + b * n.rows * n.width;
        memset(to, 0, sizeof *to * (size_t)(n.rows * n.width));
        for (int64_t r = n.ranks - 1; r > rank; r--) {
            const float *own = (const float *)a->in[0].data + (r * n.batch + b) * n.rows * n.width;
            int64_t tokens = count[r * n.batch + b];
            for (int64_t row = n.rows - 1; row >= 0; row--) { /* reads rows not yet written */
                const float *from = own + row * n.width, *pushed = to + (row - tokens) * n.width;
                float *x = to + row * n.width;
                if (row >= tokens) {
                    CPU_SIMD
                    for (int64_t i = 0; i < n.width; i++) x[i] = from[i] + pushed[i];
                } else {
                    memcpy(x, from, sizeof *x * (size_t)n.width);
                }
            }
        }
    }
}

static lmoe_status launch_grad_combine(const lmoe_args *a)
{
    tails n = tails_of(a);
    return each_sequence(a, n.batch, n.ranks * n.rows * n.width, run_grad_combine);
}

CPU_KERNEL(short_conv_grad_combine, 1, can_combine, NULL, launch_grad_combine)
