/* SPDX-License-Identifier: Apache-2.0
 * core/op/map/map.c: map/1, element-wise functions of one variable, and map_grad/1: dx = dy f'(x).
 */
#include "core/op/shape.h"

lmoe_status lmoe__map_reference(const lmoe_args *args);
lmoe_status lmoe__map_grad_reference(const lmoe_args *args);

enum { MAP_FUNCTIONS = LMOE_MAP_GELU_ERF + 1 };

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    const lmoe_map_attrs *o = attrs;
    LMOE_TRY(lmoe__need_float(t, &in[0], "x"));
    if (o->fn < 0 || o->fn >= MAP_FUNCTIONS)
        return lmoe_shape_error(t, "there is no function number %d", (int)o->fn);
    *out = in[0];
    return LMOE_OK;
}

static lmoe_status grad_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                              lmoe_desc *out)
{
    LMOE_TRY(shape(t, attrs, in, n_in, out));
    return lmoe__need_like(t, &in[0], "x", &in[1], "dy");
}

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_tensor in[2] = {v->in[0], v->dout[0]};
    v->din[0] =
        lmoe_apply_at(t, LMOE_HERE, "map_grad/1", in, 2, v->attrs, sizeof(lmoe_map_attrs), NULL, 0);
    return LMOE_OK;
}

/* Every function with every size; then each once more for a gradient check, and two to be timed.
 * Arguments reach +-80, where exp is near the ends of fp32, and stay within each function's domain.
 */
static int sample_x(int index, lmoe_case *c)
{
    static const int64_t sizes[][3] = {{1, 1, 1}, {2, 63, 5}, {3, 65, 31}, {1, 127, 129}};
    static const int64_t small[3] = {2, 3, 5}, large[3] = {16, 256, 256};
    enum { SIZES = sizeof sizes / sizeof *sizes };
    lmoe_map_attrs o = {index % MAP_FUNCTIONS};
    const int64_t *dim = small;
    double limit = 3;
    if (index < SIZES * MAP_FUNCTIONS) {
        dim = sizes[index / MAP_FUNCTIONS];
        limit = index / MAP_FUNCTIONS == 2 ? 80 : 4;
    } else if (index < (SIZES + 1) * MAP_FUNCTIONS) {
        c->flags = LMOE_CASE_GRADCHECK;
    } else if (index < (SIZES + 1) * MAP_FUNCTIONS + 2) {
        o.fn = index % 2 ? LMOE_MAP_SILU : LMOE_MAP_LOGSIGMOID;
        dim = large;
        c->flags = LMOE_CASE_BENCH;
    } else {
        return 0;
    }
    double low = -limit, high = limit;
    if (o.fn == LMOE_MAP_LOG || o.fn == LMOE_MAP_SQRT) low = 0.2;
    if (o.fn == LMOE_MAP_LOG1MEXP) high = -0.2;
    memcpy(c->attrs.bytes, &o, sizeof o);
    lmoe__case_input(c, 0, LMOE_F32, "batch seq embed", dim, LMOE_FILL_UNIFORM, low, high);
    return 1;
}

static int sample_grad(int index, lmoe_case *c)
{
    if (!sample_x(index, c)) return 0;
    c->flags &= ~(uint32_t)LMOE_CASE_GRADCHECK; /* it has no derivative itself */
    lmoe__case_input(c, 1, LMOE_F32, "batch seq embed", c->in[0].dim, LMOE_FILL_NORMAL, 0, 1);
    return 1;
}

static const lmoe_option options[] = {
    {"fn", LMOE_OPTION_ENUM, offsetof(lmoe_map_attrs, fn), NULL, 0, 0,
     "silu sigmoid logsigmoid exp log relu elu1 softplus tanh square gelu sqrt onemexp log1mexp "
     "sin cos gelu_erf",
     NULL, "The function."},
    LMOE_OPTION_END};

static const lmoe_port inputs[] = {{.name = "x"}, {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y"}, {.name = NULL}};
static const signed char inplace[] = {1};

const lmoe_op lmoe__op_map = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "map/1", "element-wise function", options,
             sizeof(lmoe_map_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule = "... -> ...",
    .vjp = vjp,
    .reference = lmoe__map_reference,
    .sample = sample_x,
    .inplace = inplace,
};

static const lmoe_port grad_inputs[] = {{.name = "x"}, {.name = "dy"}, {.name = NULL}};
static const lmoe_port grad_outputs[] = {{.name = "dx"}, {.name = NULL}};
static const signed char grad_inplace[] = {2}; /* over dy: x is more often read again */

const lmoe_op lmoe__op_map_grad = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "map_grad/1", "derivative of map/1", options,
             sizeof(lmoe_map_attrs), 0},
    .inputs = grad_inputs,
    .outputs = grad_outputs,
    .shape = grad_shape,
    .rule = "..., ... -> ... | linear 1",
    .reference = lmoe__map_grad_reference,
    .sample = sample_grad,
    .inplace = grad_inplace,
};
