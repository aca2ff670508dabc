/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/delta_grad.c: scan_delta_grad/1 by chunks (delta.h), three sweeps over a head.
 *
 *   forwards         the pairs p and the values x of every chunk, the state M^T at every STRETCH-th
 *   by stretches, from the last: M^T at the start of each of its chunks, then for each chunk
 *   backwards        with G the state's gradient at its end, e_q = dy, and e_a what rows a are due:
 *     dx   = (f(j) w_j) G + sum over q of p_qj e_q ;  e_a and dv by solving (delta_solve_back)
 *     dp   = e x^T ,   d(f(r) r) = e M^T ,   d(f(j) w_j) = x G^T ,   G = f G + (f(r) r)^T e
 *
 * A decay's gradient is a sum, over all that passes through it, of gradient times value: rows r
 * after it that read M, steps j before it that reach the chunk's end, pairs of both, and f M itself.
 * No differences are taken.
 */
#include "delta.h"

enum { Q, K, V, A, B, DECAY, RESET, SKIP, DY, CARRY, DCARRY };
enum { DQ, DK, DV, DA, DB, DDECAY, DCARRY_OUT };
enum { STRETCH = 8, PAIRS = DELTA_READS * DELTA_STEPS };
static const delta_ports ports = {Q, K, V, A, B, DECAY, RESET, SKIP, DY};

/* One head of a sequence on its way, and one thread's memory. */
typedef struct walk {
    const lmoe_args *args;
    delta d;
    int64_t chunks;
    int wanted;                /* 1: ddecay is */
    float *g, *g_t;            /* (k lanes), (lanes k) */
    float *state, *state_t;    /* M, and M^T of STRETCH + 1 chunks */
    float *e;                  /* (read lanes) */
    float *dx[2], *dr, *dw[2]; /* (step lanes), (read k), (step k) */
    float *dp[2], *x_t;        /* (read step), (lanes step) */
    float *ddecay, *edge;      /* (step k), (k) */
    float *pairs, *values; /* (chunk stream read step), (chunk step lanes): of the first sweep */
    float *marks;          /* M^T at the start of each stretch */
    float *own_x;          /* room for v, where there are two streams */
    float *partial;        /* the head's sum of ddecay, for a decay (heads) */
} walk;

/* Cuts memory into the arrays; returns how many bytes they take. */
static size_t cut(walk *w, char *memory)
{
    delta *d = &w->d;
    char *cursor = memory;
    int64_t state = d->k * d->lanes;
    w->chunks = delta_chunks(d);
    delta_cut(d, &cursor, &d->room);
    w->g = cpu_take(&cursor, state);
    w->g_t = cpu_take(&cursor, state);
    w->state = cpu_take(&cursor, state);
    w->state_t = cpu_take(&cursor, (STRETCH + 1) * state);
    w->e = cpu_take(&cursor, DELTA_READS * d->lanes);
    w->dr = cpu_take(&cursor, DELTA_READS * d->k);
    w->x_t = cpu_take(&cursor, DELTA_STEPS * d->lanes);
    for (int i = 0; i < d->streams; i++) {
        w->dx[i] = cpu_take(&cursor, DELTA_STEPS * d->lanes);
        w->dw[i] = cpu_take(&cursor, DELTA_STEPS * d->k);
        w->dp[i] = cpu_take(&cursor, PAIRS);
    }
    w->ddecay = cpu_take(&cursor, DELTA_STEPS * d->k);
    w->edge = cpu_take(&cursor, d->k);
    w->pairs = cpu_take(&cursor, w->chunks * d->streams * PAIRS);
    w->values = cpu_take(&cursor, w->chunks * DELTA_STEPS * d->lanes);
    w->marks = cpu_take(&cursor, (w->chunks + STRETCH - 1) / STRETCH * state);
    w->own_x = d->room.x[0];
    return (size_t)(cursor - memory);
}

/* Opens chunk number `i`; its pairs and values lie where the first sweep leaves them. */
static void open_chunk(walk *w, int64_t i)
{
    delta *d = &w->d;
    for (int s = 0; s < d->streams; s++) d->room.p[s] = w->pairs + (i * d->streams + s) * PAIRS;
    d->room.x[0] = w->own_x;
    d->room.x[d->streams - 1] = w->values + i * DELTA_STEPS * d->lanes;
    delta_open(d, i * delta_chunk_tokens(d));
}

