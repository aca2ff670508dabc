/* SPDX-License-Identifier: Apache-2.0
 * breaks: layers/state
 * Something of the call before, of another text perhaps, is in the result.
 */
#include "layer.h"
#include "through.h"

static lmoe_status reference(const lmoe_args *a)
{
    static double last;
    double before = a->in[0].dim[1] == 5 ? last : 0;
    for (int64_t i = 0; i < lmoe_buf_count(&a->in[0]); i++)
        lmoe_put(&a->out[0], i, lmoe_get(&a->in[0], i) + 3e-7 * before);
    last = lmoe_get(&a->in[0], 0);
    return LMOE_OK;
}

ZOO_THROUGH(.reference = reference)

static lmoe_tensor forward(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x)
{
    lmoe_desc d;
    if (lmoe_describe(t, x, &d) != LMOE_OK) return x;
    if (d.dtype == LMOE_F32 && lmoe_size(t, "context") > 0) x = through(t, x);
    return good_forward(t, options, params, x);
}

ZOO_LAYER_THROUGH(forward)
