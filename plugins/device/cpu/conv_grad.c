/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/conv_grad.c: short_conv_grad/1.
 *
 *   dp_s = dy_s silu'(p_s)                          p_s = sum_j weight[kernel-1-j] x_{s-j}
 *   dx_s = sum_j weight[kernel-1-j] dp_{s+j}        dweight[kernel-1-j] = sum_{b,s} dp_s x_{s-j}
 *
 * A thread takes strips of the width of one sequence; dweight is added up over the batch at the
 * end, in order.
 */
#include "conv.h"
#include "vec.h"

enum { X, WEIGHT, RESET, SKIP, DY, TAIL, COUNT, DTAIL };
enum { DX, DWEIGHT, DTAIL_OUT };
enum { STRIP = 256 };

/* Workspace: weights and each sequence's dweight, both (kernel width), then strips of a thread:
 * dp, and gradients of every row of the tail. */
typedef struct rooms {
    float *weight, *dweight;
    size_t bytes; /* of all before */
} rooms;

static rooms cut(const lmoe_args *a, const conv_sizes *n)
{
    char *memory = a->workspace, *cursor = memory;
    rooms r;
    r.weight = cpu_take(&cursor, n->kernel * n->width);
    r.dweight = cpu_take(&cursor, n->batch * n->kernel * n->width);
    r.bytes = (size_t)(cursor - memory);
    return r;
}

/* One strip of one sequence. */
typedef struct strip {
    const lmoe_args *a;
    conv_walk w;
    int64_t b, d, n;        /* sequence, first column, columns */
    const float *weight;    /* (kernel width) */
    float *dweight;         /* the same, of this sequence */
    float *dp, *dtail, *dx; /* (n), (kernel-1 n), (seq width) or NULL */
} strip;

/* Where the gradient of the row with this source goes. */
static float *grad_row(const strip *t, int64_t source)
{
    if (source < 0) return t->dtail + (t->w.n.kernel - 1 + source) * t->n;
    return t->dx ? t->dx + source * t->w.n.width + t->d : NULL;
}

static void add_token(const strip *t, int64_t s)
{
    const conv_walk *w = &t->w;
    const float *restrict dy =
        (const float *)t->a->in[DY].data + (t->b * w->n.seq + s) * w->n.width + t->d;
    float *restrict dp = t->dp;
    int64_t n = t->n;
    if (((const lmoe_conv_attrs *)t->a->attrs)->silu) {
        conv_sum(w, t->weight, t->d, n, dp);
        CPU_SIMD
        for (int64_t i = 0; i < n; i++) {
            float f = cpu_sigmoidf(dp[i]);
            dp[i] = dy[i] * f * (1.0f + dp[i] * (1.0f - f));
        }
    } else {
        memcpy(dp, dy, sizeof *dp * (size_t)n);
    }
    for (int j = 0; j < w->seen; j++) {
        const float *restrict x = conv_row(w, j) + t->d;
        const float *restrict weight = t->weight + j * w->n.width + t->d;
        float *restrict dweight = t->dweight + j * w->n.width + t->d;
        float *restrict dx = grad_row(t, w->source[j]);
        if (!dx) {
            CPU_SIMD
            for (int64_t i = 0; i < n; i++) dweight[i] += x[i] * dp[i];
        } else if (j == 0) { /* the first that this row gets */
            CPU_SIMD
            for (int64_t i = 0; i < n; i++) {
                dweight[i] += x[i] * dp[i];
                dx[i] = weight[i] * dp[i];
            }
        } else {
            CPU_SIMD
            for (int64_t i = 0; i < n; i++) {
                dweight[i] += x[i] * dp[i];
                dx[i] += weight[i] * dp[i];
            }
        }
    }
}

/* Adds what later segments want of the rows that they see. */
static void add_dtail(const strip *t)
{
    const lmoe_buf *dtail = &t->a->in[DTAIL];
    int64_t rows = t->w.n.kernel - 1;
    if (!lmoe_buf_present(dtail)) return;
    for (int j = 0; j < t->w.seen && j < rows; j++) {
        const float *from =
            (const float *)dtail->data + (t->b * rows + rows - 1 - j) * t->w.n.width + t->d;
        float *to = grad_row(t, t->w.source[j]);
        for (int64_t i = 0; to && i < t->n; i++) to[i] += from[i];
    }
}

