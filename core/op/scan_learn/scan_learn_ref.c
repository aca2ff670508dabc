/* SPDX-License-Identifier: Apache-2.0
 * core/op/scan_learn/scan_learn_ref.c: reference kernels of scan_learn: token by token, in double.
 * The equations stand in scan_learn.c.
 */
#include "core/op/carry.h"

#include <math.h>
#include <stdlib.h>

enum {
    Q,
    K,
    TARGET,
    LR,
    PHASE,
    MOMENTUM,
    DECAY,
    POSITION,
    GAMMA,
    BETA,
    INITIAL,
    RESET,
    SKIP,
    CARRY
};
enum { DY = CARRY, FORWARD_CARRY, DCARRY };
enum { DQ, DK, DTARGET, DLR, DMOMENTUM, DDECAY, DPOSITION, DGAMMA, DBETA, DINITIAL, DCARRY_OUT };
enum { W, S, M, SLOTS }; /* the memory at the mini-batch's start, the step, the memory now */

/* One head of one sequence. */
typedef struct lane {
    const lmoe_buf *const *in;
    int64_t b, h, seq, heads, nk, nv, n, places, slots; /* n: of a matrix */
    double eps;
} lane;

static bool has(const lane *l, int port)
{
    return lmoe_buf_present(l->in[port]);
}

static int64_t token(const lane *l, int64_t t)
{
    return l->b * l->seq + t;
}

/* Index of (t, i) in a tensor (b s h n) */
static int64_t at(const lane *l, int64_t t, int64_t n, int64_t i)
{
    return (token(l, t) * l->heads + l->h) * n + i;
}

static double row(const lane *l, int port, int64_t t, int64_t n, int64_t i)
{
    return lmoe_get(l->in[port], at(l, t, n, i));
}

static double scalar(const lane *l, int port, int64_t t)
{
    return lmoe_get(l->in[port], at(l, t, 1, 0));
}

static double factor(const lane *l, int port, int64_t t)
{
    return has(l, port) ? exp(scalar(l, port, t)) : 1;
}

/* What is kept of S; without momentum the steps of a mini-batch with positions add up, and others
 * act once. */
static double kept(const lane *l, int64_t t)
{
    return has(l, MOMENTUM) ? factor(l, MOMENTUM, t) : has(l, POSITION) ? 1 : 0;
}

static int64_t place(const lane *l, int64_t t)
{
    int64_t i = (int64_t)lmoe_get(l->in[PHASE], token(l, t));
    return i < 0 ? 0 : has(l, POSITION) && i >= l->places ? l->places - 1 : i;
}

static double initial(const lane *l, int64_t i)
{
    return lmoe_get(l->in[INITIAL], l->h * l->n + i);
}

static int64_t slot(const lane *l, int p, int64_t i)
{
    return ((l->b * l->slots + p) * l->heads + l->h) * l->n + i;
}

/* ---- states: (SLOTS head_k head_v) doubles ---- */

static void forget(const lane *l, double *x)
{
    for (int64_t i = 0; i < l->n; i++) {
        x[W * l->n + i] = x[M * l->n + i] = initial(l, i);
        x[S * l->n + i] = 0;
    }
}

static void load(const lane *l, const lmoe_buf *carry, double *x)
{
    forget(l, x);
    for (int p = 0; p < l->slots && lmoe_buf_present(carry); p++) {
        for (int64_t i = 0; i < l->n; i++) x[p * l->n + i] += lmoe_get(carry, slot(l, p, i));
    }
}

static void store(const lane *l, const lmoe_buf *carry, const double *x)
{
    for (int p = 0; p < l->slots; p++) {
        for (int64_t i = 0; i < l->n; i++)
            lmoe_put(carry, slot(l, p, i), x[p * l->n + i] - (p == S ? 0 : initial(l, i)));
    }
}

/* A mini-batch begins. */
static void begin(const lane *l, double *x)
{
    for (int64_t i = 0; i < l->n; i++) {
        double *w = x + W * l->n + i, *s = x + S * l->n + i;
        if (has(l, POSITION)) {
            *w += lmoe_get(l->in[POSITION], l->places - 1) * *s;
            *s = 0;
        } else {
            *w = x[M * l->n + i];
        }
    }
}

/* ---- the loss ---- */

/* Of one token, rows of head_v numbers: prediction, target, what the norm makes of it before gamma
 * (x), the error behind it (e), gamma times that (g), and the loss's derivative by z (u). */
enum { ROWS = 9 };