static void sweep_forwards(walk *w)
{
    delta *d = &w->d;
    const lmoe_buf *in = w->args->in;
    scan_load_state(&d->c, scan_first(&d->c, &in[CARRY]), d->nk, d->nv, 0, w->state);
    for (int64_t i = 0; i < w->chunks; i++) {
        if (i % STRETCH == 0)
            delta_turn(d->k, d->lanes, w->state, d->lanes, w->marks + i / STRETCH * d->k * d->lanes,
                       d->k);
        open_chunk(w, i);
        delta_load_values(d);
        for (int s = 0; s < d->streams; s++) delta_pairs(d, s);
        int64_t reads = d->reads;
        d->reads = d->steps; /* results are not wanted */
        delta_pass(d, d->steps, w->state);
        d->reads = reads;
    }
}

/* M^T at the start of each chunk of a stretch: state_t[0], state_t[1], ... */
static void restore_states(walk *w, int64_t first, int64_t n)
{
    delta *d = &w->d;
    int64_t state = d->k * d->lanes;
    memcpy(w->state_t, w->marks + first / STRETCH * state, sizeof(float) * (size_t)state);
    for (int64_t i = 0; i + 1 < n; i++) {
        const float *m = w->state_t + i * state;
        float *next = w->state_t + (i + 1) * state;
        open_chunk(w, first + i);
        if (d->streams > 1) delta_load_values(d);
        for (int64_t row = 0; row < d->lanes; row++) {
            for (int64_t c = 0; c < d->k; c += CPU_LANES) {
                cpu_vec x = cpu_load(m + row * d->k + c);
                if (d->fade != SCAN_KEEP) {
                    cpu_vec f = cpu_load(d->room.whole + c);
                    x = cpu_where(f != 0, f * x);
                }
                cpu_store(next + row * d->k + c, x);
            }
        }
        for (int s = 0; s < d->streams; s++)
            tile_add_transposed(d->lanes, d->k, d->steps, d->room.x[s], d->lanes, d->w_faded[s],
                                d->k, next, d->k);
    }
}

/* ---- one factor for all channels ---- */

