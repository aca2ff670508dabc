/* SPDX-License-Identifier: Apache-2.0
 * plugins/comm/loop/reduce.h: reductions over the buffers of ranks.
 */
#ifndef LOOP_REDUCE_H
#define LOOP_REDUCE_H

#include <lmoe/comm.h>

/* Replaces elements begin ... end-1 of each of n buffers by their reduction, in the order of the
 * buffers. f32 and f64 are added in their own dtype, f16 and bf16 in f32 and rounded once, integers
 * modulo their range. A NaN in any buffer makes the largest and the smallest NaN. */
void loop_reduce(void *const *buffer, int32_t n, int64_t begin, int64_t end, lmoe_dtype dtype,
                 lmoe_reduce op);

#endif