typedef struct loss {
    double *z, *target, *x, *e, *g, *u, *du, *dz, *dtarget;
    double sigma;
} loss;

static double mean(const double *a, const double *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += b ? a[i] * b[i] : a[i];
    return sum / (double)n;
}

/* (a - mean(a) - x mean(a x)) / sigma: the derivative of the norm, times a */
static void through_norm(const lane *l, const loss *o, const double *a, double *to)
{
    double m = mean(a, NULL, l->nv), mx = mean(a, o->x, l->nv);
    for (int64_t i = 0; i < l->nv; i++) to[i] = (a[i] - m - o->x[i] * mx) / o->sigma;
}

static void learn(const lane *l, int64_t t, const double *w, loss *o)
{
    for (int64_t j = 0; j < l->nv; j++) {
        o->z[j] = 0;
        o->target[j] = row(l, TARGET, t, l->nv, j);
        for (int64_t i = 0; i < l->nk; i++) o->z[j] += row(l, K, t, l->nk, i) * w[i * l->nv + j];
        o->u[j] = o->z[j] - o->target[j];
    }
    if (!has(l, GAMMA)) return;
    double m = mean(o->z, NULL, l->nv), var = 0;
    for (int64_t j = 0; j < l->nv; j++) var += (o->z[j] - m) * (o->z[j] - m) / (double)l->nv;
    o->sigma = sqrt(var + l->eps);
    for (int64_t j = 0; j < l->nv; j++) {
        double gamma = lmoe_get(l->in[GAMMA], l->h * l->nv + j);
        o->x[j] = (o->z[j] - m) / o->sigma;
        o->e[j] = gamma * o->x[j] + lmoe_get(l->in[BETA], l->h * l->nv + j) - o->target[j];
        o->g[j] = gamma * o->e[j];
    }
    through_norm(l, o, o->g, o->u);
}

/* From du: dz, dtarget, and what gamma and beta get. */
static void learn_back(const lane *l, const loss *o, double *dgamma, double *dbeta)
{
    if (!has(l, GAMMA)) {
        for (int64_t j = 0; j < l->nv; j++) {
            o->dz[j] = o->du[j];
            o->dtarget[j] = -o->du[j];
        }
        return;
    }
    double *dg = o->dtarget, *dx = o->dz; /* on the way */
    double gx = mean(o->g, o->x, l->nv), dux = mean(o->du, o->x, l->nv);
    double dsigma = -mean(o->du, o->u, l->nv) * (double)l->nv / o->sigma;
    through_norm(l, o, o->du, dg);
    for (int64_t j = 0; j < l->nv; j++) {
        double gamma = lmoe_get(l->in[GAMMA], l->h * l->nv + j);
        dx[j] = dg[j] * gamma * gamma - (o->du[j] * gx + o->g[j] * dux) / o->sigma;
        dgamma[l->h * l->nv + j] += dg[j] * (gamma * o->x[j] + o->e[j]);
        dbeta[l->h * l->nv + j] += dg[j] * gamma;
        dg[j] *= -gamma;
    }
    double m = mean(dx, NULL, l->nv), mx = mean(dx, o->x, l->nv);
    for (int64_t j = 0; j < l->nv; j++)
        dx[j] = (dx[j] - m - o->x[j] * mx) / o->sigma + dsigma * o->x[j] / (double)l->nv;
}

/* ---- the op ---- */

/* The states after token t (which is not skipped); x is changed. */
static void step(const lane *l, int64_t t, double *x, loss *o)
{
    double keep = kept(l, t), fade = factor(l, DECAY, t), lr = scalar(l, LR, t);
    if (place(l, t) == 0) begin(l, x);
    learn(l, t, x + W * l->n, o);
    for (int64_t i = 0; i < l->n; i++) {
        double *s = x + S * l->n + i, *m = x + M * l->n + i;
        *s = keep * *s - lr * row(l, K, t, l->nk, i / l->nv) * o->u[i % l->nv];
        *m = fade * *m + *s;
    }
}

/* What token t reads: element i of the memory. */
static double memory(const lane *l, int64_t t, const double *x, int64_t i)
{
    if (!has(l, POSITION)) return x[M * l->n + i];
    return x[W * l->n + i] + lmoe_get(l->in[POSITION], place(l, t)) * x[S * l->n + i];
}

