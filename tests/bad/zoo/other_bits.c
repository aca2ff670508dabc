/* SPDX-License-Identifier: Apache-2.0
 * breaks: ops/reference
 * Every second run gives other bits.
 */
#include "op.h"

static lmoe_status reference(const lmoe_args *a)
{
    static int runs;
    LMOE_TRY(good_reference(a));
    *(unsigned char *)a->out[0].data ^= (unsigned char)(runs++ % 2);
    return LMOE_OK;
}

ZOO_OP(.reference = reference)
