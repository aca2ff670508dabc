/* SPDX-License-Identifier: Apache-2.0
 * core/op/rmsnorm/rmsnorm.c: rmsnorm/1 and its derivative rmsnorm_grad/1.
 *
 * y = x / sqrt(mean(x^2) + eps) * weight * silu(gate) over the last axis; weight and gate may be
 * absent.   x, gate, y: (... e), weight: (e)
 */
#include "core/op/shape.h"

lmoe_status lmoe__rmsnorm_reference(const lmoe_args *args);
lmoe_status lmoe__rmsnorm_grad_reference(const lmoe_args *args);

enum { X, WEIGHT, GATE, DY };

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    const lmoe_rmsnorm_attrs *o = attrs;
    const lmoe_desc *x = &in[X], *weight = &in[WEIGHT], *gate = &in[GATE];
    LMOE_TRY(lmoe__need_float(t, x, "x"));
    if (x->rank == 0) return lmoe_shape_error(t, "'x' is a scalar; it needs an axis to normalise");
    if (!(o->eps >= 0)) return lmoe_shape_error(t, "eps must not be negative, but is %g", o->eps);
    if (weight->dtype != LMOE_NONE) {
        LMOE_TRY(lmoe__need_float(t, weight, "weight"));
        LMOE_TRY(lmoe__need_rank(t, weight, "weight", 1, x->axis[x->rank - 1]));
        LMOE_TRY(lmoe__need_axis(t, x, "x", x->rank - 1, weight, "weight", 0));
    }
    if (gate->dtype != LMOE_NONE) LMOE_TRY(lmoe__need_like(t, x, "x", gate, "gate"));
    out[0] = *x;
    return LMOE_OK;
}

static lmoe_status grad_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                              lmoe_desc *out)
{
    LMOE_TRY(shape(t, attrs, in, n_in, out));
    LMOE_TRY(lmoe__need_like(t, &in[X], "x", &in[DY], "dy"));
    out[1] = in[WEIGHT]; /* absent operands have absent gradients */
    out[2] = in[GATE];
    return LMOE_OK;
}

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_tensor in[4] = {v->in[X], v->in[WEIGHT], v->in[GATE], v->dout[0]};
    lmoe_apply_at(t, LMOE_HERE, "rmsnorm_grad/1", in, 4, v->attrs, sizeof(lmoe_rmsnorm_attrs),
                  v->din, 3);
    return LMOE_OK;
}

static int sample_case(int index, lmoe_case *c, bool grad)
{
    static const struct {
        const char *axes; /* of x; the last one is "embed" or "head_v", as weight_axis says */
        const char *weight_axis;
        int64_t dim[4], width;
        bool weight, gate;
        double deviation, eps;
        uint32_t flags;
    } cases[] = {
        {"embed", "embed", {1}, 1, true, false, 1, 1e-6, 0},
        {"batch seq embed", "embed", {2, 1, 63}, 63, true, false, 1, 1e-5, 0},
        {"batch seq embed", "embed", {2, 65, 64}, 64, true, false, 100, 1e-6, 0},
        {"batch seq embed", "embed", {1, 127, 129}, 129, false, false, 1e-4, 1e-6, 0},
        {"batch seq heads head_v", "head_v", {2, 33, 3, 2}, 2, true, true, 1, 1e-5, 0},
        {"batch seq heads head_v", "head_v", {2, 13, 4, 65}, 65, false, true, 3, 1e-5, 0},
        {"batch seq heads head_v", "head_v", {1, 64, 2, 128}, 128, true, true, 1, 1e-5, 0},
        {"batch seq embed", "embed", {2, 3, 5}, 5, true, false, 1, 1e-2, LMOE_CASE_GRADCHECK},
        {"batch seq embed", "embed", {2, 3, 5}, 5, true, true, 1, 1e-2, LMOE_CASE_GRADCHECK},
        {"batch seq embed", "embed", {2, 3, 7}, 7, false, true, 1, 1e-2, LMOE_CASE_GRADCHECK},
        {"batch seq embed", "embed", {2, 3, 1}, 1, false, false, 1, 1e-2, LMOE_CASE_GRADCHECK},
        {"batch seq embed", "embed", {16, 256, 256}, 256, true, false, 1, 1e-6, LMOE_CASE_BENCH},
        {"batch seq heads head_v",
         "head_v",
         {16, 256, 4, 64},
         64,
         true,
         true,
         1,
         1e-5,
         LMOE_CASE_BENCH},
    };
    if (index >= (int)(sizeof cases / sizeof *cases)) return 0;
    lmoe_rmsnorm_attrs o = {cases[index].eps};
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = cases[index].flags;
    lmoe__case_input(c, X, LMOE_F32, cases[index].axes, cases[index].dim, LMOE_FILL_NORMAL, 0,
                     cases[index].deviation);
    if (cases[index].weight)
        lmoe__case_input(c, WEIGHT, LMOE_F32, cases[index].weight_axis, &cases[index].width,
                         LMOE_FILL_NORMAL, 1, 0.2);
    if (cases[index].gate)
        lmoe__case_input(c, GATE, LMOE_F32, cases[index].axes, cases[index].dim, LMOE_FILL_NORMAL,
                         0, 1);
    if (!grad) return 1;
    c->flags &= ~(uint32_t)LMOE_CASE_GRADCHECK; /* it has no derivative itself */
    lmoe__case_input(c, DY, LMOE_F32, cases[index].axes, cases[index].dim, LMOE_FILL_NORMAL, 0, 1);
    return 1;
}

