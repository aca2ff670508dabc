/* SPDX-License-Identifier: Apache-2.0
 * core/op/swiglu/swiglu.c: swiglu/1: y = silu(gate) * up, and its derivative swiglu_grad/1.
 */
#include "core/op/shape.h"

lmoe_status lmoe__swiglu_reference(const lmoe_args *args);
lmoe_status lmoe__swiglu_grad_reference(const lmoe_args *args);

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    LMOE_TRY(lmoe__need_float(t, &in[0], "gate"));
    LMOE_TRY(lmoe__need_like(t, &in[0], "gate", &in[1], "up"));
    out[0] = in[0];
    return LMOE_OK;
}

static lmoe_status grad_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                              lmoe_desc *out)
{
    LMOE_TRY(shape(t, attrs, in, n_in, out));
    out[1] = in[1];
    return lmoe__need_like(t, &in[0], "gate", &in[2], "dy");
}

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_tensor in[3] = {v->in[0], v->in[1], v->dout[0]};
    lmoe_apply_at(t, LMOE_HERE, "swiglu_grad/1", in, 3, NULL, 0, v->din, 2);
    return LMOE_OK;
}

static int sample_case(int index, lmoe_case *c, int operands)
{
    static const struct {
        int64_t dim[3];
        double deviation;
        uint32_t flags;
    } cases[] = {
        {{1, 1, 1}, 1, 0},
        {{2, 63, 5}, 1, 0},
        {{1, 2, 129}, 1, 0},
        {{3, 65, 31}, 40, 0},
        {{2, 127, 64}, 1e-4, 0},
        {{2, 3, 5}, 1, LMOE_CASE_GRADCHECK},
        {{16, 256, 256}, 1, LMOE_CASE_BENCH},
    };
    if (index >= (int)(sizeof cases / sizeof *cases)) return 0;
    c->flags = cases[index].flags;
    for (int i = 0; i < operands; i++)
        lmoe__case_input(c, i, LMOE_F32, "batch seq hidden", cases[index].dim, LMOE_FILL_NORMAL, 0,
                         cases[index].deviation);
    return 1;
}

static int sample(int index, lmoe_case *c)
{
    return sample_case(index, c, 2);
}

static int sample_grad(int index, lmoe_case *c)
{
    int more = sample_case(index, c, 3);
    c->flags &= ~(uint32_t)LMOE_CASE_GRADCHECK; /* it has no derivative itself */
    return more;
}

static const lmoe_port inputs[] = {{.name = "gate"}, {.name = "up"}, {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y"}, {.name = NULL}};
static const signed char inplace[] = {1};

const lmoe_op lmoe__op_swiglu = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "swiglu/1", "silu(gate) * up", NULL, 0, 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule = "..., ... -> ...",
    .vjp = vjp,
    .reference = lmoe__swiglu_reference,
    .sample = sample,
    .inplace = inplace,
};

static const lmoe_port grad_inputs[] = {
    {.name = "gate"}, {.name = "up"}, {.name = "dy"}, {.name = NULL}};
static const lmoe_port grad_outputs[] = {{.name = "dgate"}, {.name = "dup"}, {.name = NULL}};
static const signed char grad_inplace[] = {1, 2};

const lmoe_op lmoe__op_swiglu_grad = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "swiglu_grad/1", "derivative of swiglu/1", NULL, 0, 0},
    .inputs = grad_inputs,
    .outputs = grad_outputs,
    .shape = grad_shape,
    .rule = "..., ..., ... -> ..., ... | linear 2",
    .reference = lmoe__swiglu_grad_reference,
    .sample = sample_grad,
    .inplace = grad_inplace,
};
