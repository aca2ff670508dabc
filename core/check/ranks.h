/* SPDX-License-Identifier: Apache-2.0
 * core/check/ranks.h: a layer, or the experts behind a router, over ranks that are threads of
 * comm/loop, against one rank.
 */
#ifndef LMOE_CORE_CHECK_RANKS_H
#define LMOE_CORE_CHECK_RANKS_H

#include "core/check/lab.h"

typedef struct lmoe__ranks_axis {
    const char *name, *strategy; /* "sp", "parallel/lasp2" */
    int ranks;
} lmoe__ranks_axis;

typedef struct lmoe__ranks_case {
    lmoe__ranks_axis axis[3]; /* outermost first; up to one without a name */
    int run_flags;            /* LMOE__RUN_... */
} lmoe__ranks_case;

/* Runs the sheet forward and backward in float64, on one rank and on the mesh, and compares y, dx and
 * all gradients on all ranks. False: the check has failed. *refused: why the mesh was refused
 * (exam's memory), NULL if it was not. *worst grows to the worst error, relative to each tensor. */
bool lmoe__ranks_compare(lmoe__exam *x, const lmoe__form *f, const lmoe__sheet *s,
                         const lmoe__ranks_case *c, const char **refused, double *worst);
const char *lmoe__ranks_text(lmoe__exam *x, const lmoe__ranks_case *c);

#endif
