/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/moe_sort.c: moe_sort/1, moe_capacity/1 and histogram/1: counts, and a stable
 * counting sort.
 *
 * One thread (moe_capacity: one a sequence): a choice costs a few steps here and thousands in its
 * expert.
 */
#include "cpu.h"

#include <stdlib.h>

/* Adds the choices to count[n], those below 0 apart; returns the first that is n or more, or -1. */
static int64_t count_choices(const lmoe_buf *index, int64_t n, int64_t *count)
{
    const int32_t *x = index->data;
    int64_t slots = lmoe_buf_count(index), wrong = -1;
    memset(count, 0, sizeof *count * (size_t)n);
    for (int64_t i = 0; i < slots; i++) {
        if (x[i] >= 0 && x[i] < n)
            count[x[i]]++;
        else if (x[i] >= n && wrong < 0)
            wrong = i;
    }
    return wrong;
}

static lmoe_status launch_moe_sort(const lmoe_args *a)
{
    const lmoe_moe_sort_attrs *o = a->attrs;
    int64_t slots = lmoe_buf_count(&a->in[0]), *next = a->workspace, row = 0;
    int64_t rows = lmoe_buf_present(&a->out[0]) ? a->out[0].dim[0] : slots;
    const int32_t *index = a->in[0].data;
    int32_t *order = a->out[0].data, *offsets = a->out[1].data, *position = a->out[2].data;
    int64_t wrong = count_choices(&a->in[0], o->experts, next);
    if (wrong >= 0)
        return lmoe_error(a->ctx, LMOE_E_USAGE,
                          "moe_sort/1: choice %lld is expert %d; there are %lld experts, numbered "
                          "from 0",
                          (long long)wrong, (int)index[wrong], (long long)o->experts);
    for (int64_t x = 0; x < o->experts; x++) { /* counts become first rows */
        int64_t more = next[x];
        next[x] = row;
        if (offsets) offsets[x] = (int32_t)row;
        row += more;
    }
    if (offsets) offsets[o->experts] = (int32_t)row;
    if (row > rows)
        return lmoe_error(a->ctx, LMOE_E_USAGE,
                          "moe_sort/1: experts get more tokens than the capacity of %lld lets them "
                          "have",
                          (long long)o->capacity);
    for (int64_t slot = 0; slot < slots; slot++) {
        int64_t at = index[slot] < 0 ? -1 : next[index[slot]]++;
        if (order && at >= 0) order[at] = (int32_t)slot;
        if (position) position[slot] = (int32_t)at;
    }
    for (; order && row < rows; row++) order[row] = -1;
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

/* ---- moe_capacity ---- */

/* Rises as x falls, then with the slot; NaN last. */
static uint64_t rank_of(float x, int64_t slot)
{
    uint32_t bits;
    x += 0.0f; /* -0 becomes 0 */
    memcpy(&bits, &x, 4);
    uint32_t rising = bits >> 31 ? ~bits : bits | 0x80000000u;
    if (x != x) rising = 0;
    return (uint64_t)~rising << 32 | (uint64_t)slot;
}

static int by_rank(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* One thread's room: where the lists of experts end, and the lists. */
static size_t capacity_room(const lmoe_args *a)
{
    int64_t experts = ((const lmoe_moe_capacity_attrs *)a->attrs)->experts;
    int64_t slots = a->in[0].dim[1] * a->in[0].dim[2];
    return ((size_t)(experts + slots) * 8 + 63) / 64 * 64;
}

/* The choices of each expert as a list, the best first; those past its capacity are dropped. */
static void limit(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    const lmoe_moe_capacity_attrs *o = a->attrs;
    int64_t slots = a->in[0].dim[1] * a->in[0].dim[2];
    int64_t *last = (int64_t *)(void *)((char *)a->workspace + (size_t)thread * capacity_room(a));
    uint64_t *list = (uint64_t *)(void *)(last + o->experts);
    for (int64_t b = begin; b < end; b++) {
        const int32_t *index = (const int32_t *)a->in[0].data + b * slots;
        const float *score = a->in[1].data ? (const float *)a->in[1].data + b * slots : NULL;
        int32_t *kept = (int32_t *)a->out[0].data + b * slots;
        int64_t first = 0;
        memset(last, 0, sizeof *last * (size_t)o->experts);
        for (int64_t s = 0; s < slots; s++) {
            kept[s] = index[s] >= 0 && index[s] < o->experts ? index[s] : -1;
            if (kept[s] >= 0) last[kept[s]]++;
        }
        for (int64_t x = 0; x < o->experts; x++) {
            int64_t n = last[x];
            last[x] = first;
            first += n;
        }
        for (int64_t s = 0; s < slots; s++) {
            if (kept[s] >= 0) list[last[kept[s]]++] = rank_of(score ? score[s] : 0, s);
        }
        for (int64_t x = 0; x < o->experts; x++) {
            first = x > 0 ? last[x - 1] : 0;
            if (last[x] - first <= o->capacity) continue;
            if (score) qsort(list + first, (size_t)(last[x] - first), sizeof *list, by_rank);
            for (int64_t i = first + o->capacity; i < last[x]; i++)
                kept[list[i] & 0xffffffffu] = -1;
        }
    }
}

static lmoe_status launch_moe_capacity(const lmoe_args *a)
{
    return lmoe_parallel(a->ctx, a->in[0].dim[0], 1, limit, (void *)a);
}

static size_t workspace_moe_capacity(const lmoe_args *a)
{
    return (size_t)lmoe_threads(a->ctx) * capacity_room(a);
}

static int can_moe_capacity(const lmoe_args *a)
{
    return (!lmoe_buf_present(&a->in[1]) || cpu_is_f32(&a->in[1])) &&
           a->in[0].dim[1] * a->in[0].dim[2] < INT32_MAX;
}

CPU_KERNEL(moe_capacity, 1, can_moe_capacity, workspace_moe_capacity, launch_moe_capacity)

/* ---- histogram ---- */

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
