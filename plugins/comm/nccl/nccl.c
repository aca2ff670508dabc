/* SPDX-License-Identifier: Apache-2.0
 * plugins/comm/nccl/nccl.c: class comm/nccl: the ranks are processes with a GPU each, and exchange
 * its memory by NCCL.
 */
#include "nccl_comm.h"

#include <stdio.h>
#include <time.h>

typedef struct nccl_options {
    const char *address;
} nccl_options;

static const lmoe_option options[] = {
    {"address", LMOE_OPTION_TEXT, offsetof(nccl_options, address), "", 0, 0, NULL, NULL,
     "HOST:PORT at which rank 0 is found; empty: a port of this machine, if all ranks are here."},
    LMOE_OPTION_END};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- failures; the world's lock is held ---- */

void nccl_fail(world *w, const char *format, ...)
{
    va_list args;
    if (w->failed) return;
    va_start(args, format);
    vsnprintf(w->why, sizeof w->why, format, args);
    va_end(args);
    w->failed = true;
}

bool nccl_failed(world *w, const char *call, ncclResult_t code)
{
    if (code == ncclSuccess || code == ncclInProgress) return false;
    nccl_fail(w, "rank %d: %s: NCCL reports: %s", (int)w->rank, call, w->nccl.GetErrorString(code));
    return true;
}

bool nccl_cuda_failed(world *w, const char *call, cudaError_t code)
{
    if (code == cudaSuccess) return false;
    nccl_fail(w, "rank %d: %s: CUDA reports: %s", (int)w->rank, call, cudaGetErrorString(code));
    return true;
}

static lmoe_status status(comm *c)
{
    if (!c->world->failed) return LMOE_OK;
    memcpy(c->message, c->world->why, sizeof c->message);
    return LMOE_E_COMM;
}

/* ---- exchanges ---- */

static lmoe_status start(void *p, const lmoe_exchange *e, void **out)
{
    comm *c = p;
    world *w = c->world;
    char text[160];
    pthread_mutex_lock(&w->mutex);
    const char *problem = lmoe_exchange_problem(e, c->rank, c->ranks);
    if (problem)
        nccl_fail(w, "rank %d called %s, which is not possible: %s", (int)w->rank,
                  lmoe_exchange_text(text, sizeof text, e, c->collectives + 1), problem);
    cudaSetDevice(w->device);
    *out = w->failed ? NULL : nccl_start(c, e);
    lmoe_status s = status(c);
    pthread_mutex_unlock(&w->mutex);
    return s;
}

static lmoe_status wait_for(void *p, void *request_)
{
    comm *c = p;
    world *w = c->world;
    request *r = request_;
    ncclResult_t later = ncclSuccess;
    pthread_mutex_lock(&w->mutex);
    if (!w->failed) w->nccl.CommGetAsyncError(c->lane[COLLECTIVES], &later);
    nccl_failed(w, lmoe_exchange_name(&r->e), later);
    if (!w->failed)
        nccl_cuda_failed(w, "waiting for an event", cudaStreamWaitEvent(r->e.stream, r->done, 0));
    r->waited = true;
    lmoe_status s = status(c);
    pthread_mutex_unlock(&w->mutex);
    return s;
}

static lmoe_status test(void *p, void *request_, int32_t *done)
{
    comm *c = p;
    request *r = request_;
    pthread_mutex_lock(&c->world->mutex);
    lmoe_status s = status(c);
    *done = s != LMOE_OK || cudaEventQuery(r->done) == cudaSuccess;
    pthread_mutex_unlock(&c->world->mutex);
    return s;
}

/* The oldest exchange that is not over has been the oldest for the time-out. */
static lmoe_status watch(void *p, char *text, size_t size)
{
    comm *c = p;
    world *w = c->world;
    char what[160];
    pthread_mutex_lock(&w->mutex);
    cudaSetDevice(w->device);
    const request *r = w->active;
    while (r && nccl_over(r)) r = r->next;
    if (r != w->oldest || (r && r->number != w->oldest_number)) {
        w->oldest = r;
        w->oldest_number = r ? r->number : 0;
        w->since = now();
    }
    if (r && w->timeout > 0 && now() - w->since > w->timeout)
        nccl_fail(w,
                  "rank %d has waited for %.0f seconds in %s of a communicator of %d ranks, which "
                  "is the time-out; another rank may have ended, stand still, or have started "
                  "another exchange",
                  (int)w->rank, w->timeout, lmoe_exchange_text(what, sizeof what, &r->e, r->number),
                  (int)r->comm->ranks);
    lmoe_status s = w->failed ? LMOE_E_COMM : LMOE_OK;
    if (s != LMOE_OK) snprintf(text, size, "%s", w->why);
    pthread_mutex_unlock(&w->mutex);
    return s;
}

/* ---- a rank comes and goes ---- */

static comm *new_comm(world *w)
{
    comm *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->world = w;
    c->next = w->all;
    w->all = c;
    w->comms++;
    return c;
}

/* All communicators of NCCL are split from one; false: the world has failed. */
static bool make_lanes(comm *c, ncclComm_t from, int color, int key, int first)
{
    world *w = c->world;
    for (int i = first; i < LANES; i++) {
        ncclResult_t code = w->nccl.CommSplit(from, color, key, &c->lane[i], NULL);
        if (nccl_failed(w, "ncclCommSplit", code)) return false;
    }
    for (int i = 0; i < LANES; i++) {
        cudaError_t code = cudaStreamCreateWithFlags(&c->stream[i], cudaStreamNonBlocking);
        if (nccl_cuda_failed(w, "making a stream", code)) return false;
    }
    return true;
}

