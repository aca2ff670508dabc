/* SPDX-License-Identifier: Apache-2.0
 * core/op/softmax/softmax_ref.c: row by row, with m the row's maximum:
 *
 *   logsumexp = m + log(sum exp(x - m)),   y = exp(x - logsumexp),   dx = y (dy - sum(y dy))
 */
#include "core/op/op.h"

#include <math.h>

lmoe_status lmoe__softmax_reference(const lmoe_args *args);
lmoe_status lmoe__softmax_grad_reference(const lmoe_args *args);
lmoe_status lmoe__logsumexp_reference(const lmoe_args *args);

static double logsumexp(const lmoe_buf *x, int64_t first, int64_t width)
{
    double most = -INFINITY, sum = 0;
    for (int64_t i = first; i < first + width; i++) most = fmax(most, lmoe_get(x, i));
    for (int64_t i = first; i < first + width; i++) sum += exp(lmoe_get(x, i) - most);
    return most + log(sum);
}

lmoe_status lmoe__softmax_reference(const lmoe_args *args)
{
    const lmoe_buf *x = &args->in[0];
    int64_t width = x->dim[x->rank - 1], count = lmoe_buf_count(x);
    for (int64_t first = 0; first < count; first += width) {
        double lse = logsumexp(x, first, width);
        for (int64_t i = first; i < first + width; i++)
            lmoe_put(&args->out[0], i, exp(lmoe_get(x, i) - lse));
    }
    return LMOE_OK;
}

lmoe_status lmoe__softmax_grad_reference(const lmoe_args *args)
{
    const lmoe_buf *y = &args->in[0], *dy = &args->in[1];
    int64_t width = y->dim[y->rank - 1], count = lmoe_buf_count(y);
    for (int64_t first = 0; first < count; first += width) {
        double dot = 0;
        for (int64_t i = first; i < first + width; i++) dot += lmoe_get(y, i) * lmoe_get(dy, i);
        for (int64_t i = first; i < first + width; i++)
            lmoe_put(&args->out[0], i, lmoe_get(y, i) * (lmoe_get(dy, i) - dot));
    }
    return LMOE_OK;
}

lmoe_status lmoe__logsumexp_reference(const lmoe_args *args)
{
    const lmoe_buf *x = &args->in[0];
    int64_t width = x->dim[x->rank - 1];
    for (int64_t row = 0; row < lmoe_buf_count(&args->out[0]); row++)
        lmoe_put(&args->out[0], row, logsumexp(x, row * width, width));
    return LMOE_OK;
}
