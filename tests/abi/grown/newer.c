/* SPDX-License-Identifier: Apache-2.0
 * tests/abi/grown/newer.c: a layer whose author has newer headers than the host.
 *   as it is             needs what is new
 *   -DLMOE_TARGET_API=.. is built for the older host
 *   -DOPTIONAL           has the longer structs, and says that it can do without what is new
 */
#include <lmoe/lmoe.h>

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
#ifdef CALLS
    return lmoe_later(t) ? LMOE_OK : LMOE_E_CONFIG;
#else
    return LMOE_OK;
#endif
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    return lmoe_affine(t, x, 0.5, 0);
}

#ifdef OPTIONAL
static void later(void)
{
}
#endif

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, NAME, "Halves its input.", NULL, 0, 0},
#ifdef OPTIONAL
    .later = later,
#endif
    .params = declare,
    .forward = forward};
static const lmoe_class *const classes[] = {&layer.base, NULL};

#ifdef OPTIONAL
#define NEEDS .api_min = LMOE_API_MINOR - 1,
#else
#define NEEDS
#endif
LMOE_PLUGIN(.id = NAME, .version = "1", .licence = "Apache-2.0", NEEDS.classes = classes)
