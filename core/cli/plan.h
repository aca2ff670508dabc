/* SPDX-License-Identifier: Apache-2.0
 * core/cli/plan.h: what the files of lmoe plan share.
 */
#ifndef LMOE_CLI_PLAN_H
#define LMOE_CLI_PLAN_H

#include "core/cli/cli.h"
#include "core/train/setup.h"

extern const char *const lmoe__plan_kinds[LMOE__MEM_KINDS];

/* Parameters, and FLOPs: of one rank, for a micro-batch. */
void lmoe__plan_print_model(const lmoe__setup *s, const lmoe__engine *e, double flops);
/* Every exchange of these plans between ranks, with the line that caused it. */
void lmoe__plan_print_exchanges(const lmoe__setup *s, const char *what,
                                const lmoe__plan *const *plans, int n);
/* The kernels of these plans that plugins other than the device's brought; all: every kernel. */
void lmoe__plan_print_kernels(const lmoe__setup *s, const lmoe__plan *const *plans, int n,
                              bool all);
/* A plan and how often a step runs it. */
typedef struct lmoe__planned_time {
    const lmoe__plan *plan;
    double times;
} lmoe__planned_time;
/* The time of a step by [plan]; nothing if it gives no rate. waiting: share of the step that ranks of
 * a pipeline wait. */
void lmoe__plan_print_time(const lmoe__setup *s, const lmoe__planned_time *parts, int n,
                           double waiting);
/* All of it for a run whose mesh axis `axis` is a pipeline. */
lmoe_status lmoe__plan_pipeline(lmoe_ctx *ctx, const lmoe__setup *s, int axis, bool explain);

#endif
