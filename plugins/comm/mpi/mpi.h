/* SPDX-License-Identifier: Apache-2.0
 * plugins/comm/mpi/mpi.h: what the files of comm/mpi share.
 *
 * All communicators of a process share one world: its requests, which every call moves on, and its
 * failure. A reduction is an exchange of blocks, our own sum in rank order, and, in an all_reduce of
 * many elements, a second exchange that gathers the sums. Second exchanges have a communicator of
 * their own, and start in the order of the first ones, so that all ranks start the same.
 */
#ifndef COMM_MPI_H
#define COMM_MPI_H

#include <lmoe/exchange.h>
#include <lmoe/plugin.h>

#include <mpi.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#define SPLIT ((lmoe_exchange_kind)0)

/* What the ranks must agree on; compared as bytes. */
typedef struct signature {
    int64_t number, count;
    int32_t kind, dtype, reduce, peer;
} signature;

typedef enum phase {
    FIRST,   /* r->mpi is the exchange, or its first half */
    BETWEEN, /* the second half may start when those before it have */
    SECOND,  /* r->mpi is the second half */
    DONE
} phase;

/* From start to wait; a send, until MPI has taken it. */
typedef struct request {
    struct request *next;
    struct comm *comm;
    lmoe_exchange e;
    int64_t number;
    phase phase;
    bool two;    /* has a second half */
    bool unsure; /* the ranks' signatures have not all come */
    MPI_Request mpi, sign;
    signature mine, *theirs; /* of all ranks */
    void *scratch;           /* blocks to be reduced; what is sent */
    size_t room;             /* of scratch */
    int *counts;             /* of all ranks: sent, where; received, where */
    int32_t ranks;           /* that theirs and counts have room for */
} request;

enum { WORD = 512 }; /* bytes of what ranks tell each other when they fail */

typedef struct world {
    MPI_Comm words; /* for what ranks tell each other when they fail */
    int32_t rank, ranks, comms;
    double timeout;
    bool check;
    pthread_t thread; /* that calls MPI */
    int aborted;      /* by another thread: atomic */
    bool failed, told;
    char why[2048];
    char word[WORD];                  /* what this rank has told */
    MPI_Request *word_sent;           /* to each rank */
    request *active, *sends, *unused; /* active: in the order in which they were started */
    const void **from;                /* of each rank, while a sum is made */
} world;

typedef struct comm {
    world *world;
    MPI_Comm first, second;
    int32_t rank, ranks;
    int64_t collectives, messages; /* started */
    request sent;                  /* of every send: complete */
    char message[2048];
} comm;

/* ---- request.c ---- */

/* NULL: the world has failed. kind SPLIT: complete when all ranks have started it. */
request *ranks_start(comm *c, const lmoe_exchange *e);
void ranks_progress(world *w);
void ranks_request_free(world *w, request *r);
void ranks_request_delete(request *r);

static inline bool ranks_done(const request *r)
{
    return r->phase == DONE && !r->unsure;
}

/* ---- wait.c ---- */

/* The first failure is kept. */
void __attribute__((format(printf, 2, 3))) ranks_fail(world *w, const char *format, ...);
/* True if an MPI call has failed; the world then has. */
bool ranks_failed(world *w, const char *call, int code);
/* LMOE_OK, or the world's failure, in the communicator's message. */
lmoe_status ranks_status(comm *c);
/* Until r is done; r == NULL: until all sends of c are. */
lmoe_status ranks_wait(comm *c, const request *r);
/* Tells all ranks that this one has failed, and ends their processes and this one. */
void ranks_abort(world *w);

#endif
