/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/scan_grad.c: scan_diag_grad/1, two sweeps over a head of a sequence
 * (scan_stream.h).
 *
 *   forwards:   dq_s = scale M_s dy_s
 *   backwards:  G_s = scale q_s dy_s^T + diag(exp(decay_{s+1})) G_{s+1} ;
 *               dk_s = G_s v_s ;  dv_s = G_s^T k_s
 *   ddecay_s = exp(decay_s) rowsum(G_s * M_{s-1})
 *            = ddecay_{s+1} + q_s * dq'_s - k_s * dk'_s
 *
 * where the primes leave out what token s gives to itself: that part is the same in both products,
 * and without it the difference stays exact where decays are strong. At the edges of each block of
 * tokens ddecay = rowsum(G * M) is computed directly; the differences go from there to the block's
 * middle, and start anew at each token that forgets: so rounding errors do not add up along seq.
 */
#include "scan.h"

enum { Q, K, V, DECAY, RESET, SKIP, DY, CARRY, DCARRY };
enum { DQ, DK, DV, DDECAY, DCARRY_OUT };

/* One thread's memory: states, arrays of a block of tokens, and what the second sweep must know of
 * the first. */
typedef struct room {
    float *state_t, *grad_t; /* M^T, G^T: (v k) */
    float *grad;             /* G: (k v) */
    float *q, *k;            /* (token k); q: times scale */
    float *qs, *ke;          /* q faded from the group's start, k faded to its end */
    float *v, *dy;           /* (token v) */
    float *out;              /* (token k) or (token v): a result */
    scan_decays decays;
    scan_pairs *p, *dp; /* (group) of q and k, of dy and v */
    float *edge[2];     /* (k) rowsum(G * M) at the start and the end of a block */
    float *own;         /* (block token k) of all tokens: q * dq', then less k * dk', then ddecay */
    float *states;      /* (block v k) M^T at the start of each block */
} room;

typedef struct sizes {
    int64_t k, v, blocks; /* padded */
    int ddecay;           /* 1 if it is wanted */
} sizes;

static sizes sizes_of(const lmoe_args *a)
{
    sizes s = {.k = cpu_padded(a->in[Q].dim[3]), .v = cpu_padded(a->in[V].dim[3])};
    s.blocks = (a->in[Q].dim[1] + SCAN_BLOCK - 1) / SCAN_BLOCK;
    s.ddecay = lmoe_buf_present(&a->out[DDECAY]);
    return s;
}

/* Cuts memory into the arrays; returns how many bytes they take. */
static size_t cut(char *memory, const sizes *s, room *r)
{
    char *cursor = memory;
    float **of_k[] = {&r->q, &r->k, &r->qs, &r->ke, &r->decays.a};
    float **of_v[] = {&r->v, &r->dy};
    float **states[] = {&r->state_t, &r->grad_t, &r->grad};
    for (size_t i = 0; i < sizeof of_k / sizeof *of_k; i++)
        *of_k[i] = cpu_take(&cursor, SCAN_BLOCK * s->k);
    for (size_t i = 0; i < sizeof of_v / sizeof *of_v; i++)
        *of_v[i] = cpu_take(&cursor, SCAN_BLOCK * s->v);
    for (size_t i = 0; i < sizeof states / sizeof *states; i++)
        *states[i] = cpu_take(&cursor, s->k * s->v);
    r->out = cpu_take(&cursor, SCAN_BLOCK * cpu_max(s->k, s->v));
    r->decays.e = cpu_take(&cursor, SCAN_GROUPS * s->k);
    r->p = scan_take_pairs(&cursor);
    r->dp = scan_take_pairs(&cursor);
    for (int i = 0; i < 2; i++) r->edge[i] = cpu_take(&cursor, s->k);
    if (s->ddecay) {
        r->own = cpu_take(&cursor, s->blocks * SCAN_BLOCK * s->k);
        r->states = cpu_take(&cursor, s->blocks * s->k * s->v);
    }
    return (size_t)(cursor - memory);
}

static size_t room_bytes(const sizes *s)
{
    room r;
    return cut(NULL, s, &r);
}

/* One head of a sequence on its way. */
typedef struct walk {
    const lmoe_args *a;
    scan_head c;
    sizes n;
    room r;
    int64_t begin, tokens; /* the block at hand */
    int fades;
    float scale;
    float *partial; /* the head's sum of ddecay, for a decay (heads) */
} walk;

