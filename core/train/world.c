/* SPDX-License-Identifier: Apache-2.0
 * core/train/world.c: the ranks of a run: their communicators, their threads, how they end, and
 * signals.
 */
#include "core/train/train.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

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

/* ---- one rank's life ---- */

static lmoe_status open_world(lmoe__rank *r, const lmoe__place *place, void *group)
{
    const lmoe__setup *s = r->setup;
    const lmoe_comm_env env = {.size = sizeof env,
                               .rank = r->rank,
                               .ranks = s->world,
                               .group = group,
                               .timeout = s->comm_timeout,
                               .local_rank = place->local_rank,
                               .local_ranks = place->local_ranks};
    void *world = NULL;
    lmoe_status status = s->comm->open(s->comm_options, &env, &world);
    if (status != LMOE_OK) {
        lmoe_error(&r->ctx, status, "%s cannot be opened: %s", s->comm->base.name,
                   s->comm->message(world));
        if (world) s->comm->close(world);
        return status;
    }
    r->world = world;
    return LMOE_OK;
}

static lmoe_status work(lmoe__rank *r, lmoe__mesh *mesh)
{
    if (r->world) LMOE_TRY(split_axes(r, mesh));
    return lmoe__rank_train(r, mesh);
}

/* The device comes first: some communicators exchange its memory. A rank without a device still
 * joins the others, to tell them. */
static void live(lmoe__rank *r, const lmoe__place *place, void *group)
{
    const lmoe__setup *s = r->setup;
    lmoe__mesh mesh;
    lmoe__setup_place(s, r->rank, &mesh);
    lmoe_status status = s->device->open(&r->ctx, s->device_options, &r->dev);
    lmoe_status joined = s->world > 1 ? open_world(r, place, group) : LMOE_OK;
    if (status == LMOE_OK) status = joined;
    if (status == LMOE_OK) status = work(r, &mesh);
    if (status != LMOE_OK && r->world) {
        /* to abort may end the process, so a process speaks first */
        if (!group) lmoe__log(&r->ctx, LMOE_LOG_ERROR, "%s", r->ctx.message);
        s->comm->abort(r->world);
    }
    for (int i = 0; i < mesh.count; i++) {
        if (mesh.comm[i].handle) s->comm->close(mesh.comm[i].handle);
    }
    if (r->world) s->comm->close(r->world);
    r->status = status;
}

/* Threads that compute. Ranks that are threads share the cores, one each; so do the processes of
 * one machine, if their launcher has not divided the cores already. */
static int threads_of(const lmoe__setup *s, const lmoe__place *place)
{
    int n = s->device->threads ? s->device->threads(s->device_options) : 1;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (s->world == 1) return n;
    if (s->comm->base.flags & LMOE_COMM_THREADS) return 1;
    if ((long)n * place->local_ranks <= cores) return n;
    return cores >= place->local_ranks ? (int)(cores / place->local_ranks) : 1;
}

static void prepare(lmoe__rank *r, const lmoe_ctx *ctx, const lmoe__setup *s,
                    const lmoe__place *place, int rank)
{
    lmoe__ctx_init(&r->ctx);
    r->ctx.log_level = ctx->log_level;
    r->ctx.rank = r->rank = rank;
    r->ctx.ranks = s->world;
    r->ctx.team = lmoe__team_new(threads_of(s, place));
    r->setup = s;
    r->report.resident = lmoe__process_bytes("VmRSS");
}

static void release(lmoe__rank *r)
{
    lmoe__rank_free(r);
    lmoe__team_free(r->ctx.team);
}

static int exit_code(const lmoe__rank *r)
{
    return r->status != LMOE_OK ? 1 : r->stop ? 75 : 0;
}

/* ---- this process is one rank, or the only one ---- */

static int train_here(lmoe_ctx *ctx, const lmoe__setup *s, const lmoe__place *place)
{
    lmoe__rank r = {0};
    prepare(&r, ctx, s, place, s->world > 1 ? place->rank : 0);
    live(&r, place, NULL);
    int code = exit_code(&r);
    if (code == 1 && !r.world) { /* it has not spoken yet */
        ctx->status = r.ctx.status != LMOE_OK ? r.ctx.status : r.status;
        memcpy(ctx->message, r.ctx.message, sizeof ctx->message);
    }
    release(&r);
    return code;
}

/* ---- ranks are threads ---- */

/* Seconds that ranks have to end when one has failed. */
#define GRACE 3

typedef struct team {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int ended;
    bool failed;
} team;

typedef struct rank_thread {
    lmoe__rank rank;
    team *team;
    const lmoe__place *place;
    void *group;
    pthread_t thread;
    bool started, ended;
} rank_thread;

static void end(rank_thread *t)
{
    pthread_mutex_lock(&t->team->mutex);
    t->ended = true;
    t->team->ended++;
    t->team->failed |= t->rank.status != LMOE_OK;
    pthread_cond_signal(&t->team->changed);
    pthread_mutex_unlock(&t->team->mutex);
}

static void *thread_main(void *arg)
{
    rank_thread *t = arg;
    live(&t->rank, t->place, t->group);
    end(t);
    return NULL;
}

/* A rank that has no thread to live in must not leave the others waiting for it. */
static void never_started(rank_thread *t, int error)
{
    lmoe__rank *r = &t->rank;
    const lmoe__setup *s = r->setup;
    r->status = lmoe_error(&r->ctx, LMOE_E_MEMORY,
                           "the system gives no thread to rank %d of %d (%s); take a smaller "
                           "[parallel] mesh, or raise the limits of processes and memory",
                           r->rank, s->world, strerror(error));
    if (open_world(r, t->place, t->group) == LMOE_OK) {
        s->comm->abort(r->world);
        s->comm->close(r->world);
    }
    end(t);
}

