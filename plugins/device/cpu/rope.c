/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/rope.c: rope/1: pairs (i, i + k/2) turned by position * base^(-2i/k).
 *
 * Angles are reduced in double (a position may be a million), their sines and cosines made once for
 * all heads of a token.
 */
#include "cpu.h"

#include <math.h>

enum { MOST = 512 }; /* pairs of a head whose sines fit on the stack */

typedef struct work {
    int64_t heads, half;
    float sign;
    const int32_t *position;
    const double *rate; /* (half): angle of one position */
    const float *x;
    float *y;
} work;

/* angle = quarter * pi/2 + r, |r| <= pi/4. Polynomials in r: cos and sin, Taylor's to below 1e-8.
 */
static inline void sine_cosine(double angle, float *sine, float *cosine)
{
    const double shift = 6755399441055744.0; /* 1.5 * 2^52: adding it rounds to an integer */
    double t = angle * 0.63661977236758134 + shift, n = t - shift;
    double rest = (angle - n * 1.5707963267948966) - n * 6.123233995736766e-17;
    float r = (float)rest, z = r * r;
    uint64_t bits;
    memcpy(&bits, &t, 8);
    uint32_t quarter = (uint32_t)bits;
    float s =
        r +
        r * z * (-1.6666667e-1f + z * (8.3333333e-3f + z * (-1.9841270e-4f + z * 2.7557319e-6f)));
    float c = 1.0f - 0.5f * z + z * z * (4.1666667e-2f + z * (-1.3888889e-3f + z * 2.4801587e-5f));
    float a = quarter & 1 ? c : s, b = quarter & 1 ? s : c;
    *sine = quarter & 2 ? -a : a;
    *cosine = (quarter + 1) & 2 ? -b : b;
}

static void run(void *arg, int64_t begin, int64_t end, int thread)
{
    const work *w = arg;
    float sine[MOST], cosine[MOST];
    int64_t half = w->half;
    for (int64_t t = begin; t < end; t++) {
        double position = w->position[t];
        CPU_SIMD
        for (int64_t i = 0; i < half; i++) {
            float s;
            sine_cosine(position * w->rate[i], &s, &cosine[i]);
            sine[i] = w->sign * s;
        }
        for (int64_t h = 0; h < w->heads; h++) {
            const float *x = w->x + (t * w->heads + h) * 2 * half;
            float *y = w->y + (t * w->heads + h) * 2 * half;
            CPU_SIMD
            for (int64_t i = 0; i < half; i++) {
                float a = x[i], b = x[i + half];
                y[i] = a * cosine[i] - b * sine[i];
                y[i + half] = a * sine[i] + b * cosine[i];
            }
        }
    }
}

static int can(const lmoe_args *a)
{
    return cpu_is_f32(&a->in[0]) && a->in[1].dtype == LMOE_I32 && a->in[0].dim[3] <= 2 * MOST;
}

static size_t workspace(const lmoe_args *a)
{
    return cpu_floats(a->in[0].dim[3]); /* doubles, one for a pair */
}

static lmoe_status launch(const lmoe_args *a)
{
    const lmoe_rope_attrs *o = a->attrs;
    const lmoe_buf *x = &a->in[0];
    int64_t width = x->dim[3];
    double *rate = a->workspace;
    for (int64_t i = 0; i < width / 2; i++)
        rate[i] = pow(o->base, -2.0 * (double)i / (double)width);
    work w = {x->dim[2], width / 2,     o->inverse ? -1.0f : 1.0f, a->in[1].data, rate,
              x->data,   a->out[0].data};
    return lmoe_parallel(a->ctx, x->dim[0] * x->dim[1], cpu_grain(2 * x->dim[2] * width), run, &w);
}

CPU_KERNEL(rope, 1, can, workspace, launch)
