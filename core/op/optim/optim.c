/* SPDX-License-Identifier: Apache-2.0
 * core/op/optim/optim.c: what the optimiser's plan is made of: sum_squares/1, accumulate/1,
 * adamw/1. Equations and conditions stand in optim_ref.c.
 *
 * accumulate and adamw have no results: they change operands in place (LMOE_PORT_MUTATES).
 */
#include "core/op/shape.h"

#include <math.h>

lmoe_status lmoe__sum_squares_reference(const lmoe_args *args);
lmoe_status lmoe__accumulate_reference(const lmoe_args *args);
lmoe_status lmoe__adamw_reference(const lmoe_args *args);

static const struct optim_case {
    const char *axes;
    int64_t dim[2];
    double norm, lr, step;
    lmoe_adamw_attrs adamw;
    uint32_t flags;
} optim_cases[] = {
    {"", {0}, 1, 1e-3, 1, {0.9, 0.999, 1e-8, 0.1, 1}, 0},
    {"embed", {1}, 2, 1e-3, 2, {0.9, 0.95, 1e-8, 0, 0}, 0},
    {"embed hidden", {63, 65}, 20, 1e-2, 1, {0.9, 0.95, 1e-8, 0.1, 1}, 0},
    {"embed hidden", {64, 64}, 0.5, 1e-3, 1000, {0.9, 0.95, 1e-8, 0.1, 1}, 0},
    {"embed hidden", {129, 127}, 0, 1e-3, 7, {0, 0, 1e-6, 0.5, 1}, 0},
    {"embed", {4095}, INFINITY, 1e-3, 3, {0.9, 0.95, 1e-8, 0.1, 1}, 0},
    {"embed", {4097}, NAN, 1e-3, 3, {0.9, 0.95, 1e-8, 0.1, 0}, 0},
    {"embed hidden", {1024, 896}, 3, 1e-4, 100, {0.9, 0.95, 1e-8, 0.1, 1}, LMOE_CASE_BENCH},
};

/* Case `index` with its first n inputs, drawn from a normal distribution. */
static const struct optim_case *sample_case(int index, lmoe_case *c, int n)
{
    if (index >= (int)(sizeof optim_cases / sizeof *optim_cases)) return NULL;
    const struct optim_case *k = &optim_cases[index];
    c->flags = k->flags;
    for (int i = 0; i < n; i++)
        lmoe__case_input(c, i, LMOE_F32, k->axes, k->dim, LMOE_FILL_NORMAL, 0, 1);
    return k;
}

/* ---- sum_squares ---- */

static lmoe_status sum_squares_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in,
                                     int n_in, lmoe_desc *out)
{
    LMOE_TRY(lmoe__need_float(t, &in[0], "x"));
    out[0] = (lmoe_desc){.dtype = lmoe__state_of(in[0].dtype)};
    return LMOE_OK;
}

static int sum_squares_sample(int index, lmoe_case *c)
{
    return sample_case(index, c, 1) != NULL;
}

static double sum_squares_flops(const void *attrs, const lmoe_desc *in, int n_in,
                                const lmoe_desc *out, int n_out)
{
    return 2.0 * (double)lmoe_desc_count(&in[0]);
}

static const lmoe_port sum_squares_inputs[] = {{.name = "x", .flags = LMOE_PORT_NO_GRAD},
                                               {.name = NULL}};
static const lmoe_port sum_squares_outputs[] = {{.name = "y"}, {.name = NULL}};

const lmoe_op lmoe__op_sum_squares = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "sum_squares/1", "sum of the squares of all elements",
             NULL, 0, 0},
    .inputs = sum_squares_inputs,
    .outputs = sum_squares_outputs,
    .shape = sum_squares_shape,
    .rule = "... ->",
    .reference = lmoe__sum_squares_reference,
    .sample = sum_squares_sample,
    .flops = sum_squares_flops,
    .tolerance = 32,
};

/* ---- accumulate ---- */

static lmoe_status accumulate_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                    lmoe_desc *out)
{
    LMOE_TRY(lmoe__need_float(t, &in[0], "buffer"));
    LMOE_TRY(lmoe__need_float(t, &in[1], "x"));
    return lmoe__need_axes(t, &in[0], "buffer", &in[1], "x");
}

static int accumulate_sample(int index, lmoe_case *c)
{
    return sample_case(index, c, 2) != NULL;
}

static const lmoe_port accumulate_inputs[] = {
    {.name = "buffer", .flags = LMOE_PORT_MUTATES | LMOE_PORT_NO_GRAD},
    {.name = "x", .flags = LMOE_PORT_NO_GRAD},
    {.name = NULL}};
static const lmoe_port no_outputs[] = {{.name = NULL}};

const lmoe_op lmoe__op_accumulate = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "accumulate/1", "buffer += x, in place", NULL, 0, 0},
    .inputs = accumulate_inputs,
    .outputs = no_outputs,
    .shape = accumulate_shape,
    .rule = "..., ... ->",
    .reference = lmoe__accumulate_reference,
    .sample = accumulate_sample,
};

/* ---- adamw ---- */

enum { PARAM, GRAD, M, V, NORM, LR, STEP, MASTER };

