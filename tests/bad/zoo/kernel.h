/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/zoo/kernel.h: op.h's op with a kernel for the CPU, with nothing wrong.
 *
 *   ZOO_KERNEL(.launch = launch)
 */
#ifndef LMOE_ZOO_KERNEL_H
#define LMOE_ZOO_KERNEL_H

#include "op.h"

static int good_score(const lmoe_args *a)
{
    return a->in[0].dtype == LMOE_F32 && a->in[1].dtype == LMOE_F32 ? 10 : 0;
}

static lmoe_status good_launch(const lmoe_args *a)
{
    const float *x = a->in[0].data, *w = a->in[1].data;
    float *y = a->out[0].data, scale = (float)((const good_attrs *)a->attrs)->scale;
    for (int64_t i = 0, e = a->in[1].dim[0]; i < lmoe_buf_count(&a->out[0]); i++)
        y[i] = scale * x[i] * w[i % e];
    return LMOE_OK;
}

#define ZOO_KERNEL(...)                                                                    \
    ZOO_OP_CLASS()                                                                         \
    static const lmoe_kernel zoo_kernel = {.base = {.size = sizeof(lmoe_kernel),           \
                                                    .kind = LMOE_KIND_KERNEL,              \
                                                    .name = "zoo/" ZOO,                    \
                                                    .summary = "One thing is wrong."},     \
                                           .op = "zoo.x/" ZOO "/1",                        \
                                           .device = "cpu",                                \
                                           .score = good_score,                            \
                                           .launch = good_launch,                          \
                                           ##__VA_ARGS__};                                 \
    static const lmoe_class *const zoo_classes[] = {&zoo_op.base, &zoo_kernel.base, NULL}; \
    LMOE_PLUGIN(.id = "zoo.x/" ZOO, .version = "1.0", .licence = "Apache-2.0",             \
                .classes = zoo_classes)

#endif
