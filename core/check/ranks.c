/* SPDX-License-Identifier: Apache-2.0
 * core/check/ranks.c: the same layer on one rank and on many.
 */
#include "core/check/ranks.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

enum { MOST_RANKS = 16, TIMEOUT = 60 };
static const double bar = 1e-10;

/* What one rank has to say: its parts of the gradients, and the whole of y and dx. */
typedef struct answer {
    double *y, *dx, **grad;
    int64_t *n;
} answer;

typedef struct team {
    lmoe__exam *x;
    const lmoe__form *form;
    const lmoe__sheet *s;
    const lmoe__ranks_case *c;
    const lmoe_strategy *strategy[3];
    void *options[3];
    int axes, ranks;
    const lmoe_comm *comm;
    void *comm_options, *group;
    const answer *want;
} team;

typedef struct rank {
    team *team;
    int rank;
    pthread_t thread;
    lmoe_ctx ctx;
    lmoe__verdict verdict; /* of this rank alone */
    lmoe_status status;
    double worst;
} rank;

const char *lmoe__ranks_text(lmoe__exam *x, const lmoe__ranks_case *c)
{
    const char *s = "";
    for (int i = 0; i < 3 && c->axis[i].name; i++)
        s = lmoe__arena_printf(x->arena, "%s%s%s:%d (%s)", s, i ? " " : "", c->axis[i].name,
                               c->axis[i].ranks, c->axis[i].strategy);
    return s;
}

/* ---- one rank ---- */

static bool run_lab(lmoe__exam *x, const team *t, const lmoe__mesh *mesh, lmoe__lab *l, answer *a)
{
    lmoe__sheet s = *t->s;
    const lmoe__lab_weights w = {x->seed, 0.2, LMOE_F64};
    const int64_t n = s.batch * s.seq * s.embed;
    if (!lmoe__lab_open_at(l, x, t->form, LMOE_F64, 0, mesh)) return false;
    s.y = LMOE_NEW_N(x->arena, double, n);
    s.dx = LMOE_NEW_N(x->arena, double, n);
    lmoe__program *p =
        lmoe__lab_program(l, s.batch, s.seq, t->c->run_flags | LMOE__RUN_GRADIENTS, 0);
    if (!p || !lmoe__lab_bind(l, &w) || !lmoe__lab_run(l, p, &s)) return false;
    *a = (answer){.y = s.y, .dx = s.dx};
    a->grad = LMOE_NEW_N(x->arena, double *, l->e.n_weights + 1);
    a->n = LMOE_NEW_N(x->arena, int64_t, l->e.n_weights + 1);
    for (int i = 0; i < l->e.n_weights; i++) a->grad[i] = lmoe__lab_grad(l, i, &a->n[i]);
    return true;
}

static void compare(rank *r, lmoe__exam *x, const char *name, const double *got, const double *want,
                    int64_t n, double size)
{
    double off = 0;
    for (int64_t i = 0; i < n; i++) off += (got[i] - want[i]) * (got[i] - want[i]);
    off = sqrt(off) / (size + 1e-9);
    if (!(off <= r->worst)) r->worst = off;
    if (!(off < bar))
        lmoe__check_fail(x, "%s is off by %.2g of its size on rank %d; allowed is %.0e", name, off,
                         r->rank, bar);
}

static void compare_all(rank *r, lmoe__exam *x, lmoe__lab *l, const answer *got)
{
    const answer *want = r->team->want;
    const lmoe__sheet *s = r->team->s;
    const int64_t n = s->batch * s->seq * s->embed;
    compare(r, x, "y", got->y, want->y, n, lmoe__norm(want->y, n));
    compare(r, x, "dx", got->dx, want->dx, n, lmoe__norm(want->dx, n));
    for (int i = 0; i < l->e.n_weights; i++) {
        if (!want->grad[i]) continue;
        double *part = LMOE_NEW_N(x->arena, double, want->n[i]);
        int64_t k = lmoe__lab_part(l, i, want->grad[i], part);
        const char *name = lmoe__arena_printf(x->arena, "the gradient of %s", l->e.weights[i].name);
        if (k != got->n[i])
            lmoe__check_fail(x, "%s has %lld elements on rank %d instead of %lld", name,
                             (long long)got->n[i], r->rank, (long long)k);
        else
            compare(r, x, name, got->grad[i], part, k, lmoe__norm(want->grad[i], want->n[i]));
    }
}

/* This rank's communicator of each axis: of the ranks that differ in it alone. */
static lmoe_status open_mesh(rank *r, void *world, lmoe__mesh *mesh)
{
    const team *t = r->team;
    int rest = r->rank;
    memset(mesh, 0, sizeof *mesh);
    mesh->count = t->axes;
    for (int i = t->axes - 1; i >= 0; i--) {
        lmoe__mesh_axis *a = &mesh->axis[i];
        *a = (lmoe__mesh_axis){.name = t->c->axis[i].name,
                               .index = i,
                               .ranks = t->c->axis[i].ranks,
                               .strategy = t->strategy[i],
                               .options = t->options[i]};
        a->rank = rest % a->ranks;
        rest /= a->ranks;
    }
    for (int i = 0; i < t->axes; i++) {
        int color = 0;
        for (int k = 0; k < t->axes; k++)
            if (k != i) color = color * mesh->axis[k].ranks + mesh->axis[k].rank;
        mesh->comm[i].comm = t->comm;
        LMOE_TRY(t->comm->split(world, color, mesh->axis[i].rank, &mesh->comm[i].handle));
    }
    return LMOE_OK;
}

