/* SPDX-License-Identifier: Apache-2.0
 * core/train/world.c: the ranks of a run: their communicators, their threads, and signals.
 */
#include "core/train/train.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

/* ---- signals: held back and asked for, so that no handler interrupts anything and no state is
 * global ---- */

static void stop_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
}

void lmoe__signals_hold(void)
{
    sigset_t set;
    stop_signals(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

bool lmoe__signal_pending(void)
{
    sigset_t set;
    const struct timespec now = {0, 0};
    stop_signals(&set);
    return sigtimedwait(&set, NULL, &now) > 0;
}

/* ---- one rank ---- */

lmoe_status lmoe__rank_any(lmoe__rank *r, bool *flag)
{
    float f = *flag ? 1 : 0;
    if (!r->world) return LMOE_OK;
    const lmoe_comm *c = r->setup->comm;
    lmoe_status status = lmoe_all_reduce(c, r->world, &f, 1, LMOE_F32, LMOE_MAX, NULL);
    if (status != LMOE_OK)
        return lmoe_error(&r->ctx, status, "%s: %s", c->base.name, c->message(r->world));
    *flag = f > 0;
    return LMOE_OK;
}

/* Ranks that differ only in their place on axis i share its communicator. */
static lmoe_status split_axes(lmoe__rank *r, lmoe__mesh *mesh)
{
    const lmoe_comm *c = r->setup->comm;
    for (int i = 0; i < mesh->count; i++) {
        int inner = 1, color;
        for (int k = i + 1; k < mesh->count; k++) inner *= mesh->axis[k].ranks;
        color = r->rank / (inner * mesh->axis[i].ranks) * inner + r->rank % inner;
        mesh->comm[i].comm = c;
        lmoe_status status = c->split(r->world, color, mesh->axis[i].rank, &mesh->comm[i].handle);
        if (status != LMOE_OK)
            return lmoe_error(&r->ctx, status, "%s: %s", c->base.name, c->message(r->world));
    }
    return LMOE_OK;
}

typedef struct rank_thread {
    lmoe__rank rank;
    void *group;
    pthread_t thread;
    bool started;
} rank_thread;

static lmoe_status live(rank_thread *t)
{
    lmoe__rank *r = &t->rank;
    const lmoe__setup *s = r->setup;
    lmoe__mesh mesh;
    lmoe__setup_place(s, r->rank, &mesh);
    lmoe_comm_env env = {.size = sizeof env, .rank = r->rank, .ranks = s->world, .group = t->group};
    lmoe_status status = s->world > 1 ? s->comm->open(s->comm_options, &env, &r->world) : LMOE_OK;
    if (status != LMOE_OK)
        return lmoe_error(&r->ctx, status, "%s cannot be opened", s->comm->base.name);
    if (r->world) status = split_axes(r, &mesh);
    if (status == LMOE_OK) status = lmoe__rank_train(r, &mesh);
    if (status != LMOE_OK && r->world) s->comm->abort(r->world);
    for (int i = 0; i < mesh.count; i++) {
        if (mesh.comm[i].handle) s->comm->close(mesh.comm[i].handle);
    }
    if (r->world) s->comm->close(r->world);
    return status;
}

static void *thread_main(void *arg)
{
    rank_thread *t = arg;
    t->rank.status = live(t);
    return NULL;
}

/* A rank that has no thread to live in must not leave the others waiting for it. */
static void never_started(rank_thread *t, int error)
{
    const lmoe__setup *s = t->rank.setup;
    lmoe_comm_env env = {
        .size = sizeof env, .rank = t->rank.rank, .ranks = s->world, .group = t->group};
    t->rank.status = lmoe_error(&t->rank.ctx, LMOE_E_MEMORY,
                                "the system gives no thread to rank %d of %d (%s); take a smaller "
                                "[parallel] mesh, or raise the limits of processes and memory",
                                t->rank.rank, s->world, strerror(error));
    if (s->comm->open(s->comm_options, &env, &t->rank.world) != LMOE_OK) return;
    s->comm->abort(t->rank.world);
    s->comm->close(t->rank.world);
}

/* The rank whose failure is the cause: not one that was only told of another's. */
static const lmoe__rank *first_failure(const rank_thread *t, int n)
{
    const lmoe__rank *told = NULL;
    for (int i = 0; i < n; i++) {
        if (t[i].rank.status == LMOE_OK) continue;
        if (t[i].rank.status != LMOE_E_COMM) return &t[i].rank;
        if (!told) told = &t[i].rank;
    }
    return told;
}

static int threads_of(const lmoe__setup *s)
{
    if (s->world > 1) return 1; /* ranks share the cores: one thread each */
    return s->device->threads ? s->device->threads(s->device_options) : 1;
}

int lmoe__train(lmoe_ctx *ctx, const lmoe__setup *s)
{
    rank_thread *t = calloc((size_t)s->world, sizeof *t);
    void *group = NULL;
    int code = 0;
    int64_t resident = lmoe__process_bytes("VmRSS");
    if (s->world > 1 && s->comm->group_create(s->comm_options, s->world, &group) != LMOE_OK) {
        lmoe_error(ctx, LMOE_E_COMM, "%s cannot make a group of %d ranks", s->comm->base.name,
                   s->world);
        free(t);
        return 1;
    }
    for (int i = 0; i < s->world; i++) {
        lmoe__ctx_init(&t[i].rank.ctx);
        t[i].rank.ctx.log_level = ctx->log_level;
        t[i].rank.ctx.rank = t[i].rank.rank = i;
        t[i].rank.ctx.ranks = s->world;
        t[i].rank.ctx.team = lmoe__team_new(threads_of(s));
        t[i].rank.setup = s;
        t[i].rank.report.resident = resident;
        t[i].group = group;
        int error = i > 0 ? pthread_create(&t[i].thread, NULL, thread_main, &t[i]) : 0;
        t[i].started = i > 0 && error == 0;
        if (error) never_started(&t[i], error);
    }
    thread_main(&t[0]);
    for (int i = 1; i < s->world; i++) {
        if (t[i].started) pthread_join(t[i].thread, NULL);
    }
    const lmoe__rank *bad = first_failure(t, s->world);
    if (bad) {
        ctx->status = bad->ctx.status != LMOE_OK ? bad->ctx.status : bad->status;
        memcpy(ctx->message, bad->ctx.message, sizeof ctx->message);
        code = 1;
    } else if (t[0].rank.stop) {
        code = 75;
    }
    for (int i = 0; i < s->world; i++) {
        lmoe__rank_free(&t[i].rank);
        lmoe__team_free(t[i].rank.ctx.team);
    }
    if (group) s->comm->group_destroy(group);
    free(t);
    return code;
}
