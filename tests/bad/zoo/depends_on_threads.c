/* SPDX-License-Identifier: Apache-2.0
 * breaks: kernels/reference
 * Its result depends on the number of threads.
 */
#include "kernel.h"

static lmoe_status launch(const lmoe_args *a)
{
    LMOE_TRY(good_launch(a));
    float *y = a->out[0].data;
    y[0] *= 1 + 1e-7f * (float)lmoe_threads(a->ctx);
    return LMOE_OK;
}

ZOO_KERNEL(.launch = launch)