static void run_strip(strip *t)
{
    conv_walk *w = &t->w;
    int64_t width = w->n.width, rows = w->n.kernel - 1;
    for (int64_t j = 0; j < w->n.kernel; j++)
        memset(t->dweight + j * width + t->d, 0, sizeof(float) * (size_t)t->n);
    memset(t->dtail, 0, sizeof(float) * (size_t)(rows * t->n));
    conv_start(w, 0);
    for (int64_t s = 0; s < w->n.seq; s++) {
        if (conv_step(w, s))
            add_token(t, s);
        else if (t->dx)
            memset(t->dx + s * width + t->d, 0, sizeof(float) * (size_t)t->n);
    }
    add_dtail(t);
    float *out = t->a->out[DTAIL_OUT].data;
    for (int64_t row = 0; out && row < rows; row++)
        memcpy(out + (t->b * rows + row) * width + t->d, t->dtail + row * t->n,
               sizeof(float) * (size_t)t->n);
}

static void run_strips(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    conv_sizes n = conv_sizes_of(&a->in[X], &a->in[WEIGHT]);
    rooms r = cut(a, &n);
    int64_t strips = (n.width + STRIP - 1) / STRIP;
    strip t = {.a = a, .weight = r.weight};
    t.dp = (float *)(void *)((char *)a->workspace + r.bytes) + thread * n.kernel * STRIP;
    t.dtail = t.dp + STRIP;
    for (int64_t item = begin; item < end; item++) {
        t.b = item / strips;
        t.d = item % strips * STRIP;
        t.n = cpu_min(STRIP, n.width - t.d);
        t.dweight = r.dweight + t.b * n.kernel * n.width;
        t.dx = a->out[DX].data ? (float *)a->out[DX].data + t.b * n.seq * n.width : NULL;
        t.w = conv_enter(&n, &a->in[X], &a->in[RESET], &a->in[SKIP], &a->in[TAIL], &a->in[COUNT],
                         t.b);
        run_strip(&t);
    }
}

/* dweight (width kernel), of columns begin ... end-1 */
static void sum_dweight(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    conv_sizes n = conv_sizes_of(&a->in[X], &a->in[WEIGHT]);
    const float *from = cut(a, &n).dweight;
    float *to = a->out[DWEIGHT].data;
    for (int64_t d = begin; d < end; d++) {
        for (int64_t j = 0; j < n.kernel; j++) {
            float sum = 0;
            for (int64_t b = 0; b < n.batch; b++) sum += from[(b * n.kernel + j) * n.width + d];
            to[d * n.kernel + n.kernel - 1 - j] = sum;
        }
    }
}

static lmoe_status launch(const lmoe_args *a)
{
    conv_sizes n = conv_sizes_of(&a->in[X], &a->in[WEIGHT]);
    int64_t strips = (n.width + STRIP - 1) / STRIP;
    conv_turn(&n, a->in[WEIGHT].data, cut(a, &n).weight);
    LMOE_TRY(lmoe_parallel(a->ctx, n.batch * strips, cpu_grain(n.seq * cpu_min(n.width, STRIP) * 2),
                           run_strips, (void *)a));
    if (!lmoe_buf_present(&a->out[DWEIGHT])) return LMOE_OK;
    return lmoe_parallel(a->ctx, n.width, cpu_grain(n.batch * n.kernel * 4), sum_dweight,
                         (void *)a);
}

static size_t workspace(const lmoe_args *a)
{
    conv_sizes n = conv_sizes_of(&a->in[X], &a->in[WEIGHT]);
    return cut(a, &n).bytes + (size_t)lmoe_threads(a->ctx) * cpu_floats(n.kernel * STRIP);
}

static int can(const lmoe_args *a)
{
    return conv_can(a, X, DTAIL);
}

CPU_KERNEL(short_conv_grad, 1, can, workspace, launch)
