/* SPDX-License-Identifier: Apache-2.0
 * plugins/comm/loop/loop.h: what the files of comm/loop share.
 *
 * All communicators that come from one group_create share a hub: one lock, one condition, one
 * failure. A request is *posted* when it is started, *ready* when all ranks that it needs have
 * started theirs, and *complete* when the data is where it belongs. Only what is not ready can wait
 * for ever, so only there a failure interrupts; it ends all communicators of the hub, because a rank
 * that failed in one will not come to the others either.
 */
#ifndef LOOP_H
#define LOOP_H

#include <lmoe/exchange.h>
#include <lmoe/plugin.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#define SPLIT ((lmoe_exchange_kind)0)

/* Of one rank, from start to wait. */
typedef struct request {
    struct request *next; /* among the free ones, the posted receives */
    struct request *open; /* among those of its communicator */
    struct group *group;
    int32_t rank;
    lmoe_exchange e;
    int64_t number;
    int64_t *counts;        /* 2 * room: what e.send_counts and e.recv_counts point to */
    int32_t room;           /* ranks */
    struct op *op;          /* of a collective; else: */
    bool matched, complete; /* a receive: its message has come; it has been copied */
    int32_t color, key;     /* SPLIT: what is asked for ... */
    struct group *sub;      /* ... and where it belongs */
    int32_t sub_rank;
} request;

/* A collective that is going on. Its work has as many shares as there are ranks; any rank that
 * waits for it takes the next one. */
typedef struct op {
    struct op *next;
    struct group *group;
    int64_t number;
    int32_t arrived, taken, done, left; /* left: ranks that do not need it any more */
    int32_t first;                      /* who arrived first */
    request **part;                     /* of each rank */
    const void **from;
    void **to;
} op;

/* A send for which no receive was posted. */
typedef struct message {
    struct message *next;
    int32_t from;
    lmoe_exchange e; /* of the sender */
    int64_t number;
    void *data;
    size_t room;
} message;

typedef struct member {
    int32_t world; /* its rank among all threads */
    bool opened, closed;
} member;

/* The ranks of one communicator. */
typedef struct group {
    struct hub *hub;
    struct group *next; /* in the hub's list */
    int32_t ranks, closed;
    op *ops, *free_ops; /* going on, in their order; to be used again */
    message *messages;  /* on their way, in the order in which they were sent */
    request *receives;  /* posted and not matched, in their order */
    member member[];
} group;

/* A thread: how many communicators it has, and what it waits for. */
typedef struct place {
    int32_t comms;
    const request *at; /* not ready; NULL: it does not wait */
} place;

typedef struct hub {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int32_t ranks, waiting, gone;
    bool failed;
    char why[1024];
    group *groups; /* all that were made; they live as long as the hub */
    request *free_requests;
    message *free_messages;
    place place[];
} hub;

typedef struct comm {
    group *group;
    int32_t rank;
    int64_t collectives, messages; /* started */
    double timeout;
    request *open; /* started and not waited for */
    request sent;  /* of every send: complete */
    char message[1024];
} comm;

/* ---- hub.c; the hub's lock is held ---- */

hub *loop_hub_new(int32_t ranks); /* its first group is the world */
void loop_hub_free(hub *h);
group *loop_group_new(hub *h, int32_t ranks);
request *loop_request_new(comm *c, const lmoe_exchange *e, int64_t number);
void loop_request_free(comm *c, request *r);

/* The first failure is kept, and everyone who waits is told. */
void __attribute__((format(printf, 2, 3))) loop_fail(hub *h, const char *format, ...);
/* LMOE_OK, or the hub's failure, in the communicator's message. */
lmoe_status loop_status(comm *c);
const char *loop_who(char *buf, size_t n, const group *g, int32_t rank);
void loop_fail_closed(const group *g, int32_t closed, const request *r);
void loop_fail_timeout(comm *c, const request *r);
/* Fails if nobody is left who could let a waiting rank go on. */
void loop_check_stuck(hub *h);
/* r has become ready: its rank waits no more. */
void loop_wake(const request *r);

/* ---- collective.c ---- */

/* Lock held. Enters r as its rank's part. */
void loop_arrive(comm *c, request *r);
/* Lock held, and given back during the work: the shares that nobody has taken. */
void loop_help(op *o);
void loop_leave(op *o, int32_t rank);

/* ---- message.c; lock held, and given back while data is copied ---- */

void loop_send(comm *c, const lmoe_exchange *e, int64_t number);
void loop_receive(comm *c, request *r);

static inline bool loop_ready(const request *r)
{
    return r->op ? r->op->arrived == r->group->ranks : r->matched;
}

static inline bool loop_complete(const request *r)
{
    return r->op ? r->op->done == r->group->ranks : r->complete;
}

#endif
