/* SPDX-License-Identifier: Apache-2.0
 * breaks: kernels/reference
 * Forgets the elements that do not fill a group of four.
 */
#include "kernel.h"

static lmoe_status launch(const lmoe_args *a)
{
    const float *x = a->in[0].data, *w = a->in[1].data;
    float *y = a->out[0].data, scale = (float)((const good_attrs *)a->attrs)->scale;
    int64_t n = lmoe_buf_count(&a->out[0]) / 4 * 4;
    for (int64_t i = 0, e = a->in[1].dim[0]; i < n; i++) y[i] = scale * x[i] * w[i % e];
    return LMOE_OK;
}

ZOO_KERNEL(.launch = launch)
