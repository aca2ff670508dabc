/* SPDX-License-Identifier: Apache-2.0
 * tests/abi/frozen/0/kernel.c: a CPU kernel for an op of lmoe's own, with a workspace and something
 * prepared, as an author wrote it with the headers of API 1.0.
 */
#include <lmoe/lmoe.h>
#include <stdlib.h>

static int score(const lmoe_args *a)
{
    return a->in[0].dtype == LMOE_F32 ? 1000 : 0;
}

static size_t workspace(const lmoe_args *a)
{
    return sizeof(float) * (size_t)lmoe_buf_count(&a->in[0]);
}

static lmoe_status prepare(const lmoe_args *a, void **prepared)
{
    int64_t *n = malloc(sizeof *n);
    if (!n) return lmoe_error(a->ctx, LMOE_E_MEMORY, "v0/swiglu: out of memory");
    *n = lmoe_buf_count(&a->in[0]);
    *prepared = n;
    return LMOE_OK;
}

static void gates(void *arg, int64_t begin, int64_t end, int thread)
{
    const lmoe_args *a = arg;
    const float *gate = a->in[0].data;
    float *act = a->workspace;
    for (int64_t i = begin; i < end; i++) act[i] = gate[i] / (1 + expf(-gate[i]));
}

static lmoe_status launch(const lmoe_args *a)
{
    const int64_t n = *(const int64_t *)a->prepared;
    const float *up = a->in[1].data, *act = a->workspace;
    float *y = a->out[0].data;
    LMOE_TRY(lmoe_parallel(a->ctx, n, 1024, gates, (void *)(uintptr_t)a));
    for (int64_t i = 0; i < n; i++) y[i] = act[i] * up[i];
    return LMOE_OK;
}

static const lmoe_kernel kernel = {
    .base = {sizeof(lmoe_kernel), LMOE_KIND_KERNEL, "v0/swiglu", "swiglu in f32.", NULL, 0, 0},
    .op = "swiglu/1",
    .device = "cpu",
    .score = score,
    .workspace = workspace,
    .prepare = prepare,
    .launch = launch,
    .release = free};
static const lmoe_class *const classes[] = {&kernel.base, NULL};

LMOE_PLUGIN(.id = "vendor.v0/kernel", .version = "1", .licence = "Apache-2.0", .classes = classes)
