/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/scan_grad.c: scan_diag_grad/1, two sweeps over a head of a sequence
 * (scan_stream.h).
 *
 *   forwards:   dq_s = scale M_s dy_s
 *   backwards:  G_s = scale q_s dy_s^T + diag(exp(decay_{s+1})) G_{s+1} ;
 *               dk_s = G_s v_s ;  dv_s = G_s^T k_s
 *   ddecay_s = exp(decay_s) rowsum(G_s * M_{s-1})
 *            = ddecay_{s+1} + q_s * dq'_s - k_s * dk'_s      ddecay_v: dy * y' - v * dv'
 *
 * where the primes leave out what token s gives to itself: that part is the same in both products,
 * and without it the difference stays exact where decays are strong. At the edges of each block of
 * tokens ddecay = rowsum(G * M) is computed directly; the differences go from there to the block's
 * middle, and start anew at each token that forgets: so rounding errors do not add up along seq.
 */
#include "scan.h"

enum { Q, K, V, DECAY, RESET, SKIP, DY, CARRY, DCARRY, DECAY_V };
enum { DQ, DK, DV, DDECAY, DCARRY_OUT, DDECAY_V };

/* One thread's memory: states, arrays of a block of tokens, and what the second sweep must know of
 * the first. */
typedef struct room {
    float *state_t, *grad_t; /* M^T, G^T: (v k) */
    float *grad;             /* G: (k v) */
    float *q, *k;            /* (token k); q: times scale */
    float *qs, *ke;          /* q faded from the group's start, k faded to its end */
    float *v, *dy;           /* (token v) */
    float *ve, *dys;         /* faded likewise; v and dy themselves if values do not decay */
    float *out;              /* (token k) or (token v): a result */
    scan_decays decays;
    scan_pairs *p, *dp; /* (group) of q and k, of dy and v */
    float *edge[2];     /* (k) rowsum(G * M) at the start and the end of a block */
    float *own;         /* (block token k) of all tokens: q * dq', then less k * dk', then ddecay */
    float *states;      /* (block v k) M^T at the start of each block */
    float *state;       /* M: (k v), for y */
    float *edge_v[2];   /* (v) and (block token v): the same for ddecay_v */
    float *own_v;
} room;

typedef struct sizes {
    int64_t k, v;          /* padded */
    int64_t block, blocks; /* tokens of a block, at most SCAN_BLOCK; how many blocks */
    int values;            /* 1 if they decay */
    int ddecay, ddecay_v;  /* 1 if it is wanted */
} sizes;

static sizes sizes_of(const lmoe_args *a)
{
    sizes s = {.k = cpu_padded(a->in[Q].dim[3]), .v = cpu_padded(a->in[V].dim[3])};
    s.values = lmoe_buf_present(&a->in[DECAY_V]);
    s.ddecay = lmoe_buf_present(&a->out[DDECAY]);
    s.ddecay_v = lmoe_buf_present(&a->out[DDECAY_V]);
    /* One sum of all tokens may be far smaller than what is added: more edges, smaller errors. */
    s.block = a->in[DECAY].rank == 1 && (s.ddecay || s.ddecay_v) ? SCAN_GROUP : SCAN_BLOCK;
    s.blocks = (a->in[Q].dim[1] + s.block - 1) / s.block;
    return s;
}