/* The rank whose failure is the cause: not one that was only told of another's. */
static const lmoe__rank *first_failure(const rank_thread *t, int n)
{
    const lmoe__rank *told = NULL;
    for (int i = 0; i < n; i++) {
        if (!t[i].ended || t[i].rank.status == LMOE_OK) continue;
        if (t[i].rank.status != LMOE_E_COMM) return &t[i].rank;
        if (!told) told = &t[i].rank;
    }
    return told;
}

/* A rank that does not come back cannot be ended but with the process. */
static void give_up(lmoe_ctx *ctx, const rank_thread *t, int n)
{
    char who[256] = "";
    for (int i = 0; i < n; i++) {
        size_t used = strlen(who);
        if (!t[i].ended) snprintf(who + used, sizeof who - used, "%s%d", used ? ", " : "", i);
    }
    lmoe__log(ctx, LMOE_LOG_ERROR, "%s", first_failure(t, n)->ctx.message);
    lmoe__log(ctx, LMOE_LOG_ERROR,
              "still at work %d seconds after that: rank %s, so the process ends without it", GRACE,
              who);
    _exit(1);
}

/* Until all ranks have ended. */
static void supervise(lmoe_ctx *ctx, team *w, const rank_thread *t, int n)
{
    struct timespec until = {0};
    pthread_mutex_lock(&w->mutex);
    while (w->ended < n) {
        if (!w->failed) {
            pthread_cond_wait(&w->changed, &w->mutex);
            continue;
        }
        if (until.tv_sec == 0) {
            clock_gettime(CLOCK_MONOTONIC, &until);
            until.tv_sec += GRACE;
        }
        if (pthread_cond_timedwait(&w->changed, &w->mutex, &until) == ETIMEDOUT && w->ended < n)
            give_up(ctx, t, n);
    }
    pthread_mutex_unlock(&w->mutex);
}

static void run_threads(lmoe_ctx *ctx, const lmoe__setup *s, const lmoe__place *place, void *group,
                        rank_thread *t)
{
    team w = {.mutex = PTHREAD_MUTEX_INITIALIZER};
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w.changed, &attr);
    pthread_condattr_destroy(&attr);
    for (int i = 0; i < s->world; i++) {
        prepare(&t[i].rank, ctx, s, place, i);
        t[i].rank.report.resident = t[0].rank.report.resident;
        t[i].team = &w;
        t[i].place = place;
        t[i].group = group;
        int error = pthread_create(&t[i].thread, NULL, thread_main, &t[i]);
        t[i].started = error == 0;
        if (error) never_started(&t[i], error);
    }
    supervise(ctx, &w, t, s->world);
    for (int i = 0; i < s->world; i++) {
        if (t[i].started) pthread_join(t[i].thread, NULL);
    }
    pthread_cond_destroy(&w.changed);
}

static int train_threads(lmoe_ctx *ctx, const lmoe__setup *s, const lmoe__place *place)
{
    void *group = NULL;
    if (s->comm->group_create(s->comm_options, s->world, &group) != LMOE_OK) {
        lmoe_error(ctx, LMOE_E_COMM, "%s cannot make a group of %d ranks", s->comm->base.name,
                   s->world);
        return 1;
    }
    rank_thread *t = calloc((size_t)s->world, sizeof *t);
    run_threads(ctx, s, place, group, t);
    int code = exit_code(&t[0].rank);
    const lmoe__rank *bad = first_failure(t, s->world);
    if (bad) {
        ctx->status = bad->ctx.status != LMOE_OK ? bad->ctx.status : bad->status;
        memcpy(ctx->message, bad->ctx.message, sizeof ctx->message);
        code = 1;
    }
    for (int i = 0; i < s->world; i++) release(&t[i].rank);
    s->comm->group_destroy(group);
    free(t);
    return code;
}

/* ---- which of them ---- */

/* Whether the processes that a launcher has started are the ranks of the mesh. */
static lmoe_status check_place(lmoe_ctx *ctx, const lmoe__setup *s, const lmoe__place *place)
{
    bool processes = s->comm->base.flags & LMOE_COMM_PROCESSES;
    const char *where = lmoe__conf_where(s->conf, "parallel", "mesh");
    if (processes && s->world > 1 && place->ranks == 0)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "%s: the ranks of %s are processes, and none were started: there is no "
                          "word of Open MPI, MPICH, Slurm or torchrun in the environment; start "
                          "%d of them, as by mpirun -n %d lmoe train ..., or use comm = comm/loop",
                          where, s->comm->base.name, s->world, s->world);
    if (processes && place->ranks > 0 && place->ranks != s->world)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "%s: the mesh has %d rank%s, but %s has started %d (%s); the two must "
                          "be equal",
                          where, s->world, s->world == 1 ? "" : "s", place->launcher, place->ranks,
                          place->variable);
    if (!processes && place->ranks > 1)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "%s: %s has started %d processes (%s), and each would run the whole of "
                          "this file, as the ranks of %s are not processes; use comm = comm/mpi, "
                          "or start one process",
                          where, place->launcher, place->ranks, place->variable,
                          s->comm->base.name);
    return LMOE_OK;
}

int lmoe__train(lmoe_ctx *ctx, const lmoe__setup *s)
{
    lmoe__place place;
    if (lmoe__place_find(ctx, &place) != LMOE_OK) return 1;
    if (check_place(ctx, s, &place) != LMOE_OK) return 1;
    bool threads = s->world > 1 && (s->comm->base.flags & LMOE_COMM_THREADS);
    return threads ? train_threads(ctx, s, &place) : train_here(ctx, s, &place);
}
