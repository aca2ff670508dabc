/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/scan_learn_grad.c: scan_learn_grad/1 (learn.h): states are kept at the start of
 * each block of tokens and made again at the start of each run within it, then the runs are walked
 * from the last one.
 *
 * gW, gS, gM: gradients of the states, at the run's end on the right. P = Q K^T, R = dY U^T, both
 * times A and lr; E = K gM, H = K gS; n: the run's last row.
 *
 *   dU = -P^T dY - lr A_n * E - lr C_n * H                 dZ, dtarget, dgamma, dbeta from dU
 *   dQ = f * (dY B^T) + a * (dY S^T) - R K
 *   dK = -R^T Q - lr A_n * (U gM^T) - lr C_n * (U gS^T) + dZ W^T
 *   dlr_j = -sum_i A_ij P_ij R_ij - A_nj E_j.U_j - C_nj H_j.U_j      dA, dC likewise
 *   gS <- c_n gS + a_n gM + (a * Q)^T dY ; gB <- f_n gB + (f * Q)^T dY ; gW += K^T dZ
 *
 * where B = W, gB = gW and f_n = 1 with position, and no M is there. From dA, dC and those of a, c, f
 * come those of momentum, decay and position, by the recurrences that make them. Where a mini-batch
 * begins: gS <- position_last gW, or gM += gW, gW <- 0.
 */
#include "learn.h"

enum { DY = LEARN_CARRY, FORWARD_CARRY, DCARRY };
enum { DQ, DK, DTARGET, DLR, DMOMENTUM, DDECAY, DPOSITION, DGAMMA, DBETA, DINITIAL, DCARRY_OUT };

/* Derivatives by a run's coefficients. */
typedef struct slopes {
    float aa[LEARN_RUN][LEARN_RUN], a[LEARN_RUN], f[LEARN_RUN];
    float cc[LEARN_RUN], c; /* those of the last row */
    float keep[LEARN_RUN], fade[LEARN_RUN], tau[LEARN_RUN], lr[LEARN_RUN];
} slopes;

/* One thread's memory. */
typedef struct room {
    float *starts;                                             /* (block state) */
    float *before;                                             /* (run state) of a block */
    float *state, *grad;                                       /* W, S, M and their gradients */
    float *dy, *du, *dz, *dtarget, *by_m, *by_s, *read, *from; /* (token v); by_m, by_s: E, H */
    float *turned;                                             /* (v token) */
    float *dq, *dk;                                            /* (k token) */
    float *r, *pa, *ra; /* (token token) R; P, R times A lr */
    float *ra_t;        /* the last, transposed */
    slopes d;
    learn_run run;
} room;

static int64_t blocks(const learn_head *l)
{
    return (l->seq + LEARN_RUN - 1) / LEARN_RUN;
}

static size_t cut(const learn_head *l, char *memory, room *r)
{
    char *cursor = memory;
    int64_t state = learn_state(l);
    r->starts = cpu_take(&cursor, blocks(l) * state);
    r->before = cpu_take(&cursor, LEARN_RUN * state);
    r->state = cpu_take(&cursor, state);
    r->grad = cpu_take(&cursor, 3 * l->n);
    float **of_v[] = {&r->dy,   &r->du,   &r->dz,   &r->dtarget, &r->by_m,
                      &r->by_s, &r->read, &r->from, &r->turned};
    float **of_k[] = {&r->dq, &r->dk}, **square[] = {&r->r, &r->pa, &r->ra, &r->ra_t};
    for (int i = 0; i < 9; i++) *of_v[i] = cpu_take(&cursor, LEARN_RUN * l->vp);
    for (int i = 0; i < 2; i++) *of_k[i] = cpu_take(&cursor, LEARN_RUN * l->kp);
    for (int i = 0; i < 4; i++) *square[i] = cpu_take(&cursor, LEARN_RUN * LEARN_RUN);
    learn_cut_run(l, &cursor, &r->run);
    return (size_t)(cursor - memory);
}

/* What all sequences share, a part for each: dposition (batch heads place), dgamma, dbeta (batch
 * heads v), dinitial (batch heads k v). */
