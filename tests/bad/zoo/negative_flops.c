/* SPDX-License-Identifier: Apache-2.0
 * breaks: ops/flops
 * Counts FLOPs below 0.
 */
#include "op.h"

static double flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                    int n_out)
{
    return -2.0 * (double)lmoe_desc_count(&out[0]);
}

ZOO_OP(.flops = flops)
