/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/learn.h: what the kernels of scan_learn share: a head of a sequence, its
 * states, runs of tokens, and the loss.
 *
 *   u = dloss / dz, z = k^T W     S <- keep S - lr k u^T
 *   with position: y = (W + position S)^T q      without: M <- fade M + S, y = M^T q
 *
 * W stays as it is within a mini-batch, so a run of its tokens is a few products of matrices: with
 * S and M at the run's start, and B = M, or W with position,
 *
 *   U = loss'(K W)     Y = f * (Q B) + a * (Q S) - (A lr * Q K^T) U
 *   S <- c_n S - (C_n lr * K)^T U     M <- f_n M + a_n S - (A_n lr * K)^T U
 *
 *   c_i = keep_0 ... keep_i           C_ij = keep_{j+1} ... keep_i
 *   without position: f_i = fade_0 ... fade_i, a_i = fade_i a_{i-1} + c_i, A_ij = fade_i A_{i-1,j} + C_ij
 *   with position:    f_i = 1, a_i = position_i c_i, A_ij = position_i C_ij
 */
#ifndef CPU_LEARN_H
#define CPU_LEARN_H

#include "tile.h"
#include "vec.h"

enum {
    LEARN_Q,
    LEARN_K,
    LEARN_TARGET,
    LEARN_LR,
    LEARN_PHASE,
    LEARN_MOMENTUM,
    LEARN_DECAY,
    LEARN_POSITION,
    LEARN_GAMMA,
    LEARN_BETA,
    LEARN_INITIAL,
    LEARN_RESET,
    LEARN_SKIP,
    LEARN_CARRY
};

enum { LEARN_RUN = CPU_PAD }; /* tokens of a run, and of a block, at most */

/* One head of one sequence. States are three matrices (k v) in a row, padded: W, S, M; M is not used
 * with positions. */
typedef struct learn_head {
    const lmoe_buf *in;
    int64_t b, h, seq, heads, k, v, places, slots;
    int64_t kp, vp, n; /* padded; n: numbers of a state */
    float eps;
} learn_head;

static inline learn_head learn_enter(const lmoe_args *a, int64_t item)
{
    const lmoe_buf *k = &a->in[LEARN_K], *position = &a->in[LEARN_POSITION];
    learn_head l = {.in = a->in, .seq = k->dim[1], .heads = k->dim[2], .k = k->dim[3]};
    l.b = item / l.heads;
    l.h = item % l.heads;
    l.v = a->in[LEARN_TARGET].dim[3];
    l.kp = cpu_padded(l.k);
    l.vp = cpu_padded(l.v);
    l.n = l.kp * l.vp;
    l.places = lmoe_buf_present(position) ? position->dim[0] : 0;
    l.slots = l.places ? 2 : 3;
    l.eps = (float)((const lmoe_scan_learn_attrs *)a->attrs)->eps;
    return l;
}

/* Row of token t in x (batch seq heads n) */
static inline float *learn_row(const learn_head *l, const lmoe_buf *x, int64_t t, int64_t n)
{
    return (float *)x->data + ((l->b * l->seq + t) * l->heads + l->h) * n;
}

static inline int learn_flag(const learn_head *l, int port, int64_t t)
{
    const lmoe_buf *x = &l->in[port];
    return lmoe_buf_present(x) && ((const uint8_t *)x->data)[l->b * l->seq + t];
}

static inline int64_t learn_place(const learn_head *l, int64_t t)
{
    int64_t i = ((const int32_t *)l->in[LEARN_PHASE].data)[l->b * l->seq + t];
    return i < 0 ? 0 : l->places && i >= l->places ? l->places - 1 : i;
}

static inline float learn_position(const learn_head *l, int64_t place)
{
    return ((const float *)l->in[LEARN_POSITION].data)[place];
}

/* exp of a token's log, or what an absent one means */
static inline float learn_factor(const learn_head *l, int port, int64_t t, float absent)
{
    const lmoe_buf *x = &l->in[port];
    return lmoe_buf_present(x) ? cpu_expf(*learn_row(l, x, t, 1)) : absent;
}

static inline float learn_keep(const learn_head *l, int64_t t)
{
    return learn_factor(l, LEARN_MOMENTUM, t, l->places ? 1.0f : 0.0f);
}

