/* SPDX-License-Identifier: Apache-2.0
 * plugins/comm/nccl/nccl_comm.h: what the files of comm/nccl share.
 *
 * A communicator has three of NCCL's, each with a stream: collectives, messages to higher ranks, and
 * messages to lower ranks. What is started is queued behind the caller's stream and ends in an
 * event; `wait` makes the caller's stream wait for the event, and the host goes on. A send copies to
 * memory of ours first, so that its caller never waits for the receive.
 *
 * Exchanges that are not over on the GPU stay in the world's list, which `watch` looks at from
 * another thread: hence the lock.
 */
#ifndef COMM_NCCL_H
#define COMM_NCCL_H

#include <lmoe/exchange.h>
#include <lmoe/plugin.h>

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

/* NCCL is opened with the first communicator and not linked: listing plugins needs none. */
/* clang-format off */
#define NCCL_FUNCTIONS(X)                                                                         \
    X(GetUniqueId) X(CommInitRank) X(CommSplit) X(CommDestroy) X(CommAbort) X(CommGetAsyncError)  \
    X(CommCount) X(CommUserRank) X(GetErrorString) X(AllReduce) X(ReduceScatter) X(AllGather)     \
    X(Broadcast) X(Send) X(Recv) X(GroupStart) X(GroupEnd)
/* clang-format on */

typedef struct library {
    void *handle;
#define POINTER(name) __typeof__(&nccl##name) name;
    NCCL_FUNCTIONS(POINTER)
#undef POINTER
} library;

enum { COLLECTIVES, UP, DOWN, LANES };

typedef struct request {
    struct request *next;
    struct comm *comm;
    lmoe_exchange e;
    int64_t number;
    cudaEvent_t done, ready; /* done: what the caller waits for; ready: its stream has come here */
    cudaEvent_t over;        /* a send: it has left our memory */
    bool waited;             /* the caller does not need it any more */
    void *copy;              /* of a send */
    size_t room;
} request;

typedef struct world {
    library nccl;
    pthread_mutex_t mutex;
    int device, comms;
    int32_t rank, ranks;
    double timeout;
    bool failed;
    char why[1024];
    request *active, *unused; /* active: in the order in which they were started */
    const request *oldest;    /* what watch saw at the head, and since when */
    int64_t oldest_number;
    double since;
    void *byte;       /* on the device, for barriers */
    struct comm *all; /* open communicators */
} world;

typedef struct comm {
    world *world;
    struct comm *next;
    ncclComm_t lane[LANES];
    cudaStream_t stream[LANES];
    int32_t rank, ranks;
    int64_t collectives, messages; /* started */
    char message[1024];
} comm;

/* ---- library.c ---- */

/* False: text says why. */
bool nccl_open_library(library *l, char *text, size_t size);

/* ---- request.c; the world's lock is held ---- */

/* NULL: the world has failed. */
request *nccl_start(comm *c, const lmoe_exchange *e);
bool nccl_over(const request *r);
/* Takes what is over and not needed from the list of the active ones. */
void nccl_collect(world *w);
void nccl_request_delete(request *r);

/* ---- nccl.c ---- */

/* The first failure is kept. */
void __attribute__((format(printf, 2, 3))) nccl_fail(world *w, const char *format, ...);
bool nccl_failed(world *w, const char *call, ncclResult_t code);
bool nccl_cuda_failed(world *w, const char *call, cudaError_t code);

#endif