static const lmoe_port adamw_inputs[] = {
    [PARAM] = {.name = "param", .flags = LMOE_PORT_MUTATES | LMOE_PORT_NO_GRAD},
    [GRAD] = {.name = "grad", .flags = LMOE_PORT_NO_GRAD},
    [M] = {.name = "m", .flags = LMOE_PORT_MUTATES | LMOE_PORT_STATE | LMOE_PORT_NO_GRAD},
    [V] = {.name = "v", .flags = LMOE_PORT_MUTATES | LMOE_PORT_STATE | LMOE_PORT_NO_GRAD},
    [NORM] = {.name = "norm", .flags = LMOE_PORT_STATE | LMOE_PORT_NO_GRAD},
    [LR] = {.name = "lr", .flags = LMOE_PORT_STATE | LMOE_PORT_NO_GRAD},
    [STEP] = {.name = "step", .flags = LMOE_PORT_STATE | LMOE_PORT_NO_GRAD},
    [MASTER] = {.name = "master",
                .flags =
                    LMOE_PORT_MUTATES | LMOE_PORT_STATE | LMOE_PORT_NO_GRAD | LMOE_PORT_OPTIONAL},
    {.name = NULL}};

/* Means may be kept in bf16 beside the state dtype, a master in halves; everything else has the
 * state dtype. */
static lmoe_status need_state(lmoe_trace *t, const lmoe_desc *in, int i)
{
    if (i == MASTER && in[i].dtype == LMOE_U16 && in[PARAM].dtype == LMOE_BF16) return LMOE_OK;
    if ((i == M || i == V) && in[i].dtype == LMOE_BF16) return LMOE_OK;
    return lmoe__need_dtype(t, &in[i], adamw_inputs[i].name, lmoe__state_of(in[PARAM].dtype));
}

static lmoe_status adamw_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                               lmoe_desc *out)
{
    const lmoe_adamw_attrs *o = attrs;
    LMOE_TRY(lmoe__need_float(t, &in[PARAM], "param"));
    LMOE_TRY(lmoe__need_float(t, &in[GRAD], "grad"));
    for (int i = GRAD; i <= MASTER && i < n_in; i++) {
        const char *name = adamw_inputs[i].name;
        bool scalar = i == NORM || i == LR || i == STEP;
        if (i == MASTER && in[i].dtype == LMOE_NONE) continue;
        if (i >= M) LMOE_TRY(need_state(t, in, i));
        if (!scalar) LMOE_TRY(lmoe__need_axes(t, &in[PARAM], "param", &in[i], name));
        if (scalar && in[i].rank != 0) {
            char text[256];
            return lmoe_shape_error(t, "'%s' must be a scalar, but is %s", name,
                                    lmoe__desc_text(text, sizeof text, &in[i]));
        }
    }
    if (!(o->beta1 >= 0 && o->beta1 < 1 && o->beta2 >= 0 && o->beta2 < 1))
        return lmoe_shape_error(t, "beta1 is %g and beta2 is %g; both must be in [0, 1)", o->beta1,
                                o->beta2);
    if (!(o->eps >= 0 && o->weight_decay >= 0 && o->clip >= 0))
        return lmoe_shape_error(t, "eps is %g, weight_decay %g and clip %g; none may be negative",
                                o->eps, o->weight_decay, o->clip);
    return LMOE_OK;
}

static int adamw_sample(int index, lmoe_case *c)
{
    const int cases = (int)(sizeof optim_cases / sizeof *optim_cases);
    const bool master = index >= cases; /* the same again: with a master, and means in bf16 */
    const struct optim_case *k = sample_case(master ? index - cases : index, c, 4);
    if (!k) return 0;
    memcpy(c->attrs.bytes, &k->adamw, sizeof k->adamw);
    c->fill[V].kind = LMOE_FILL_UNIFORM; /* a mean of squares */
    lmoe__case_input(c, NORM, LMOE_F32, "", NULL, LMOE_FILL_CONST, k->norm, 0);
    lmoe__case_input(c, LR, LMOE_F32, "", NULL, LMOE_FILL_CONST, k->lr, 0);
    lmoe__case_input(c, STEP, LMOE_F32, "", NULL, LMOE_FILL_CONST, k->step, 0);
    if (!master) return 1;
    lmoe__case_input(c, MASTER, LMOE_F32, k->axes, k->dim, LMOE_FILL_NORMAL, 0, 1);
    if (index % 2) c->in[M].dtype = c->in[V].dtype = LMOE_BF16;
    return 1;
}

static double adamw_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                          int n_out)
{
    return 16.0 * (double)lmoe_desc_count(&in[PARAM]);
}

static const lmoe_option adamw_options[] = {
    {"beta1", LMOE_OPTION_FLOAT, offsetof(lmoe_adamw_attrs, beta1), "0.9", 0, 1, NULL, NULL,
     "Decay of the mean of gradients."},
    {"beta2", LMOE_OPTION_FLOAT, offsetof(lmoe_adamw_attrs, beta2), "0.95", 0, 1, NULL, NULL,
     "Decay of the mean of squared gradients."},
    {"eps", LMOE_OPTION_FLOAT, offsetof(lmoe_adamw_attrs, eps), "1e-8", 0, 1, NULL, NULL,
     "Added to the root of the mean of squares."},
    {"weight_decay", LMOE_OPTION_FLOAT, offsetof(lmoe_adamw_attrs, weight_decay), "0.1", 0, 1e6,
     NULL, NULL, "Share of the parameter taken off, times lr."},
    {"clip", LMOE_OPTION_FLOAT, offsetof(lmoe_adamw_attrs, clip), "1", 0, 1e30, NULL, NULL,
     "Largest norm of the gradient; 0: no limit."},
    LMOE_OPTION_END};

const lmoe_op lmoe__op_adamw = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "adamw/1", "one step of AdamW, in place", adamw_options,
             sizeof(lmoe_adamw_attrs), 0},
    .inputs = adamw_inputs,
    .outputs = no_outputs,
    .shape = adamw_shape,
    .rule = "..., ..., ..., ..., , , , ... ->",
    .reference = lmoe__adamw_reference,
    .sample = adamw_sample,
    .flops = adamw_flops,
};