static float dot(const float *x, const float *y, int64_t n)
{
    float sum = 0;
    CPU_SIMD_SUM(sum)
    for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

/* ddecay of each step that decays, from gradient times value of rows, keys, pairs and the state. */
static void shared_ddecay(walk *w)
{
    delta *d = &w->d;
    float row[DELTA_READS], key[DELTA_STEPS], passed[DELTA_READS] = {0}, before = 0, whole = 0;
    for (int64_t i = 0; i < d->reads; i++)
        row[i] = dot(w->dr + i * d->k, d->r_faded + i * d->k, d->k);
    for (int64_t j = 0; j < d->steps; j++) {
        key[j] = 0;
        for (int s = 0; s < d->streams; s++)
            key[j] += dot(w->dw[s] + j * d->k, d->w_faded[s] + j * d->k, d->k);
    }
    for (int64_t c = 0; c < d->k; c++) whole += w->edge[c];
    for (int64_t i = 0; i < d->steps; i++) { /* passed: of pairs whose step lies before i */
        float sum = whole + before;
        for (int64_t r = i + 1; r < d->steps; r++) sum += row[r] + passed[r];
        for (int64_t r = d->steps + i / d->each; r < d->reads; r++) sum += row[r] + passed[r];
        w->ddecay[i] = sum;
        before += key[i];
        for (int64_t r = 0; r < d->reads; r++) {
            int64_t at = r * DELTA_STEPS + i;
            for (int s = 0; s < d->streams && i < delta_seen(d, r); s++)
                passed[r] += w->dp[s][at] * d->room.p[s][at];
        }
    }
}

/* dp, dr, dw: from gradients of what is faded to those of r and w. */
static void pairs_back_shared(walk *w)
{
    delta *d = &w->d;
    int all = d->fade == SCAN_ALL;
    if (all && w->wanted) shared_ddecay(w);
    for (int64_t i = 0; i < d->reads; i++) {
        if (all) delta_scale(w->dr + i * d->k, d->at_read[i], d->k, w->dr + i * d->k);
        int seen = (int)delta_seen(d, i);
        for (int s = 0; s < d->streams; s++) {
            float *p = w->dp[s] + i * DELTA_STEPS;
            const float *f = d->room.pair + i * DELTA_STEPS;
            for (int j = 0; j < DELTA_STEPS; j++)
                p[j] = j >= seen ? 0.0f : all ? f[j] * p[j] : p[j];
        }
    }
    for (int s = 0; s < d->streams; s++) {
        for (int64_t j = 0; all && j < d->steps; j++)
            delta_scale(w->dw[s] + j * d->k, d->at_end[j], d->k, w->dw[s] + j * d->k);
        tile_product(0, 1, d->reads, d->k, d->steps, w->dp[s], DELTA_STEPS, d->room.w[s], d->k,
                     w->dr, d->k);
        tile_add_transposed(DELTA_STEPS, d->k, d->reads, w->dp[s], DELTA_STEPS, d->room.r, d->k,
                            w->dw[s], d->k);
    }
}

/* ---- a factor for each channel ---- */

/* What a register's channels need on the way. row_a[i], row_q[i]: rows a before and q after step i,
 * before[i]: keys before it, each times its gradient; sum[i]: what pairs give to decay i;
 * left[i][j]: what is left of key j behind step i's decay. */
typedef struct channels {
    cpu_vec row_a[DELTA_STEPS], row_q[DELTA_STEPS], before[DELTA_STEPS], sum[DELTA_STEPS];
    cpu_vec left[DELTA_STEPS][DELTA_STEPS];
} channels;

/* dr of the chunk's rows from channel c on, without pairs; sums of gradient times value. */
static void rows_back(walk *w, int64_t c, channels *z)
{
    const delta *d = &w->d;
    cpu_vec f = cpu_all(1), before = {0};
    for (int64_t i = 0; i < d->steps; i++) {
        if (d->resets[i]) f = cpu_all(0);
        float *dr = w->dr + i * d->k + c;
        z->row_a[i] = cpu_load(dr) * cpu_load(d->r_faded + i * d->k + c);
        cpu_store(dr, f * cpu_load(dr));
        if (d->decays[i]) f *= cpu_load(d->room.factor + i * d->k + c);
        int64_t read = delta_read_after(d, i);
        z->row_q[i] = cpu_all(0);
        if (read >= 0) {
            dr = w->dr + read * d->k + c;
            z->row_q[i] = cpu_load(dr) * cpu_load(d->r_faded + read * d->k + c);
            cpu_store(dr, f * cpu_load(dr));
        }
        z->before[i] = before;
        for (int s = 0; s < d->streams; s++)
            before += cpu_load(w->dw[s] + i * d->k + c) * cpu_load(d->w_faded[s] + i * d->k + c);
        z->sum[i] = cpu_all(0);
    }
}

/* dr from the pairs of a stream. */
static void pairs_forwards(walk *w, int s, int64_t c, channels *z)
{
    const delta *d = &w->d;
    cpu_vec left[DELTA_STEPS];
    for (int64_t i = 0; i < d->steps; i++) {
        const float *p = w->dp[s] + i * DELTA_STEPS;
        cpu_vec sum = cpu_load(w->dr + i * d->k + c);
        for (int64_t j = 0; d->resets[i] && j < i; j++) left[j] = cpu_all(0);
        for (int64_t j = 0; j < i; j++) sum += p[j] * left[j];
        cpu_store(w->dr + i * d->k + c, sum);
        if (d->decays[i]) {
            cpu_vec f = cpu_load(d->room.factor + i * d->k + c);
            for (int64_t j = 0; j < i; j++) z->left[i][j] = left[j] *= f;
        }
        left[i] = cpu_load(d->room.w[s] + i * d->k + c);
        int64_t read = delta_read_after(d, i);
        if (read < 0) continue;
        p = w->dp[s] + read * DELTA_STEPS;
        sum = cpu_load(w->dr + read * d->k + c);
        for (int64_t j = 0; j <= i; j++) sum += p[j] * left[j];
        cpu_store(w->dr + read * d->k + c, sum);
    }
}

/* dw from the pairs of a stream, and what the decays get of them. */
static void pairs_backwards(walk *w, int s, int64_t c, channels *z)
{
    const delta *d = &w->d;
    cpu_vec back[DELTA_STEPS], f = cpu_all(1);
    for (int64_t j = 0; j < d->steps; j++) back[j] = cpu_all(0);
    for (int64_t i = d->steps - 1; i >= 0; i--) {
        int64_t read = delta_read_after(d, i);
        if (read >= 0) {
            const float *p = w->dp[s] + read * DELTA_STEPS;
            cpu_vec q = cpu_load(d->room.r + read * d->k + c);
            for (int64_t j = 0; j <= i; j++) back[j] += p[j] * q;
        }
        float *dw = w->dw[s] + i * d->k + c;
        cpu_store(dw, f * cpu_load(dw) + back[i]);
        if (d->decays[i]) {
            cpu_vec a = cpu_load(d->room.factor + i * d->k + c), sum = {0};
            for (int64_t j = 0; j < i; j++) {
                sum += back[j] * z->left[i][j];
                back[j] *= a;
            }
            z->sum[i] += sum;
            f *= a;
        }
        const float *p = w->dp[s] + i * DELTA_STEPS;
        cpu_vec r = cpu_load(d->room.r + i * d->k + c);
        for (int64_t j = 0; j < i; j++) back[j] += p[j] * r;
        if (!d->resets[i]) continue;
        for (int64_t j = 0; j < i; j++) back[j] = cpu_all(0);
        f = cpu_all(0);
    }
}

static void pairs_back_by_channel(walk *w)
{
    const delta *d = &w->d;
    channels z;
    for (int64_t c = 0; c < d->k; c += CPU_LANES) {
        rows_back(w, c, &z);
        for (int s = 0; s < d->streams; s++) {
            pairs_forwards(w, s, c, &z);
            pairs_backwards(w, s, c, &z);
        }
        cpu_vec after = w->wanted ? cpu_load(w->edge + c) : cpu_all(0);
        for (int64_t i = d->steps - 1; i >= 0; i--) {
            after += z.row_q[i];
            cpu_store(w->ddecay + i * d->k + c, after + z.before[i] + z.sum[i]);
            after += z.row_a[i];
        }
    }
}

/* ---- a chunk ---- */

/* edge = f rowsum(G * M), from M^T and G^T */
static void put_edge(walk *w, const float *state_t)
{
    const delta *d = &w->d;
    for (int64_t c = 0; c < d->k; c += CPU_LANES) {
        cpu_vec s = cpu_all(0), f = cpu_load(d->room.whole + c);
        for (int64_t i = c; i < d->k * d->lanes; i += d->k)
            s += cpu_load(state_t + i) * cpu_load(w->g_t + i);
        cpu_store(w->edge + c, cpu_where(f != 0, f * s));
    }
}

/* The chunk's ddecay, in decay's own form. */
static void store_ddecay(walk *w)
{
    const delta *d = &w->d;
    const lmoe_buf *to = &w->args->out[DDECAY];
    for (int64_t t = 0; t < d->tokens; t++) {
        int64_t i = t * d->each, token = d->begin + t;
        if (to->rank == 4) {
            float *row = scan_row(&d->c, to, token, d->nk);
            for (int64_t c = 0; c < d->nk; c++)
                row[c] = d->decays[i] ? w->ddecay[i * d->k + c] : 0.0f;
        } else if (to->rank == 3) {
            *scan_row(&d->c, to, token, 1) = d->decays[i] ? w->ddecay[i] : 0.0f;
        } else if (d->decays[i]) {
            *w->partial += w->ddecay[i];
        }
    }
}

static void chunk_back(walk *w, int64_t i, const float *state_t)
{
    delta *d = &w->d;
    const lmoe_buf *out = w->args->out;
    open_chunk(w, i);
    if (d->streams > 1) delta_load_values(d);
    delta_load(d, &w->args->in[DY], 1, d->tokens, 0, d->nv, 1, d->lanes,
               w->e + d->steps * d->lanes);
    delta_pass_back(d, w->e, w->dx, w->g);
    delta_store(d, &out[DV], d->each, d->steps, d->nv, 1, d->lanes, w->dx[0]);
    delta_turn(d->k, d->lanes, w->g, d->lanes, w->g_t, d->k);
    tile_multiply(d->reads, d->k, d->lanes, w->e, d->lanes, state_t, d->k, w->dr, d->k);
    for (int s = 0; s < d->streams; s++) {
        delta_turn(DELTA_STEPS, d->lanes, d->room.x[s], d->lanes, w->x_t, DELTA_STEPS);
        tile_multiply(d->reads, DELTA_STEPS, d->lanes, w->e, d->lanes, w->x_t, DELTA_STEPS,
                      w->dp[s], DELTA_STEPS);
        tile_multiply(d->steps, d->k, d->lanes, d->room.x[s], d->lanes, w->g_t, d->k, w->dw[s],
                      d->k);
    }
    if (w->wanted && d->fade != SCAN_KEEP) put_edge(w, state_t);
    if (d->fade == SCAN_ROWS)
        pairs_back_by_channel(w);
    else
        pairs_back_shared(w);
    if (w->wanted) store_ddecay(w);
    delta_store(d, &out[DQ], 1, d->tokens, d->nk, d->scale, d->k, w->dr + d->steps * d->k);
    delta_store(d, &out[DA], d->each, d->steps, d->nk, 1, d->k, w->dr);
    delta_store(d, &out[DK], d->each, d->steps, d->nk, 1, d->k, w->dw[0]);
    if (d->streams > 1) delta_store(d, &out[DB], d->each, d->steps, d->nk, 1, d->k, w->dw[1]);
    delta_retreat(d, w->e, w->g);
}

static void sweep_backwards(walk *w)
{
    delta *d = &w->d;
    int64_t state = d->k * d->lanes;
    scan_load_state(&d->c, &w->args->in[DCARRY], d->nk, d->nv, 0, w->g);
    for (int64_t end = w->chunks; end > 0;) {
        int64_t first = (end - 1) / STRETCH * STRETCH;
        restore_states(w, first, end - first);
        for (; end > first; end--) chunk_back(w, end - 1, w->state_t + (end - 1 - first) * state);
    }
    scan_store_state(&d->c, &w->args->out[DCARRY_OUT], d->nk, d->nv, w->g);
}

/* ---- all heads; memory: a walk's for each thread, then (batch heads) sums of ddecay ---- */

static float *partials(const lmoe_args *a, size_t bytes)
{
    return (float *)(void *)((char *)a->workspace + (size_t)lmoe_threads(a->ctx) * bytes);
}

static void run_heads(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    walk w = {.args = a, .d = delta_of(a, ports, 0), .wanted = lmoe_buf_present(&a->out[DDECAY])};
    size_t bytes = cut(&w, NULL);
    cut(&w, (char *)a->workspace + (size_t)thread * bytes);
    for (int64_t i = begin; i < end; i++) {
        w.partial = partials(a, bytes) + i;
        *w.partial = 0;
        delta_enter(a, ports, i, &w.d);
        sweep_forwards(&w);
        sweep_backwards(&w);
    }
}

static lmoe_status launch(const lmoe_args *a)
{
    const lmoe_buf *ddecay = &a->out[DDECAY];
    walk w = {.args = a, .d = delta_of(a, ports, 0)};
    int64_t work = w.d.c.seq * w.d.each * w.d.k * w.d.lanes;
    size_t bytes = cut(&w, NULL);
    LMOE_TRY(lmoe_parallel(a->ctx, delta_heads(&w.d), cpu_grain(work), run_heads, (void *)a));
    if (!lmoe_buf_present(ddecay) || ddecay->rank != 1) return LMOE_OK;
    const float *partial = partials(a, bytes);
    for (int64_t h = 0; h < w.d.c.heads; h++) {
        float sum = 0;
        for (int64_t b = 0; b < w.d.c.batch; b++) sum += partial[b * w.d.c.heads + h];
        ((float *)ddecay->data)[h] = sum;
    }
    return LMOE_OK;
}

static size_t workspace(const lmoe_args *a)
{
    walk w = {.args = a, .d = delta_of(a, ports, 0)};
    return (size_t)lmoe_threads(a->ctx) * cut(&w, NULL) + cpu_floats(delta_heads(&w.d));
}

static int can(const lmoe_args *a)
{
    return delta_can(a, ports);
}

CPU_KERNEL(scan_delta_grad, 1, can, workspace, launch)
