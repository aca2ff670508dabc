/* SPDX-License-Identifier: Apache-2.0
 * core/engine/held.h: how tensors lie over the ranks of a mesh.
 *
 * Every mesh axis cuts a dimension into equal parts or leaves the tensor whole, so a rank holds a
 * box of the whole tensor, which lies densely in its memory.
 */
#ifndef LMOE_CORE_HELD_H
#define LMOE_CORE_HELD_H

#include "core/graph/graph.h"

enum { LMOE__MAX_MESH = 6 };

/* One mesh axis with its strategy and communicator, outermost first. */
typedef struct lmoe__mesh {
    lmoe__mesh_axis axis[LMOE__MAX_MESH];
    lmoe__mesh_comm comm[LMOE__MAX_MESH];
    int count;
} lmoe__mesh;

/* A named value and the dimension that each mesh axis cuts, -1 if none. */
typedef struct lmoe__held {
    const char *name;
    lmoe_desc desc; /* of the whole */
    signed char split[LMOE__MAX_MESH];
    signed char owner[LMOE__MAX_MESH]; /* along axes that leave it whole: who answers for it */
} lmoe__held;

typedef struct lmoe__box {
    int64_t start[LMOE_MAX_DIMS], size[LMOE_MAX_DIMS];
    int64_t count; /* elements */
} lmoe__box;

/* The part of the rank that stands at at[i] on mesh axis i. */
void lmoe__held_box(const lmoe__held *h, const lmoe__mesh *mesh, const int *at, lmoe__box *box);
/* This rank's place on each axis. */
void lmoe__mesh_place(const lmoe__mesh *mesh, int *at);
/* The places of a rank of the world, as ranks are numbered: the innermost axis fastest. */
void lmoe__mesh_place_of(const lmoe__mesh *mesh, int rank, int *at);
/* Several ranks may hold the same part; the one that answers for it. */
bool lmoe__held_owner(const lmoe__held *h, const lmoe__mesh *mesh, const int *at);

/* Calls fn for each run of elements that is dense in the box and in the whole. */
typedef lmoe_status (*lmoe__run_fn)(void *user, int64_t in_box, int64_t in_whole, int64_t count);
lmoe_status lmoe__box_runs(const lmoe__box *box, const lmoe_desc *whole, lmoe__run_fn fn,
                           void *user);

#endif
