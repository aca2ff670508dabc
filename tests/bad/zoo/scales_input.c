/* SPDX-License-Identifier: Apache-2.0
 * breaks: kernels/reference
 * Scales its input where it lies.
 */
#include "kernel.h"

static lmoe_status launch(const lmoe_args *a)
{
    float *w = a->in[1].data;
    LMOE_TRY(good_launch(a));
    for (int64_t i = 0; i < a->in[1].dim[0]; i++) w[i] *= 0.5f;
    return LMOE_OK;
}

ZOO_KERNEL(.launch = launch)
