/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/scan_learn.c: scan_learn/1, token by token (learn.h). A thread takes a head of
 * a sequence.
 */
#include "learn.h"

typedef struct room {
    float *state, *y;
    learn_loss loss;
} room;

static size_t cut(const learn_head *l, char *memory, room *r)
{
    char *cursor = memory;
    r->state = cpu_take(&cursor, learn_state(l));
    r->y = cpu_take(&cursor, l->v);
    learn_cut_loss(l, &cursor, &r->loss);
    return (size_t)(cursor - memory);
}

static void run_head(const lmoe_args *a, const learn_head *l, room *r)
{
    const lmoe_buf *y = &a->out[0];
    learn_load(l, &a->in[LEARN_CARRY], r->state);
    for (int64_t t = 0; t < l->seq; t++) {
        if (learn_flag(l, LEARN_RESET, t)) learn_forget(l, r->state);
        if (learn_flag(l, LEARN_SKIP, t))
            memset(r->y, 0, sizeof *r->y * (size_t)l->v);
        else
            learn_step(l, t, r->state, &r->loss, r->y);
        if (lmoe_buf_present(y))
            memcpy(learn_row(l, y, t, l->v), r->y, sizeof(float) * (size_t)l->v);
    }
    learn_store(l, &a->out[1], r->state);
}

static void run_heads(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    for (int64_t i = begin; i < end; i++) {
        learn_head l = learn_enter(a, i);
        room r;
        size_t bytes = cut(&l, NULL, &r);
        cut(&l, (char *)a->workspace + (size_t)thread * bytes, &r);
        run_head(a, &l, &r);
    }
}

static lmoe_status launch(const lmoe_args *a)
{
    learn_head l = learn_enter(a, 0);
    return lmoe_parallel(a->ctx, a->in[LEARN_K].dim[0] * l.heads, cpu_grain(l.seq * l.n), run_heads,
                         (void *)a);
}

static size_t workspace(const lmoe_args *a)
{
    learn_head l = learn_enter(a, 0);
    room r;
    return (size_t)lmoe_threads(a->ctx) * cut(&l, NULL, &r);
}

static int can(const lmoe_args *a)
{
    return learn_can(a, LEARN_CARRY);
}

CPU_KERNEL(scan_learn, 1, can, workspace, launch)
