/* SPDX-License-Identifier: Apache-2.0
 * core/op/softmax/softmax.c: softmax/1, softmax_grad/1 and logsumexp/1 over the last axis, results
 * in the state dtype.   x: (... n) -> softmax (... n), logsumexp (...)
 */
#include "core/op/shape.h"

lmoe_status lmoe__softmax_reference(const lmoe_args *args);
lmoe_status lmoe__softmax_grad_reference(const lmoe_args *args);
lmoe_status lmoe__logsumexp_reference(const lmoe_args *args);

static lmoe_status softmax_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                 lmoe_desc *out)
{
    LMOE_TRY(lmoe__need_float(t, &in[0], "x"));
    if (in[0].rank == 0) return lmoe_shape_error(t, "'x' is a scalar; it needs a last axis");
    *out = in[0];
    out->dtype = lmoe__state_of(in[0].dtype);
    return LMOE_OK;
}

static lmoe_status logsumexp_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                   lmoe_desc *out)
{
    LMOE_TRY(softmax_shape(t, attrs, in, n_in, out));
    out->rank--;
    return LMOE_OK;
}

static lmoe_status grad_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                              lmoe_desc *out)
{
    LMOE_TRY(lmoe__need_float(t, &in[0], "y"));
    LMOE_TRY(lmoe__need_dtype(t, &in[0], "y", lmoe__state_of(in[0].dtype)));
    if (in[0].rank == 0) return lmoe_shape_error(t, "'y' is a scalar; it needs a last axis");
    *out = in[0];
    return lmoe__need_like(t, &in[0], "y", &in[1], "dy");
}

static lmoe_status softmax_vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_tensor in[2] = {v->out[0], v->dout[0]};
    lmoe_tensor dx = lmoe_apply_at(t, LMOE_HERE, "softmax_grad/1", in, 2, NULL, 0, NULL, 0);
    v->din[0] = lmoe__cast_like(t, dx, v->in[0]);
    return LMOE_OK;
}

/* d logsumexp / dx = softmax(x) */
static lmoe_status logsumexp_vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_tensor dx = lmoe_mul(t, lmoe_softmax(t, v->in[0]), v->dout[0]);
    v->din[0] = lmoe__cast_like(t, dx, v->in[0]);
    return LMOE_OK;
}

static int sample_case(int index, lmoe_case *c)
{
    static const struct {
        int64_t dim[3];
        double deviation;
        uint32_t flags;
    } cases[] = {
        {{1, 1, 1}, 1, 0},
        {{2, 63, 2}, 1, 0},
        {{2, 13, 63}, 3, 0},
        {{3, 65, 64}, 100, 0},
        {{1, 2, 129}, 1e4, 0},
        {{2, 127, 7}, 1e-3, 0},
        {{2, 3, 1000}, 1, 0},
        {{2, 3, 5}, 1, LMOE_CASE_GRADCHECK},
        {{16, 256, 64}, 1, LMOE_CASE_BENCH},
        {{16, 256, 256}, 1, LMOE_CASE_BENCH},
    };
    if (index >= (int)(sizeof cases / sizeof *cases)) return 0;
    c->flags = cases[index].flags;
    lmoe__case_input(c, 0, LMOE_F32, "batch seq expert", cases[index].dim, LMOE_FILL_NORMAL, 0,
                     cases[index].deviation);
    return 1;
}

/* y: any weights that add up to about one. */
static int sample_grad(int index, lmoe_case *c)
{
    if (!sample_case(index, c)) return 0;
    c->flags &= ~(uint32_t)LMOE_CASE_GRADCHECK; /* it has no derivative itself */
    c->fill[0] = (lmoe_fill){LMOE_FILL_UNIFORM, 0, 2.0 / (double)c->in[0].dim[2]};
    lmoe__case_input(c, 1, LMOE_F32, "batch seq expert", c->in[0].dim, LMOE_FILL_NORMAL, 0, 1);
    return 1;
}

/* An exponential counts 4. */
static double flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                    int n_out)
{
    return 7.0 * (double)lmoe_desc_count(&in[0]);
}

static double grad_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                         int n_out)
{
    return 4.0 * (double)lmoe_desc_count(&in[0]);
}

static const lmoe_port inputs[] = {{.name = "x"}, {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y"}, {.name = NULL}};
static const lmoe_port grad_inputs[] = {{.name = "y", .flags = LMOE_PORT_STATE},
                                        {.name = "dy", .flags = LMOE_PORT_STATE},
                                        {.name = NULL}};
static const lmoe_port grad_outputs[] = {{.name = "dx"}, {.name = NULL}};

const lmoe_op lmoe__op_softmax = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "softmax/1", "softmax over the last axis", NULL, 0, 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = softmax_shape,
    .rule = "... n -> ... n | whole n",
    .vjp = softmax_vjp,
    .reference = lmoe__softmax_reference,
    .sample = sample_case,
    .flops = flops,
};

const lmoe_op lmoe__op_softmax_grad = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "softmax_grad/1",
             "derivative of softmax/1, from its result", NULL, 0, 0},
    .inputs = grad_inputs,
    .outputs = grad_outputs,
    .shape = grad_shape,
    .rule = "... n, ... n -> ... n | whole n, linear 1",
    .reference = lmoe__softmax_grad_reference,
    .sample = sample_grad,
    .flops = grad_flops,
};

const lmoe_op lmoe__op_logsumexp = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "logsumexp/1",
             "log of the sum of exponentials over the last axis", NULL, 0, 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = logsumexp_shape,
    .rule = "... n -> ... | whole n",
    .vjp = logsumexp_vjp,
    .reference = lmoe__logsumexp_reference,
    .sample = sample_case,
    .flops = flops,
};