/* Cuts memory into the arrays; returns how many bytes they take. */
static size_t cut(char *memory, const sizes *s, room *r)
{
    char *cursor = memory;
    float **of_k[] = {&r->q, &r->k, &r->qs, &r->ke};
    float **of_v[] = {&r->v, &r->dy};
    float **states[] = {&r->state_t, &r->grad_t, &r->grad};
    for (size_t i = 0; i < sizeof of_k / sizeof *of_k; i++)
        *of_k[i] = cpu_take(&cursor, SCAN_BLOCK * s->k);
    for (size_t i = 0; i < sizeof of_v / sizeof *of_v; i++)
        *of_v[i] = cpu_take(&cursor, SCAN_BLOCK * s->v);
    for (size_t i = 0; i < sizeof states / sizeof *states; i++)
        *states[i] = cpu_take(&cursor, s->k * s->v);
    r->out = cpu_take(&cursor, SCAN_BLOCK * cpu_max(s->k, s->v));
    r->ve = s->values ? cpu_take(&cursor, SCAN_BLOCK * s->v) : r->v;
    r->dys = s->values ? cpu_take(&cursor, SCAN_BLOCK * s->v) : r->dy;
    scan_take_decays(&cursor, s->k, s->values ? s->v : 0, &r->decays);
    r->p = scan_take_pairs(&cursor);
    r->dp = scan_take_pairs(&cursor);
    for (int i = 0; i < 2; i++) r->edge[i] = cpu_take(&cursor, s->k);
    for (int i = 0; i < 2; i++) r->edge_v[i] = cpu_take(&cursor, s->ddecay_v ? s->v : 0);
    if (s->ddecay) r->own = cpu_take(&cursor, s->blocks * s->block * s->k);
    if (s->ddecay_v) r->own_v = cpu_take(&cursor, s->blocks * s->block * s->v);
    if (s->ddecay_v) r->state = cpu_take(&cursor, s->k * s->v);
    if (s->ddecay || s->ddecay_v) r->states = cpu_take(&cursor, s->blocks * s->k * s->v);
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
    double *partial; /* the head's sum of ddecay, for a decay (heads) */
} walk;

static void load_block(walk *w, int64_t block)
{
    const lmoe_buf *in = w->a->in;
    int64_t k = in[Q].dim[3], v = in[V].dim[3];
    room *r = &w->r;
    w->begin = block * w->n.block;
    w->tokens = cpu_min(w->n.block, w->c.seq - w->begin);
    scan_load(&w->c, &in[Q], k, w->begin, w->tokens, w->scale, r->q);
    scan_load(&w->c, &in[K], k, w->begin, w->tokens, 1, r->k);
    scan_load(&w->c, &in[V], v, w->begin, w->tokens, 1, r->v);
    scan_load(&w->c, &in[DY], v, w->begin, w->tokens, 1, r->dy);
    scan_load_decays(&w->c, k, v, w->begin, w->tokens, &r->decays);
    scan_fade_both(&r->decays, w->tokens, w->n.k, r->q, r->k, r->qs, r->ke);
    if (w->n.values) {
        scan_from_start(SCAN_ROWS, w->tokens, w->n.v, r->decays.a_v, r->dy, r->dys);
        scan_to_end(SCAN_ROWS, w->tokens, w->n.v, r->decays.a_v, r->v, r->ve);
    }
    scan_all_pairs(w->n.values ? SCAN_ROWS : SCAN_KEEP, w->tokens, w->n.v, r->dy, r->v,
                   r->decays.a_v, r->dp);
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
    scan_want(c, &in[DECAY_V], v, begin, 0, &ahead);
    return ahead;
}

static void clear(float *x, int64_t tokens, int64_t n)
{
    tokens = (tokens + SCAN_GROUP - 1) / SCAN_GROUP * SCAN_GROUP;
    memset(x, 0, sizeof *x * (size_t)(tokens * n));
}

/* ---- forwards: dq ---- */

/* out, what the state at each group's start gives to dq, becomes dq; own = q * dq'. */
CPU_INLINE void finish_dq(const walk *w, scan_fade fade, float *own)
{
    const room *r = &w->r;
    scan_finish_reads(fade, w->tokens, w->n.k, r->decays.a, r->dp, r->k, w->scale, r->out, r->q,
                      own);
}

/* own_v = dy * y', and the state goes on over the block. */
static void block_y(const walk *w)
{
    const room *r = &w->r;
    if (!w->n.ddecay_v) return;
    clear(r->out, w->tokens, w->n.v);
    scan_stream s = {.tokens = w->tokens,
                     .rows = w->n.k,
                     .lanes = w->n.v,
                     .m = r->state,
                     .x = r->qs,
                     .w = r->ke,
                     .u = r->ve,
                     .e = r->decays.e,
                     .e_lanes = r->decays.e_v,
                     .out = r->out};
    scan_run(&s, SCAN_BOTH);
    scan_all_pairs(SCAN_ROWS, w->tokens, w->n.k, r->q, r->k, r->decays.a, r->p);
    scan_finish_reads(SCAN_ROWS, w->tokens, w->n.v, r->decays.a_v, r->p, r->v, 1, r->out, r->dy,
                      r->own_v + w->begin * w->n.v);
}