/* ---- states ---- */

/* to (k v) padded += f * from (k v) */
static inline void learn_add(const learn_head *l, const float *from, float f, float *to)
{
    for (int64_t i = 0; i < l->k; i++) {
        CPU_SIMD
        for (int64_t j = 0; j < l->v; j++) to[i * l->vp + j] += f * from[i * l->v + j];
    }
}

static inline const float *learn_initial(const learn_head *l)
{
    return (const float *)l->in[LEARN_INITIAL].data + l->h * l->k * l->v;
}

static inline void learn_forget(const learn_head *l, float *state)
{
    memset(state, 0, sizeof *state * (size_t)(l->slots * l->n));
    learn_add(l, learn_initial(l), 1, state);
    if (!l->places) learn_add(l, learn_initial(l), 1, state + 2 * l->n);
}

static inline float *learn_slot(const learn_head *l, const lmoe_buf *carry, int64_t slot)
{
    return (float *)carry->data + ((l->b * l->slots + slot) * l->heads + l->h) * l->k * l->v;
}

static inline void learn_load(const learn_head *l, const lmoe_buf *carry, float *state)
{
    learn_forget(l, state);
    for (int64_t p = 0; p < l->slots && lmoe_buf_present(carry); p++)
        learn_add(l, learn_slot(l, carry, p), 1, state + p * l->n);
}

static inline void learn_store(const learn_head *l, const lmoe_buf *carry, const float *state)
{
    const float *initial = learn_initial(l);
    for (int64_t p = 0; p < l->slots && lmoe_buf_present(carry); p++) {
        float *to = learn_slot(l, carry, p), f = p == 1 ? 0.0f : 1.0f;
        for (int64_t i = 0; i < l->k; i++) {
            const float *from = state + p * l->n + i * l->vp;
            for (int64_t j = 0; j < l->v; j++)
                to[i * l->v + j] = from[j] - f * initial[i * l->v + j];
        }
    }
}

/* A mini-batch begins. */
static inline void learn_begin(const learn_head *l, float *state)
{
    float *w = state, *s = state + l->n;
    if (!l->places) {
        memcpy(w, state + 2 * l->n, sizeof *w * (size_t)l->n);
        return;
    }
    float last = learn_position(l, l->places - 1);
    CPU_SIMD
    for (int64_t i = 0; i < l->n; i++) {
        w[i] += last * s[i];
        s[i] = 0;
    }
}

/* ---- the loss of one token ---- */

/* Rows (v): the prediction behind the norm before gamma, the error behind it, gamma times that, and
 * the loss's derivative by the prediction. */
typedef struct learn_loss {
    float *x, *e, *g, *u;
    float sigma;
} learn_loss;

static inline float learn_mean(const float *a, const float *b, int64_t n)
{
    float sum = 0;
    CPU_SIMD_SUM(sum)
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum / (float)n;
}

static inline float learn_mean_of(const float *a, int64_t n)
{
    float sum = 0;
    CPU_SIMD_SUM(sum)
    for (int64_t i = 0; i < n; i++) sum += a[i];
    return sum / (float)n;
}

/* (a - mean(a) - x mean(a x)) / sigma */
static inline void learn_through_norm(const learn_head *l, const learn_loss *o, const float *a,
                                      float *to)
{
    float m = learn_mean_of(a, l->v), mx = learn_mean(a, o->x, l->v), f = 1.0f / o->sigma;
    CPU_SIMD
    for (int64_t i = 0; i < l->v; i++) to[i] = (a[i] - m - o->x[i] * mx) * f;
}

/* u of token t; o->x holds its prediction. */
static inline void learn_u(const learn_head *l, int64_t t, learn_loss *o)
{
    const float *target = learn_row(l, &l->in[LEARN_TARGET], t, l->v);
    float *z = o->x;
    if (!lmoe_buf_present(&l->in[LEARN_GAMMA])) {
        CPU_SIMD
        for (int64_t j = 0; j < l->v; j++) o->u[j] = z[j] - target[j];
        return;
    }
    const float *gamma = (const float *)l->in[LEARN_GAMMA].data + l->h * l->v;
    const float *beta = (const float *)l->in[LEARN_BETA].data + l->h * l->v;
    float m = learn_mean_of(z, l->v);
    CPU_SIMD
    for (int64_t j = 0; j < l->v; j++) z[j] -= m;
    o->sigma = sqrtf(learn_mean(z, z, l->v) + l->eps);
    float f = 1.0f / o->sigma;
    CPU_SIMD
    for (int64_t j = 0; j < l->v; j++) {
        o->x[j] = z[j] * f;
        o->e[j] = gamma[j] * o->x[j] + beta[j] - target[j];
        o->g[j] = gamma[j] * o->e[j];
    }
    learn_through_norm(l, o, o->g, o->u);
}