/* NCCL finds rank 0 by a variable of the environment. */
static bool set_address(world *w, const char *address, const lmoe_comm_env *env)
{
    if (getenv("NCCL_COMM_ID") || env->ranks == 1) return true;
    if (!*address && env->local_ranks == env->ranks) address = "127.0.0.1:29610";
    if (*address) return setenv("NCCL_COMM_ID", address, 1) == 0;
    nccl_fail(w, "the ranks are on several machines; say where rank 0 is found: [comm] address = "
                 "HOST:PORT, or the variable NCCL_COMM_ID");
    return false;
}

static void join(comm *c, const char *address, const lmoe_comm_env *env)
{
    world *w = c->world;
    ncclUniqueId id;
    char text[600];
    w->rank = c->rank = env->rank;
    w->ranks = c->ranks = env->ranks;
    if (!nccl_open_library(&w->nccl, text, sizeof text)) {
        nccl_fail(w, "%s", text);
        return;
    }
    if (nccl_cuda_failed(w, "asking for the GPU", cudaGetDevice(&w->device)) ||
        nccl_cuda_failed(w, "memory", cudaMalloc(&w->byte, 1)) || !set_address(w, address, env))
        return;
    if (nccl_failed(w, "ncclGetUniqueId", w->nccl.GetUniqueId(&id)) ||
        nccl_failed(w, "ncclCommInitRank",
                    w->nccl.CommInitRank(&c->lane[COLLECTIVES], env->ranks, id, env->rank)))
        return;
    make_lanes(c, c->lane[COLLECTIVES], 0, env->rank, UP);
}

static lmoe_status open_rank(const void *opt, const lmoe_comm_env *env, void **out)
{
    const nccl_options *o = opt;
    world *w = calloc(1, sizeof *w);
    comm *c = w ? new_comm(w) : NULL;
    *out = c;
    if (!c) {
        free(w);
        return LMOE_E_MEMORY;
    }
    pthread_mutex_init(&w->mutex, NULL);
    w->timeout = env->timeout;
    join(c, o ? o->address : "", env);
    return status(c);
}

static lmoe_status split(void *p, int32_t color, int32_t key, void **out)
{
    comm *c = p;
    world *w = c->world;
    *out = NULL;
    pthread_mutex_lock(&w->mutex);
    c->collectives++;
    cudaSetDevice(w->device);
    comm *sub = w->failed ? NULL : new_comm(w);
    if (!sub) nccl_fail(w, "split: out of memory");
    pthread_mutex_unlock(&w->mutex); /* a split waits for the other ranks */
    int rank = 0, ranks = 1;
    if (sub && make_lanes(sub, c->lane[COLLECTIVES], color, key, COLLECTIVES) &&
        !nccl_failed(w, "ncclCommUserRank", w->nccl.CommUserRank(sub->lane[0], &rank)) &&
        !nccl_failed(w, "ncclCommCount", w->nccl.CommCount(sub->lane[0], &ranks))) {
        sub->rank = rank;
        sub->ranks = ranks;
        *out = sub;
    }
    pthread_mutex_lock(&w->mutex);
    lmoe_status s = status(c);
    pthread_mutex_unlock(&w->mutex);
    return s;
}

static void destroy(world *w)
{
    for (request *r = w->unused, *next; r; r = next) {
        next = r->next;
        nccl_request_delete(r);
    }
    cudaFree(w->byte);
    pthread_mutex_destroy(&w->mutex);
    free(w);
}

/* What this communicator has queued must be over, or be abandoned, before it goes. NCCL and CUDA may
 * wait for that, so they are not called with the lock, which watch needs. */
static void close_rank(void *p)
{
    comm *c = p;
    world *w = c->world;
    cudaSetDevice(w->device);
    for (int i = 0; i < LANES && !w->failed; i++) cudaStreamSynchronize(c->stream[i]);
    pthread_mutex_lock(&w->mutex);
    for (request **at = &w->active; *at;) {
        request *r = *at;
        if (r->comm != c) {
            at = &r->next;
            continue;
        }
        *at = r->next;
        r->next = w->unused;
        w->unused = r;
    }
    comm **at = &w->all;
    while (*at != c) at = &(*at)->next;
    *at = c->next;
    w->comms--;
    pthread_mutex_unlock(&w->mutex);
    for (int i = 0; i < LANES; i++) {
        if (c->lane[i] && !w->failed) w->nccl.CommDestroy(c->lane[i]);
        if (c->stream[i]) cudaStreamDestroy(c->stream[i]);
    }
    free(c);
    if (w->comms == 0) destroy(w);
}

static void abort_all(void *p)
{
    world *w = ((comm *)p)->world;
    pthread_mutex_lock(&w->mutex);
    nccl_fail(w, "rank %d aborted the communication", (int)w->rank);
    for (comm *c = w->all; c; c = c->next) {
        for (int i = 0; i < LANES; i++) {
            if (c->lane[i]) w->nccl.CommAbort(c->lane[i]);
            c->lane[i] = NULL;
        }
    }
    pthread_mutex_unlock(&w->mutex);
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

static const lmoe_comm comm_nccl = {
    .base = {sizeof(lmoe_comm), LMOE_KIND_COMM, "comm/nccl",
             "Ranks are processes with a GPU each, which exchange by NCCL.", options,
             sizeof(nccl_options), LMOE_COMM_PROCESSES | LMOE_COMM_DEVICE},
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
    .watch = watch,
};

static const lmoe_class *const classes[] = {&comm_nccl.base, NULL};

LMOE_PLUGIN(.id = "comm/nccl", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