static void sweep_forwards(walk *w)
{
    const lmoe_buf *in = w->a->in, *dq = &w->a->out[DQ];
    const room *r = &w->r;
    int64_t k = in[Q].dim[3], state = w->n.k * w->n.v;
    int64_t v = in[V].dim[3];
    if (!lmoe_buf_present(dq) && !w->n.ddecay && !w->n.ddecay_v) return;
    scan_load_state(&w->c, scan_first(&w->c, &in[CARRY]), k, v, 1, r->state_t);
    if (w->n.ddecay_v) scan_load_state(&w->c, scan_first(&w->c, &in[CARRY]), k, v, 0, r->state);
    for (int64_t block = 0; block < w->n.blocks; block++) {
        load_block(w, block);
        block_y(w);
        if (w->n.ddecay || w->n.ddecay_v)
            memcpy(r->states + block * state, r->state_t, sizeof(float) * (size_t)state);
        clear(r->out, w->tokens, w->n.k);
        scan_ahead ahead = want_block(w, &w->c, w->begin + w->n.block);
        scan_want(&w->c, dq, k, w->begin + w->n.block, 1, &ahead);
        scan_stream s = {.tokens = w->tokens,
                         .rows = w->n.v,
                         .lanes = w->n.k,
                         .m = r->state_t,
                         .x = r->dys,
                         .w = r->ve,
                         .u = w->fades ? r->ke : r->k,
                         .e = w->n.values ? r->decays.e_v : r->decays.e,
                         .e_lanes = r->decays.e,
                         .out = r->out,
                         .ahead = &ahead};
        scan_run(&s, scan_fade_of(&r->decays, 1));
        float *own = w->n.ddecay ? r->own + w->begin * w->n.k : NULL;
        if (r->decays.fade == SCAN_KEEP) finish_dq(w, SCAN_KEEP, NULL); /* no decay, no ddecay */
        if (r->decays.fade == SCAN_ALL) finish_dq(w, SCAN_ALL, own);
        if (r->decays.fade == SCAN_ROWS) finish_dq(w, SCAN_ROWS, own);
        scan_store(&w->c, dq, k, w->begin, w->tokens, r->out);
    }
}

/* ---- backwards: dk, dv, ddecay ---- */

/* edge_v = columnsum(G * M), from M^T and G^T */
static void put_edge_v(const walk *w, const float *state_t, const float *grad_t, float *edge_v)
{
    int64_t k = w->n.k;
    for (int64_t i = 0; i < w->n.v; i++) {
        float sum = 0;
        CPU_SIMD_SUM(sum)
        for (int64_t d = i * k; d < (i + 1) * k; d++) sum += state_t[d] * grad_t[d];
        edge_v[i] = sum;
    }
}

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

/* Where a block's differences from both edges meet. A gradient that comes from behind the last token
 * has not faded: its products are larger than all ddecay where decays are strong, and so are their
 * rounding errors. The last block then goes from its start alone. */
static int64_t meeting(const walk *w)
{
    int last = w->begin + w->tokens == w->c.seq;
    return last && lmoe_buf_present(&w->a->in[DCARRY]) ? w->tokens : w->tokens / 2;
}

/* ddecay of a token by a sum of differences: nothing if it forgets all, or if it forgets much and the
 * sum is the size of the rounding errors of what was added since the last such token (the largest
 * sum is what they are measured by). */
CPU_INLINE cpu_vec settle(cpu_vec factor, cpu_vec sum, cpu_vec *largest)
{
    const float much = 0x1p-16f, rounding = 0x1p-20f;
    cpu_vec size = cpu_where(sum > 0, sum) - cpu_where(sum < 0, sum);
    cpu_ivec larger = size > *largest;
    cpu_ivec keep = (factor > much) | ((factor != 0) & (size > rounding * *largest));
    *largest = cpu_where(keep, cpu_where(larger, size) + cpu_where(~larger, *largest));
    return cpu_where(keep, sum);
}

/* own (token n), the differences between the ddecay of one token and the next, becomes ddecay;
 * edge: ddecay at the block's start and end, from which they go to the middle. */
