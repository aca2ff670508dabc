/* SPDX-License-Identifier: Apache-2.0
 * lmoe/comm.h: communicators: how ranks exchange tensors.
 *
 * All ranks of a communicator call the same operations in the same order with the same counts. A
 * failure on one rank must end the others (abort), never leave them waiting.
 */
#ifndef LMOE_COMM_H
#define LMOE_COMM_H

#include <lmoe/option.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LMOE_KIND_COMM "lmoe.comm/1"

enum {
    LMOE_COMM_THREADS = 1, /* ranks are threads that the host starts in this process */
    LMOE_COMM_DEVICE = 2   /* buffers may be device memory */
};

typedef enum lmoe_reduce { LMOE_SUM = 0, LMOE_MAX = 1, LMOE_MIN = 2 } lmoe_reduce;

/* Where a rank stands. group: what group_create made, shared by the ranks of a LMOE_COMM_THREADS
 * communicator. */
typedef struct lmoe_comm_env {
    size_t size;
    int32_t rank, ranks;
    void *group;
} lmoe_comm_env;

typedef struct lmoe_comm {
    lmoe_class base;
    /* LMOE_COMM_THREADS only: the object that the ranks share; made and destroyed by one thread. */
    lmoe_status (*group_create)(const void *options, int32_t ranks, void **group);
    void (*group_destroy)(void *group);
    lmoe_status (*open)(const void *options, const lmoe_comm_env *env, void **comm);
    void (*close)(void *comm);
    void (*abort)(void *comm); /* from any thread: every waiting or later call on any rank returns
                                  LMOE_E_COMM */
    /* Ranks with the same color form a new communicator, ordered by key (then rank). Collective. */
    lmoe_status (*split)(void *comm, int32_t color, int32_t key, void **sub);
    int32_t (*rank)(void *comm);
    int32_t (*ranks)(void *comm);
    /* buf: count elements, replaced by the reduction over ranks in rank order. */
    lmoe_status (*all_reduce)(void *comm, void *buf, int64_t count, lmoe_dtype dtype,
                              lmoe_reduce op, void *stream);
    /* recv: ranks * count elements, rank r's at r * count. */
    lmoe_status (*all_gather)(void *comm, const void *send, void *recv, int64_t count,
                              lmoe_dtype dtype, void *stream);
    /* What went wrong, for people; valid until the next call. */
    const char *(*message)(void *comm);
} lmoe_comm;

#ifdef __cplusplus
}
#endif
#endif