static lane lane_of(const lmoe_args *a, const lmoe_buf *const *in)
{
    lane l = {.in = in, .seq = in[K]->dim[1], .heads = in[K]->dim[2]};
    l.nk = in[K]->dim[3];
    l.nv = in[TARGET]->dim[3];
    l.n = l.nk * l.nv;
    l.places = lmoe_buf_present(in[POSITION]) ? in[POSITION]->dim[0] : 0;
    l.slots = l.places ? 2 : 3;
    l.eps = ((const lmoe_scan_learn_attrs *)a->attrs)->eps;
    return l;
}

static void cut_loss(const lane *l, double *memory_, loss *o)
{
    double **rows[] = {&o->z, &o->target, &o->x, &o->e, &o->g, &o->u, &o->du, &o->dz, &o->dtarget};
    for (int i = 0; i < ROWS; i++) *rows[i] = memory_ + i * l->nv;
}

lmoe_status lmoe__scan_learn_ref(const lmoe_args *a)
{
    const lmoe_buf *in[CARRY + 1];
    for (int i = 0; i <= CARRY; i++) in[i] = lmoe__buf_at(a->in, a->n_in, i);
    lane l = lane_of(a, in);
    loss o;
    double *x = lmoe__ref_doubles(a, SLOTS * l.n + ROWS * l.nv);
    if (!x) return LMOE_E_MEMORY;
    cut_loss(&l, x + SLOTS * l.n, &o);
    for (int64_t lane_i = 0; lane_i < in[K]->dim[0] * l.heads; lane_i++) {
        l.b = lane_i / l.heads;
        l.h = lane_i % l.heads;
        load(&l, in[CARRY], x);
        for (int64_t t = 0; t < l.seq; t++) {
            bool skip = lmoe__flag(in[SKIP], token(&l, t));
            if (lmoe__flag(in[RESET], token(&l, t))) forget(&l, x);
            if (!skip) step(&l, t, x, &o);
            for (int64_t j = 0; j < l.nv; j++) {
                double y = 0;
                for (int64_t i = 0; i < l.nk && !skip; i++)
                    y += row(&l, Q, t, l.nk, i) * memory(&l, t, x, i * l.nv + j);
                lmoe_put(&a->out[0], at(&l, t, l.nv, j), y);
            }
        }
        store(&l, &a->out[1], x);
    }
    free(x);
    return LMOE_OK;
}

/* ---- its derivative ---- */

/* Token t: before: states before it; x: room for those after; g: gradients of the states, from after
 * to before. */
static void grad_token(const lane *l, int64_t t, const double *before, double *x, double *g,
                       loss *o, double *const *sum)
{
    double keep = kept(l, t), fade = factor(l, DECAY, t), lr = scalar(l, LR, t);
    double *gw = g + W * l->n, *gs = g + S * l->n, *gm = g + M * l->n;
    double dlr = 0, dkeep = 0, dfade = 0, dplace = 0;
    bool first = place(l, t) == 0, placed = has(l, POSITION);
    double tau = placed ? lmoe_get(l->in[POSITION], place(l, t)) : 0;
    memcpy(x, before, sizeof *x * (size_t)(SLOTS * l->n));
    step(l, t, x, o);
    memset(o->du, 0, sizeof *o->du * (size_t)l->nv);
    for (int64_t i = 0; i < l->n; i++) {
        double q = row(l, Q, t, l->nk, i / l->nv), k = row(l, K, t, l->nk, i / l->nv);
        double dy = row(l, DY, t, l->nv, i % l->nv), u = o->u[i % l->nv];
        double s = placed && first ? 0 : before[S * l->n + i], m = before[M * l->n + i];
        sum[DQ][at(l, t, l->nk, i / l->nv)] += memory(l, t, x, i) * dy;
        if (placed) {
            dplace += q * x[S * l->n + i] * dy;
            gw[i] += q * dy;
            gs[i] += tau * q * dy;
        } else {
            gm[i] += q * dy;
            gs[i] += gm[i];
            dfade += fade == 0 ? 0 : fade * gm[i] * m;
            gm[i] *= fade;
        }
        dlr -= k * gs[i] * u;
        dkeep += keep == 0 ? 0 : keep * gs[i] * s;
        o->du[i % l->nv] -= lr * k * gs[i];
        sum[DK][at(l, t, l->nk, i / l->nv)] -= lr * gs[i] * u;
        gs[i] *= keep;
    }
    learn_back(l, o, sum[DGAMMA], sum[DBETA]);
    for (int64_t i = 0; i < l->n; i++) {
        sum[DK][at(l, t, l->nk, i / l->nv)] += x[W * l->n + i] * o->dz[i % l->nv];
        gw[i] += row(l, K, t, l->nk, i / l->nv) * o->dz[i % l->nv];
    }
    for (int64_t j = 0; j < l->nv; j++) sum[DTARGET][at(l, t, l->nv, j)] = o->dtarget[j];
    sum[DLR][at(l, t, 1, 0)] = dlr;
    if (has(l, MOMENTUM)) sum[DMOMENTUM][at(l, t, 1, 0)] = dkeep;
    if (has(l, DECAY)) sum[DDECAY][at(l, t, 1, 0)] = dfade;
    if (placed) sum[DPOSITION][place(l, t)] += dplace;
    for (int64_t i = 0; first && i < l->n; i++) {
        if (placed) {
            sum[DPOSITION][l->places - 1] += gw[i] * before[S * l->n + i];
            gs[i] = lmoe_get(l->in[POSITION], l->places - 1) * gw[i];
        } else {
            gm[i] += gw[i];
            gw[i] = 0;
        }
    }
}

