/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/delta.c: scan_delta/1 by chunks (delta.h). A thread takes a head.
 *
 *   M_s = diag(exp(decay_s)) M_{s-1} + k_s v_s^T - b_s (a_s^T M_{s-1}) ;   y_s = scale M_s^T q_s
 */
#include "delta.h"

enum { Q, K, V, A, B, DECAY, RESET, SKIP, CARRY };
static const delta_ports ports = {Q, K, V, A, B, DECAY, RESET, SKIP, -1};

/* One thread's memory: a chunk and the state. Returns how many bytes they take. */
static size_t cut(const delta *d, char *memory, delta_room *r, float **m)
{
    char *cursor = memory;
    delta_cut(d, &cursor, r);
    *m = cpu_take(&cursor, d->k * d->lanes);
    return (size_t)(cursor - memory);
}

static void run_heads(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    const lmoe_buf *y = &a->out[0];
    delta d = delta_of(a, ports, 0);
    float *m;
    size_t bytes = cut(&d, NULL, &d.room, &m);
    cut(&d, (char *)a->workspace + (size_t)thread * bytes, &d.room, &m);
    if (!lmoe_buf_present(y)) d.q = NULL;
    for (int64_t item = begin; item < end; item++) {
        delta_enter(a, ports, item, &d);
        scan_load_state(&d.c, scan_first(&d.c, &a->in[CARRY]), d.nk, d.nv, 0, m);
        for (int64_t at = 0; at < d.c.seq; at += delta_chunk_tokens(&d)) {
            delta_open(&d, at);
            delta_load_values(&d);
            for (int w = 0; w < d.streams; w++) delta_pairs(&d, w);
            delta_pass(&d, d.reads, m);
            if (d.q)
                delta_store(&d, y, 1, d.tokens, d.nv, 1, d.lanes, d.room.y + d.steps * d.lanes);
        }
        scan_store_state(&d.c, &a->out[1], d.nk, d.nv, m);
    }
}

static lmoe_status launch(const lmoe_args *a)
{
    delta d = delta_of(a, ports, 0);
    int64_t work = d.c.seq * d.each * d.k * d.lanes / 4;
    return lmoe_parallel(a->ctx, delta_heads(&d), cpu_grain(work), run_heads, (void *)a);
}

static size_t workspace(const lmoe_args *a)
{
    delta d = delta_of(a, ports, 0);
    float *m;
    return (size_t)lmoe_threads(a->ctx) * cut(&d, NULL, &d.room, &m);
}

static int can(const lmoe_args *a)
{
    return delta_can(a, ports);
}

CPU_KERNEL(scan_delta, 1, can, workspace, launch)
