/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/embedding.c: embedding/1, and its derivative by the rows of the table: tokens
 * are sorted by id (counting), then each row adds up its own, in their order.
 */
#include "cpu.h"

typedef struct work {
    int64_t rows, width;
    const int32_t *ids;
    const float *from; /* the table; dy */
    float *to;         /* y; dtable */
    int32_t *start;    /* (rows + 1): where the tokens of a row begin in `order` */
    int32_t *order;    /* tokens by id */
} work;

static void run(void *arg, int64_t begin, int64_t end, int thread)
{
    const work *w = arg;
    size_t bytes = sizeof(float) * (size_t)w->width;
    for (int64_t t = begin; t < end; t++) {
        float *to = w->to + t * w->width;
        int64_t id = w->ids[t];
        if (id >= 0 && id < w->rows)
            memcpy(to, w->from + id * w->width, bytes);
        else
            memset(to, 0, bytes);
    }
}

static void sort(const work *w, int64_t tokens)
{
    memset(w->start, 0, sizeof *w->start * (size_t)(w->rows + 1));
    for (int64_t t = 0; t < tokens; t++)
        if (w->ids[t] >= 0 && w->ids[t] < w->rows) w->start[w->ids[t] + 1]++;
    for (int64_t v = 0; v < w->rows; v++) w->start[v + 1] += w->start[v];
    for (int64_t t = 0; t < tokens; t++)
        if (w->ids[t] >= 0 && w->ids[t] < w->rows) w->order[w->start[w->ids[t]]++] = (int32_t)t;
    /* every start has moved to the next row's: back */
    memmove(w->start + 1, w->start, sizeof *w->start * (size_t)w->rows);
    w->start[0] = 0;
}

static void run_grad(void *arg, int64_t begin, int64_t end, int thread)
{
    const work *w = arg;
    for (int64_t v = begin; v < end; v++) {
        float *to = w->to + v * w->width;
        memset(to, 0, sizeof(float) * (size_t)w->width);
        for (int32_t i = w->start[v]; i < w->start[v + 1]; i++) {
            const float *from = w->from + w->order[i] * w->width;
            CPU_SIMD
            for (int64_t e = 0; e < w->width; e++) to[e] += from[e];
        }
    }
}

static int can(const lmoe_args *a)
{
    return cpu_is_f32(&a->out[0]) && a->in[1].dtype == LMOE_I32;
}

static lmoe_status launch(const lmoe_args *a)
{
    const lmoe_buf *table = &a->in[0], *ids = &a->in[1];
    work w = {.rows = table->dim[0],
              .width = table->dim[1],
              .ids = ids->data,
              .from = table->data,
              .to = a->out[0].data};
    return lmoe_parallel(a->ctx, lmoe_buf_count(ids), cpu_grain(w.width), run, &w);
}

static int can_grad(const lmoe_args *a)
{
    return cpu_is_f32(&a->out[0]) && cpu_is_f32(&a->in[1]) && a->in[0].dtype == LMOE_I32 &&
           lmoe_buf_count(&a->in[0]) < INT32_MAX;
}

static size_t grad_workspace(const lmoe_args *a)
{
    return cpu_floats(a->out[0].dim[0] + 1) + cpu_floats(lmoe_buf_count(&a->in[0]));
}

static lmoe_status launch_grad(const lmoe_args *a)
{
    const lmoe_buf *ids = &a->in[0], *dtable = &a->out[0];
    char *cursor = a->workspace;
    work w = {.rows = dtable->dim[0],
              .width = dtable->dim[1],
              .ids = ids->data,
              .from = a->in[1].data,
              .to = dtable->data};
    int64_t tokens = lmoe_buf_count(ids);
    w.start = (int32_t *)(void *)cpu_take(&cursor, w.rows + 1);
    w.order = (int32_t *)(void *)cpu_take(&cursor, tokens);
    sort(&w, tokens);
    int64_t each = w.width * (1 + tokens / w.rows);
    return lmoe_parallel(a->ctx, w.rows, cpu_grain(each), run_grad, &w);
}

CPU_KERNEL(embedding, 1, can, NULL, launch)
CPU_KERNEL(embedding_grad, 1, can_grad, grad_workspace, launch_grad)