static void load_block(walk *w, int64_t block)
{
    const lmoe_buf *in = w->a->in;
    int64_t k = in[Q].dim[3], v = in[V].dim[3];
    room *r = &w->r;
    w->begin = block * SCAN_BLOCK;
    w->tokens = cpu_min(SCAN_BLOCK, w->c.seq - w->begin);
    scan_load(&w->c, &in[Q], k, w->begin, w->tokens, w->scale, r->q);
    scan_load(&w->c, &in[K], k, w->begin, w->tokens, 1, r->k);
    scan_load(&w->c, &in[V], v, w->begin, w->tokens, 1, r->v);
    scan_load(&w->c, &in[DY], v, w->begin, w->tokens, 1, r->dy);
    scan_load_decays(&w->c, k, w->begin, w->tokens, &r->decays);
    scan_fade_both(&r->decays, w->tokens, w->n.k, r->q, r->k, r->qs, r->ke);
    scan_all_pairs(SCAN_KEEP, w->tokens, w->n.v, r->dy, r->v, NULL, r->dp);
    w->fades = r->decays.fade != SCAN_KEEP;
}

/* What both sweeps read of the block of a head that starts at `begin`. */
static scan_ahead want_block(const walk *w, const scan_head *c, int64_t begin)
{
    const lmoe_buf *in = w->a->in;
    int64_t k = in[Q].dim[3], v = in[V].dim[3];
    scan_ahead ahead = {0};
    scan_want(c, &in[Q], k, begin, 0, &ahead);
    scan_want(c, &in[K], k, begin, 0, &ahead);
    scan_want(c, &in[V], v, begin, 0, &ahead);
    scan_want(c, &in[DY], v, begin, 0, &ahead);
    if (in[DECAY].rank == 4) scan_want(c, &in[DECAY], k, begin, 0, &ahead);
    return ahead;
}

static void clear(float *x, int64_t tokens, int64_t n)
{
    tokens = (tokens + SCAN_GROUP - 1) / SCAN_GROUP * SCAN_GROUP;
    memset(x, 0, sizeof *x * (size_t)(tokens * n));
}

/* ---- forwards: dq ---- */

/* out, what the state at the group's start gives to dq, becomes dq; own = q * dq'. own may be NULL.
 *   dq_i / scale = (a_0 ... a_i) out_i + sum_{j <= i} (dy_i . v_j) k_j a_{j+1} ... a_i */
CPU_INLINE void finish_dq(const walk *w, scan_fade fade, float *own)
{
    const room *r = &w->r;
    int64_t n = w->n.k;
    for (int64_t t = 0; t < w->tokens; t += SCAN_GROUP) {
        const float(*p)[SCAN_GROUP] = r->dp[t / SCAN_GROUP];
        for (int64_t d = 0; d < n; d += CPU_LANES) {
            cpu_vec k[SCAN_GROUP], f = cpu_all(1);
            CPU_UNROLL
            for (int i = 0; i < SCAN_GROUP; i++) {
                int64_t at = (t + i) * n + d;
                cpu_vec sum = cpu_load(r->out + at);
                if (fade != SCAN_KEEP) {
                    cpu_vec a = scan_factor(fade, r->decays.a, n, t + i, d);
                    for (int j = 0; j < i; j++) k[j] *= a;
                    sum *= f *= a;
                }
                for (int j = 0; j < i; j++) sum += p[i][j] * k[j];
                if (own) cpu_store(own + at, sum * cpu_load(r->q + at));
                k[i] = cpu_load(r->k + at);
                sum += p[i][i] * k[i];
                cpu_store(r->out + at, w->scale * sum);
            }
        }
    }
}

