/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/scan_learn.c: scan_learn/1, runs of tokens as products of matrices (learn.h). A
 * thread takes a head of a sequence.
 */
#include "learn.h"

typedef struct room {
    float *state, *y, *mix; /* y: (token v), mix: (token token) */
    learn_run run;
} room;

static size_t cut(const learn_head *l, char *memory, room *r)
{
    char *cursor = memory;
    r->state = cpu_take(&cursor, learn_state(l));
    r->y = cpu_take(&cursor, LEARN_RUN * l->vp);
    r->mix = cpu_take(&cursor, LEARN_RUN * LEARN_RUN);
    learn_cut_run(l, &cursor, &r->run);
    return (size_t)(cursor - memory);
}

/* y = f * (Q B) + a * (Q S) - (A lr * Q K^T) U */
static void read_run(const learn_head *l, room *r)
{
    learn_run *n = &r->run;
    const float *s = r->state + l->n, *base = l->places ? r->state : s + l->n;
    learn_scale(n->f, n->q, l->kp, n->weighted);
    tile_multiply(n->rows, l->vp, l->kp, n->weighted, l->kp, base, l->vp, r->y, l->vp);
    learn_scale(n->a, n->q, l->kp, n->weighted);
    tile_add(n->rows, l->vp, l->kp, n->weighted, l->kp, s, l->vp, r->y, l->vp);
    for (int64_t i = 0; i < LEARN_RUN; i++) {
        for (int64_t j = 0; j < LEARN_RUN; j++)
            r->mix[i * LEARN_RUN + j] = -n->aa[i][j] * n->lr[j] * n->p[i * LEARN_RUN + j];
    }
    tile_add(n->rows, l->vp, LEARN_RUN, r->mix, LEARN_RUN, n->u, l->vp, r->y, l->vp);
}

static void run_head(const lmoe_args *a, const learn_head *l, room *r)
{
    const lmoe_buf *y = &a->out[0];
    learn_load(l, &a->in[LEARN_CARRY], r->state);
    for (int64_t t = 0; t < l->seq; t += r->run.tokens) {
        if (learn_flag(l, LEARN_RESET, t)) learn_forget(l, r->state);
        if (learn_flag(l, LEARN_SKIP, t)) {
            memset(r->y, 0, sizeof *r->y * (size_t)l->v);
            r->run.tokens = 1;
        } else {
            learn_enter_run(l, t, r->state, &r->run);
            read_run(l, r);
            learn_leave_run(l, r->state, &r->run);
        }
        for (int64_t i = 0; i < r->run.tokens && lmoe_buf_present(y); i++)
            memcpy(learn_row(l, y, t + i, l->v), r->y + i * l->vp, sizeof(float) * (size_t)l->v);
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
