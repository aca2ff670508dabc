/* SPDX-License-Identifier: Apache-2.0
 * core/train/team.c: the ranks of this process: all of them, as threads, or one; and how they end.
 */
#include "core/train/world.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

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

static void release(lmoe__rank *r)
{
    lmoe__rank_free(r);
    lmoe__team_free(r->ctx.team);
}

static int exit_code(const lmoe__rank *r)
{
    return r->status != LMOE_OK ? 1 : r->stop ? 75 : 0;
}

/* ---- ranks that are threads, and how they end ---- */

/* Seconds that ranks have to end when one has failed. */
#define GRACE 3

static void end(lmoe__rank_thread *t)
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
    lmoe__rank_thread *t = arg;
    lmoe__rank_live(t);
    end(t);
    return NULL;
}

/* A rank that has no thread to live in must not leave the others waiting for it. */
static void never_started(lmoe__rank_thread *t, int error)
{
    lmoe__rank *r = &t->rank;
    const lmoe__setup *s = r->setup;
    r->status = lmoe_error(&r->ctx, LMOE_E_MEMORY,
                           "the system gives no thread to rank %d of %d (%s); take a smaller "
                           "[parallel] mesh, or raise the limits of processes and memory",
                           r->rank, s->world, strerror(error));
    if (lmoe__rank_join(r, t->place, t->group) == LMOE_OK) {
        s->comm->abort(r->world);
        s->comm->close(r->world);
    }
    end(t);
}

/* The rank whose failure is the cause: not one that was only told of another's. */
static const lmoe__rank *first_failure(const lmoe__rank_thread *t, int n)
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
static void give_up(lmoe_ctx *ctx, const lmoe__rank_thread *t, int n)
{
    char who[256] = "";
    for (int i = 0; i < n; i++) {
        size_t used = strlen(who);
        if (!t[i].ended)
            snprintf(who + used, sizeof who - used, "%s%d", used ? ", " : "", t[i].rank.rank);
    }
    const lmoe__rank *bad = first_failure(t, n);
    if (bad && t->group) lmoe__log(ctx, LMOE_LOG_ERROR, "%s", bad->ctx.message);
    lmoe__log(ctx, LMOE_LOG_ERROR,
              "still at work %d seconds after that: rank %s, so the process ends without it", GRACE,
              who);
    _exit(1);
}

static struct timespec after(double seconds)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += (long)(fmod(seconds, 1) * 1e9);
    t.tv_sec += (time_t)seconds + t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}

/* Ends a rank that waits too long for the others to join, or is stuck on its device in an exchange.
 */
static void look_after(lmoe__rank_thread *t)
{
    const lmoe__setup *s = t->rank.setup;
    double waited = t->began > 0 ? lmoe__now() - t->began : 0;
    char text[1024];
    if (s->comm_timeout > 0 && waited > s->comm_timeout) {
        lmoe__log(
            &t->rank.ctx, LMOE_LOG_ERROR,
            "%s: rank %d has waited for %.0f seconds for the other ranks to join, which is the "
            "time-out",
            s->comm->base.name, t->rank.rank, waited);
    } else if (t->watched && s->comm->watch(t->watched, text, sizeof text) != LMOE_OK) {
        lmoe__log(&t->rank.ctx, LMOE_LOG_ERROR, "%s: %s", s->comm->base.name, text);
        s->comm->abort(t->watched);
    } else {
        return;
    }
    t->team->failed = true;
}

/* Until all ranks have ended. */
static void supervise(lmoe_ctx *ctx, lmoe__ranks_team *w, lmoe__rank_thread *t, int n)
{
    const lmoe_comm *c = t->rank.setup->comm;
    bool watch = c->base.size >= sizeof *c && c->watch;
    struct timespec until = {0};
    pthread_mutex_lock(&w->mutex);
    while (w->ended < n) {
        if (!w->failed && !watch) {
            pthread_cond_wait(&w->changed, &w->mutex);
            continue;
        }
        if (!w->failed) {
            const struct timespec soon = after(0.5);
            pthread_cond_timedwait(&w->changed, &w->mutex, &soon);
            for (int i = 0; i < n; i++) look_after(&t[i]);
            continue;
        }
        if (until.tv_sec == 0) until = after(GRACE);
        if (pthread_cond_timedwait(&w->changed, &w->mutex, &until) == ETIMEDOUT && w->ended < n)
            give_up(ctx, t, n);
    }
    pthread_mutex_unlock(&w->mutex);
}

static void team_init(lmoe__ranks_team *w)
{
    pthread_condattr_t attr;
    memset(w, 0, sizeof *w);
    pthread_mutex_init(&w->mutex, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->changed, &attr);
    pthread_condattr_destroy(&attr);
}

static void team_free(lmoe__ranks_team *w)
{
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->mutex);
}

