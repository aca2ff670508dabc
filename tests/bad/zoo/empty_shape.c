/* SPDX-License-Identifier: Apache-2.0
 * breaks: ops/operands
 * Answers operands that do not fit with a size of 0 instead of a refusal.
 */
#include "op.h"

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    if (good_shape(t, attrs, in, n_in, out) != LMOE_OK) {
        out[0] = in[0];
        out[0].rank = 1;
        out[0].axis[0] = "batch";
        out[0].dim[0] = 0;
    }
    return LMOE_OK;
}

ZOO_OP(.shape = shape)
