/* SPDX-License-Identifier: Apache-2.0
 * core/op/moe/act.c: what an expert does between its products, with the router's weight of each
 * row.
 *
 *   expert_act        gate (row hidden), up like it or absent, scale (row)
 *                     -> h (row hidden): h_r = scale_r f(gate_r) up_r
 *   expert_act_grad   (.., dh) -> dgate, dup, dscale_r = sum over hidden of f(gate_r) up_r dh_r
 *
 * f: silu (SwiGLU with up), gelu (tanh form), relu2. The weight stands here, and not behind the last
 * product, because its derivative then needs nothing but what is at hand: the rows that the experts
 * return need not be kept for the backward pass.
 */
#include "core/op/shape.h"

lmoe_status lmoe__expert_act_reference(const lmoe_args *args);
lmoe_status lmoe__expert_act_grad_reference(const lmoe_args *args);

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    const lmoe_expert_act_attrs *o = attrs;
    const lmoe_desc *gate = &in[0], *up = &in[1], *scale = &in[2];
    if (o->fn < LMOE_ACT_SILU || o->fn > LMOE_ACT_RELU2)
        return lmoe_shape_error(t, "there is no function number %d", (int)o->fn);
    LMOE_TRY(lmoe__need_float(t, gate, "gate"));
    LMOE_TRY(lmoe__need_rank(t, gate, "gate", 2, "row hidden"));
    if (up->dtype != LMOE_NONE) LMOE_TRY(lmoe__need_like(t, gate, "gate", up, "up"));
    LMOE_TRY(lmoe__need_dtype(t, scale, "scale", lmoe__state_of(gate->dtype)));
    LMOE_TRY(lmoe__need_rank(t, scale, "scale", 1, "row"));
    LMOE_TRY(lmoe__need_axis(t, gate, "gate", 0, scale, "scale", 0));
    out[0] = *gate;
    return LMOE_OK;
}

static lmoe_status grad_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                              lmoe_desc *out)
{
    LMOE_TRY(shape(t, attrs, in, n_in, out));
    LMOE_TRY(lmoe__need_like(t, &in[0], "gate", &in[3], "dh"));
    out[1] = in[1];
    out[2] = in[2];
    return LMOE_OK;
}

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_tensor in[4] = {v->in[0], v->in[1], v->in[2], v->dout[0]};
    lmoe_apply_at(t, LMOE_HERE, "expert_act_grad/1", in, 4, v->attrs, sizeof(lmoe_expert_act_attrs),
                  v->din, 3);
    return LMOE_OK;
}

/* Each function with and without `up`. */
static int sample_case(int index, lmoe_case *c)
{
    static const struct {
        int64_t rows, hidden;
        double deviation;
        uint32_t flags;
    } cases[] = {
        {1, 1, 1, 0},    {127, 5, 1, 0},    {2, 129, 1, 0},
        {65, 31, 30, 0}, {63, 64, 1e-4, 0}, {4, 5, 1, LMOE_CASE_GRADCHECK},
    };
    enum { FORMS = 6, CASES = sizeof cases / sizeof *cases };
    lmoe_expert_act_attrs o = {index % FORMS / 2};
    const int64_t large[2] = {8192, 448};
    int64_t dim[2];
    double deviation = 1;
    memcpy(dim, large, sizeof dim);
    if (index > FORMS * CASES) return 0;
    if (index < FORMS * CASES) {
        dim[0] = cases[index / FORMS].rows;
        dim[1] = cases[index / FORMS].hidden;
        deviation = cases[index / FORMS].deviation;
        c->flags = cases[index / FORMS].flags;
    } else {
        c->flags = LMOE_CASE_BENCH;
    }
    memcpy(c->attrs.bytes, &o, sizeof o);
    lmoe__case_input(c, 0, LMOE_F32, "row hidden", dim, LMOE_FILL_NORMAL, 0, deviation);
    if (index % 2 == 0)
        lmoe__case_input(c, 1, LMOE_F32, "row hidden", dim, LMOE_FILL_NORMAL, 0, deviation);
    lmoe__case_input(c, 2, LMOE_F32, "row", dim, LMOE_FILL_UNIFORM, 0, 1);
    return 1;
}

static int sample_grad(int index, lmoe_case *c)
{
    if (!sample_case(index, c)) return 0;
    c->flags &= ~(uint32_t)LMOE_CASE_GRADCHECK; /* it has no derivative itself */
    lmoe__case_input(c, 3, LMOE_F32, "row hidden", c->in[0].dim, LMOE_FILL_NORMAL, 0, 1);
    return 1;
}

static const lmoe_option options[] = {{"fn", LMOE_OPTION_ENUM, offsetof(lmoe_expert_act_attrs, fn),
                                       NULL, 0, 0, "silu gelu relu2", NULL, "The function f."},
                                      LMOE_OPTION_END};

static const lmoe_port inputs[] = {{.name = "gate"},
                                   {.name = "up", .flags = LMOE_PORT_OPTIONAL},
                                   {.name = "scale", .flags = LMOE_PORT_STATE},
                                   {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "h"}, {.name = NULL}};
static const signed char inplace[] = {1};

const lmoe_op lmoe__op_expert_act = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "expert_act/1", "scale * f(gate) * up, row by row",
             options, sizeof(lmoe_expert_act_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule = "r f, r f, r -> r f",
    .vjp = vjp,
    .reference = lmoe__expert_act_reference,
    .sample = sample_case,
    .inplace = inplace,
};

static const lmoe_port grad_inputs[] = {{.name = "gate"},
                                        {.name = "up", .flags = LMOE_PORT_OPTIONAL},
                                        {.name = "scale", .flags = LMOE_PORT_STATE},
                                        {.name = "dh"},
                                        {.name = NULL}};
static const lmoe_port grad_outputs[] = {{.name = "dgate"},
                                         {.name = "dup"},
                                         {.name = "dscale", .flags = LMOE_PORT_STATE},
                                         {.name = NULL}};
static const signed char grad_inplace[] = {1, 2, 0};

const lmoe_op lmoe__op_expert_act_grad = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "expert_act_grad/1", "derivative of expert_act/1",
             options, sizeof(lmoe_expert_act_attrs), 0},
    .inputs = grad_inputs,
    .outputs = grad_outputs,
    .shape = grad_shape,
    .rule = "r f, r f, r, r f -> r f, r f, r",
    .reference = lmoe__expert_act_grad_reference,
    .sample = sample_grad,
    .inplace = grad_inplace,
    .tolerance = 32,
};
