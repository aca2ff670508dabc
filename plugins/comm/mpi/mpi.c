/* SPDX-License-Identifier: Apache-2.0
 * plugins/comm/mpi/mpi.c: class comm/mpi: the ranks are processes that mpirun, srun or the like has
 * started.
 */
#include "mpi.h"

#include <stdio.h>

typedef struct mpi_options {
    int32_t check;
} mpi_options;

static const lmoe_option options[] = {
    {"check", LMOE_OPTION_BOOL, offsetof(mpi_options, check), "yes", 0, 0, NULL, NULL,
     "Compare the ranks' calls in every exchange, so that a disagreement is named at once."},
    LMOE_OPTION_END};

/* ---- exchanges ---- */

static lmoe_status start(void *p, const lmoe_exchange *e, void **out)
{
    comm *c = p;
    char text[160];
    const char *problem = lmoe_exchange_problem(e, c->rank, c->ranks);
    *out = NULL;
    if (problem)
        ranks_fail(c->world, "rank %d called %s, which is not possible: %s", (int)c->world->rank,
                   lmoe_exchange_text(text, sizeof text, e, c->collectives + 1), problem);
    LMOE_TRY(ranks_status(c));
    request *r = ranks_start(c, e);
    if (!r) return ranks_status(c);
    *out = e->kind == LMOE_SEND ? &c->sent : r;
    return LMOE_OK;
}

static lmoe_status wait_for(void *p, void *request_)
{
    comm *c = p;
    request *r = request_;
    if (r == &c->sent) return LMOE_OK;
    LMOE_TRY(ranks_wait(c, r)); /* what has failed stays where MPI may still write to it */
    ranks_request_free(c->world, r);
    return LMOE_OK;
}

static lmoe_status test(void *p, void *request_, int32_t *done)
{
    comm *c = p;
    request *r = request_;
    *done = 1;
    if (r == &c->sent) return LMOE_OK;
    ranks_progress(c->world);
    if (ranks_done(r)) return LMOE_OK;
    *done = c->world->failed;
    return ranks_status(c);
}

/* ---- a rank comes and goes ---- */

static void destroy(world *w)
{
    for (request *r = w->unused, *next; r; r = next) {
        next = r->next;
        ranks_request_delete(r);
    }
    free(w->word_sent);
    free(w->from);
    free(w);
}

