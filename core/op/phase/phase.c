/* SPDX-License-Identifier: Apache-2.0
 * core/op/phase/phase.c: phase/1: a token's place in its document's mini-batches,
 * (position - document) modulo period. positions, document (batch seq) i32 -> (batch seq) i32
 */
#include "core/op/shape.h"

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    const lmoe_phase_attrs *o = attrs;
    LMOE_TRY(lmoe__need_dtype(t, &in[0], "positions", LMOE_I32));
    LMOE_TRY(lmoe__need_rank(t, &in[0], "positions", 2, "batch seq"));
    LMOE_TRY(lmoe__need_like(t, &in[0], "positions", &in[1], "document"));
    if (o->period < 1)
        return lmoe_shape_error(t, "period must be at least 1, but is %lld", (long long)o->period);
    *out = in[0];
    return LMOE_OK;
}

static lmoe_status reference(const lmoe_args *a)
{
    const lmoe_phase_attrs *o = a->attrs;
    const int32_t *position = a->in[0].data, *document = a->in[1].data;
    int32_t *y = a->out[0].data;
    for (int64_t i = 0, n = lmoe_buf_count(&a->in[0]); i < n; i++) {
        int64_t place = ((int64_t)position[i] - document[i]) % o->period;
        y[i] = (int32_t)(place < 0 ? place + o->period : place);
    }
    return LMOE_OK;
}

static int sample(int index, lmoe_case *c)
{
    static const int64_t dims[][2] = {{1, 1}, {2, 63}, {1, 65}, {3, 17}, {2, 129}, {16, 256}};
    enum { CASES = sizeof dims / sizeof *dims };
    if (index >= CASES) return 0;
    lmoe_phase_attrs o = {index == 1 ? 1 : 3 + 5 * index};
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = index == CASES - 1 ? LMOE_CASE_BENCH : 0;
    lmoe__case_input(c, 0, LMOE_I32, "batch seq", dims[index], LMOE_FILL_RAMP, 100 * index, 0);
    lmoe__case_input(c, 1, LMOE_I32, "batch seq", dims[index], LMOE_FILL_INT, 0, 40);
    return 1;
}

static const lmoe_option options[] = {{"period", LMOE_OPTION_INT,
                                       offsetof(lmoe_phase_attrs, period), NULL, 1, 1 << 30, NULL,
                                       "tokens", "Tokens of a mini-batch."},
                                      LMOE_OPTION_END};

static const lmoe_port inputs[] = {
    {.name = "positions", .flags = LMOE_PORT_NO_GRAD, .ambient = LMOE_AMBIENT_POSITIONS},
    {.name = "document", .flags = LMOE_PORT_NO_GRAD, .ambient = LMOE_AMBIENT_DOCUMENT},
    {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y", .flags = LMOE_PORT_NO_GRAD}, {.name = NULL}};

const lmoe_op lmoe__op_phase = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "phase/1", "place of a token in its mini-batch",
             options, sizeof(lmoe_phase_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule = "b s, b s -> b s",
    .reference = reference,
    .sample = sample,
};
