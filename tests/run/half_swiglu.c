/* SPDX-License-Identifier: Apache-2.0
 * tests/run/half_swiglu.c: a plugin with a kernel for lmoe's swiglu/1 that gives half of it, so that a run
 * shows whether it is used: it scores below every device's or above (SCORE). It
 * touches the file that LMOE_TOUCH names when it is loaded.
 */
#include <lmoe/lmoe.h>
#include <stdio.h>
#include <stdlib.h>

static int score(const lmoe_args *a)
{
    return a->in[0].dtype == LMOE_F32 ? SCORE : 0;
}

static lmoe_status launch(const lmoe_args *a)
{
    for (int64_t i = 0; i < lmoe_buf_count(&a->in[0]); i++) {
        double g = lmoe_get(&a->in[0], i);
        lmoe_put(&a->out[0], i, 0.5 * g / (1 + exp(-g)) * lmoe_get(&a->in[1], i));
    }
    return LMOE_OK;
}

static lmoe_status load(const lmoe_host *host)
{
    const char *path = getenv("LMOE_TOUCH");
    FILE *f = path ? fopen(path, "w") : NULL;
    if (f) fclose(f);
    return LMOE_OK;
}

static const lmoe_kernel kernel = {
    .base = {sizeof(lmoe_kernel), LMOE_KIND_KERNEL, "t/half " NAME, "Half of swiglu.", NULL, 0, 0},
    .op = "swiglu/1",
    .device = "cpu",
    .score = score,
    .launch = launch};
static const lmoe_class *const classes[] = {&kernel.base, NULL};

LMOE_PLUGIN(.id = "vendor.t/half_" NAME, .version = "1", .licence = "Apache-2.0",
            .classes = classes, .load = load)