CPU_INLINE void sum_differences(scan_fade fade, int64_t tokens, int64_t middle, int64_t n,
                                const float *a, float *const *edge, float *own)
{
    for (int64_t d = 0; d < n; d += CPU_LANES) {
        cpu_vec sum = cpu_load(edge[0] + d), largest = cpu_all(0);
        for (int64_t t = 0; t < middle; t++) {
            cpu_vec difference = cpu_load(own + t * n + d);
            sum = settle(scan_factor(fade, a, n, t, d), sum, &largest);
            cpu_store(own + t * n + d, sum);
            sum -= difference;
        }
        sum = cpu_load(edge[1] + d);
        largest = cpu_all(0);
        for (int64_t t = tokens - 1; t >= middle; t--) {
            sum += cpu_load(own + t * n + d);
            sum = settle(scan_factor(fade, a, n, t, d), sum, &largest);
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
    double sum = 0;
    if (ddecay->rank == 4) {
        float *to = scan_row(&w->c, ddecay, token, n);
        for (int64_t d = 0; d < n; d++) to[d] = skipped ? 0.0f : row[d];
        return;
    }
    CPU_SIMD_SUM(sum)
    for (int64_t d = 0; d < n; d++) sum += (double)row[d];
    if (skipped) sum = 0;
    if (ddecay->rank == 3)
        *scan_row(&w->c, ddecay, token, 1) = (float)sum;
    else
        *w->partial += sum;
}

/* out, what the gradient at each group's end gives to dk, becomes dk; own: less k * dk'. */
CPU_INLINE void finish_dk(const walk *w, scan_fade fade, float *own)
{
    const room *r = &w->r;
    scan_finish_writes(fade, w->tokens, w->n.k, r->decays.a, r->dp, r->q, r->out, r->k, own);
}

static void block_dk(walk *w)
{
    const room *r = &w->r;
    const lmoe_buf *dk = &w->a->out[DK];
    if (!lmoe_buf_present(dk) && !w->n.ddecay && !w->n.ddecay_v) return;
    clear(r->out, w->tokens, w->n.k);
    int64_t k = w->a->in[K].dim[3], v = w->a->in[V].dim[3], next = w->begin - w->n.block;
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
                     .x = r->ve,
                     .w = r->dys,
                     .u = w->fades ? r->qs : r->q,
                     .e = w->n.values ? r->decays.e_v : r->decays.e,
                     .e_lanes = r->decays.e,
                     .out = r->out,
                     .ahead = &ahead};
    scan_run(&s, scan_fade_of(&r->decays, 1));
    float *own = w->n.ddecay ? r->own + w->begin * w->n.k : NULL;
    if (r->decays.fade == SCAN_KEEP) finish_dk(w, SCAN_KEEP, NULL);
    if (r->decays.fade == SCAN_ALL) finish_dk(w, SCAN_ALL, own);
    if (r->decays.fade == SCAN_ROWS) finish_dk(w, SCAN_ROWS, own);
    scan_store(&w->c, dk, k, w->begin, w->tokens, r->out);
}

static void swap_edges(float **edge)
{
    float *end = edge[0];
    edge[0] = edge[1]; /* one block's start is the end of the one before */
    edge[1] = end;
}

/* After block_dk: the gradient is that at the block's start. */
static void block_ddecay(walk *w, int64_t block)
{
    room *r = &w->r;
    if (!w->n.ddecay) return;
    float *own = r->own + w->begin * w->n.k;
    put_edge(w, r->states + block * w->n.k * w->n.v, r->grad_t, r->edge[0]);
    if (r->decays.fade == SCAN_ALL)
        sum_differences(SCAN_ALL, w->tokens, meeting(w), w->n.k, r->decays.a, r->edge, own);
    if (r->decays.fade == SCAN_ROWS)
        sum_differences(SCAN_ROWS, w->tokens, meeting(w), w->n.k, r->decays.a, r->edge, own);
    for (int64_t t = w->tokens - 1; t >= 0; t--) put_ddecay(w, t, own + t * w->n.k);
    swap_edges(r->edge);
}

/* After block_dv, which has taken v * dv' from own_v. */
static void block_ddecay_v(walk *w, int64_t block)
{
    room *r = &w->r;
    if (!w->n.ddecay_v) return;
    float *own = r->own_v + w->begin * w->n.v;
    put_edge_v(w, r->states + block * w->n.k * w->n.v, r->grad_t, r->edge_v[0]);
    sum_differences(SCAN_ROWS, w->tokens, meeting(w), w->n.v, r->decays.a_v, r->edge_v, own);
    for (int64_t t = 0; t < w->tokens; t++) { /* skipped tokens: nothing */
        if (scan_skips(&w->c, w->begin + t))
            memset(own + t * w->n.v, 0, sizeof *own * (size_t)w->n.v);
    }
    scan_store(&w->c, &w->a->out[DDECAY_V], w->a->in[V].dim[3], w->begin, w->tokens, own);
    swap_edges(r->edge_v);
}

/* out = what dv gets from tokens of its own group: dv_j = sum_{i >= j} p_ij dy_i */
static void start_dv(const walk *w)
{
    const room *r = &w->r;
    int64_t v = w->n.v;
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
    if (!lmoe_buf_present(dv) && !lmoe_buf_present(&w->a->out[DCARRY_OUT]) && !w->n.ddecay_v)
        return;
    scan_all_pairs(r->decays.fade, w->tokens, w->n.k, r->q, r->k, r->decays.a, r->p);
    if (w->n.values)
        clear(r->out, w->tokens, w->n.v);
    else
        start_dv(w);
    scan_stream s = {.tokens = w->tokens,
                     .rows = w->n.k,
                     .lanes = w->n.v,
                     .backwards = 1,
                     .m = r->grad,
                     .x = w->fades ? r->ke : r->k,
                     .w = w->fades ? r->qs : r->q,
                     .u = r->dys,
                     .e = r->decays.e,
                     .e_lanes = r->decays.e_v,
                     .out = r->out};
    scan_run(&s, scan_fade_of(&r->decays, 0));
    if (w->n.values)
        scan_finish_writes(SCAN_ROWS, w->tokens, w->n.v, r->decays.a_v, r->p, r->dy, r->out, r->v,
                           w->n.ddecay_v ? r->own_v + w->begin * w->n.v : NULL);
    scan_store(&w->c, dv, w->a->in[V].dim[3], w->begin, w->tokens, r->out);
}

static void sweep_backwards(walk *w)
{
    const lmoe_buf *in = w->a->in;
    int64_t k = in[Q].dim[3], v = in[V].dim[3];
    scan_load_state(&w->c, &in[DCARRY], k, v, 0, w->r.grad);
    scan_load_state(&w->c, &in[DCARRY], k, v, 1, w->r.grad_t);
    if (w->n.ddecay) put_edge(w, w->r.state_t, w->r.grad_t, w->r.edge[1]);
    if (w->n.ddecay_v) put_edge_v(w, w->r.state_t, w->r.grad_t, w->r.edge_v[1]);
    for (int64_t block = w->n.blocks - 1; block >= 0; block--) {
        load_block(w, block);
        block_dk(w);
        block_ddecay(w, block);
        block_dv(w);
        block_ddecay_v(w, block);
    }
    scan_store_state(&w->c, &w->a->out[DCARRY_OUT], k, v, w->r.grad);
}

/* ---- all heads ---- */

/* Memory: a room for each thread, then (batch heads) sums of ddecay. */
static double *partials(const lmoe_args *a, size_t bytes)
{
    return (double *)(void *)((char *)a->workspace + (size_t)lmoe_threads(a->ctx) * bytes);
}

static void run_heads(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    walk w = {.a = a, .n = sizes_of(a)};
    size_t bytes = room_bytes(&w.n);
    w.scale = (float)((const lmoe_scan_diag_attrs *)a->attrs)->scale;
    cut((char *)a->workspace + (size_t)thread * bytes, &w.n, &w.r);
    for (int64_t i = begin; i < end; i++) {
        w.c = scan_enter(&a->in[Q], &a->in[DECAY], &a->in[DECAY_V], &a->in[RESET], &a->in[SKIP], i);
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
    const double *partial = partials(a, room_bytes(&n));
    for (int64_t h = 0; h < heads; h++) {
        double sum = 0;
        for (int64_t b = 0; b < batch; b++) sum += partial[b * heads + h];
        ((float *)ddecay->data)[h] = (float)sum;
    }
    return LMOE_OK;
}

static size_t workspace(const lmoe_args *a)
{
    sizes n = sizes_of(a);
    return (size_t)lmoe_threads(a->ctx) * room_bytes(&n) +
           cpu_floats(2 * a->in[Q].dim[0] * a->in[Q].dim[2]);
}

static int can(const lmoe_args *a)
{
    for (int i = Q; i <= DECAY_V; i++) {
        if (i != RESET && i != SKIP && !cpu_f32_or_absent(&a->in[i])) return 0;
    }
    return 1;
}

CPU_KERNEL(scan_diag_grad, 1, can, workspace, launch)