/* ---- runs of tokens of one mini-batch ---- */

/* Matrices have LEARN_RUN rows, zeros behind the run's end, or such columns. */
typedef struct learn_run {
    int64_t begin, tokens, rows; /* rows: the tokens, rounded up as products want them */
    int first;                   /* 1 if the mini-batch begins with the run */
    float keep[LEARN_RUN], fade[LEARN_RUN], lr[LEARN_RUN], tau[LEARN_RUN];
    float c[LEARN_RUN], f[LEARN_RUN], a[LEARN_RUN];
    float cc[LEARN_RUN][LEARN_RUN], aa[LEARN_RUN][LEARN_RUN]; /* C, A */
    learn_loss loss[LEARN_RUN];
    float *q, *k;    /* (token k) */
    float *kt;       /* (k token) */
    float *x, *u;    /* (token v): predictions, then those behind the norm; derivatives by them */
    float *e, *g;    /* (token v) as in learn_loss */
    float *p;        /* (token token) Q K^T */
    float *weighted; /* (token k) */
} learn_run;

static inline void learn_cut_run(const learn_head *l, char **cursor, learn_run *r)
{
    float **of_k[] = {&r->q, &r->k, &r->kt, &r->weighted}, **of_v[] = {&r->x, &r->u, &r->e, &r->g};
    for (int i = 0; i < 4; i++) *of_k[i] = cpu_take(cursor, LEARN_RUN * l->kp);
    for (int i = 0; i < 4; i++) *of_v[i] = cpu_take(cursor, LEARN_RUN * l->vp);
    r->p = cpu_take(cursor, LEARN_RUN * LEARN_RUN);
}

/* Tokens of the run that starts at t: of one mini-batch and one block, none skipped or with a reset
 * but at its start. A skipped token is a run of its own. */
static inline int64_t learn_tokens(const learn_head *l, int64_t t)
{
    int64_t end = cpu_min((t / LEARN_RUN + 1) * LEARN_RUN, l->seq), i = t + 1;
    if (learn_flag(l, LEARN_SKIP, t)) return 1;
    while (i < end && learn_place(l, i) != 0 && !learn_flag(l, LEARN_SKIP, i) &&
           !learn_flag(l, LEARN_RESET, i))
        i++;
    return i - t;
}

/* Rows of x (batch seq heads n) of the run into padded rows, zeros behind. */
static inline void learn_rows(const learn_head *l, const lmoe_buf *x, const learn_run *r, int64_t n,
                              float *to)
{
    int64_t padded = cpu_padded(n);
    memset(to, 0, sizeof *to * (size_t)(LEARN_RUN * padded));
    for (int64_t i = 0; i < r->tokens; i++)
        memcpy(to + i * padded, learn_row(l, x, r->begin + i, n), sizeof *to * (size_t)n);
}

/* to (n token) = from (token n); n: padded */
static inline void learn_turn(const float *from, int64_t n, float *to)
{
    for (int64_t d = 0; d < n; d++) {
        for (int64_t i = 0; i < LEARN_RUN; i++) to[d * LEARN_RUN + i] = from[i * n + d];
    }
}

/* to_i = f_i from_i; n: padded */
static inline void learn_scale(const float *f, const float *from, int64_t n, float *to)
{
    for (int64_t i = 0; i < LEARN_RUN; i++) {
        CPU_SIMD
        for (int64_t d = 0; d < n; d++) to[i * n + d] = f[i] * from[i * n + d];
    }
}