static int sample(int index, lmoe_case *c)
{
    return sample_case(index, c, false);
}

static int sample_grad(int index, lmoe_case *c)
{
    return sample_case(index, c, true);
}

/* Squares and their sum, scaling, weight; silu counts 4. */
static double flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                    int n_out)
{
    int each = 3 + (in[WEIGHT].dtype != LMOE_NONE) + 5 * (in[GATE].dtype != LMOE_NONE);
    return (double)lmoe_desc_count(&in[X]) * each;
}

static double grad_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                         int n_out)
{
    int each = 9 + 3 * (in[WEIGHT].dtype != LMOE_NONE) + 10 * (in[GATE].dtype != LMOE_NONE);
    return (double)lmoe_desc_count(&in[X]) * each;
}

static const lmoe_option options[] = {{"eps", LMOE_OPTION_FLOAT, offsetof(lmoe_rmsnorm_attrs, eps),
                                       "1e-6", 0, 1e30, NULL, NULL,
                                       "Added to the mean of squares."},
                                      LMOE_OPTION_END};

static const lmoe_port inputs[] = {{.name = "x"},
                                   {.name = "weight", .flags = LMOE_PORT_OPTIONAL},
                                   {.name = "gate", .flags = LMOE_PORT_OPTIONAL},
                                   {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y"}, {.name = NULL}};

const lmoe_op lmoe__op_rmsnorm = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "rmsnorm/1",
             "x / sqrt(mean(x^2) + eps) * weight * silu(gate) over the last axis", options,
             sizeof(lmoe_rmsnorm_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule = "... e, e, ... e -> ... e | whole e",
    .vjp = vjp,
    .reference = lmoe__rmsnorm_reference,
    .sample = sample,
    .flops = flops,
};

static const lmoe_port grad_inputs[] = {{.name = "x"},
                                        {.name = "weight", .flags = LMOE_PORT_OPTIONAL},
                                        {.name = "gate", .flags = LMOE_PORT_OPTIONAL},
                                        {.name = "dy"},
                                        {.name = NULL}};
static const lmoe_port grad_outputs[] = {
    {.name = "dx"}, {.name = "dweight"}, {.name = "dgate"}, {.name = NULL}};

const lmoe_op lmoe__op_rmsnorm_grad = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "rmsnorm_grad/1", "derivative of rmsnorm/1", options,
             sizeof(lmoe_rmsnorm_attrs), 0},
    .inputs = grad_inputs,
    .outputs = grad_outputs,
    .shape = grad_shape,
    .rule = "... e, e, ... e, ... e -> ... e, e, ... e | whole e, linear 3",
    .reference = lmoe__rmsnorm_grad_reference,
    .sample = sample_grad,
    .flops = grad_flops,
    .tolerance = 32,
};
