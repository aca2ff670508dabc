/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/scan_learn_grad.c: scan_learn_grad/1 (learn.h): states are kept at the start of
 * each block of tokens and made again within it, then the block is walked from its end.
 *
 * gW, gS, gM: gradients of the states. For a token, from behind:
 *   with position: r = W + position S, gW += q dy^T, gS += position q dy^T
 *   without:       r = M, gM += q dy^T, gS += gM, ddecay = fade <gM, M before>, gM <- fade gM
 *   dq = r dy   dlr = -k^T gS u   dk = -lr gS u   du = -lr k^T gS   dmomentum = keep <gS, S before>
 *   gS <- keep gS ; du gives dz, dtarget, dgamma, dbeta ; dk += W dz , gW += k dz^T
 *   where a mini-batch begins: gS <- position_last gW, or gM += gW, gW <- 0
 */
#include "learn.h"

enum { DY = LEARN_CARRY, FORWARD_CARRY, DCARRY };
enum { DQ, DK, DTARGET, DLR, DMOMENTUM, DDECAY, DPOSITION, DGAMMA, DBETA, DINITIAL, DCARRY_OUT };
enum { LEARN_BLOCK = 16 };

/* One thread's memory. */
typedef struct room {
    float *starts;       /* (block state) */
    float *before;       /* (token state) of a block */
    float *state, *grad; /* W, S, M and their gradients */
    float *du, *dz, *dtarget, *dq, *dk;
    learn_loss loss;
} room;

static int64_t blocks(const learn_head *l)
{
    return (l->seq + LEARN_BLOCK - 1) / LEARN_BLOCK;
}

static size_t cut(const learn_head *l, char *memory, room *r)
{
    char *cursor = memory;
    int64_t state = learn_state(l);
    r->starts = cpu_take(&cursor, blocks(l) * state);
    r->before = cpu_take(&cursor, LEARN_BLOCK * state);
    r->state = cpu_take(&cursor, state);
    r->grad = cpu_take(&cursor, 3 * l->n);
    float **of_v[] = {&r->du, &r->dz, &r->dtarget}, **of_k[] = {&r->dq, &r->dk};
    for (int i = 0; i < 3; i++) *of_v[i] = cpu_take(&cursor, l->v);
    for (int i = 0; i < 2; i++) *of_k[i] = cpu_take(&cursor, l->k);
    learn_cut_loss(l, &cursor, &r->loss);
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
    p->initial = cpu_take(&cursor, all * l.n);
    return (size_t)(cursor - memory);
}

/* One head's share of them. */
static parts parts_of(const learn_head *l, const parts *p)
{
    int64_t i = l->b * l->heads + l->h;
    return (parts){p->position + i * l->places, p->gamma + i * l->v, p->beta + i * l->v,
                   p->initial + i * l->n};
}

/* From du: dz and dtarget, and what gamma and beta get. */
static void back_loss(const learn_head *l, room *r, const parts *p)
{
    const learn_loss *o = &r->loss;
    float *dg = r->dtarget, *dx = r->dz;
    if (!lmoe_buf_present(&l->in[LEARN_GAMMA])) {
        for (int64_t j = 0; j < l->v; j++) {
            dx[j] = r->du[j];
            dg[j] = -r->du[j];
        }
        return;
    }
    const float *gamma = (const float *)l->in[LEARN_GAMMA].data + l->h * l->v;
    float gx = learn_mean(o->g, o->x, l->v), dux = learn_mean(r->du, o->x, l->v);
    float f = 1.0f / o->sigma, dsigma = -learn_mean(r->du, o->u, l->v) * f;
    learn_through_norm(l, o, r->du, dg);
    CPU_SIMD
    for (int64_t j = 0; j < l->v; j++) {
        dx[j] = dg[j] * gamma[j] * gamma[j] - (r->du[j] * gx + o->g[j] * dux) * f;
        p->gamma[j] += dg[j] * (gamma[j] * o->x[j] + o->e[j]);
        p->beta[j] += dg[j] * gamma[j];
        dg[j] *= -gamma[j];
    }
    float m = learn_mean_of(dx, l->v), mx = learn_mean(dx, o->x, l->v);
    CPU_SIMD
    for (int64_t j = 0; j < l->v; j++) dx[j] = (dx[j] - m - o->x[j] * mx) * f + dsigma * o->x[j];
}