static void sweep_forwards(walk *w)
{
    const lmoe_buf *in = w->a->in, *dq = &w->a->out[DQ];
    const room *r = &w->r;
    int64_t k = in[Q].dim[3], state = w->n.k * w->n.v;
    if (!lmoe_buf_present(dq) && !w->n.ddecay) return;
    scan_load_state(&w->c, scan_first(&w->c, &in[CARRY]), k, in[V].dim[3], 1, r->state_t);
    for (int64_t block = 0; block < w->n.blocks; block++) {
        load_block(w, block);
        if (w->n.ddecay)
            memcpy(r->states + block * state, r->state_t, sizeof(float) * (size_t)state);
        clear(r->out, w->tokens, w->n.k);
        scan_ahead ahead = want_block(w, &w->c, w->begin + SCAN_BLOCK);
        scan_want(&w->c, dq, k, w->begin + SCAN_BLOCK, 1, &ahead);
        scan_stream s = {.tokens = w->tokens,
                         .rows = w->n.v,
                         .lanes = w->n.k,
                         .m = r->state_t,
                         .x = r->dy,
                         .w = r->v,
                         .u = w->fades ? r->ke : r->k,
                         .e = r->decays.e,
                         .out = r->out,
                         .ahead = &ahead};
        scan_run(&s, r->decays.fade == SCAN_ROWS ? SCAN_LANES : r->decays.fade);
        float *own = w->n.ddecay ? r->own + w->begin * w->n.k : NULL;
        if (r->decays.fade == SCAN_KEEP) finish_dq(w, SCAN_KEEP, NULL); /* no decay, no ddecay */
        if (r->decays.fade == SCAN_ALL) finish_dq(w, SCAN_ALL, own);
        if (r->decays.fade == SCAN_ROWS) finish_dq(w, SCAN_ROWS, own);
        scan_store(&w->c, dq, k, w->begin, w->tokens, r->out);
    }
}

/* ---- backwards: dk, dv, ddecay ---- */

/* edge = rowsum(G * M), from M^T and G^T */
static void put_edge(const walk *w, const float *state_t, const float *grad_t, float *edge)
{
    int64_t k = w->n.k;
    for (int64_t d = 0; d < k; d += CPU_LANES) {
        cpu_vec s = cpu_all(0);
        for (int64_t i = d; i < k * w->n.v; i += k)
            s += cpu_load(state_t + i) * cpu_load(grad_t + i);
        cpu_store(edge + d, s);
    }
}

/* own, the differences between the ddecay of one token and the next, becomes ddecay. */
CPU_INLINE void sum_differences(const walk *w, scan_fade fade, float *own)
{
    const float *a = w->r.decays.a;
    int64_t n = w->n.k, middle = w->tokens / 2;
    for (int64_t d = 0; d < n; d += CPU_LANES) {
        cpu_vec sum = cpu_load(w->r.edge[0] + d);
        for (int64_t t = 0; t < middle; t++) {
            cpu_vec difference = cpu_load(own + t * n + d);
            sum = cpu_where(scan_factor(fade, a, n, t, d) != 0, sum);
            cpu_store(own + t * n + d, sum);
            sum -= difference;
        }
        sum = cpu_load(w->r.edge[1] + d);
        for (int64_t t = w->tokens - 1; t >= middle; t--) {
            sum += cpu_load(own + t * n + d);
            sum = cpu_where(scan_factor(fade, a, n, t, d) != 0, sum);
            cpu_store(own + t * n + d, sum);
        }
    }
}

/* ddecay of token t, a row (k), in decay's own form */
static void put_ddecay(walk *w, int64_t t, const float *row)
{
    const lmoe_buf *ddecay = &w->a->out[DDECAY];
    int64_t n = w->a->in[Q].dim[3], token = w->begin + t;
    int skipped = w->c.skip && w->c.skip[token];
    float sum = 0;
    if (ddecay->rank == 4) {
        float *to = scan_row(&w->c, ddecay, token, n);
        for (int64_t d = 0; d < n; d++) to[d] = skipped ? 0.0f : row[d];
        return;
    }
    CPU_SIMD_SUM(sum)
    for (int64_t d = 0; d < n; d++) sum += row[d];
    if (skipped) sum = 0;
    if (ddecay->rank == 3)
        *scan_row(&w->c, ddecay, token, 1) = sum;
    else
        *w->partial += sum;
}

/* out, what the gradient at the group's end gives to dk, becomes dk. own, if not NULL: less k *
 * dk'. dk_j = (a_{j+1} ... a_3) out_j + sum_{i >= j} (dy_i . v_j) scale q_i a_{j+1} ... a_i */
