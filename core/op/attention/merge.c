/* SPDX-License-Identifier: Apache-2.0
 * core/op/attention/merge.c: attention_merge/1: softmax attention of the same queries over two sets
 * of keys, put together. Strategies emit it; nothing differentiates it.
 *
 *   lse' = log(exp lse + exp lse_more)   y' = exp(lse - lse') y + exp(lse_more - lse') y_more
 *
 * Where neither set had a key that was seen, lse' is -infinity and y' is 0.
 */
#include "core/op/shape.h"

#include <math.h>

lmoe_status lmoe__attention_merge_ref(const lmoe_args *args);

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    const lmoe_desc *y = &in[0], *lse = &in[1];
    LMOE_TRY(lmoe__need_float(t, y, "y"));
    LMOE_TRY(lmoe__need_rank(t, y, "y", 4, "batch seq heads head_v"));
    LMOE_TRY(lmoe__need_dtype(t, lse, "lse", lmoe__state_of(y->dtype)));
    LMOE_TRY(lmoe__need_rank(t, lse, "lse", 3, "batch seq heads"));
    for (int i = 0; i < 3; i++) LMOE_TRY(lmoe__need_axis(t, y, "y", i, lse, "lse", i));
    LMOE_TRY(lmoe__need_like(t, y, "y", &in[2], "y_more"));
    LMOE_TRY(lmoe__need_like(t, lse, "lse", &in[3], "lse_more"));
    out[0] = *y;
    out[1] = *lse;
    return LMOE_OK;
}

static int sample(int index, lmoe_case *c)
{
    static const int64_t sizes[][4] = {{1, 1, 1, 1},    {2, 63, 3, 5},  {1, 65, 2, 64},
                                       {3, 7, 4, 31},   {2, 2, 1, 17},  {1, 129, 4, 8},
                                       {4, 31, 2, 128}, {8, 512, 8, 64}};
    const int last = (int)(sizeof sizes / sizeof *sizes) - 1;
    if (index > last) return 0;
    double deviation = index == 3 ? 60 : 1; /* one set may outweigh the other by far */
    for (int i = 0; i < 4; i += 2) {
        lmoe__case_input(c, i, LMOE_F32, "batch seq heads head_v", sizes[index], LMOE_FILL_NORMAL,
                         0, 1);
        lmoe__case_input(c, i + 1, LMOE_F32, "batch seq heads", sizes[index],
                         index == 1 ? LMOE_FILL_DECAY : LMOE_FILL_NORMAL, 0, deviation);
    }
    c->flags = index == last ? LMOE_CASE_BENCH : 0;
    return 1;
}

lmoe_status lmoe__attention_merge_ref(const lmoe_args *args)
{
    const lmoe_buf *in = args->in, *y = &args->out[0], *lse = &args->out[1];
    int64_t rows = lmoe_buf_count(&in[1]), n = in[0].dim[3];
    for (int64_t r = 0; r < rows; r++) {
        double a = lmoe_get(&in[1], r), b = lmoe_get(&in[3], r), most = fmax(a, b);
        double base = most == -INFINITY ? 0 : most, fa = exp(a - base), fb = exp(b - base);
        double sum = fa + fb;
        for (int64_t i = r * n; i < (r + 1) * n && lmoe_buf_present(y); i++) {
            double x = fa * lmoe_get(&in[0], i) + fb * lmoe_get(&in[2], i);
            lmoe_put(y, i, sum > 0 ? x / sum : 0);
        }
        if (lmoe_buf_present(lse)) lmoe_put(lse, r, sum > 0 ? base + log(sum) : -INFINITY);
    }
    return LMOE_OK;
}

static const lmoe_port inputs[] = {{.name = "y"},
                                   {.name = "lse", .flags = LMOE_PORT_STATE},
                                   {.name = "y_more"},
                                   {.name = "lse_more", .flags = LMOE_PORT_STATE},
                                   {.name = NULL}};
static const lmoe_port outputs[] = {
    {.name = "y"}, {.name = "lse", .flags = LMOE_PORT_STATE}, {.name = NULL}};
static const signed char over[] = {1, 2};

const lmoe_op lmoe__op_attention_merge = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "attention_merge/1",
             "softmax attention over two sets of keys, put together", NULL, 0, 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule = "b s h v, b s h, b s h v, b s h -> b s h v, b s h | same 1",
    .reference = lmoe__attention_merge_ref,
    .sample = sample,
    .inplace = over,
    .tolerance = 16,
};
