/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/op_ours.c: offers an op under the name of one that lmoe has.
 */
#include "good.h"

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    *out = *in;
    return LMOE_OK;
}

static lmoe_status reference(const lmoe_args *a)
{
    return LMOE_OK;
}

static const lmoe_port x[] = {{"x", 0, 0}, {NULL, 0, 0}};
static const lmoe_op op = {.base = {.size = sizeof(lmoe_op),
                                    .kind = LMOE_KIND_OP,
                                    .name = "add/1",
                                    .summary = "Not the addition."},
                           .inputs = x,
                           .outputs = x,
                           .shape = shape,
                           .reference = reference};
static const lmoe_layer layer = {.base = {GOOD_CLASS}, GOOD_SLOTS};
static const lmoe_class *const classes[] = {&layer.base, &op.base, NULL};
LMOE_PLUGIN(GOOD_PLUGIN, .classes = classes)