CPU_INLINE void finish_dk(const walk *w, scan_fade fade, float *own)
{
    const room *r = &w->r;
    int64_t n = w->n.k, groups = (w->tokens + SCAN_GROUP - 1) / SCAN_GROUP;
    for (int64_t g = groups - 1; g >= 0; g--) {
        int64_t t = g * SCAN_GROUP;
        const float(*p)[SCAN_GROUP] = r->dp[t / SCAN_GROUP];
        for (int64_t d = 0; d < n; d += CPU_LANES) {
            cpu_vec q[SCAN_GROUP], f = cpu_all(1), after = {0};
            CPU_UNROLL
            for (int j = SCAN_GROUP - 1; j >= 0; j--) {
                int64_t at = (t + j) * n + d;
                cpu_vec dk = cpu_load(r->out + at), a = {0};
                if (fade != SCAN_KEEP) {
                    a = scan_factor(fade, r->decays.a, n, t + j, d);
                    for (int i = j + 1; i < SCAN_GROUP; i++) q[i] *= after;
                    if (j < SCAN_GROUP - 1) dk *= f *= after;
                    after = a;
                }
                for (int i = j + 1; i < SCAN_GROUP; i++) dk += p[i][j] * q[i];
                if (own) cpu_store(own + at, cpu_load(own + at) - cpu_load(r->k + at) * dk);
                q[j] = cpu_load(r->q + at);
                cpu_store(r->out + at, dk + p[j][j] * q[j]);
            }
        }
    }
}

static void block_dk(walk *w)
{
    const room *r = &w->r;
    const lmoe_buf *dk = &w->a->out[DK];
    if (!lmoe_buf_present(dk) && !w->n.ddecay) return;
    clear(r->out, w->tokens, w->n.k);
    int64_t k = w->a->in[K].dim[3], v = w->a->in[V].dim[3], next = w->begin - SCAN_BLOCK;
    int64_t begin = next < 0 ? w->c.seq : next;
    scan_head after = w->c;
    scan_go_on(&after, &begin);
    scan_ahead ahead = want_block(w, &after, begin);
    scan_want(&w->c, dk, k, next, 1, &ahead);
    scan_want(&w->c, &w->a->out[DV], v, next, 1, &ahead);
    if (w->a->in[DECAY].rank == 4) scan_want(&w->c, &w->a->out[DDECAY], k, next, 1, &ahead);
    scan_stream s = {.tokens = w->tokens,
                     .rows = w->n.v,
                     .lanes = w->n.k,
                     .backwards = 1,
                     .m = r->grad_t,
                     .x = r->v,
                     .w = r->dy,
                     .u = w->fades ? r->qs : r->q,
                     .e = r->decays.e,
                     .out = r->out,
                     .ahead = &ahead};
    scan_run(&s, r->decays.fade == SCAN_ROWS ? SCAN_LANES : r->decays.fade);
    float *own = w->n.ddecay ? r->own + w->begin * w->n.k : NULL;
    if (r->decays.fade == SCAN_KEEP) finish_dk(w, SCAN_KEEP, NULL);
    if (r->decays.fade == SCAN_ALL) finish_dk(w, SCAN_ALL, own);
    if (r->decays.fade == SCAN_ROWS) finish_dk(w, SCAN_ROWS, own);
    scan_store(&w->c, dk, k, w->begin, w->tokens, r->out);
}

/* After block_dk: the gradient is that at the block's start. */
static void block_ddecay(walk *w, int64_t block)
{
    room *r = &w->r;
    if (!w->n.ddecay) return;
    float *own = r->own + w->begin * w->n.k, *end = r->edge[0];
    put_edge(w, r->states + block * w->n.k * w->n.v, r->grad_t, r->edge[0]);
    if (r->decays.fade == SCAN_ALL) sum_differences(w, SCAN_ALL, own);
    if (r->decays.fade == SCAN_ROWS) sum_differences(w, SCAN_ROWS, own);
    for (int64_t t = w->tokens - 1; t >= 0; t--) put_ddecay(w, t, own + t * w->n.k);
    r->edge[0] = r->edge[1]; /* one block's start is the end of the one before */
    r->edge[1] = end;
}

/* out = what dv gets from tokens of its own group: dv_j = sum_{i >= j} p_ij dy_i */
static void start_dv(const walk *w)
{
    const room *r = &w->r;
    int64_t v = w->n.v;
    scan_all_pairs(r->decays.fade, w->tokens, w->n.k, r->q, r->k, r->decays.a, r->p);
    for (int64_t t = 0; t < w->tokens; t += SCAN_GROUP) {
        const float(*p)[SCAN_GROUP] = r->p[t / SCAN_GROUP];
        for (int64_t d = 0; d < v; d += CPU_LANES) {
            for (int j = 0; j < SCAN_GROUP; j++) {
                cpu_vec sum = p[j][j] * cpu_load(r->dy + (t + j) * v + d);
                for (int i = j + 1; i < SCAN_GROUP; i++)
                    sum += p[i][j] * cpu_load(r->dy + (t + i) * v + d);
                cpu_store(r->out + (t + j) * v + d, sum);
            }
        }
    }
}

