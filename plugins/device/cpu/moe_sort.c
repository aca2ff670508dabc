/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/moe_sort.c: moe_sort/1 and histogram/1: counts, and a stable counting sort.
 *
 * One thread: a choice costs two steps here and thousands in its expert.
 */
#include "cpu.h"

/* Adds the choices to count[n]; returns the first that is not one of 0 ... n-1, or -1. */
static int64_t count_choices(const lmoe_buf *index, int64_t n, int64_t *count)
{
    const int32_t *x = index->data;
    int64_t slots = lmoe_buf_count(index), wrong = -1;
    memset(count, 0, sizeof *count * (size_t)n);
    for (int64_t i = 0; i < slots; i++) {
        if (x[i] >= 0 && x[i] < n)
            count[x[i]]++;
        else if (wrong < 0)
            wrong = i;
    }
    return wrong;
}

static lmoe_status launch_moe_sort(const lmoe_args *a)
{
    int64_t experts = ((const lmoe_moe_sort_attrs *)a->attrs)->experts, row = 0;
    int64_t slots = lmoe_buf_count(&a->in[0]), *next = a->workspace;
    const int32_t *index = a->in[0].data;
    int32_t *order = a->out[0].data, *offsets = a->out[1].data, *position = a->out[2].data;
    int64_t wrong = count_choices(&a->in[0], experts, next);
    if (wrong >= 0)
        return lmoe_error(a->ctx, LMOE_E_USAGE,
                          "moe_sort/1: choice %lld is expert %d; there are %lld experts, numbered "
                          "from 0",
                          (long long)wrong, (int)index[wrong], (long long)experts);
    for (int64_t x = 0; x < experts; x++) { /* counts become first rows */
        int64_t rows = next[x];
        next[x] = row;
        if (offsets) offsets[x] = (int32_t)row;
        row += rows;
    }
    if (offsets) offsets[experts] = (int32_t)row;
    for (int64_t slot = 0; slot < slots; slot++) {
        row = next[index[slot]]++;
        if (order) order[row] = (int32_t)slot;
        if (position) position[slot] = (int32_t)row;
    }
    return LMOE_OK;
}

static size_t workspace_moe_sort(const lmoe_args *a)
{
    return (size_t)((const lmoe_moe_sort_attrs *)a->attrs)->experts * sizeof(int64_t);
}

static int can_moe_sort(const lmoe_args *a)
{
    return 1; /* all integers */
}

CPU_KERNEL(moe_sort, 1, can_moe_sort, workspace_moe_sort, launch_moe_sort)

static lmoe_status launch_histogram(const lmoe_args *a)
{
    int64_t n = a->out[0].dim[0], *count = a->workspace;
    float *y = a->out[0].data;
    count_choices(&a->in[0], n, count);
    for (int64_t i = 0; i < n; i++) y[i] = (float)count[i];
    return LMOE_OK;
}

static size_t workspace_histogram(const lmoe_args *a)
{
    return (size_t)a->out[0].dim[0] * sizeof(int64_t);
}

static int can_histogram(const lmoe_args *a)
{
    return cpu_is_f32(&a->out[0]);
}

CPU_KERNEL(histogram, 1, can_histogram, workspace_histogram, launch_histogram)
