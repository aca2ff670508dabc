/* SPDX-License-Identifier: Apache-2.0
 * breaks: ops/reference
 * Writes a byte behind its output.
 */
#include "op.h"

static lmoe_status reference(const lmoe_args *a)
{
    LMOE_TRY(good_reference(a));
    const lmoe_buf *y = &a->out[0];
    ((unsigned char *)y->data)[(size_t)lmoe_buf_count(y) * lmoe_dtype_bytes(y->dtype)] = 1;
    return LMOE_OK;
}

ZOO_OP(.reference = reference)
