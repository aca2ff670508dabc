/* SPDX-License-Identifier: Apache-2.0
 * core/base/threads.c: the thread team behind lmoe_parallel, and the clock.
 *
 * [0, n) is cut evenly into as many pieces as there are threads, or fewer if pieces would get
 * smaller than `grain`; thread i always does piece i, so results do not depend on timing. The
 * caller does piece 0. Each worker has its own door: the caller opens only those it needs, and then
 * waits at its own until the last of them has finished. Whoever waits spins for a moment (steps are
 * made of many short calls) and then sleeps.
 */
#include "core/base/base.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

static const double spin_seconds = 30e-6;

/* Where one thread waits for a number to change. A cache line of its own. */
typedef struct door {
    _Alignas(64) atomic_uint number;
    atomic_bool asleep;
    pthread_mutex_t lock;
    pthread_cond_t bell;
} door;

typedef struct worker {
    door door; /* number: how many jobs it was given */
    lmoe__team *team;
    pthread_t id;
    int index;
} worker;

struct lmoe__team {
    door done; /* number: workers that still run; the caller waits for 0 */
    worker *workers;
    int threads; /* with the caller */
    bool spin;   /* false if the threads do not have a core each: spinning would hinder the rest */
    bool busy, leave;
    /* the job */
    lmoe_range_fn fn;
    void *arg;
    int64_t n;
    int pieces;
};

double lmoe__now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void door_init(door *d)
{
    atomic_init(&d->number, 0);
    atomic_init(&d->asleep, false);
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->bell, NULL);
}

static void door_destroy(door *d)
{
    pthread_cond_destroy(&d->bell);
    pthread_mutex_destroy(&d->lock);
}

/* After the number was set. Number and asleep are written and read in opposite order by the two
 * sides, sequentially consistent: one of them sees the other. */
static void door_ring(door *d)
{
    if (!atomic_load(&d->asleep)) return;
    pthread_mutex_lock(&d->lock);
    pthread_cond_signal(&d->bell);
    pthread_mutex_unlock(&d->lock);
}

/* Returns once (number == value) is `wanted`. */
static void door_wait(door *d, unsigned value, bool wanted, bool spin)
{
    if (spin) {
        double end = lmoe__now() + spin_seconds;
        do {
            for (int i = 0; i < 32; i++) {
                if ((atomic_load(&d->number) == value) == wanted) return;
                relax();
            }
        } while (lmoe__now() < end);
    }
    if ((atomic_load(&d->number) == value) == wanted) return;
    pthread_mutex_lock(&d->lock);
    atomic_store(&d->asleep, true);
    while ((atomic_load(&d->number) == value) != wanted) pthread_cond_wait(&d->bell, &d->lock);
    atomic_store(&d->asleep, false);
    pthread_mutex_unlock(&d->lock);
}

/* Pieces differ by at most one item; the first n % pieces have it. */
static int64_t piece_begin(int64_t n, int pieces, int i)
{
    int64_t each = n / pieces, more = n % pieces;
    return i * each + (i < more ? i : more);
}

static void run_piece(const lmoe__team *team, int i)
{
    team->fn(team->arg, piece_begin(team->n, team->pieces, i),
             piece_begin(team->n, team->pieces, i + 1), i);
}

static void *work(void *arg)
{
    worker *w = arg;
    lmoe__team *team = w->team;
    for (unsigned seen = 0;; seen++) {
        door_wait(&w->door, seen, false, team->spin);
        if (team->leave) return NULL;
        run_piece(team, w->index);
        if (atomic_fetch_sub(&team->done.number, 1) == 1) door_ring(&team->done);
    }
}

static int usable_cores(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

lmoe__team *lmoe__team_new(int threads)
{
    lmoe__team *team = aligned_alloc(_Alignof(lmoe__team), sizeof *team);
    if (!team) abort();
    memset(team, 0, sizeof *team);
    team->threads = 1;
    team->spin = threads <= usable_cores();
    door_init(&team->done);
    if (threads > 1) {
        team->workers = aligned_alloc(_Alignof(worker), sizeof(worker) * (size_t)(threads - 1));
        if (!team->workers) abort();
    }

    sigset_t all, before; /* signals are for the thread that can answer them */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = 0;
    for (int i = 1; i < threads && !error; i++) {
        worker *w = &team->workers[i - 1];
        memset(w, 0, sizeof *w);
        door_init(&w->door);
        w->team = team;
        w->index = i;
        error = pthread_create(&w->id, NULL, work, w);
        if (error) {
            door_destroy(&w->door);
        } else {
            team->threads++;
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        lmoe__team_free(team);
        return NULL;
    }
    return team;
}

void lmoe__team_free(lmoe__team *team)
{
    if (!team) return;
    team->leave = true;
    for (int i = 0; i < team->threads - 1; i++) {
        worker *w = &team->workers[i];
        atomic_fetch_add(&w->door.number, 1);
        door_ring(&w->door);
        pthread_join(w->id, NULL);
        door_destroy(&w->door);
    }
    door_destroy(&team->done);
    free(team->workers);
    free(team);
}

int32_t lmoe_threads(lmoe_ctx *ctx)
{
    return ctx && ctx->team ? ctx->team->threads : 1;
}

lmoe_status lmoe_parallel(lmoe_ctx *ctx, int64_t n, int64_t grain, lmoe_range_fn fn, void *arg)
{
    if (n <= 0) return LMOE_OK;
    if (grain < 1) grain = 1;
    int threads = lmoe_threads(ctx);
    int pieces = n / grain < threads ? (int)(n / grain) : threads;
    if (pieces < 2) {
        fn(arg, 0, n, 0);
        return LMOE_OK;
    }

    lmoe__team *team = ctx->team;
    if (team->busy)
        return lmoe_error(
            ctx, LMOE_E_USAGE,
            "lmoe_parallel was called by a function that it runs; split the work once");
    team->busy = true;
    team->fn = fn;
    team->arg = arg;
    team->n = n;
    team->pieces = pieces;
    atomic_store(&team->done.number, (unsigned)(pieces - 1));
    for (int i = 1; i < pieces; i++) {
        worker *w = &team->workers[i - 1];
        atomic_fetch_add(&w->door.number, 1);
        door_ring(&w->door);
    }
    run_piece(team, 0);
    door_wait(&team->done, 0, true, team->spin);
    team->busy = false;
    return LMOE_OK;
}
