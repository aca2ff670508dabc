/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/conv.c: short_conv/1: y_s = act( sum_j weight[kernel-1-j] x_{s-j} ).
 *
 * x: (batch seq width), weight: (width kernel), tail: (batch kernel-1 width). A thread takes blocks
 * of tokens.
 */
#include "conv.h"
#include "vec.h"

enum { X, WEIGHT, RESET, SKIP, TAIL, COUNT };
enum { Y, TAIL_OUT, COUNT_OUT };
enum { BLOCK = 32 };

static conv_walk walk_of(const lmoe_args *a, int64_t b)
{
    conv_sizes n = conv_sizes_of(&a->in[X], &a->in[WEIGHT]);
    return conv_enter(&n, &a->in[X], &a->in[RESET], &a->in[SKIP], &a->in[TAIL], &a->in[COUNT], b);
}

static void run_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    int silu = ((const lmoe_conv_attrs *)a->attrs)->silu;
    int64_t blocks = (a->in[X].dim[1] + BLOCK - 1) / BLOCK;
    for (int64_t item = begin; item < end; item++) {
        int64_t b = item / blocks, first = item % blocks * BLOCK;
        conv_walk w = walk_of(a, b);
        int64_t last = cpu_min(first + BLOCK, w.n.seq), width = w.n.width;
        conv_start(&w, first);
        for (int64_t s = first; s < last; s++) {
            float *y = (float *)a->out[Y].data + (b * w.n.seq + s) * width;
            if (!conv_step(&w, s)) {
                memset(y, 0, sizeof *y * (size_t)width);
                continue;
            }
            conv_sum(&w, a->workspace, 0, width, y);
            CPU_SIMD
            for (int64_t d = 0; d < (silu ? width : 0); d++) y[d] = cpu_siluf(y[d]);
        }
    }
}

/* What the next tokens will see. Oldest row first: the tail may be the very buffer that is read. */
static void put_tail(const lmoe_args *a, int64_t b)
{
    conv_walk w = walk_of(a, b);
    int64_t rows = w.n.kernel - 1;
    conv_start(&w, w.n.seq);
    float *tail = a->out[TAIL_OUT].data;
    for (int64_t j = rows - 1; tail && j >= 0; j--) {
        float *to = tail + (b * rows + rows - 1 - j) * w.n.width;
        if (j < w.seen)
            memmove(to, conv_row(&w, (int)j), sizeof *to * (size_t)w.n.width);
        else
            memset(to, 0, sizeof *to * (size_t)w.n.width);
    }
    if (a->out[COUNT_OUT].data) ((int32_t *)a->out[COUNT_OUT].data)[b] = w.seen;
}

static lmoe_status launch(const lmoe_args *a)
{
    conv_sizes n = conv_sizes_of(&a->in[X], &a->in[WEIGHT]);
    if (lmoe_buf_present(&a->out[Y])) {
        conv_turn(&n, a->in[WEIGHT].data, a->workspace);
        int64_t blocks = (n.seq + BLOCK - 1) / BLOCK;
        LMOE_TRY(lmoe_parallel(a->ctx, n.batch * blocks, cpu_grain(cpu_min(n.seq, BLOCK) * n.width),
                               run_blocks, (void *)a));
    }
    for (int64_t b = 0; b < n.batch; b++) put_tail(a, b);
    return LMOE_OK;
}

static size_t workspace(const lmoe_args *a)
{
    return cpu_floats(lmoe_buf_count(&a->in[WEIGHT]));
}

static int can(const lmoe_args *a)
{
    return conv_can(a, X, COUNT);
}

CPU_KERNEL(short_conv, 1, can, workspace, launch)
