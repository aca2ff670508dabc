/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/moe_grouped.c: grouped_linear/1 and grouped_weight_grad/1: matrix products of
 * rows grouped by expert; expert x owns the rows offsets[x] ... offsets[x+1]-1.
 *
 * Products are cut into tiles by their shapes and the offsets alone. Tiles are laid along a line,
 * each as long as it has work, and a thread takes those that begin in its part of the line: so
 * loads that are skewed towards few experts balance as well as even ones.
 */
#include "gemm.h"

enum { ROWS = 0, OFFSETS = 2 };

static lmoe_status check_offsets(const lmoe_args *a, const char *op)
{
    const lmoe_buf *offsets = &a->in[OFFSETS];
    const int32_t *at = offsets->data;
    int64_t rows = a->in[ROWS].dim[0];
    for (int64_t i = 0; i < offsets->dim[0]; i++) {
        if (at[i] < (i > 0 ? at[i - 1] : 0) || at[i] > rows || (i == 0 && at[i] != 0))
            return lmoe_error(a->ctx, LMOE_E_USAGE,
                              "%s: offset %lld is %d; offsets must rise from 0 to at most the %lld "
                              "rows",
                              op, (long long)i, (int)at[i], (long long)rows);
    }
    return LMOE_OK;
}

/* How many strips of columns: enough that there is work for many cores when experts are few. */
static int64_t strips(int64_t experts, int64_t columns)
{
    const int64_t enough = 32, narrowest = 64;
    int64_t n = cpu_min((enough + experts - 1) / experts, columns / narrowest);
    return cpu_max(n, 1);
}

/* Strips of equal width, whole cache lines. */
static int64_t strip_width(int64_t columns, int64_t n)
{
    return ((columns + n - 1) / n + 15) / 16 * 16;
}

/* ---- y = rows weight, by expert ---- */

enum { TILE_ROWS = 256 };

typedef struct linear {
    const lmoe_args *a;
    int transpose;
    int64_t rows, e, f, experts, width, strips; /* width: of a strip of f */
} linear;

/* Rows first ... last-1 of expert x (experts: of nobody), columns of one strip. */
static void linear_tile(const linear *w, int64_t x, int64_t first, int64_t last, int64_t strip)
{
    int64_t column = strip * w->width, columns = cpu_min(w->width, w->f - column);
    const float *rows = (const float *)w->a->in[ROWS].data + first * w->e;
    const float *weight = (const float *)w->a->in[1].data + x * w->e * w->f;
    float *y = (float *)w->a->out[0].data + first * w->f + column;
    if (columns <= 0) return;
    if (x == w->experts) {
        for (int64_t r = first; r < last; r++, y += w->f) memset(y, 0, sizeof *y * (size_t)columns);
    } else if (w->transpose) {
        cpu_gemm_1(0, 1, last - first, columns, w->e, 1, rows, w->e, weight + column * w->e, w->e,
                   0, y, w->f);
    } else {
        cpu_gemm_1(0, 0, last - first, columns, w->e, 1, rows, w->e, weight + column, w->f, 0, y,
                   w->f);
    }
}

/* The line: strip after strip, each as long as there are rows. */
static void linear_tiles(void *arg, int64_t begin, int64_t end, int thread)
{
    const linear *w = arg;
    const int32_t *offsets = w->a->in[OFFSETS].data;
    for (int64_t strip = begin / w->rows; strip * w->rows < end; strip++) {
        int64_t from = begin - strip * w->rows, to = end - strip * w->rows;
        for (int64_t x = 0; x <= w->experts; x++) {
            int64_t last = x < w->experts ? offsets[x + 1] : w->rows;
            for (int64_t r = offsets[x]; r < last; r += TILE_ROWS) {
                if (r >= from && r < to) linear_tile(w, x, r, cpu_min(r + TILE_ROWS, last), strip);
            }
        }
    }
}

static lmoe_status launch_grouped_linear(const lmoe_args *a)
{
    linear w = {.a = a,
                .transpose = ((const lmoe_grouped_attrs *)a->attrs)->transpose,
                .rows = a->in[ROWS].dim[0],
                .e = a->in[ROWS].dim[1],
                .f = a->out[0].dim[1],
                .experts = a->in[1].dim[0]};
    LMOE_TRY(check_offsets(a, "grouped_linear/1"));
    w.strips = strips(cpu_min(w.experts, w.rows), w.f);
    w.width = strip_width(w.f, w.strips);
    return lmoe_parallel(a->ctx, w.rows * w.strips, cpu_grain(w.e * w.width / 16), linear_tiles,
                         &w);
}

static int can_grouped_linear(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[ROWS]) && cpu_is_f32(&a->in[1]);
}

CPU_KERNEL(grouped_linear, 1, can_grouped_linear, NULL, launch_grouped_linear)

/* ---- dweight = rows^T drows, by expert ---- */

typedef struct weight_grad {
    const lmoe_args *a;
    int64_t rows, e, f, experts, width, strips; /* width: of a strip of e */
} weight_grad;

/* A tile's length on the line: its rows, and something for writing the result. */
static int64_t weight_grad_start(const weight_grad *w, int64_t x)
{
    return ((const int32_t *)w->a->in[OFFSETS].data)[x] + 8 * x;
}

static void weight_grad_tiles(void *arg, int64_t begin, int64_t end, int thread)
{
    const weight_grad *w = arg;
    const int32_t *offsets = w->a->in[OFFSETS].data;
    int64_t length = weight_grad_start(w, w->experts);
    for (int64_t strip = begin / length; strip * length < end; strip++) {
        int64_t first = strip * w->width, wide = cpu_min(w->width, w->e - first);
        for (int64_t x = 0; x < w->experts && wide > 0; x++) {
            int64_t at = strip * length + weight_grad_start(w, x),
                    rows = offsets[x + 1] - offsets[x];
            if (at < begin || at >= end) continue;
            cpu_gemm_1(1, 0, wide, w->f, rows, 1,
                       (const float *)w->a->in[ROWS].data + offsets[x] * w->e + first, w->e,
                       (const float *)w->a->in[1].data + offsets[x] * w->f, w->f, 0,
                       (float *)w->a->out[0].data + (x * w->e + first) * w->f, w->f);
        }
    }
}

static lmoe_status launch_grouped_weight_grad(const lmoe_args *a)
{
    weight_grad w = {.a = a,
                     .rows = a->in[ROWS].dim[0],
                     .e = a->in[ROWS].dim[1],
                     .f = a->in[1].dim[1],
                     .experts = a->out[0].dim[0]};
    LMOE_TRY(check_offsets(a, "grouped_weight_grad/1"));
    w.strips = strips(w.experts, w.e);
    w.width = strip_width(w.e, w.strips);
    return lmoe_parallel(a->ctx, weight_grad_start(&w, w.experts) * w.strips,
                         cpu_grain(w.width * w.f / 16), weight_grad_tiles, &w);
}

static int can_grouped_weight_grad(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[ROWS]) && cpu_is_f32(&a->in[1]);
}

CPU_KERNEL(grouped_weight_grad, 1, can_grouped_weight_grad, NULL, launch_grouped_weight_grad)
