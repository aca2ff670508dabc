/* SPDX-License-Identifier: Apache-2.0
 * breaks: kernels/reference
 * Fills its output up to a multiple of four elements.
 */
#include "kernel.h"

static lmoe_status launch(const lmoe_args *a)
{
    LMOE_TRY(good_launch(a));
    float *y = a->out[0].data;
    for (int64_t i = lmoe_buf_count(&a->out[0]); i % 4 != 0; i++) y[i] = 0;
    return LMOE_OK;
}

ZOO_KERNEL(.launch = launch)
