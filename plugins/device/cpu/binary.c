/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/binary.c: add/1, multiply/1, divide/1: a (outer run inner), b (run) -> like a.
 */
#include "cpu.h"

/* y = a op b with n elements of b, or (step 0) with one. */
typedef void (*binary_fn)(float *y, const float *a, const float *b, int64_t step, int64_t n);

#define FUNCTION(name, op)                                                              \
    static void name(float *y, const float *a, const float *b, int64_t step, int64_t n) \
    {                                                                                   \
        if (step) {                                                                     \
            CPU_SIMD                                                                    \
            for (int64_t i = 0; i < n; i++) y[i] = a[i] op b[i];                        \
        } else {                                                                        \
            const float x = *b;                                                         \
            CPU_SIMD                                                                    \
            for (int64_t i = 0; i < n; i++) y[i] = a[i] op x;                           \
        }                                                                               \
    }

FUNCTION(sum, +)
FUNCTION(product, *)
FUNCTION(quotient, /)

typedef struct work {
    binary_fn fn;
    int64_t run, inner; /* elements of b, elements of a for each */
    const float *a, *b;
    float *y;
} work;

static void run(void *arg, int64_t begin, int64_t end, int thread)
{
    const work *w = arg;
    for (int64_t i = begin, n; i < end; i += n) {
        int64_t at = i / w->inner % w->run;
        n = w->inner == 1 ? w->run - at : w->inner - i % w->inner;
        n = cpu_min(n, end - i);
        w->fn(w->y + i, w->a + i, w->b + at, w->inner == 1, n);
    }
}

static int can(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[0]) && cpu_is_f32(&a->in[1]);
}

static lmoe_status launch(const lmoe_args *a, binary_fn fn)
{
    const lmoe_binary_attrs *o = a->attrs;
    const lmoe_buf *x = &a->in[0], *b = &a->in[1];
    work w = {fn, lmoe_buf_count(b), 1, x->data, b->data, a->out[0].data};
    for (int64_t i = o->start + b->rank; i < x->rank; i++) w.inner *= x->dim[i];
    if (b->rank == 0) w.inner = lmoe_buf_count(x);
    return lmoe_parallel(a->ctx, lmoe_buf_count(x), cpu_grain(1), run, &w);
}

static lmoe_status launch_add(const lmoe_args *a)
{
    return launch(a, sum);
}

static lmoe_status launch_multiply(const lmoe_args *a)
{
    return launch(a, product);
}

static lmoe_status launch_divide(const lmoe_args *a)
{
    return launch(a, quotient);
}

CPU_KERNEL(add, 1, can, NULL, launch_add)
CPU_KERNEL(multiply, 1, can, NULL, launch_multiply)
CPU_KERNEL(divide, 1, can, NULL, launch_divide)
