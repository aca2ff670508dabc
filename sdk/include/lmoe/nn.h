/* SPDX-License-Identifier: Apache-2.0
 * lmoe/nn.h: compositions of ops that layers share. Inline code over lmoe/ops.h; never part of the
 * ABI.
 */
#ifndef LMOE_NN_H
#define LMOE_NN_H

#include <lmoe/ops.h>
#include <math.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Declares a weight of two axes, normal(0, deviation); deviation 0: the model's. */
static inline lmoe_tensor lmoe_matrix(lmoe_trace *t, const char *name, const char *axes,
                                      int64_t rows, int64_t columns, double deviation)
{
    lmoe_param_def d;
    memset(&d, 0, sizeof d);
    d.size = sizeof d;
    d.name = name;
    d.axes = axes;
    d.dim[0] = rows;
    d.dim[1] = columns;
    d.init = LMOE_INIT_NORMAL;
    d.b = deviation;
    return lmoe_param(t, &d);
}

/* Declares a weight of three axes, normal(0, deviation; 0: the model's): projections to heads. */
static inline lmoe_tensor lmoe_cube(lmoe_trace *t, const char *name, const char *axes, int64_t a,
                                    int64_t b, int64_t c, double deviation)
{
    lmoe_param_def d;
    memset(&d, 0, sizeof d);
    d.size = sizeof d;
    d.name = name;
    d.axes = axes;
    d.dim[0] = a;
    d.dim[1] = b;
    d.dim[2] = c;
    d.init = LMOE_INIT_NORMAL;
    d.b = deviation;
    return lmoe_param(t, &d);
}

/* Declares the projection from heads back to the residual stream: (heads head_v embed). */
static inline lmoe_tensor lmoe_output_cube(lmoe_trace *t, const char *name, int64_t heads,
                                           int64_t head_v, int64_t embed)
{
    lmoe_param_def d;
    memset(&d, 0, sizeof d);
    d.size = sizeof d;
    d.name = name;
    d.axes = "heads head_v embed";
    d.dim[0] = heads;
    d.dim[1] = head_v;
    d.dim[2] = embed;
    d.flags = LMOE_PARAM_RESIDUAL;
    return lmoe_param(t, &d);
}

/* Declares a vector of one value: norm weights (1), biases (0). */
static inline lmoe_tensor lmoe_vector(lmoe_trace *t, const char *name, const char *axis, int64_t n,
                                      double value)
{
    lmoe_param_def d;
    memset(&d, 0, sizeof d);
    d.size = sizeof d;
    d.name = name;
    d.axes = axis;
    d.dim[0] = n;
    d.init = LMOE_INIT_CONST;
    d.a = value;
    d.flags = LMOE_PARAM_NO_DECAY;
    return lmoe_param(t, &d);
}

/* Size of a named axis of x; -1 (and a recorded failure) if x lacks it. */
static inline int64_t lmoe_axis_size(lmoe_trace *t, lmoe_tensor x, const char *axis)
{
    lmoe_desc d;
    if (lmoe_describe(t, x, &d) != LMOE_OK) return -1;
    for (int i = 0; i < d.rank; i++) {
        if (strcmp(d.axis[i], axis) == 0) return d.dim[i];
    }
    lmoe_fail(t, "a tensor without axis '%s' was asked for its size", axis);
    return -1;
}

#ifdef __cplusplus
}
#endif
#endif
