/* SPDX-License-Identifier: Apache-2.0
 * breaks: ops/reference
 * Moves the first element of an input by its last bit.
 */
#include "op.h"

static lmoe_status reference(const lmoe_args *a)
{
    LMOE_TRY(good_reference(a));
    *(unsigned char *)a->in[1].data ^= 1;
    return LMOE_OK;
}

ZOO_OP(.reference = reference)
