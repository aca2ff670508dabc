/* SPDX-License-Identifier: Apache-2.0
 * breaks: kernels/reference
 * Says that it can do bf16, and reads it as f32.
 */
#include "kernel.h"

static int score(const lmoe_args *a)
{
    return a->in[0].dtype == LMOE_F32 || a->in[0].dtype == LMOE_BF16 ? 10 : 0;
}

static lmoe_status launch(const lmoe_args *a)
{
    if (a->in[0].dtype == LMOE_F32) return good_launch(a);
    const uint16_t *x = a->in[0].data;
    uint16_t *y = a->out[0].data;
    for (int64_t i = 0; i < lmoe_buf_count(&a->out[0]); i++) y[i] = x[i];
    return LMOE_OK;
}

ZOO_KERNEL(.score = score, .launch = launch)
