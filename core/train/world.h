/* SPDX-License-Identifier: Apache-2.0
 * core/train/world.h: what world.c (one rank) and team.c (all ranks of this process) share.
 */
#ifndef LMOE_CORE_WORLD_H
#define LMOE_CORE_WORLD_H

#include "core/train/train.h"

#include <pthread.h>

/* A rank, in a thread of its own or in the process's first one; and who waits for it to end. */
typedef struct lmoe__ranks_team {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int ended;
    bool failed;
} lmoe__ranks_team;

typedef struct lmoe__rank_thread {
    lmoe__rank rank;
    lmoe__ranks_team *team;
    const lmoe__place *place;
    void *group;   /* NULL: the rank is a process */
    void *watched; /* the communicator, as long as the team may look after it */
    double began;  /* when the rank was started; 0: it has joined the others */
    pthread_t thread;
    bool started, ended;
} lmoe__rank_thread;

/* ---- builds.c: do all ranks run the same? ---- */

/* A file that a rank's program consists of. */
typedef struct lmoe__build {
    char name[104]; /* "the command", or the plugin's id */
    char digest[40];
    char path[240];
} lmoe__build;

typedef struct lmoe__builds {
    lmoe__build *list;
    int count, capacity;
} lmoe__builds;

/* Those of this process. */
lmoe_status lmoe__builds_read(lmoe_ctx *ctx, lmoe__registry *registry, lmoe__builds *b);
void lmoe__builds_free(lmoe__builds *b);
/* All ranks call it: fails on all of them, with the first difference, if their lists differ. */
lmoe_status lmoe__builds_agree(lmoe__rank *r, const lmoe__builds *b);

/* Opens the communicator of all ranks. */
lmoe_status lmoe__rank_join(lmoe__rank *r, const lmoe__place *place, void *group);

/* A rank's whole life; t->rank.status is its last word. The device comes first: some communicators
 * exchange its memory. A rank without a device still joins the others, to tell them. */
void lmoe__rank_live(lmoe__rank_thread *t);

#endif
