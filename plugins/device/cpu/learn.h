/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/learn.h: what the kernels of scan_learn share: a head of a sequence, its
 * states, the loss of one token, and one step.
 *
 *   u = dloss / dz, z = k^T W     S <- keep S - lr k u^T
 *   with position: y = (W + position S)^T q      without: M <- fade M + S, y = M^T q
 */
#ifndef CPU_LEARN_H
#define CPU_LEARN_H

#include "lanes.h"
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

/* One head of one sequence. States are three matrices (k v) in a row: W, S, M; M is not used with
 * positions. */
typedef struct learn_head {
    const lmoe_buf *in;
    int64_t b, h, seq, heads, k, v, n, places, slots;
    float eps;
} learn_head;

static inline learn_head learn_enter(const lmoe_args *a, int64_t item)
{
    const lmoe_buf *k = &a->in[LEARN_K], *position = &a->in[LEARN_POSITION];
    learn_head l = {.in = a->in, .seq = k->dim[1], .heads = k->dim[2], .k = k->dim[3]};
    l.b = item / l.heads;
    l.h = item % l.heads;
    l.v = a->in[LEARN_TARGET].dim[3];
    l.n = l.k * l.v;
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

static inline const float *learn_initial(const learn_head *l)
{
    return (const float *)l->in[LEARN_INITIAL].data + l->h * l->n;
}

static inline void learn_forget(const learn_head *l, float *state)
{
    size_t bytes = sizeof(float) * (size_t)l->n;
    memcpy(state, learn_initial(l), bytes);
    memset(state + l->n, 0, bytes);
    if (!l->places) memcpy(state + 2 * l->n, learn_initial(l), bytes);
}

static inline float *learn_slot(const learn_head *l, const lmoe_buf *carry, int64_t slot)
{
    return (float *)carry->data + ((l->b * l->slots + slot) * l->heads + l->h) * l->n;
}

static inline void learn_load(const learn_head *l, const lmoe_buf *carry, float *state)
{
    learn_forget(l, state);
    for (int64_t p = 0; p < l->slots && lmoe_buf_present(carry); p++) {
        const float *from = learn_slot(l, carry, p);
        CPU_SIMD
        for (int64_t i = 0; i < l->n; i++) state[p * l->n + i] += from[i];
    }
}

static inline void learn_store(const learn_head *l, const lmoe_buf *carry, const float *state)
{
    const float *initial = learn_initial(l);
    for (int64_t p = 0; p < l->slots && lmoe_buf_present(carry); p++) {
        float *to = learn_slot(l, carry, p), f = p == 1 ? 0.0f : 1.0f;
        CPU_SIMD
        for (int64_t i = 0; i < l->n; i++) to[i] = state[p * l->n + i] - f * initial[i];
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

/* to += x^T m, m (k v) */
static inline void learn_product(const learn_head *l, const float *x, const float *m, float *to)
{
    for (int64_t i = 0; i < l->k; i++, m += l->v) {
        CPU_SIMD
        for (int64_t j = 0; j < l->v; j++) to[j] += x[i] * m[j];
    }
}

/* u of token t at memory w */
static inline void learn_u(const learn_head *l, int64_t t, const float *w, learn_loss *o)
{
    const float *target = learn_row(l, &l->in[LEARN_TARGET], t, l->v);
    float *z = o->x;
    memset(z, 0, sizeof *z * (size_t)l->v);
    learn_product(l, learn_row(l, &l->in[LEARN_K], t, l->k), w, z);
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

/* ---- one step: the states after token t, and y, which may be NULL ---- */

static inline void learn_step(const learn_head *l, int64_t t, float *state, learn_loss *o, float *y)
{
    float keep = learn_keep(l, t), fade = learn_factor(l, LEARN_DECAY, t, 1.0f);
    float lr = *learn_row(l, &l->in[LEARN_LR], t, 1);
    float tau = l->places ? learn_position(l, learn_place(l, t)) : 0.0f;
    const float *k = learn_row(l, &l->in[LEARN_K], t, l->k);
    const float *q = learn_row(l, &l->in[LEARN_Q], t, l->k);
    if (learn_place(l, t) == 0) learn_begin(l, state);
    learn_u(l, t, state, o);
    if (y) memset(y, 0, sizeof *y * (size_t)l->v);
    for (int64_t i = 0; i < l->k; i++) {
        float *w = state + i * l->v, *s = w + l->n, *m = l->places ? s : s + l->n, f = -lr * k[i];
        if (l->places) {
            CPU_SIMD
            for (int64_t j = 0; j < l->v; j++) s[j] = keep * s[j] + f * o->u[j];
            for (int64_t j = 0; y && j < l->v; j++) y[j] += q[i] * (w[j] + tau * s[j]);
        } else {
            CPU_SIMD
            for (int64_t j = 0; j < l->v; j++) {
                s[j] = keep * s[j] + f * o->u[j];
                m[j] = fade * m[j] + s[j];
            }
            for (int64_t j = 0; y && j < l->v; j++) y[j] += q[i] * m[j];
        }
    }
}

static inline int64_t learn_state(const learn_head *l)
{
    return (l->places ? 2 : 3) * l->n;
}

static inline void learn_cut_loss(const learn_head *l, char **cursor, learn_loss *o)
{
    float **rows[] = {&o->x, &o->e, &o->g, &o->u};
    for (int i = 0; i < 4; i++) *rows[i] = cpu_take(cursor, l->v);
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
