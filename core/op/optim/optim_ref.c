/* SPDX-License-Identifier: Apache-2.0
 * core/op/optim/optim_ref.c: references of sum_squares/1, accumulate/1 and adamw/1.
 *
 * sum_squares: each block of 4096 consecutive elements (the last one may be shorter) is summed by
 * itself, then the sums of the blocks are added in their order. Kernels do the same, whatever
 * number of threads works on the blocks, so that the result does not depend on it.
 *
 * adamw (Loshchilov and Hutter, arXiv 1711.05101), step = 1, 2, ...:
 *   g = grad min(1, clip / norm)                  clip 0: g = grad
 *   m = beta1 m + (1 - beta1) g                   v = beta2 v + (1 - beta2) g^2
 *   param -= lr (m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay param)
 * With a master, that is what is read and updated, and param becomes its rounding; a master in u16
 * is the lower half of a number of which param is the upper one.
 * Nothing is changed if norm is not finite.
 */
#include "core/op/op.h"

#include <math.h>

lmoe_status lmoe__sum_squares_reference(const lmoe_args *args);
lmoe_status lmoe__accumulate_reference(const lmoe_args *args);
lmoe_status lmoe__adamw_reference(const lmoe_args *args);

lmoe_status lmoe__sum_squares_reference(const lmoe_args *args)
{
    const int64_t n = lmoe_buf_count(&args->in[0]), block = 4096;
    double total = 0;
    for (int64_t begin = 0; begin < n; begin += block) {
        double sum = 0;
        for (int64_t i = begin; i < n && i < begin + block; i++) {
            double x = lmoe_get(&args->in[0], i);
            sum += x * x;
        }
        total += sum;
    }
    lmoe_put(&args->out[0], 0, total);
    return LMOE_OK;
}

lmoe_status lmoe__accumulate_reference(const lmoe_args *args)
{
    for (int64_t i = 0; i < lmoe_buf_count(&args->in[0]); i++)
        lmoe_put_add(&args->in[0], i, lmoe_get(&args->in[1], i));
    return LMOE_OK;
}

static double read_exact(const lmoe_buf *param, const lmoe_buf *master, int64_t i)
{
    if (!lmoe_buf_present(master)) return lmoe_get(param, i);
    if (master->dtype != LMOE_U16) return lmoe_get(master, i);
    return lmoe_join_halves(((const uint16_t *)param->data)[i],
                            ((const uint16_t *)master->data)[i]);
}

static void write_exact(const lmoe_buf *param, const lmoe_buf *master, int64_t i, double x)
{
    if (!lmoe_buf_present(master)) {
        lmoe_put(param, i, x);
    } else if (master->dtype != LMOE_U16) {
        lmoe_put(master, i, x);
        lmoe_put(param, i, lmoe_get(master, i));
    } else {
        ((uint16_t *)param->data)[i] = lmoe_upper_half((float)x);
        ((uint16_t *)master->data)[i] = lmoe_lower_half((float)x);
    }
}

lmoe_status lmoe__adamw_reference(const lmoe_args *args)
{
    const lmoe_adamw_attrs *o = args->attrs;
    const lmoe_buf *param = &args->in[0], *grad = &args->in[1], *m = &args->in[2];
    const lmoe_buf *v = &args->in[3];
    const lmoe_buf none = {.dtype = LMOE_NONE}, *master = args->n_in > 7 ? &args->in[7] : &none;
    const double norm = lmoe_get(&args->in[4], 0), lr = lmoe_get(&args->in[5], 0);
    const double step = lmoe_get(&args->in[6], 0);
    if (!isfinite(norm)) return LMOE_OK;
    const double scale = o->clip > 0 && norm > o->clip ? o->clip / norm : 1;
    const double m_part = 1 - pow(o->beta1, step), v_part = 1 - pow(o->beta2, step);
    for (int64_t i = 0; i < lmoe_buf_count(param); i++) {
        double g = lmoe_get(grad, i) * scale, p = read_exact(param, master, i);
        double mi = o->beta1 * lmoe_get(m, i) + (1 - o->beta1) * g;
        double vi = o->beta2 * lmoe_get(v, i) + (1 - o->beta2) * g * g;
        double update = mi / m_part / (sqrt(vi / v_part) + o->eps) + o->weight_decay * p;
        lmoe_put(m, i, mi);
        lmoe_put(v, i, vi);
        write_exact(param, master, i, p - lr * update);
    }
    return LMOE_OK;
}