static void block_dv(walk *w)
{
    const room *r = &w->r;
    const lmoe_buf *dv = &w->a->out[DV];
    if (!lmoe_buf_present(dv) && !lmoe_buf_present(&w->a->out[DCARRY_OUT])) return;
    start_dv(w);
    scan_stream s = {.tokens = w->tokens,
                     .rows = w->n.k,
                     .lanes = w->n.v,
                     .backwards = 1,
                     .m = r->grad,
                     .x = w->fades ? r->ke : r->k,
                     .w = w->fades ? r->qs : r->q,
                     .u = r->dy,
                     .e = r->decays.e,
                     .out = r->out};
    scan_run(&s, r->decays.fade);
    scan_store(&w->c, dv, w->a->in[V].dim[3], w->begin, w->tokens, r->out);
}

static void sweep_backwards(walk *w)
{
    const lmoe_buf *in = w->a->in;
    int64_t k = in[Q].dim[3], v = in[V].dim[3];
    scan_load_state(&w->c, &in[DCARRY], k, v, 0, w->r.grad);
    scan_load_state(&w->c, &in[DCARRY], k, v, 1, w->r.grad_t);
    if (w->n.ddecay) put_edge(w, w->r.state_t, w->r.grad_t, w->r.edge[1]);
    for (int64_t block = w->n.blocks - 1; block >= 0; block--) {
        load_block(w, block);
        block_dk(w);
        block_ddecay(w, block);
        block_dv(w);
    }
    scan_store_state(&w->c, &w->a->out[DCARRY_OUT], k, v, w->r.grad);
}

/* ---- all heads ---- */

/* Memory: a room for each thread, then (batch heads) sums of ddecay. */
static float *partials(const lmoe_args *a, size_t bytes)
{
    return (float *)(void *)((char *)a->workspace + (size_t)lmoe_threads(a->ctx) * bytes);
}

static void run_heads(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    walk w = {.a = a, .n = sizes_of(a)};
    size_t bytes = room_bytes(&w.n);
    w.scale = (float)((const lmoe_scan_diag_attrs *)a->attrs)->scale;
    cut((char *)a->workspace + (size_t)thread * bytes, &w.n, &w.r);
    for (int64_t i = begin; i < end; i++) {
        w.c = scan_enter(&a->in[Q], &a->in[DECAY], &a->in[RESET], &a->in[SKIP], i);
        w.partial = partials(a, bytes) + i;
        *w.partial = 0;
        sweep_forwards(&w);
        sweep_backwards(&w);
    }
}

static lmoe_status launch(const lmoe_args *a)
{
    const lmoe_buf *q = &a->in[Q], *ddecay = &a->out[DDECAY];
    int64_t batch = q->dim[0], heads = q->dim[2];
    int64_t work = q->dim[1] * q->dim[3] * a->in[V].dim[3];
    LMOE_TRY(lmoe_parallel(a->ctx, batch * heads, cpu_grain(work), run_heads, (void *)a));
    if (!lmoe_buf_present(ddecay) || ddecay->rank != 1) return LMOE_OK;
    sizes n = sizes_of(a);
    const float *partial = partials(a, room_bytes(&n));
    for (int64_t h = 0; h < heads; h++) {
        float sum = 0;
        for (int64_t b = 0; b < batch; b++) sum += partial[b * heads + h];
        ((float *)ddecay->data)[h] = sum;
    }
    return LMOE_OK;
}

static size_t workspace(const lmoe_args *a)
{
    sizes n = sizes_of(a);
    return (size_t)lmoe_threads(a->ctx) * room_bytes(&n) +
           cpu_floats(a->in[Q].dim[0] * a->in[Q].dim[2]);
}

static int can(const lmoe_args *a)
{
    for (int i = Q; i <= DCARRY; i++) {
        if (i != RESET && i != SKIP && !cpu_f32_or_absent(&a->in[i])) return 0;
    }
    return 1;
}

CPU_KERNEL(scan_diag_grad, 1, can, workspace, launch)
