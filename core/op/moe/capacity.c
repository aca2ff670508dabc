/* SPDX-License-Identifier: Apache-2.0
 * core/op/moe/capacity.c: moe_capacity/1: of the choices (batch seq choice) each expert keeps at
 * most `capacity` in a sequence; the others become -1, no expert.
 *
 * With scores, the largest are kept, the earlier token on ties; without, the earliest tokens. What
 * is kept of one sequence depends on that sequence alone, so it is the same at any split of the
 * batch.
 */
#include "core/op/shape.h"

lmoe_status lmoe__moe_capacity_reference(const lmoe_args *args);

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    const lmoe_moe_capacity_attrs *o = attrs;
    LMOE_TRY(lmoe__need_dtype(t, &in[0], "index", LMOE_I32));
    LMOE_TRY(lmoe__need_rank(t, &in[0], "index", 3, "batch seq choice"));
    if (in[1].dtype != LMOE_NONE) {
        LMOE_TRY(lmoe__need_float(t, &in[1], "score"));
        LMOE_TRY(lmoe__need_axes(t, &in[0], "index", &in[1], "score"));
    }
    if (o->experts < 1 || o->capacity < 1)
        return lmoe_shape_error(t,
                                "there must be at least 1 expert with a capacity of at least 1, "
                                "not %lld with %lld",
                                (long long)o->experts, (long long)o->capacity);
    out[0] = in[0];
    return LMOE_OK;
}

static int sample(int index, lmoe_case *c)
{
    static const struct {
        int64_t dim[3], experts, capacity;
        double a, b;  /* experts drawn from [a, b) */
        int64_t ties; /* scores are so many different numbers; 0: all different */
        uint32_t flags;
    } cases[] = {
        {{1, 1, 1}, 1, 1, 0, 1, 0, 0},
        {{2, 63, 2}, 5, 20, 0, 5, 0, 0},
        {{1, 65, 3}, 8, 7, 2, 4, 0, 0},  /* all to a few */
        {{3, 7, 2}, 4, 100, 0, 4, 0, 0}, /* nothing is dropped */
        {{2, 127, 4}, 16, 9, -2, 16, 3, 0},
        {{2, 33, 2}, 2, 1, 0, 2, 1, 0}, /* nothing but ties */
        {{4, 1024, 8}, 64, 128, 0, 64, 0, LMOE_CASE_BENCH},
    };
    if (index / 2 >= (int)(sizeof cases / sizeof *cases)) return 0;
    lmoe_moe_capacity_attrs o = {cases[index / 2].experts, cases[index / 2].capacity};
    const int64_t *dim = cases[index / 2].dim, ties = cases[index / 2].ties;
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = cases[index / 2].flags;
    lmoe__case_input(c, 0, LMOE_I32, "batch seq choice", dim, LMOE_FILL_INT, cases[index / 2].a,
                     cases[index / 2].b);
    if (index % 2 == 0)
        lmoe__case_input(c, 1, LMOE_F32, "batch seq choice", dim,
                         ties ? LMOE_FILL_INT : LMOE_FILL_NORMAL, 0, ties ? (double)ties : 1);
    return 1;
}

static const lmoe_option options[] = {
    {"experts", LMOE_OPTION_INT, offsetof(lmoe_moe_capacity_attrs, experts), NULL, 1, INT32_MAX - 1,
     NULL, NULL, "How many experts there are."},
    {"capacity", LMOE_OPTION_INT, offsetof(lmoe_moe_capacity_attrs, capacity), NULL, 1, 0, NULL,
     "tokens", "Most tokens of one sequence that an expert keeps."},
    LMOE_OPTION_END};

static const lmoe_port inputs[] = {
    {.name = "index", .flags = LMOE_PORT_NO_GRAD},
    {.name = "score", .flags = LMOE_PORT_OPTIONAL | LMOE_PORT_NO_GRAD | LMOE_PORT_STATE},
    {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "kept"}, {.name = NULL}};

const lmoe_op lmoe__op_moe_capacity = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "moe_capacity/1",
             "drops choices of experts that have too many", options,
             sizeof(lmoe_moe_capacity_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule = "b s k, b s k -> b s k | whole s, whole k",
    .reference = lmoe__moe_capacity_reference,
    .sample = sample,
};