typedef struct parts {
    float *position, *gamma, *beta, *initial;
} parts;

static size_t cut_parts(const lmoe_args *a, char *memory, parts *p)
{
    learn_head l = learn_enter(a, 0);
    int64_t all = a->in[LEARN_K].dim[0] * l.heads;
    char *cursor = memory;
    p->position = cpu_take(&cursor, all * l.places);
    p->gamma = cpu_take(&cursor, all * l.v);
    p->beta = cpu_take(&cursor, all * l.v);
    p->initial = cpu_take(&cursor, all * l.k * l.v);
    return (size_t)(cursor - memory);
}

/* One head's share of them. */
static parts parts_of(const learn_head *l, const parts *p)
{
    int64_t i = l->b * l->heads + l->h;
    return (parts){p->position + i * l->places, p->gamma + i * l->v, p->beta + i * l->v,
                   p->initial + i * l->k * l->v};
}

/* ---- one run ---- */

/* From du of a token: dz and dtarget, and what gamma and beta get. */
static void back_loss(const learn_head *l, const learn_loss *o, const float *du, float *dx,
                      float *dg, const parts *p)
{
    if (!lmoe_buf_present(&l->in[LEARN_GAMMA])) {
        for (int64_t j = 0; j < l->v; j++) {
            dx[j] = du[j];
            dg[j] = -du[j];
        }
        return;
    }
    const float *gamma = (const float *)l->in[LEARN_GAMMA].data + l->h * l->v;
    float gx = learn_mean(o->g, o->x, l->v), dux = learn_mean(du, o->x, l->v);
    float f = 1.0f / o->sigma, dsigma = -learn_mean(du, o->u, l->v) * f;
    learn_through_norm(l, o, du, dg);
    CPU_SIMD
    for (int64_t j = 0; j < l->v; j++) {
        dx[j] = dg[j] * gamma[j] * gamma[j] - (du[j] * gx + o->g[j] * dux) * f;
        p->gamma[j] += dg[j] * (gamma[j] * o->x[j] + o->e[j]);
        p->beta[j] += dg[j] * gamma[j];
        dg[j] *= -gamma[j];
    }
    float m = learn_mean_of(dx, l->v), mx = learn_mean(dx, o->x, l->v);
    CPU_SIMD
    for (int64_t j = 0; j < l->v; j++) dx[j] = (dx[j] - m - o->x[j] * mx) * f + dsigma * o->x[j];
}