/* c, f, a, C and A */
static inline void learn_coefficients(const learn_head *l, learn_run *r)
{
    float c = 1, f = 1, a = 0;
    memset(r->cc, 0, sizeof r->cc);
    memset(r->aa, 0, sizeof r->aa);
    for (int64_t i = 0; i < LEARN_RUN; i++) {
        int64_t t = r->begin + i;
        r->keep[i] = r->fade[i] = r->lr[i] = r->tau[i] = r->c[i] = r->f[i] = r->a[i] = 0;
        if (i >= r->tokens) continue;
        float keep = r->keep[i] = learn_keep(l, t);
        float fade = r->fade[i] = learn_factor(l, LEARN_DECAY, t, 1.0f);
        float tau = r->tau[i] = l->places ? learn_position(l, learn_place(l, t)) : 0.0f;
        r->lr[i] = *learn_row(l, &l->in[LEARN_LR], t, 1);
        r->c[i] = c *= keep;
        r->f[i] = f *= l->places ? 1.0f : fade;
        r->a[i] = a = l->places ? tau * c : fade * a + c;
        for (int64_t j = 0; j <= i; j++) {
            r->cc[i][j] = j == i ? 1.0f : r->cc[i - 1][j] * keep;
            r->aa[i][j] = l->places ? tau * r->cc[i][j]
                          : j == i  ? 1.0f
                                    : fade * r->aa[i - 1][j] + r->cc[i][j];
        }
    }
}

/* Everything of the run that starts at t but the states' changes; W, S, M: those at its start. */
static inline void learn_enter_run(const learn_head *l, int64_t t, float *state, learn_run *r)
{
    r->begin = t;
    r->tokens = learn_tokens(l, t);
    r->rows = (r->tokens + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    r->first = learn_place(l, t) == 0;
    if (r->first) learn_begin(l, state);
    learn_coefficients(l, r);
    learn_rows(l, &l->in[LEARN_Q], r, l->k, r->q);
    learn_rows(l, &l->in[LEARN_K], r, l->k, r->k);
    learn_turn(r->k, l->kp, r->kt);
    memset(r->p, 0, sizeof *r->p * (size_t)(LEARN_RUN * LEARN_RUN));
    tile_multiply(r->rows, LEARN_RUN, l->kp, r->q, l->kp, r->kt, LEARN_RUN, r->p, LEARN_RUN);
    tile_multiply(r->rows, l->vp, l->kp, r->k, l->kp, state, l->vp, r->x, l->vp);
    memset(r->u, 0, sizeof *r->u * (size_t)(LEARN_RUN * l->vp));
    for (int64_t i = 0; i < r->tokens; i++) {
        int64_t at = i * l->vp;
        r->loss[i] = (learn_loss){r->x + at, r->e + at, r->g + at, r->u + at, 0};
        learn_u(l, t + i, &r->loss[i]);
    }
}

/* to -= (row lr * K)^T U */
static inline void learn_write(const learn_head *l, const float *row, const learn_run *r, float *to)
{
    float f[LEARN_RUN];
    for (int64_t j = 0; j < LEARN_RUN; j++) f[j] = -row[j] * r->lr[j];
    learn_scale(f, r->k, l->kp, r->weighted);
    tile_add_transposed(l->kp, l->vp, LEARN_RUN, r->weighted, l->kp, r->u, l->vp, to, l->vp);
}

/* S and M at the run's end. */
static inline void learn_leave_run(const learn_head *l, float *state, const learn_run *r)
{
    int64_t last = r->tokens - 1;
    float *s = state + l->n, *m = s + l->n, c = r->c[last], f = r->f[last], a = r->a[last];
    if (!l->places) {
        CPU_SIMD
        for (int64_t i = 0; i < l->n; i++) m[i] = f * m[i] + a * s[i];
        learn_write(l, r->aa[last], r, m);
    }
    CPU_SIMD
    for (int64_t i = 0; i < l->n; i++) s[i] *= c;
    learn_write(l, r->cc[last], r, s);
}

static inline int64_t learn_state(const learn_head *l)
{
    return l->slots * l->n;
}

static inline int learn_can(const lmoe_args *a, int last)
{
    for (int i = 0; i <= last; i++) {
        int other = i == LEARN_PHASE || i == LEARN_RESET || i == LEARN_SKIP;
        if (!other && !cpu_f32_or_absent(&a->in[i])) return 0;
    }
    return 1;
}

#endif
