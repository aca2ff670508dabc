/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/rope.cu: rope/1. A thread turns pair (i, i + width/2) of every head of a
 * token. Far positions need angles in double.
 */
#include "kernel.cuh"

struct Rope {
    int64_t tokens, heads, width;
    double log2_base, sign;
};

static __global__ void turn(Rope r, Floats x, const int32_t *positions, Results y)
{
    int64_t half = r.width / 2, token = item() / half, i = item() % half;
    if (token >= r.tokens) return;
    double angle = positions[token] * exp2(-2.0 * (double)i / (double)r.width * r.log2_base);
    double sine, cosine;
    sincos(angle, &sine, &cosine);
    float c = (float)cosine, s = (float)(r.sign * sine);
    for (int64_t h = 0; h < r.heads; h++) {
        int64_t at = (token * r.heads + h) * r.width + i;
        float a = x[at], b = x[at + half];
        y.put(at, a * c - b * s);
        y.put(at + half, a * s + b * c);
    }
}

static lmoe_status launch(const lmoe_args *a)
{
    const lmoe_rope_attrs *o = (const lmoe_rope_attrs *)a->attrs;
    const lmoe_buf *x = &a->in[0];
    Rope r = {x->dim[0] * x->dim[1], x->dim[2], x->dim[3], log2(o->base), o->inverse ? -1.0 : 1.0};
    turn<<<blocks(r.tokens * (r.width / 2), THREADS), THREADS, 0, stream_of(a)>>>(
        r, floats(a, 0), input<int32_t>(a, 1), results(a, 0));
    return cuda_launched(a);
}

CUDA_KERNEL(rope, 1, cuda_floats, NULL, launch)