static float dot(const float *a, const float *b, int64_t n)
{
    float sum = 0;
    CPU_SIMD_SUM(sum)
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* The products of pairs of tokens, and with the gradients of the states at the run's end. */
static void back_pairs(const learn_head *l, room *r)
{
    learn_run *n = &r->run;
    slopes *d = &r->d;
    const float *gs = r->grad + l->n, *gm = gs + l->n;
    int64_t last = n->tokens - 1;
    memset(d, 0, sizeof *d);
    learn_turn(n->u, l->vp, r->turned);
    tile_multiply(LEARN_RUN, LEARN_RUN, l->vp, r->dy, l->vp, r->turned, LEARN_RUN, r->r, LEARN_RUN);
    tile_multiply(LEARN_RUN, l->vp, l->kp, n->k, l->kp, gs, l->vp, r->by_s, l->vp);
    if (!l->places) tile_multiply(LEARN_RUN, l->vp, l->kp, n->k, l->kp, gm, l->vp, r->by_m, l->vp);
    for (int64_t i = 0; i < LEARN_RUN; i++) {
        for (int64_t j = 0; j < LEARN_RUN; j++) {
            int64_t at = i * LEARN_RUN + j;
            float p = n->p[at], y = r->r[at], f = -n->aa[i][j] * n->lr[j];
            r->pa[at] = f * p;
            r->ra[at] = f * y;
            r->ra_t[j * LEARN_RUN + i] = f * y;
            if (j > i || i > last) continue;
            d->aa[i][j] = -n->lr[j] * (p * y);
            d->lr[j] -= n->aa[i][j] * (p * y);
        }
    }
    for (int64_t j = 0; j <= last; j++) {
        const float *u = n->u + j * l->vp;
        float m = l->places ? 0.0f : dot(r->by_m + j * l->vp, u, l->vp);
        float s = dot(r->by_s + j * l->vp, u, l->vp);
        d->lr[j] -= (l->places ? 0.0f : n->aa[last][j] * m) + n->cc[last][j] * s;
        if (!l->places) d->aa[last][j] -= n->lr[j] * m;
        d->cc[j] = -n->lr[j] * s;
    }
}

/* du, then dz and dtarget */
static void back_u(const learn_head *l, room *r, const parts *p)
{
    const learn_run *n = &r->run;
    int64_t last = n->tokens - 1;
    for (int64_t j = 0; j < LEARN_RUN; j++) {
        float m = l->places ? 0.0f : -n->lr[j] * n->aa[last][j], s = -n->lr[j] * n->cc[last][j];
        float *du = r->du + j * l->vp;
        const float *by_m = l->places ? r->by_s : r->by_m;
        CPU_SIMD
        for (int64_t i = 0; i < l->vp; i++)
            du[i] = m * by_m[j * l->vp + i] + s * r->by_s[j * l->vp + i];
    }
    tile_add_transposed(LEARN_RUN, l->vp, LEARN_RUN, r->pa, LEARN_RUN, r->dy, l->vp, r->du, l->vp);
    memset(r->dz, 0, sizeof *r->dz * (size_t)(LEARN_RUN * l->vp));
    for (int64_t j = 0; j <= last; j++)
        back_loss(l, &n->loss[j], r->du + j * l->vp, r->dz + j * l->vp, r->dtarget + j * l->vp, p);
}

/* to (k token) += m (rows scaled from (token v))^T */
static void add_turned(const learn_head *l, const float *m, const float *scale, const float *rows,
                       room *r, float *to)
{
    learn_scale(scale, rows, l->vp, r->from);
    learn_turn(r->from, l->vp, r->turned);
    tile_add(l->kp, LEARN_RUN, l->vp, m, l->vp, r->turned, LEARN_RUN, to, LEARN_RUN);
}

static void back_qk(const learn_head *l, room *r)
{
    learn_run *n = &r->run;
    const float *w = r->state, *s = w + l->n, *base = l->places ? w : s + l->n;
    const float *gs = r->grad + l->n, *gm = gs + l->n;
    int64_t last = n->tokens - 1;
    float scale[LEARN_RUN];
    size_t bytes = sizeof(float) * (size_t)(LEARN_RUN * l->kp);
    memset(r->dq, 0, bytes);
    memset(r->dk, 0, bytes);
    add_turned(l, base, n->f, r->dy, r, r->dq);
    add_turned(l, s, n->a, r->dy, r, r->dq);
    tile_add_transposed(l->kp, LEARN_RUN, LEARN_RUN, n->k, l->kp, r->ra_t, LEARN_RUN, r->dq,
                        LEARN_RUN);
    tile_add_transposed(l->kp, LEARN_RUN, LEARN_RUN, n->q, l->kp, r->ra, LEARN_RUN, r->dk,
                        LEARN_RUN);
    for (int64_t j = 0; j < LEARN_RUN; j++) scale[j] = -n->lr[j] * n->cc[last][j];
    add_turned(l, gs, scale, n->u, r, r->dk);
    for (int64_t j = 0; j < LEARN_RUN; j++) scale[j] = -n->lr[j] * n->aa[last][j];
    if (!l->places) add_turned(l, gm, scale, n->u, r, r->dk);
    for (int64_t j = 0; j < LEARN_RUN; j++) scale[j] = 1;
    add_turned(l, w, scale, r->dz, r, r->dk);
}

/* Derivatives by c, f and a, whose products with the states are read. */
static void back_reads(const learn_head *l, room *r)
{
    learn_run *n = &r->run;
    slopes *d = &r->d;
    const float *s = r->state + l->n, *m = s + l->n, *gs = r->grad + l->n, *gm = gs + l->n;
    int64_t last = n->tokens - 1;
    tile_multiply(LEARN_RUN, l->vp, l->kp, n->q, l->kp, s, l->vp, r->read, l->vp);
    for (int64_t i = 0; i <= last; i++)
        d->a[i] = dot(r->dy + i * l->vp, r->read + i * l->vp, l->vp);
    d->c = dot(gs, s, l->n);
    if (l->places) return;
    tile_multiply(LEARN_RUN, l->vp, l->kp, n->q, l->kp, m, l->vp, r->read, l->vp);
    for (int64_t i = 0; i <= last; i++)
        d->f[i] = dot(r->dy + i * l->vp, r->read + i * l->vp, l->vp);
    d->a[last] += dot(gm, s, l->n);
    d->f[last] += dot(gm, m, l->n);
}

/* From those of the coefficients: momentum, decay and position, from the run's last token on. */
static void back_coefficients(const learn_head *l, room *r)
{
    const learn_run *n = &r->run;
    slopes *d = &r->d;
    float aa[LEARN_RUN] = {0}, cc[LEARN_RUN], a = 0, f = 0, c = d->c;
    memcpy(cc, d->cc, sizeof cc);
    for (int64_t i = n->tokens - 1; i >= 0; i--) {
        float a_before = i ? n->a[i - 1] : 0, f_before = i ? n->f[i - 1] : 1;
        a += d->a[i];
        f += d->f[i];
        float part = l->places ? n->tau[i] : 1.0f;
        d->tau[i] = a * n->c[i];
        d->fade[i] = a * a_before + f * f_before;
        c += part * a;
        d->keep[i] = c * (i ? n->c[i - 1] : 1);
        for (int64_t j = 0; j <= i; j++) {
            aa[j] += d->aa[i][j];
            cc[j] += part * aa[j];
            d->tau[i] += aa[j] * n->cc[i][j];
            if (j < i) {
                d->fade[i] += aa[j] * n->aa[i - 1][j];
                d->keep[i] += cc[j] * n->cc[i - 1][j];
            }
            aa[j] *= l->places ? 0.0f : n->fade[i];
            cc[j] *= n->keep[i];
        }
        a *= l->places ? 0.0f : n->fade[i];
        f *= l->places ? 0.0f : n->fade[i];
        c *= n->keep[i];
    }
}

/* The states' gradients at the run's start. */
static void back_states(const learn_head *l, room *r)
{
    learn_run *n = &r->run;
    float *gw = r->grad, *gs = gw + l->n, *gm = gs + l->n;
    int64_t last = n->tokens - 1;
    float c = n->c[last], a = n->a[last], f = n->f[last];
    CPU_SIMD
    for (int64_t i = 0; i < l->n; i++) gs[i] *= c;
    for (int64_t i = 0; !l->places && i < l->n; i++) {
        gs[i] += a * gm[i];
        gm[i] *= f;
    }
    learn_scale(n->f, n->q, l->kp, n->weighted);
    tile_add_transposed(l->kp, l->vp, LEARN_RUN, n->weighted, l->kp, r->dy, l->vp,
                        l->places ? gw : gm, l->vp);
    learn_scale(n->a, n->q, l->kp, n->weighted);
    tile_add_transposed(l->kp, l->vp, LEARN_RUN, n->weighted, l->kp, r->dy, l->vp, gs, l->vp);
    tile_add_transposed(l->kp, l->vp, LEARN_RUN, n->k, l->kp, r->dz, l->vp, gw, l->vp);
}

/* A mini-batch began with this run; before: the states before that. */
static void back_begin(const learn_head *l, const float *before, room *r, const parts *p)
{
    float *gw = r->grad, *gs = gw + l->n, *gm = gs + l->n;
    if (!l->places) {
        CPU_SIMD
        for (int64_t i = 0; i < l->n; i++) {
            gm[i] += gw[i];
            gw[i] = 0;
        }
        return;
    }
    float last = learn_position(l, l->places - 1);
    p->position[l->places - 1] += dot(gw, before + l->n, l->n);
    CPU_SIMD
    for (int64_t i = 0; i < l->n; i++) gs[i] = last * gw[i];
}

/* Element d of token t in x (batch seq heads n) = from[d step]; NULL: 0 */
static void put(const learn_head *l, const lmoe_buf *x, int64_t t, int64_t n, const float *from,
                int64_t step)
{
    if (!lmoe_buf_present(x)) return;
    float *to = learn_row(l, x, t, n);
    for (int64_t d = 0; d < n; d++) to[d] = from ? from[d * step] : 0;
}

/* Token i of the run; r NULL: a skipped one. */
static void put_token(const lmoe_args *a, const learn_head *l, int64_t t, int64_t i, const room *r)
{
    float momentum = r ? r->run.keep[i] * r->d.keep[i] : 0;
    float decay = r ? r->run.fade[i] * r->d.fade[i] : 0;
    put(l, &a->out[DQ], t, l->k, r ? r->dq + i : NULL, LEARN_RUN);
    put(l, &a->out[DK], t, l->k, r ? r->dk + i : NULL, LEARN_RUN);
    put(l, &a->out[DTARGET], t, l->v, r ? r->dtarget + i * l->vp : NULL, 1);
    put(l, &a->out[DLR], t, 1, r ? &r->d.lr[i] : NULL, 1);
    put(l, &a->out[DMOMENTUM], t, 1, &momentum, 1);
    put(l, &a->out[DDECAY], t, 1, &decay, 1);
}

static void back_run(const lmoe_args *a, const learn_head *l, int64_t t, const float *before,
                     room *r, const parts *p)
{
    learn_run *n = &r->run;
    memcpy(r->state, before, sizeof(float) * (size_t)learn_state(l));
    learn_enter_run(l, t, r->state, n);
    learn_rows(l, &l->in[DY], n, l->v, r->dy);
    back_pairs(l, r);
    back_u(l, r, p);
    back_qk(l, r);
    back_reads(l, r);
    back_coefficients(l, r);
    back_states(l, r);
    for (int64_t i = 0; i < n->tokens; i++) {
        if (l->places) p->position[learn_place(l, t + i)] += r->d.tau[i];
        put_token(a, l, t + i, i, r);
    }
    if (n->first) back_begin(l, before, r, p);
}

/* ---- a head ---- */

/* The gradients of W and M, times f, are gradients of `initial`. */
static void give_initial(const learn_head *l, const room *r, float f, float *initial)
{
    const float *gw = r->grad, *gm = gw + 2 * l->n;
    for (int64_t i = 0; i < l->k; i++) {
        CPU_SIMD
        for (int64_t j = 0; j < l->v; j++)
            initial[i * l->v + j] += f * (gw[i * l->vp + j] + gm[i * l->vp + j]);
    }
}

/* The states after the run at t, from those before; returns its tokens. */
static int64_t pass(const learn_head *l, int64_t t, room *r)
{
    if (learn_flag(l, LEARN_SKIP, t)) return 1;
    learn_enter_run(l, t, r->state, &r->run);
    learn_leave_run(l, r->state, &r->run);
    return r->run.tokens;
}

static void back_block(const lmoe_args *a, const learn_head *l, int64_t block, room *r,
                       const parts *p)
{
    int64_t begin[LEARN_RUN], runs = 0, size = learn_state(l);
    int64_t t = block * LEARN_RUN, end = cpu_min(t + LEARN_RUN, l->seq);
    memcpy(r->state, r->starts + block * size, sizeof(float) * (size_t)size);
    while (t < end) {
        if (learn_flag(l, LEARN_RESET, t)) learn_forget(l, r->state);
        memcpy(r->before + runs * size, r->state, sizeof(float) * (size_t)size);
        begin[runs++] = t;
        t += t + learn_tokens(l, t) < end ? pass(l, t, r) : LEARN_RUN;
    }
    for (int64_t i = runs - 1; i >= 0; i--) {
        if (learn_flag(l, LEARN_SKIP, begin[i]))
            put_token(a, l, begin[i], 0, NULL);
        else
            back_run(a, l, begin[i], r->before + i * size, r, p);
        if (!learn_flag(l, LEARN_RESET, begin[i])) continue;
        give_initial(l, r, 1.0f, p->initial);
        memset(r->grad, 0, sizeof(float) * (size_t)(3 * l->n));
    }
}

static void run_head(const lmoe_args *a, const learn_head *l, room *r, const parts *p)
{
    int64_t size = learn_state(l);
    const lmoe_buf *dcarry = &a->in[DCARRY], *out = &a->out[DCARRY_OUT];
    memset(p->position, 0, sizeof(float) * (size_t)l->places);
    memset(p->gamma, 0, sizeof(float) * (size_t)l->v);
    memset(p->beta, 0, sizeof(float) * (size_t)l->v);
    memset(p->initial, 0, sizeof(float) * (size_t)(l->k * l->v));
    learn_load(l, &a->in[FORWARD_CARRY], r->state);
    for (int64_t t = 0; t < l->seq;) {
        if (t % LEARN_RUN == 0)
            memcpy(r->starts + t / LEARN_RUN * size, r->state, sizeof(float) * (size_t)size);
        if (learn_flag(l, LEARN_RESET, t)) learn_forget(l, r->state);
        t += pass(l, t, r);
    }
    memset(r->grad, 0, sizeof(float) * (size_t)(3 * l->n));
    for (int64_t i = 0; i < l->slots && lmoe_buf_present(dcarry); i++)
        learn_add(l, learn_slot(l, dcarry, i), 1, r->grad + i * l->n);
    give_initial(l, r, -1.0f, p->initial); /* the carry holds differences from it */
    for (int64_t block = blocks(l) - 1; block >= 0; block--) back_block(a, l, block, r, p);
    give_initial(l, r, 1.0f, p->initial);
    for (int64_t s = 0; s < l->slots && lmoe_buf_present(out); s++) {
        for (int64_t i = 0; i < l->k; i++)
            memcpy(learn_slot(l, out, s) + i * l->v, r->grad + s * l->n + i * l->vp,
                   sizeof(float) * (size_t)l->v);
    }
}

static void run_heads(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    parts all;
    size_t shared = cut_parts(a, a->workspace, &all);
    for (int64_t i = begin; i < end; i++) {
        learn_head l = learn_enter(a, i);
        room r;
        size_t bytes = cut(&l, NULL, &r);
        cut(&l, (char *)a->workspace + shared + (size_t)thread * bytes, &r);
        parts mine = parts_of(&l, &all);
        run_head(a, &l, &r, &mine);
    }
}

/* to[i] = the sum over `parts` runs of n numbers */
static void sum_parts(const lmoe_buf *to, const float *from, int64_t count, int64_t n)
{
    if (!lmoe_buf_present(to)) return;
    float *y = to->data;
    memcpy(y, from, sizeof *y * (size_t)n);
    for (int64_t k = 1; k < count; k++) {
        CPU_SIMD
        for (int64_t i = 0; i < n; i++) y[i] += from[k * n + i];
    }
}

static lmoe_status launch(const lmoe_args *a)
{
    learn_head l = learn_enter(a, 0);
    int64_t batch = a->in[LEARN_K].dim[0];
    parts all;
    LMOE_TRY(lmoe_parallel(a->ctx, batch * l.heads, cpu_grain(l.seq * l.n), run_heads, (void *)a));
    cut_parts(a, a->workspace, &all);
    sum_parts(&a->out[DPOSITION], all.position, batch * l.heads, l.places);
    sum_parts(&a->out[DGAMMA], all.gamma, batch, l.heads * l.v);
    sum_parts(&a->out[DBETA], all.beta, batch, l.heads * l.v);
    sum_parts(&a->out[DINITIAL], all.initial, batch, l.heads * l.k * l.v);
    return LMOE_OK;
}

static size_t workspace(const lmoe_args *a)
{
    learn_head l = learn_enter(a, 0);
    room r;
    parts p;
    return cut_parts(a, NULL, &p) + (size_t)lmoe_threads(a->ctx) * cut(&l, NULL, &r);
}

static int can(const lmoe_args *a)
{
    return learn_can(a, DCARRY);
}

CPU_KERNEL(scan_learn_grad, 1, can, workspace, launch)