/* c->message says what went wrong. */
static lmoe_status join(comm *c, const lmoe_comm_env *env)
{
    int level, rank, ranks, begun;
    world *w = c->world;
    if (MPI_Initialized(&begun) != MPI_SUCCESS || begun ||
        MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS) {
        snprintf(c->message, sizeof c->message, "MPI cannot be started, or is started already");
        return LMOE_E_COMM;
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    w->rank = c->rank = rank;
    w->ranks = c->ranks = ranks;
    if (rank != env->rank || ranks != env->ranks) {
        snprintf(c->message, sizeof c->message,
                 "MPI says that this is rank %d of %d, the launcher's environment rank %d of %d; "
                 "the launcher must be that of the MPI which comm/mpi was built with (mpirun of "
                 "the same installation, or srun with --mpi=pmix or pmi2)",
                 rank, ranks, (int)env->rank, (int)env->ranks);
        return LMOE_E_CONFIG;
    }
    w->word_sent = calloc((size_t)ranks, sizeof(MPI_Request));
    w->from = calloc((size_t)ranks, sizeof(void *));
    if (!w->word_sent || !w->from) {
        snprintf(c->message, sizeof c->message, "out of memory");
        return LMOE_E_MEMORY;
    }
    if (ranks_failed(w, "MPI_Comm_dup", MPI_Comm_dup(MPI_COMM_WORLD, &w->words)) ||
        ranks_failed(w, "MPI_Comm_dup", MPI_Comm_dup(MPI_COMM_WORLD, &c->first)) ||
        ranks_failed(w, "MPI_Comm_dup", MPI_Comm_dup(MPI_COMM_WORLD, &c->second)))
        return ranks_status(c);
    return LMOE_OK;
}

static comm *new_comm(world *w)
{
    comm *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->world = w;
    w->comms++;
    return c;
}

static lmoe_status open_rank(const void *opt, const lmoe_comm_env *env, void **out)
{
    world *w = calloc(1, sizeof *w);
    comm *c = w ? new_comm(w) : NULL;
    *out = c;
    if (!c) {
        free(w);
        return LMOE_E_MEMORY;
    }
    w->check = !opt || ((const mpi_options *)opt)->check;
    w->timeout = env->timeout;
    w->thread = pthread_self();
    lmoe_status s = join(c, env);
    if (s != LMOE_OK) w->failed = true;
    return s;
}

static lmoe_status split(void *p, int32_t color, int32_t key, void **out)
{
    comm *c = p;
    world *w = c->world;
    const lmoe_exchange e = {.size = sizeof e, .kind = SPLIT};
    void *all_here = NULL;
    *out = NULL;
    LMOE_TRY(ranks_status(c));
    /* MPI_Comm_split waits without a limit, so all must have come before. */
    all_here = ranks_start(c, &e);
    if (!all_here) return ranks_status(c);
    LMOE_TRY(wait_for(c, all_here));
    comm *sub = new_comm(w);
    if (!sub) ranks_fail(w, "split: out of memory");
    if (!sub ||
        ranks_failed(w, "MPI_Comm_split", MPI_Comm_split(c->first, color, key, &sub->first)) ||
        ranks_failed(w, "MPI_Comm_dup", MPI_Comm_dup(sub->first, &sub->second))) {
        if (sub) w->comms--;
        free(sub);
        return ranks_status(c);
    }
    int rank, ranks;
    MPI_Comm_rank(sub->first, &rank);
    MPI_Comm_size(sub->first, &ranks);
    sub->rank = rank;
    sub->ranks = ranks;
    *out = sub;
    return LMOE_OK;
}

/* After a failure MPI is left as it is: it would wait for ranks that do not come. */
static void close_rank(void *p)
{
    comm *c = p;
    world *w = c->world;
    for (request *r = w->active; r && !w->failed; r = r->next)
        if (r->comm == c) ranks_fail(w, "rank %d closes a communicator that it uses", (int)w->rank);
    if (!w->failed) ranks_wait(c, NULL);
    if (!w->failed) {
        MPI_Comm_free(&c->first);
        MPI_Comm_free(&c->second);
    }
    bool last = --w->comms == 0, failed = w->failed;
    free(c);
    if (!last || failed) return;
    MPI_Comm_free(&w->words);
    destroy(w);
    MPI_Finalize();
}

static void abort_all(void *p)
{
    world *w = ((comm *)p)->world;
    __atomic_store_n(&w->aborted, 1, __ATOMIC_RELEASE);
    if (pthread_equal(w->thread, pthread_self())) ranks_abort(w);
}

static int32_t rank_of(void *p)
{
    return ((comm *)p)->rank;
}

static int32_t ranks_of(void *p)
{
    return ((comm *)p)->ranks;
}

static const char *message_of(void *p)
{
    return p ? ((comm *)p)->message : "out of memory";
}

static const lmoe_comm comm_mpi = {
    .base = {sizeof(lmoe_comm), LMOE_KIND_COMM, "comm/mpi",
             "Ranks are processes that exchange by MPI.", options, sizeof(mpi_options),
             LMOE_COMM_PROCESSES},
    .open = open_rank,
    .close = close_rank,
    .abort = abort_all,
    .split = split,
    .rank = rank_of,
    .ranks = ranks_of,
    .start = start,
    .wait = wait_for,
    .test = test,
    .message = message_of,
};

static const lmoe_class *const classes[] = {&comm_mpi.base, NULL};

LMOE_PLUGIN(.id = "comm/mpi", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
