/* SPDX-License-Identifier: Apache-2.0
 * breaks: devices/kernels
 * Its kernel forgets the shift.
 */
#include "device.h"

static lmoe_status launch(const lmoe_args *a)
{
    const lmoe_affine_attrs *o = a->attrs;
    const float *x = a->in[0].data;
    float *y = a->out[0].data;
    for (int64_t i = 0; i < lmoe_buf_count(&a->out[0]); i++) y[i] = (float)(o->scale * x[i]);
    return LMOE_OK;
}

ZOO_AFFINE(.launch = launch)
ZOO_DEVICE_CLASS()