/* Scalars of a token. */
typedef struct token {
    float keep, fade, lr, tau, dlr, dkeep, dfade, dtau;
    int first;
} token;

/* Row i of the matrices: gradients by q_i, k_i, u and the states. before, after: W, S, M. */
static void back_row(const learn_head *l, int64_t t, int64_t i, const float *before,
                     const float *after, room *r, token *o)
{
    const float *dy = learn_row(l, &l->in[DY], t, l->v), *u = r->loss.u;
    float q = learn_row(l, &l->in[LEARN_Q], t, l->k)[i];
    float k = learn_row(l, &l->in[LEARN_K], t, l->k)[i], f = -o->lr * k;
    const float *w = after + i * l->v, *s = w + l->n, *m = l->places ? s : s + l->n;
    const float *s_before = before + i * l->v + l->n;
    const float *m_before = l->places ? s_before : s_before + l->n;
    float *gw = r->grad + i * l->v, *gs = gw + l->n, *gm = gs + l->n;
    float dq = 0, gsu = 0, gss = 0, gmm = 0, qs = 0;
    if (l->places) {
        CPU_PRAGMA(omp simd reduction(+ : dq, qs))
        for (int64_t j = 0; j < l->v; j++) {
            dq += (w[j] + o->tau * s[j]) * dy[j];
            qs += s[j] * dy[j];
            gw[j] += q * dy[j];
            gs[j] += o->tau * (q * dy[j]);
        }
    } else {
        CPU_PRAGMA(omp simd reduction(+ : dq, gmm))
        for (int64_t j = 0; j < l->v; j++) {
            dq += m[j] * dy[j];
            float g = gm[j] + q * dy[j];
            gs[j] += g;
            gmm += g * m_before[j];
            gm[j] = o->fade * g;
        }
    }
    CPU_PRAGMA(omp simd reduction(+ : gsu, gss))
    for (int64_t j = 0; j < l->v; j++) {
        gsu += gs[j] * u[j];
        gss += gs[j] * s_before[j];
        r->du[j] += f * gs[j];
        gs[j] *= o->keep;
    }
    r->dq[i] = dq;
    r->dk[i] = -o->lr * gsu;
    o->dlr -= k * gsu;
    o->dtau += q * qs;
    o->dfade += gmm;
    o->dkeep += l->places && o->first ? 0.0f : gss;
}

/* A mini-batch began at this token; before: the states before that. */
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
    float last = learn_position(l, l->places - 1), sum = 0;
    CPU_SIMD_SUM(sum)
    for (int64_t i = 0; i < l->n; i++) {
        sum += gw[i] * before[l->n + i];
        gs[i] = last * gw[i];
    }
    p->position[l->places - 1] += sum;
}

static void put(const learn_head *l, const lmoe_buf *x, int64_t t, int64_t n, const float *from)
{
    if (!lmoe_buf_present(x)) return;
    float *to = learn_row(l, x, t, n);
    for (int64_t i = 0; i < n; i++) to[i] = from ? from[i] : 0;
}

static void put_token(const lmoe_args *a, const learn_head *l, int64_t t, const room *r,
                      const token *o)
{
    float momentum = o ? o->keep * o->dkeep : 0, decay = o ? o->fade * o->dfade : 0;
    put(l, &a->out[DQ], t, l->k, o ? r->dq : NULL);
    put(l, &a->out[DK], t, l->k, o ? r->dk : NULL);
    put(l, &a->out[DTARGET], t, l->v, o ? r->dtarget : NULL);
    put(l, &a->out[DLR], t, 1, o ? &o->dlr : NULL);
    put(l, &a->out[DMOMENTUM], t, 1, &momentum);
    put(l, &a->out[DDECAY], t, 1, &decay);
}

