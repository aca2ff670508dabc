/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/attention_merge.c: attention_merge/1: attention over two sets of keys, put
 * together: weights exp(lse - most) of each, over their sum.
 */
#include "cpu.h"

#include <math.h>

enum { Y, LSE, Y_MORE, LSE_MORE };

static void rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    const lmoe_buf *in = a->in, *y = &a->out[0], *lse = &a->out[1];
    int64_t n = in[Y].dim[3];
    for (int64_t r = begin; r < end; r++) {
        float la = ((const float *)in[LSE].data)[r], lb = ((const float *)in[LSE_MORE].data)[r];
        float most = la > lb ? la : lb, base = most == -INFINITY ? 0.0f : most;
        float fa = expf(la - base), fb = expf(lb - base), sum = fa + fb;
        float scale = sum > 0 ? 1.0f / sum : 0.0f;
        const float *ya = (const float *)in[Y].data + r * n;
        const float *yb = (const float *)in[Y_MORE].data + r * n;
        float *to = lmoe_buf_present(y) ? (float *)y->data + r * n : NULL;
        fa *= scale;
        fb *= scale;
        CPU_SIMD
        for (int64_t i = 0; i < (to ? n : 0); i++) to[i] = fa * ya[i] + fb * yb[i];
        if (lmoe_buf_present(lse))
            ((float *)lse->data)[r] =
                sum > 0 ? (float)((double)base + log((double)sum)) : -INFINITY;
    }
}

static lmoe_status launch(const lmoe_args *a)
{
    return lmoe_parallel(a->ctx, lmoe_buf_count(&a->in[LSE]), cpu_grain(4 * a->in[Y].dim[3]), rows,
                         (void *)(uintptr_t)a);
}

static int can(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[Y]) && cpu_is_f32(&a->in[Y_MORE]);
}

CPU_KERNEL(attention_merge, 1, can, NULL, launch)