/* The gradients of W and M, times sign, are gradients of `initial`. */
static void give_initial(const lane *l, const double *g, double sign, double *dinitial)
{
    for (int64_t i = 0; i < l->n; i++)
        dinitial[l->h * l->n + i] += sign * (g[W * l->n + i] + g[M * l->n + i]);
}

static void grad_lane(const lane *l, const lmoe_args *a, double *before, double *x, double *g,
                      loss *o, double *const *sum)
{
    int64_t n = SLOTS * l->n;
    load(l, l->in[FORWARD_CARRY], x);
    for (int64_t t = 0; t < l->seq; t++) {
        if (lmoe__flag(l->in[RESET], token(l, t))) forget(l, x);
        memcpy(before + t * n, x, sizeof *x * (size_t)n);
        if (!lmoe__flag(l->in[SKIP], token(l, t))) step(l, t, x, o);
    }
    memset(g, 0, sizeof *g * (size_t)n);
    for (int64_t i = 0; i < l->slots * l->n && lmoe_buf_present(l->in[DCARRY]); i++)
        g[i] = lmoe_get(l->in[DCARRY], slot(l, (int)(i / l->n), i % l->n));
    give_initial(l, g, -1, sum[DINITIAL]); /* the carry holds differences from it */
    for (int64_t t = l->seq - 1; t >= 0; t--) {
        if (!lmoe__flag(l->in[SKIP], token(l, t))) grad_token(l, t, before + t * n, x, g, o, sum);
        if (!lmoe__flag(l->in[RESET], token(l, t))) continue;
        give_initial(l, g, 1, sum[DINITIAL]);
        memset(g, 0, sizeof *g * (size_t)n);
    }
    give_initial(l, g, 1, sum[DINITIAL]);
    for (int64_t i = 0; i < l->slots * l->n; i++)
        lmoe_put(&a->out[DCARRY_OUT], slot(l, (int)(i / l->n), i % l->n), g[i]);
}

lmoe_status lmoe__scan_learn_grad_ref(const lmoe_args *a)
{
    const lmoe_buf *in[DCARRY + 1];
    for (int i = 0; i <= DCARRY; i++) in[i] = &a->in[i];
    lane l = lane_of(a, in);
    loss o;
    int64_t count[DCARRY_OUT], total = 0;
    for (int i = Q, k = DQ; i <= INITIAL; i++) {
        if (i == PHASE) continue;
        count[k] = lmoe_buf_present(in[i]) ? lmoe_buf_count(in[i]) : 0;
        total += count[k++];
    }
    double *all = lmoe__ref_doubles(a, total + SLOTS * l.n * (l.seq + 2) + ROWS * l.nv);
    double *sum[DCARRY_OUT], *cursor = all;
    if (!all) return LMOE_E_MEMORY;
    for (int i = 0; i < DCARRY_OUT; cursor += count[i++]) sum[i] = cursor;
    double *x = cursor, *g = x + SLOTS * l.n, *before = g + SLOTS * l.n;
    cut_loss(&l, before + SLOTS * l.n * l.seq, &o);
    for (int64_t i = 0; i < in[K]->dim[0] * l.heads; i++) {
        l.b = i / l.heads;
        l.h = i % l.heads;
        grad_lane(&l, a, before, x, g, &o, sum);
    }
    for (int k = 0; k < DCARRY_OUT; k++) {
        for (int64_t i = 0; i < count[k]; i++) lmoe_put(&a->out[k], i, sum[k][i]);
    }
    free(all);
    return LMOE_OK;
}