static void *rank_main(void *p)
{
    rank *r = p;
    const team *t = r->team;
    lmoe__exam own = *t->x, *x = &own;
    lmoe__mesh mesh = {.count = 0};
    lmoe__lab l = {.open = false};
    answer a;
    void *world = NULL;
    const lmoe_comm_env env = {.size = sizeof env,
                               .rank = r->rank,
                               .ranks = t->ranks,
                               .group = t->group,
                               .timeout = TIMEOUT};
    lmoe__ctx_init(&r->ctx);
    own.ctx = &r->ctx;
    own.arena = lmoe__arena_new();
    own.verdict = &r->verdict;
    own.dev = NULL;
    r->status = t->comm->open(t->comm_options, &env, &world);
    if (r->status == LMOE_OK) r->status = open_mesh(r, world, &mesh);
    if (r->status == LMOE_OK && run_lab(x, t, &mesh, &l, &a)) compare_all(r, x, &l, &a);
    if (world && lmoe__check_failed(x)) t->comm->abort(world); /* whoever waits for it ends too */
    lmoe__lab_close(&l);
    for (int i = 0; i < mesh.count; i++)
        if (mesh.comm[i].handle) t->comm->close(mesh.comm[i].handle);
    if (world) t->comm->close(world);
    if (own.dev) own.device->close(own.dev);
    lmoe__arena_free(own.arena);
    return NULL;
}

/* ---- all ranks ---- */

static void *defaults(lmoe__exam *x, const lmoe_class *c)
{
    void *options = lmoe__arena_alloc(x->arena, c->options_size + 1);
    if (c->options) lmoe__options_default(c->options, options, x->arena);
    return options;
}

static const lmoe_class *find(lmoe__exam *x, const char *kind, const char *name)
{
    const lmoe_class *c = NULL;
    if (lmoe__registry_find(x->registry, x->ctx, kind, name, &c) == LMOE_OK) return c;
    lmoe__check_skip(x, "it is checked with %s: %s", name, x->ctx->message);
    lmoe__ctx_clear(x->ctx);
    return NULL;
}

static bool gather_team(lmoe__exam *x, team *t)
{
    t->comm = (const lmoe_comm *)(const void *)find(x, LMOE_KIND_COMM, "comm/loop");
    if (!t->comm) return false;
    t->comm_options = defaults(x, &t->comm->base);
    t->ranks = 1;
    for (; t->axes < 3 && t->c->axis[t->axes].name; t->axes++) {
        const lmoe_class *c = find(x, LMOE_KIND_STRATEGY, t->c->axis[t->axes].strategy);
        if (!c) return false;
        t->strategy[t->axes] = (const lmoe_strategy *)(const void *)c;
        t->options[t->axes] = c == x->class && x->options ? x->options : defaults(x, c);
        t->ranks *= t->c->axis[t->axes].ranks;
    }
    return t->ranks <= MOST_RANKS;
}

/* The failure that the others only heard of. */
static const rank *cause(const rank *r, int n)
{
    const rank *told = NULL;
    for (int i = 0; i < n; i++) {
        if (r[i].status == LMOE_OK && r[i].verdict.outcome != LMOE__FAIL) continue;
        if (!strstr(r[i].verdict.message, "abort") && r[i].status == LMOE_OK) return &r[i];
        told = &r[i];
    }
    return told;
}

bool lmoe__ranks_compare(lmoe__exam *x, const lmoe__form *f, const lmoe__sheet *s,
                         const lmoe__ranks_case *c, const char **refused, double *worst)
{
    team t = {.x = x, .form = f, .s = s, .c = c};
    lmoe__lab one;
    answer want;
    *refused = NULL;
    if (!gather_team(x, &t)) return false;
    t.want = &want;
    bool ok = run_lab(x, &t, NULL, &one, &want);
    lmoe__lab_close(&one);
    if (!ok) return false;
    rank *r = calloc((size_t)t.ranks, sizeof *r);
    ok = lmoe__check_ok(x, t.comm->group_create(t.comm_options, t.ranks, &t.group),
                        "making a group of ranks");
    int started = 0;
    for (; ok && started < t.ranks; started++) {
        r[started].team = &t;
        r[started].rank = started;
        ok = pthread_create(&r[started].thread, NULL, rank_main, &r[started]) == 0;
        if (!ok) lmoe__check_fail(x, "no thread for rank %d", started);
    }
    for (int i = 0; i < started; i++) pthread_join(r[i].thread, NULL);
    if (t.group) t.comm->group_destroy(t.group);
    const rank *bad = ok ? cause(r, started) : NULL;
    for (int i = 0; i < started; i++) *worst = fmax(*worst, r[i].worst);
    bool no = bad && (bad->ctx.status == LMOE_E_UNSUPPORTED || bad->ctx.status == LMOE_E_CONFIG);
    if (no)
        *refused = lmoe__arena_strdup(x->arena, bad->verdict.message);
    else if (bad)
        lmoe__check_fail(x, "%s: %s (%s)", lmoe__ranks_text(x, c),
                         bad->verdict.message[0] ? bad->verdict.message : "opening failed",
                         f->text);
    free(r);
    return ok && !lmoe__check_failed(x);
}
