/* SPDX-License-Identifier: Apache-2.0
 * core/op/initial/initial.c: initial/1: what a weight begins with.
 *
 * The engine launches it on a run of elements of a weight, in the weight's own memory; no model
 * records it. Kernels give the same bits as the reference.
 */
#include <lmoe/layer.h>

#include "core/op/shape.h"

lmoe_status lmoe__initial_reference(const lmoe_args *args);

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    const lmoe_initial_attrs *o = attrs;
    LMOE_TRY(lmoe__need_float(t, &in[0], "like"));
    if (o->count < 1 || o->rows < 1 || o->columns < 1 || o->first < 0)
        return lmoe_shape_error(t, "sizes must be at least 1 and `first` not negative");
    *out = in[0];
    if (o->part == LMOE_INITIAL_UPPER) out->dtype = LMOE_BF16;
    if (o->part == LMOE_INITIAL_LOWER) out->dtype = LMOE_U16;
    return LMOE_OK;
}

static int sample(int index, lmoe_case *c)
{
    static const struct {
        lmoe_init_kind kind;
        double a, b, c;
    } kinds[] = {{LMOE_INIT_NORMAL, 0.25, 0.5, 0},  {LMOE_INIT_UNIFORM, -1, 3, 0},
                 {LMOE_INIT_CONST, 1.1, 0, 0},      {LMOE_INIT_EYE, 0, 0, 0},
                 {LMOE_INIT_RAMP, 0.3, 0.1, 0},     {LMOE_INIT_LOG, 1, 16, 0},
                 {LMOE_INIT_SOFTPLUS, 1e-3, .1, 0}, {LMOE_INIT_POWER, -6, 5, 0.7},
                 {LMOE_INIT_LOG_RAMP, 1, 1, 0}};
    static const int64_t dim[3][3] = {{3, 21, 65}, {1, 1, 1}, {2, 129, 31}};
    enum { KINDS = sizeof kinds / sizeof *kinds };
    const int kind = index / 3;
    if (kind > KINDS) return 0;
    const bool large = kind == KINDS; /* once: normal numbers */
    if (large && index % 3) return 0;
    static const int64_t many[3] = {16, 1024, 1024};
    const int64_t *d = large ? many : dim[index % 3];
    lmoe_initial_attrs o = {.seed = 7, .stream = 3 + index, .kind = kinds[large ? 0 : kind].kind};
    o.a = kinds[large ? 0 : kind].a;
    o.b = kinds[large ? 0 : kind].b;
    o.c = kinds[large ? 0 : kind].c;
    o.part = large ? LMOE_INITIAL_WHOLE : index % 3;
    o.first = index % 2 ? 1001 : 0; /* of a weight that lies in parts */
    o.rows = d[1];
    o.columns = d[2];
    o.count = o.first + d[0] * d[1] * d[2];
    memcpy(c->attrs.bytes, &o, sizeof o);
    if (large) c->flags = LMOE_CASE_BENCH;
    lmoe__case_input(c, 0, LMOE_F32, "expert embed hidden", d, LMOE_FILL_CONST, 0, 0);
    return 1;
}

#define INT(name, text)                                                                         \
    {                                                                                           \
#name, LMOE_OPTION_INT, offsetof(lmoe_initial_attrs, name), "1", 0, 0, NULL, NULL, text \
    }
#define FLOAT(name, text)                                                                         \
    {                                                                                             \
#name, LMOE_OPTION_FLOAT, offsetof(lmoe_initial_attrs, name), "0", 0, 0, NULL, NULL, text \
    }

static const lmoe_option options[] = {
    INT(seed, "Of the run."),
    INT(stream, "Of the weight."),
    INT(first, "Which element of the weight the first one is."),
    INT(count, "Elements of the weight."),
    INT(rows, "Size of its last axis but one."),
    INT(columns, "Size of its last axis."),
    FLOAT(a, "Mean, value or lower end."),
    FLOAT(b, "Deviation, upper end or step."),
    FLOAT(c, "Exponent."),
    {"kind", LMOE_OPTION_ENUM, offsetof(lmoe_initial_attrs, kind), "normal", 0, 0,
     "normal const uniform eye log softplus power ramp log_ramp", NULL, "How values are drawn."},
    {"part", LMOE_OPTION_ENUM, offsetof(lmoe_initial_attrs, part), "whole", 0, 0,
     "whole upper lower", NULL, "The value, or a half of it as f32."},
    LMOE_OPTION_END};

static const lmoe_port inputs[] = {{.name = "like", .flags = LMOE_PORT_NO_GRAD | LMOE_PORT_SHAPE},
                                   {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y", .flags = LMOE_PORT_NO_GRAD}, {.name = NULL}};

const lmoe_op lmoe__op_initial = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "initial/1", "what a weight begins with", options,
             sizeof(lmoe_initial_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .reference = lmoe__initial_reference,
    .sample = sample,
};