static void prepare(lmoe__rank_thread *t, const lmoe_ctx *ctx, const lmoe__setup *s,
                    lmoe__ranks_team *w, const lmoe__place *place, void *group, int rank)
{
    lmoe__rank *r = &t->rank;
    t->team = w;
    t->place = place;
    t->group = group;
    lmoe__ctx_init(&r->ctx);
    r->ctx.log_level = ctx->log_level;
    r->ctx.rank = r->rank = rank;
    r->ctx.ranks = s->world;
    r->ctx.team = lmoe__team_new(threads_of(s, place));
    r->setup = s;
}

static void begin(lmoe__rank_thread *t)
{
    t->began = lmoe__now();
    int error = pthread_create(&t->thread, NULL, thread_main, t);
    t->started = error == 0;
    if (error) never_started(t, error);
}

static void train_all(lmoe_ctx *ctx, const lmoe__setup *s, const lmoe__place *place, void *group,
                      lmoe__rank_thread *t)
{
    lmoe__ranks_team w;
    team_init(&w);
    int64_t resident = lmoe__process_bytes("VmRSS");
    for (int i = 0; i < s->world; i++) {
        prepare(&t[i], ctx, s, &w, place, group, i);
        t[i].rank.report.resident = resident;
        begin(&t[i]);
    }
    supervise(ctx, &w, t, s->world);
    for (int i = 0; i < s->world; i++) {
        if (t[i].started) pthread_join(t[i].thread, NULL);
    }
    team_free(&w);
}

static void tell(lmoe_ctx *ctx, const lmoe__rank *r)
{
    ctx->status = r->ctx.status != LMOE_OK ? r->ctx.status : r->status;
    memcpy(ctx->message, r->ctx.message, sizeof ctx->message);
}

static int train_threads(lmoe_ctx *ctx, const lmoe__setup *s, const lmoe__place *place)
{
    void *group = NULL;
    if (s->comm->group_create(s->comm_options, s->world, &group) != LMOE_OK) {
        lmoe_error(ctx, LMOE_E_COMM, "%s cannot make a group of %d ranks", s->comm->base.name,
                   s->world);
        return 1;
    }
    lmoe__rank_thread *t = calloc((size_t)s->world, sizeof *t);
    train_all(ctx, s, place, group, t);
    int code = exit_code(&t[0].rank);
    const lmoe__rank *bad = first_failure(t, s->world);
    if (bad) {
        tell(ctx, bad);
        code = 1;
    }
    for (int i = 0; i < s->world; i++) release(&t[i].rank);
    s->comm->group_destroy(group);
    free(t);
    return code;
}

/* ---- this process is one rank, or the only one ---- */

/* A communicator that must be watched leaves the first thread free for that; others, as MPI, are
 * used by it. */
static int train_here(lmoe_ctx *ctx, const lmoe__setup *s, const lmoe__place *place)
{
    lmoe__rank_thread t = {0};
    lmoe__ranks_team w;
    bool watched = s->world > 1 && s->comm->base.size >= sizeof *s->comm && s->comm->watch;
    team_init(&w);
    prepare(&t, ctx, s, &w, place, NULL, s->world > 1 ? place->rank : 0);
    t.rank.report.resident = lmoe__process_bytes("VmRSS");
    if (watched) {
        begin(&t);
        supervise(ctx, &w, &t, 1);
        if (t.started) pthread_join(t.thread, NULL);
    } else {
        lmoe__rank_live(&t);
    }
    int code = exit_code(&t.rank);
    if (code == 1 && !t.rank.world) tell(ctx, &t.rank); /* it has not spoken yet */
    release(&t.rank);
    team_free(&w);
    return code;
}

/* ---- which of them ---- */

/* Whether the communicator exchanges the memory that the device has. */
static lmoe_status check_memory(lmoe_ctx *ctx, const lmoe__setup *s)
{
    bool host = strcmp(s->device->device, "cpu") == 0;
    bool exchanges_host = !(s->comm->base.flags & LMOE_COMM_DEVICE);
    if (s->world == 1 || host == exchanges_host) return LMOE_OK;
    return lmoe_error(ctx, LMOE_E_CONFIG,
                      "%s: %s exchanges the memory of %s, but the device is %s; use comm = %s",
                      lmoe__conf_where(s->conf, "parallel", "comm"), s->comm->base.name,
                      exchanges_host ? "the host" : "a GPU", s->device->base.name,
                      host ? "comm/mpi or comm/loop" : "comm/nccl");
}

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
    if (check_memory(ctx, s) != LMOE_OK || check_place(ctx, s, &place) != LMOE_OK) return 1;
    bool threads = s->world > 1 && (s->comm->base.flags & LMOE_COMM_THREADS);
    return threads ? train_threads(ctx, s, &place) : train_here(ctx, s, &place);
}
