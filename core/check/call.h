/* SPDX-License-Identifier: Apache-2.0
 * core/check/call.h: calls of an op's reference on tensors in float64 that can be cut and compared:
 * what the checks of ops are made of. Memory is an arena's.
 */
#ifndef LMOE_CORE_CHECK_CALL_H
#define LMOE_CORE_CHECK_CALL_H

#include "core/bench/bench.h"
#include "core/check/check.h"

/* A tensor in host memory; dtype LMOE_NONE: absent. */
typedef struct lmoe__part {
    lmoe_desc d;
    lmoe_buf b;
} lmoe__part;

typedef struct lmoe__called {
    const lmoe_op *op;
    const void *attrs;
    int n_in, n_out;
    lmoe__part in[LMOE_MAX_IO], out[LMOE_MAX_IO];
} lmoe__called;

lmoe__part lmoe__part_new(lmoe__arena *a, const lmoe_desc *d);
void lmoe__part_fill(lmoe__part *p, double x);
/* Elements from ... from+n-1 along a dimension, copied. */
lmoe__part lmoe__part_cut(lmoe__arena *a, const lmoe__part *p, int dim, int64_t from, int64_t n);
/* Dimension of this axis; -1: it has none. */
int lmoe__part_axis(const lmoe__part *p, const char *axis);
/* Fails with `what` at the first element that differs by more than 1e-9 of the largest in `want`;
 * false: failed. */
bool lmoe__part_close(lmoe__exam *x, const lmoe__part *got, const lmoe__part *want,
                      const char *what);

/* The call of case `index` with float inputs in f64. False: there is no such case, or the check has
 * failed. seq > 0: with so many tokens instead of its own. flags: of the case. */
bool lmoe__called_sample(lmoe__exam *x, lmoe__arena *a, int index, int64_t seq, lmoe__called *c,
                         uint32_t *flags);
/* Shape and reference, into new outputs that hold NaN before. False: the check has failed. */
bool lmoe__called_run(lmoe__exam *x, lmoe__arena *a, lmoe__called *c);
/* The same, but a shape that is refused is no failure: *refused. */
bool lmoe__called_try(lmoe__exam *x, lmoe__arena *a, lmoe__called *c, bool *refused);

/* The op of this name: one of the plugin, or lmoe's; NULL: none. */
const lmoe_op *lmoe__check_op(const lmoe__exam *x, const char *name);

/* ---- checks of ops by file, for ops.c's table ---- */

void lmoe__ops_rule(lmoe__exam *x);
void lmoe__ops_carry(lmoe__exam *x);
void lmoe__ops_reset(lmoe__exam *x);
void lmoe__ops_summary(lmoe__exam *x);
void lmoe__ops_gradient(lmoe__exam *x);

#endif