static void back_token(const lmoe_args *a, const learn_head *l, int64_t t, const float *before,
                       room *r, const parts *p)
{
    token o = {.keep = learn_keep(l, t), .fade = learn_factor(l, LEARN_DECAY, t, 1.0f)};
    o.lr = *learn_row(l, &l->in[LEARN_LR], t, 1);
    o.tau = l->places ? learn_position(l, learn_place(l, t)) : 0.0f;
    o.first = learn_place(l, t) == 0;
    memcpy(r->state, before, sizeof(float) * (size_t)learn_state(l));
    learn_step(l, t, r->state, &r->loss, NULL);
    memset(r->du, 0, sizeof(float) * (size_t)l->v);
    for (int64_t i = 0; i < l->k; i++) back_row(l, t, i, before, r->state, r, &o);
    back_loss(l, r, p);
    const float *k = learn_row(l, &l->in[LEARN_K], t, l->k);
    for (int64_t i = 0; i < l->k; i++) {
        const float *w = r->state + i * l->v;
        float *gw = r->grad + i * l->v, sum = 0;
        CPU_SIMD_SUM(sum)
        for (int64_t j = 0; j < l->v; j++) {
            sum += w[j] * r->dz[j];
            gw[j] += k[i] * r->dz[j];
        }
        r->dk[i] += sum;
    }
    if (l->places) p->position[learn_place(l, t)] += o.dtau;
    if (o.first) back_begin(l, before, r, p);
    put_token(a, l, t, r, &o);
}

/* The gradients of W and M, times f, are gradients of `initial`. */
static void give_initial(const learn_head *l, const room *r, float f, float *initial)
{
    const float *gw = r->grad, *gm = gw + 2 * l->n;
    CPU_SIMD
    for (int64_t i = 0; i < l->n; i++) initial[i] += f * (gw[i] + gm[i]);
}

static void back_block(const lmoe_args *a, const learn_head *l, int64_t block, room *r,
                       const parts *p)
{
    int64_t begin = block * LEARN_BLOCK, tokens = cpu_min(LEARN_BLOCK, l->seq - begin);
    int64_t size = learn_state(l);
    memcpy(r->state, r->starts + block * size, sizeof(float) * (size_t)size);
    for (int64_t i = 0; i < tokens; i++) {
        if (learn_flag(l, LEARN_RESET, begin + i)) learn_forget(l, r->state);
        memcpy(r->before + i * size, r->state, sizeof(float) * (size_t)size);
        if (!learn_flag(l, LEARN_SKIP, begin + i) && i + 1 < tokens)
            learn_step(l, begin + i, r->state, &r->loss, NULL);
    }
    for (int64_t i = tokens - 1; i >= 0; i--) {
        if (learn_flag(l, LEARN_SKIP, begin + i))
            put_token(a, l, begin + i, r, NULL);
        else
            back_token(a, l, begin + i, r->before + i * size, r, p);
        if (!learn_flag(l, LEARN_RESET, begin + i)) continue;
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
    memset(p->initial, 0, sizeof(float) * (size_t)l->n);
    learn_load(l, &a->in[FORWARD_CARRY], r->state);
    for (int64_t t = 0; t < l->seq; t++) {
        if (t % LEARN_BLOCK == 0)
            memcpy(r->starts + t / LEARN_BLOCK * size, r->state, sizeof(float) * (size_t)size);
        if (learn_flag(l, LEARN_RESET, t)) learn_forget(l, r->state);
        if (!learn_flag(l, LEARN_SKIP, t)) learn_step(l, t, r->state, &r->loss, NULL);
    }
    memset(r->grad, 0, sizeof(float) * (size_t)(3 * l->n));
    for (int64_t i = 0; i < l->slots && lmoe_buf_present(dcarry); i++)
        memcpy(r->grad + i * l->n, learn_slot(l, dcarry, i), sizeof(float) * (size_t)l->n);
    give_initial(l, r, -1.0f, p->initial); /* the carry holds differences from it */
    for (int64_t block = blocks(l) - 1; block >= 0; block--) back_block(a, l, block, r, p);
    give_initial(l, r, 1.0f, p->initial);
    for (int64_t i = 0; i < l->slots && lmoe_buf_present(out); i++)
        memcpy(learn_slot(l, out, i), r->grad + i * l->n, sizeof(float) * (size_t)l->n);
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
    sum_parts(&a->out[DINITIAL], all.initial, batch, l.heads * l.n);
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
