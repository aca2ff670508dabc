/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/moe_rows.c: moe_gather/1, moe_weight/1, moe_combine/1 and their derivatives:
 * tokens to rows grouped by expert, and back. order[row] is the slot token * choice + j of a row,
 * position[slot] the row of a slot; below 0: none, which counts as zero.
 */
#include "cpu.h"

enum { ROWS, ORDER, POSITION, WEIGHT, DY };

static int present(const lmoe_args *a, int i)
{
    return i < a->n_in && lmoe_buf_present(&a->in[i]);
}

static void gather(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    int64_t embed = a->in[0].dim[2], choice = a->in[POSITION].dim[2];
    const float *x = a->in[0].data;
    const int32_t *order = a->in[ORDER].data;
    float *rows = a->out[0].data;
    for (int64_t r = begin; r < end; r++) {
        if (order[r] >= 0)
            memcpy(rows + r * embed, x + order[r] / choice * embed, sizeof *x * (size_t)embed);
        else
            memset(rows + r * embed, 0, sizeof *x * (size_t)embed);
    }
}

static lmoe_status launch_moe_gather(const lmoe_args *a)
{
    return lmoe_parallel(a->ctx, a->in[ORDER].dim[0], cpu_grain(a->in[0].dim[2]), gather,
                         (void *)a);
}

/* y_t = sum over choices j of weight_tj rows[position_tj] */
static void combine(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    int64_t embed = a->in[ROWS].dim[1], choice = a->in[POSITION].dim[2];
    const float *rows = a->in[ROWS].data;
    const float *weight = present(a, WEIGHT) ? a->in[WEIGHT].data : NULL;
    const int32_t *position = a->in[POSITION].data;
    for (int64_t t = begin; t < end; t++) {
        float *y = (float *)a->out[0].data + t * embed;
        int any = 0;
        for (int64_t slot = t * choice; slot < (t + 1) * choice; slot++) {
            if (position[slot] < 0) continue;
            const float *row = rows + position[slot] * embed;
            float w = weight ? weight[slot] : 1.0f;
            if (!any) {
                CPU_SIMD
                for (int64_t e = 0; e < embed; e++) y[e] = w * row[e];
            } else {
                CPU_SIMD
                for (int64_t e = 0; e < embed; e++) y[e] += w * row[e];
            }
            any = 1;
        }
        if (!any) memset(y, 0, sizeof *y * (size_t)embed);
    }
}

static lmoe_status launch_moe_combine(const lmoe_args *a)
{
    const lmoe_buf *p = &a->in[POSITION];
    int64_t work = p->dim[2] * a->in[ROWS].dim[1];
    return lmoe_parallel(a->ctx, p->dim[0] * p->dim[1], cpu_grain(work), combine, (void *)a);
}

/* drows_r = weight[order_r] dy[token of r] */
static void combine_grad_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    int64_t embed = a->in[ROWS].dim[1], choice = a->in[POSITION].dim[2];
    const float *weight = a->in[WEIGHT].data;
    const int32_t *order = a->in[ORDER].data;
    for (int64_t r = begin; r < end; r++) {
        int64_t slot = cpu_max(order[r], 0);
        const float *dy = (const float *)a->in[DY].data + slot / choice * embed;
        float w = order[r] < 0 ? 0.0f : weight[slot], *drow = (float *)a->out[0].data + r * embed;
        CPU_SIMD
        for (int64_t e = 0; e < embed; e++) drow[e] = w * dy[e];
    }
}

/* dweight_tj = rows[position_tj] . dy_t */
static void combine_grad_weight(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    int64_t embed = a->in[ROWS].dim[1], choice = a->in[POSITION].dim[2];
    const int32_t *position = a->in[POSITION].data;
    for (int64_t slot = begin; slot < end; slot++) {
        const float *dy = (const float *)a->in[DY].data + slot / choice * embed;
        const float *row = (const float *)a->in[ROWS].data + cpu_max(position[slot], 0) * embed;
        float dot = 0;
        CPU_SIMD_SUM(dot)
        for (int64_t e = 0; e < embed; e++) dot += row[e] * dy[e];
        ((float *)a->out[1].data)[slot] = position[slot] < 0 ? 0.0f : dot;
    }
}

static lmoe_status launch_moe_combine_grad(const lmoe_args *a)
{
    int64_t embed = a->in[ROWS].dim[1];
    if (a->out[0].data)
        LMOE_TRY(lmoe_parallel(a->ctx, a->in[ROWS].dim[0], cpu_grain(embed), combine_grad_rows,
                               (void *)a));
    if (!a->out[1].data) return LMOE_OK;
    return lmoe_parallel(a->ctx, lmoe_buf_count(&a->in[POSITION]), cpu_grain(embed),
                         combine_grad_weight, (void *)a);
}

/* y_i = x[from_i], 0 where from_i leads nowhere */
static void pick(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    int weights = a->out[0].rank == 1; /* slots to rows; else rows to slots */
    const int32_t *from = a->in[weights ? ORDER : POSITION].data;
    const float *x = a->in[0].data;
    float *y = a->out[0].data;
    for (int64_t i = begin; i < end; i++) y[i] = from[i] < 0 ? 0.0f : x[from[i]];
}

static lmoe_status launch_pick(const lmoe_args *a)
{
    return lmoe_parallel(a->ctx, lmoe_buf_count(&a->out[0]), cpu_grain(1), pick, (void *)a);
}

static int can(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[0]);
}

static int can_weighted(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[ROWS]) && (!present(a, WEIGHT) || cpu_is_f32(&a->in[WEIGHT])) &&
           (!present(a, DY) || cpu_is_f32(&a->in[DY]));
}

CPU_KERNEL(moe_gather, 1, can, NULL, launch_moe_gather)
CPU_KERNEL(moe_combine, 1, can_weighted, NULL, launch_moe_combine)
CPU_KERNEL(moe_combine_grad, 1, can_weighted, NULL, launch_moe_combine_grad)
CPU_KERNEL(moe_weight, 1, can, NULL, launch_pick)
CPU_KERNEL(moe_weight_grad, 1, can, NULL, launch_pick)
