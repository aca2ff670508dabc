/* SPDX-License-Identifier: Apache-2.0
 * breaks: endurance/steps
 * also: endurance/launches (of the op itself)
 * A layer whose op leaves memory behind at each launch.
 */
#include "layer.h"
#include "op.h"

#include <stdlib.h>

static void *volatile lost;

static lmoe_status reference(const lmoe_args *a)
{
    lost = malloc(8);
    return good_reference(a);
}

static lmoe_tensor forward(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x)
{
    const good_attrs one = {1};
    int64_t e = lmoe_size(t, "embed");
    lmoe_tensor in[2] = {good_forward(t, options, params, x),
                         lmoe_vector(t, "gain.weight", "embed", e, 1.0)};
    return lmoe_apply_at(t, LMOE_HERE, "zoo.x/" ZOO "/1", in, 2, &one, sizeof one, NULL, 0);
}

ZOO_OP_CLASS(.reference = reference)
static const lmoe_layer layer = {
    .base = {ZOO_CLASS(LMOE_KIND_LAYER, lmoe_layer), .options = good_table,
             .options_size = sizeof(good_options)},
    .params_size = sizeof(good_params),
    .params = good_declare,
    .forward = forward,
};
static const lmoe_class *const zoo_classes[] = {&layer.base, &zoo_op.base, NULL};
ZOO_PLUGIN()
