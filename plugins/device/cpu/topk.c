/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/topk.c: top_k/1, gather_last/1, scatter_last/1, row by row.
 *
 * Floats are ordered as integers: key(x) rises with x, is the same for both zeros, and least for
 * NaN. A choice is the first place of the largest key; its key is then taken out.
 */
#include "cpu.h"
#include "vec.h"

enum { NAN_KEY = INT32_MIN + 1, TAKEN = INT32_MIN };

static inline int32_t key_of(float x)
{
    int32_t bits = (int32_t)cpu_bits(x + 0.0f); /* -0 becomes 0 */
    int32_t key = bits ^ ((bits >> 31) & 0x7fffffff);
    return x != x ? NAN_KEY : key;
}

/* First place of the largest key. */
static int64_t largest(const int32_t *key, int64_t n)
{
    int32_t most = TAKEN, at = INT32_MAX;
    CPU_PRAGMA(omp simd reduction(max : most))
    for (int64_t i = 0; i < n; i++) most = key[i] > most ? key[i] : most;
    CPU_PRAGMA(omp simd reduction(min : at))
    for (int64_t i = 0; i < n; i++) {
        int32_t place = key[i] == most ? (int32_t)i : INT32_MAX;
        at = place < at ? place : at;
    }
    return at;
}

static void choose(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    const lmoe_buf *x = &a->in[0];
    int64_t n = x->dim[x->rank - 1], k = ((const lmoe_top_k_attrs *)a->attrs)->k;
    int32_t *key = (int32_t *)(void *)((char *)a->workspace + (size_t)thread * cpu_floats(n));
    float *values = a->out[0].data;
    int32_t *index = a->out[1].data;
    for (int64_t row = begin; row < end; row++) {
        const float *from = (const float *)x->data + row * n;
        CPU_SIMD
        for (int64_t i = 0; i < n; i++) key[i] = key_of(from[i]);
        for (int64_t j = 0; j < k; j++) {
            int64_t at = largest(key, n);
            key[at] = TAKEN;
            if (values) values[row * k + j] = from[at];
            if (index) index[row * k + j] = (int32_t)at;
        }
    }
}

static lmoe_status launch_top_k(const lmoe_args *a)
{
    const lmoe_buf *x = &a->in[0];
    int64_t n = x->dim[x->rank - 1], k = ((const lmoe_top_k_attrs *)a->attrs)->k;
    return lmoe_parallel(a->ctx, lmoe_buf_count(x) / n, cpu_grain((n / 4 + 16) * k), choose,
                         (void *)a);
}

static size_t workspace_top_k(const lmoe_args *a)
{
    return (size_t)lmoe_threads(a->ctx) * cpu_floats(a->in[0].dim[a->in[0].rank - 1]);
}

static int can(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[0]);
}

CPU_KERNEL(top_k, 1, can, workspace_top_k, launch_top_k)

/* ---- gather_last, scatter_last ---- */

static void gather(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    int64_t n = a->in[0].dim[a->in[0].rank - 1], k = a->in[1].dim[a->in[1].rank - 1];
    const float *x = a->in[0].data;
    const int32_t *index = a->in[1].data;
    float *y = a->out[0].data;
    for (int64_t row = begin; row < end; row++) {
        for (int64_t j = row * k; j < (row + 1) * k; j++)
            y[j] = index[j] >= 0 && index[j] < n ? x[row * n + index[j]] : 0.0f;
    }
}

static void scatter(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    int64_t n = a->out[0].dim[a->out[0].rank - 1], k = a->in[1].dim[a->in[1].rank - 1];
    const float *x = a->in[0].data;
    const int32_t *index = a->in[1].data;
    float *y = a->out[0].data;
    for (int64_t row = begin; row < end; row++) {
        memset(y + row * n, 0, sizeof *y * (size_t)n);
        for (int64_t j = row * k; j < (row + 1) * k; j++) {
            if (index[j] >= 0 && index[j] < n) y[row * n + index[j]] += x[j];
        }
    }
}

/* Rows of index; `width`: elements of a row of the larger tensor. */
static lmoe_status rows(const lmoe_args *a, int64_t width, lmoe_range_fn fn)
{
    int64_t k = a->in[1].dim[a->in[1].rank - 1];
    if (k == 0) return LMOE_OK;
    return lmoe_parallel(a->ctx, lmoe_buf_count(&a->in[1]) / k, cpu_grain(width), fn, (void *)a);
}

static lmoe_status launch_gather_last(const lmoe_args *a)
{
    return rows(a, a->in[1].dim[a->in[1].rank - 1], gather);
}

static lmoe_status launch_scatter_last(const lmoe_args *a)
{
    return rows(a, a->out[0].dim[a->out[0].rank - 1], scatter);
}

CPU_KERNEL(gather_last, 1, can, NULL, launch_gather_last)
CPU_KERNEL(scatter_last, 1, can, NULL, launch_scatter_last)
