/* SPDX-License-Identifier: Apache-2.0
 * lmoe/comm.h: communicators: how ranks exchange tensors.
 *
 * Every exchange is started and waited for. `start` takes the call and returns without waiting for
 * any other rank; from then until `wait` has returned, the buffers belong to the communicator. Any
 * number may be in flight, and they may be waited for in any order; each started request is waited
 * for exactly once, after a failure too, or ends with `close` (buffers must outlive both).
 *
 *   collectives      all ranks of a communicator start the same ones, with the same counts, in the
 *                    same order. They are numbered from 1 in this order; `split` is one of them.
 *   point to point   a message goes to the first receive of its (sender, tag), in the order in
 *                    which both were started; counts and dtypes of the two must be equal. A send is
 *                    complete when its buffer may be used again, and does not wait for the receive:
 *                    two ranks may send to each other and receive then. They do not count among the
 *                    collectives, and may be started between them in any order.
 *
 * One thread at a time uses a communicator; abort alone may come from another one. Counts, tags and
 * peers are host memory, read by `start`. Sums are added in rank order where LMOE_COMM_DEVICE is
 * not set, so that all communicators give the same bits; all ranks get the same bits everywhere.
 *
 * With LMOE_COMM_DEVICE buffers are device memory and the exchange is queued behind what `stream`
 * holds when it is started; `wait` makes `stream` wait for it, and need not stop the host.
 *
 * A failure on one rank must end the others (abort), never leave them waiting. A rank that waits
 * longer than env.timeout fails with a message that names itself, the exchange and its number.
 */
#ifndef LMOE_COMM_H
#define LMOE_COMM_H

#include <lmoe/option.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LMOE_KIND_COMM "lmoe.comm/1"

enum {
    LMOE_COMM_THREADS = 1,  /* ranks are threads that the host starts in this process */
    LMOE_COMM_DEVICE = 2,   /* buffers are device memory */
    LMOE_COMM_PROCESSES = 4 /* ranks are processes that a launcher has started */
};

typedef enum lmoe_reduce { LMOE_SUM = 0, LMOE_MAX = 1, LMOE_MIN = 2 } lmoe_reduce;

/* n: ranks of the communicator; r: the rank; all in elements of the dtype */
typedef enum lmoe_exchange_kind {
    LMOE_ALL_REDUCE = 1,     /* send, recv: count; recv is the reduction over ranks; may be send */
    LMOE_REDUCE_SCATTER = 2, /* send: n * count; recv: count, block r of the reduction; may be
                                block r of send */
    LMOE_ALL_GATHER = 3,     /* send: count; recv: n * count, rank i's at i * count; send may be
                                block r of recv */
    LMOE_BROADCAST = 4,      /* send: count, on rank peer only; recv: count, on all; on rank peer it
                                may be send */
    LMOE_ALL_TO_ALL = 5,     /* send, recv: n * count; block i goes to rank i, comes from rank i */
    LMOE_ALL_TO_ALL_V = 6,   /* the same with blocks of send_counts[i] and recv_counts[i] elements,
                                one after another without gaps */
    LMOE_BARRIER = 7,        /* nothing: complete when all ranks have started it */
    LMOE_SEND = 8,           /* send: count, to rank peer (not r) with tag */
    LMOE_RECV = 9            /* recv: count, from rank peer (not r) with tag */
} lmoe_exchange_kind;

typedef struct lmoe_exchange {
    size_t size;
    lmoe_exchange_kind kind;
    lmoe_dtype dtype;
    lmoe_reduce reduce;
    int32_t peer; /* BROADCAST: who sends; SEND, RECV: the other rank */
    int32_t tag;  /* SEND, RECV: 0 ... LMOE_MAX_TAG */
    const void *send;
    void *recv;
    int64_t count;
    const int64_t *send_counts, *recv_counts; /* ALL_TO_ALL_V: of each rank */
    void *stream;                             /* LMOE_COMM_DEVICE: of the device */
} lmoe_exchange;

#define LMOE_MAX_TAG 32767 /* what every MPI can do */

/* Where a rank stands. group: what group_create made, shared by the ranks of a LMOE_COMM_THREADS
 * communicator. timeout: seconds that a rank waits at most in one call; 0: for ever. */
typedef struct lmoe_comm_env {
    size_t size;
    int32_t rank, ranks;
    void *group;
    double timeout;
    int32_t local_rank, local_ranks; /* among the ranks of this machine; of 1 where unknown */
} lmoe_comm_env;

typedef struct lmoe_comm {
    lmoe_class base;
    /* LMOE_COMM_THREADS only: the object that the ranks share; made and destroyed by one thread. */
    lmoe_status (*group_create)(const void *options, int32_t ranks, void **group);
    void (*group_destroy)(void *group);
    lmoe_status (*open)(const void *options, const lmoe_comm_env *env, void **comm);
    void (*close)(void *comm);
    void (*abort)(void *comm); /* from any thread: every waiting or later call on any rank returns
                                  LMOE_E_COMM, or its process ends */
    /* Ranks with the same color form a new communicator, ordered by key (then rank). Collective,
     * and complete when it returns. */
    lmoe_status (*split)(void *comm, int32_t color, int32_t key, void **sub);
    int32_t (*rank)(void *comm);
    int32_t (*ranks)(void *comm);
    /* A failed start leaves no request. */
    lmoe_status (*start)(void *comm, const lmoe_exchange *e, void **request);
    lmoe_status (*wait)(void *comm, void *request);
    /* Whether wait would return at once; helps the exchange on, never blocks. */
    lmoe_status (*test)(void *comm, void *request, int32_t *done);
    /* What went wrong, for people; valid until the next call. If open has failed, *comm is NULL, or
     * good for message and close only. */
    const char *(*message)(void *comm);
    /* May be NULL; of communicators whose wait does not stop the host. From any thread: fails, with a
     * text for people, when an exchange has not been over for env.timeout; the host then aborts. */
    lmoe_status (*watch)(void *comm, char *text, size_t size);
} lmoe_comm;

/* The whole exchange. */
static inline lmoe_status lmoe_exchange_run(const lmoe_comm *c, void *comm, const lmoe_exchange *e)
{
    void *request;
    LMOE_TRY(c->start(comm, e, &request));
    return c->wait(comm, request);
}

/* In place: buf, of count elements, becomes the reduction over ranks. */
static inline lmoe_status lmoe_all_reduce(const lmoe_comm *c, void *comm, void *buf, int64_t count,
                                          lmoe_dtype dtype, lmoe_reduce reduce, void *stream)
{
    lmoe_exchange e = {sizeof e, LMOE_ALL_REDUCE, dtype, reduce, 0,     0, buf,
                       buf,      count,           NULL,  NULL,   stream};
    return lmoe_exchange_run(c, comm, &e);
}

/* recv: ranks * count elements, rank i's at i * count. */
static inline lmoe_status lmoe_all_gather(const lmoe_comm *c, void *comm, const void *send,
                                          void *recv, int64_t count, lmoe_dtype dtype, void *stream)
{
    lmoe_exchange e = {sizeof e, LMOE_ALL_GATHER, dtype, LMOE_SUM, 0,     0, send,
                       recv,     count,           NULL,  NULL,     stream};
    return lmoe_exchange_run(c, comm, &e);
}

#ifdef __cplusplus
}
#endif
#endif
