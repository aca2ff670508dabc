/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/scan.c: scan_diag/1, groups of tokens through a state kept in registers
 * (scan_stream.h).
 *
 *   M_s = diag(exp(decay_s)) M_{s-1} diag(exp(decay_v_s)) + k_s v_s^T ;   y_s = scale M_s^T q_s
 *
 * q, k: (batch seq heads head_k), v: (batch seq heads head_v). A thread takes a head of a sequence.
 */
#include "scan.h"

enum { Q, K, V, DECAY, RESET, SKIP, CARRY, DECAY_V };

/* One thread's memory: the state and arrays of a block of tokens. */
typedef struct room {
    float *m;       /* (k v) */
    float *q, *k;   /* (token k); q: times scale */
    float *qs, *ke; /* q faded from the group's start, k faded to its end */
    float *v, *y;   /* (token v) */
    float *ve;      /* v faded to the group's end; v itself if values do not decay */
    scan_decays decays;
    scan_pairs *p; /* (group) of q and k */
} room;

/* Cuts memory into the arrays; returns how many bytes they take. */
static size_t cut(char *memory, const lmoe_args *a, room *r)
{
    char *cursor = memory;
    int64_t k = cpu_padded(a->in[Q].dim[3]), v = cpu_padded(a->in[V].dim[3]);
    int values = lmoe_buf_present(&a->in[DECAY_V]);
    float **of_k[] = {&r->q, &r->k, &r->qs, &r->ke};
    for (size_t i = 0; i < sizeof of_k / sizeof *of_k; i++)
        *of_k[i] = cpu_take(&cursor, SCAN_BLOCK * k);
    r->m = cpu_take(&cursor, k * v);
    r->v = cpu_take(&cursor, SCAN_BLOCK * v);
    r->y = cpu_take(&cursor, SCAN_BLOCK * v);
    r->ve = values ? cpu_take(&cursor, SCAN_BLOCK * v) : r->v;
    scan_take_decays(&cursor, k, values ? v : 0, &r->decays);
    r->p = scan_take_pairs(&cursor);
    return (size_t)(cursor - memory);
}

/* y = what it gets from tokens of the same group. */
static void start_y(int64_t tokens, int64_t v, const room *r)
{
    for (int64_t t = 0; t < tokens; t += SCAN_GROUP) {
        const float(*p)[SCAN_GROUP] = r->p[t / SCAN_GROUP];
        for (int64_t d = 0; d < v; d += CPU_LANES) {
            for (int i = 0; i < SCAN_GROUP; i++) {
                cpu_vec y = p[i][0] * cpu_load(r->v + t * v + d);
                for (int j = 1; j <= i; j++) y += p[i][j] * cpu_load(r->v + (t + j) * v + d);
                cpu_store(r->y + (t + i) * v + d, y);
            }
        }
    }
}

/* The block of tokens after the one at hand: at `begin`, or the first of the next head. */
static scan_ahead want_block(const lmoe_args *a, scan_head c, int64_t begin)
{
    int64_t k = a->in[Q].dim[3], v = a->in[V].dim[3];
    scan_ahead ahead = {0};
    scan_go_on(&c, &begin);
    scan_want(&c, &a->in[Q], k, begin, 0, &ahead);
    scan_want(&c, &a->in[K], k, begin, 0, &ahead);
    scan_want(&c, &a->in[V], v, begin, 0, &ahead);
    if (a->in[DECAY].rank == 4) scan_want(&c, &a->in[DECAY], k, begin, 0, &ahead);
    scan_want(&c, &a->in[DECAY_V], v, begin, 0, &ahead);
    scan_want(&c, &a->out[0], v, begin, 1, &ahead);
    return ahead;
}

static void run_head(const lmoe_args *a, int64_t item, room *r)
{
    const lmoe_buf *q = &a->in[Q], *v = &a->in[V], *y = &a->out[0];
    scan_head c = scan_enter(q, &a->in[DECAY], &a->in[DECAY_V], &a->in[RESET], &a->in[SKIP], item);
    int64_t nk = q->dim[3], nv = v->dim[3], kp = cpu_padded(nk), vp = cpu_padded(nv);
    float scale = (float)((const lmoe_scan_diag_attrs *)a->attrs)->scale;
    int wanted = lmoe_buf_present(y);

    scan_load_state(&c, scan_first(&c, &a->in[CARRY]), nk, nv, 0, r->m);
    for (int64_t begin = 0; begin < c.seq; begin += SCAN_BLOCK) {
        int64_t tokens = cpu_min(SCAN_BLOCK, c.seq - begin);
        scan_load(&c, q, nk, begin, tokens, scale, r->q);
        scan_load(&c, &a->in[K], nk, begin, tokens, 1, r->k);
        scan_load(&c, v, nv, begin, tokens, 1, r->v);
        scan_load_decays(&c, nk, nv, begin, tokens, &r->decays);
        scan_fade_both(&r->decays, tokens, kp, r->q, r->k, r->qs, r->ke);
        int fades = r->decays.fade != SCAN_KEEP, values = r->decays.values;
        if (wanted) {
            scan_all_pairs(r->decays.fade, tokens, kp, r->q, r->k, r->decays.a, r->p);
            if (!values) start_y(tokens, vp, r);
        }
        if (values) {
            memset(r->y, 0, sizeof *r->y * (size_t)(SCAN_BLOCK * vp));
            scan_to_end(SCAN_ROWS, tokens, vp, r->decays.a_v, r->v, r->ve);
        }
        scan_ahead ahead = want_block(a, c, begin + SCAN_BLOCK);
        scan_stream s = {.tokens = tokens,
                         .rows = kp,
                         .lanes = vp,
                         .m = r->m,
                         .x = fades ? r->qs : r->q,
                         .w = fades ? r->ke : r->k,
                         .u = r->ve,
                         .e = r->decays.e,
                         .e_lanes = r->decays.e_v,
                         .out = wanted ? r->y : NULL,
                         .ahead = &ahead};
        scan_run(&s, scan_fade_of(&r->decays, 0));
        if (wanted && values)
            scan_finish_reads(SCAN_ROWS, tokens, vp, r->decays.a_v, r->p, r->v, 1, r->y, NULL,
                              NULL);
        scan_store(&c, y, nv, begin, tokens, r->y);
    }
    scan_store_state(&c, &a->out[1], nk, nv, r->m);
}

static size_t room_bytes(const lmoe_args *a)
{
    room r;
    return cut(NULL, a, &r);
}

static void room_at(const lmoe_args *a, int thread, room *r)
{
    cut((char *)a->workspace + (size_t)thread * room_bytes(a), a, r);
}

static void run_heads(void *arg, int64_t begin, int64_t end, int thread)
{
    room r;
    room_at(arg, thread, &r);
    for (int64_t i = begin; i < end; i++) run_head(arg, i, &r);
}

static lmoe_status launch(const lmoe_args *a)
{
    const lmoe_buf *q = &a->in[Q], *v = &a->in[V];
    int64_t work = q->dim[1] * q->dim[3] * v->dim[3] / 8;
    return lmoe_parallel(a->ctx, q->dim[0] * q->dim[2], cpu_grain(work), run_heads, (void *)a);
}

static size_t workspace(const lmoe_args *a)
{
    return (size_t)lmoe_threads(a->ctx) * room_bytes(a);
}

static int can(const lmoe_args *a)
{
    for (int i = Q; i <= DECAY_V; i++) {
        if (i != RESET && i != SKIP && !cpu_f32_or_absent(&a->in[i])) return 0;
    }
    return 1;
}

CPU_KERNEL(scan_diag, 1, can, workspace, launch)
