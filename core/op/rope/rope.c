/* SPDX-License-Identifier: Apache-2.0
 * core/op/rope/rope.c: rope/1: rotary positions over half-split pairs.
 *
 * x: (batch seq heads k), positions: (batch seq). Elements i and i + k/2 of a head, as a point of
 * the plane, are turned by the angle position * base^(-2i/k); `inverse` turns them back, which is
 * the derivative.
 */
#include "core/op/shape.h"

lmoe_status lmoe__rope_reference(const lmoe_args *args);

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    const lmoe_rope_attrs *o = attrs;
    const lmoe_desc *x = &in[0], *positions = &in[1];
    LMOE_TRY(lmoe__need_float(t, x, "x"));
    LMOE_TRY(lmoe__need_rank(t, x, "x", 4, "batch seq heads head_k"));
    LMOE_TRY(lmoe__need_dtype(t, positions, "positions", LMOE_I32));
    LMOE_TRY(lmoe__need_rank(t, positions, "positions", 2, "batch seq"));
    for (int i = 0; i < 2; i++) LMOE_TRY(lmoe__need_axis(t, x, "x", i, positions, "positions", i));
    if (x->dim[3] % 2 != 0) {
        return lmoe_shape_error(t, "axis '%s' is turned in pairs, so its size %lld must be even",
                                x->axis[3], (long long)x->dim[3]);
    }
    if (!(o->base > 0)) return lmoe_shape_error(t, "base must be above 0, but is %g", o->base);
    *out = *x;
    return LMOE_OK;
}

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_rope_attrs o = *(const lmoe_rope_attrs *)v->attrs;
    lmoe_tensor in[2] = {v->dout[0], v->in[1]};
    o.inverse = !o.inverse;
    v->din[0] = lmoe_apply_at(t, LMOE_HERE, "rope/1", in, 2, &o, sizeof o, NULL, 0);
    return LMOE_OK;
}

static int sample(int index, lmoe_case *c)
{
    static const struct {
        int64_t dim[4];
        double base, first; /* position */
        int32_t inverse;
        uint32_t flags;
    } cases[] = {
        {{1, 1, 1, 2}, 10000, 0, 0, 0},
        {{2, 63, 3, 6}, 10000, 0, 0, 0},
        {{2, 65, 2, 64}, 10000, 0, 1, 0},
        {{1, 127, 5, 34}, 500, 5, 0, 0},
        {{1, 2, 1, 128}, 1e6, 100000, 0, 0}, /* far positions: angles need more than fp32 */
        {{1, 129, 2, 8}, 10000, 32767, 1, 0},
        {{2, 3, 2, 6}, 10000, 3, 0, LMOE_CASE_GRADCHECK},
        {{2, 3, 2, 6}, 10000, 3, 1, LMOE_CASE_GRADCHECK},
        {{16, 256, 4, 64}, 10000, 0, 0, LMOE_CASE_BENCH},
    };
    if (index >= (int)(sizeof cases / sizeof *cases)) return 0;
    lmoe_rope_attrs o;
    memset(&o, 0, sizeof o);
    o.base = cases[index].base;
    o.inverse = cases[index].inverse;
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = cases[index].flags;
    lmoe__case_input(c, 0, LMOE_F32, "batch seq heads head_k", cases[index].dim, LMOE_FILL_NORMAL,
                     0, 1);
    lmoe__case_input(c, 1, LMOE_I32, "batch seq", cases[index].dim, LMOE_FILL_RAMP,
                     cases[index].first, 0);
    return 1;
}

/* Three operations an element; angles are shared by the heads. */
static double flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                    int n_out)
{
    return 3.0 * (double)lmoe_desc_count(&in[0]);
}

static const lmoe_option options[] = {
    {"base", LMOE_OPTION_FLOAT, offsetof(lmoe_rope_attrs, base), "10000", 1e-30, 1e30, NULL, NULL,
     "Base of the angles: pair i turns by base^(-2i/k) a position."},
    {"inverse", LMOE_OPTION_BOOL, offsetof(lmoe_rope_attrs, inverse), "no", 0, 0, NULL, NULL,
     "Turn back."},
    LMOE_OPTION_END};

static const lmoe_port inputs[] = {
    {.name = "x"},
    {.name = "positions", .flags = LMOE_PORT_NO_GRAD, .ambient = LMOE_AMBIENT_POSITIONS},
    {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y"}, {.name = NULL}};

const lmoe_op lmoe__op_rope = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "rope/1", "rotary positions", options,
             sizeof(lmoe_rope_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule = "b s h k, b s -> b s h k | whole k, linear 0",
    .vjp = vjp,
    .reference = lmoe__rope_reference,
    .sample = sample,
    .flops = flops,
};
