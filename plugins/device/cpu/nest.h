/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/nest.h: c = sum of a * b over nested loops, where it is no matrix product:
 * sums, permutations, dot products of rows, broadcasts.
 */
#ifndef CPU_NEST_H
#define CPU_NEST_H

#include "loops.h"

#define cpu_nest_run       CPU_NAME(cpu_nest_run)
#define cpu_nest_workspace CPU_NAME(cpu_nest_workspace)

/* The loops are merged where they can be: no two are one longer loop. b may be one number that all
 * rounds share (steps 0). */
typedef struct cpu_nest {
    int n;
    cpu_loop loop[CPU_MAX_LOOPS];
    const float *a, *b;
    float *c;
} cpu_nest;

size_t cpu_nest_workspace(const cpu_nest *nest);
lmoe_status cpu_nest_run(lmoe_ctx *ctx, const cpu_nest *nest, void *workspace);

#endif
