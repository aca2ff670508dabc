/* SPDX-License-Identifier: Apache-2.0
 * core/check/ops.c: group ops: whether what an op declares of itself agrees: sampler, shape,
 * reference, FLOPs, and (in files of their own) rule, carry and derivative.
 */
#include "core/check/call.h"

#include <math.h>

static const lmoe_op *op_of(const lmoe__exam *x)
{
    return (const lmoe_op *)(const void *)x->class;
}

/* ---- sampler and shape ---- */

static bool good_desc(lmoe__exam *x, const lmoe_port *port, const lmoe_desc *d)
{
    const char *wrong = NULL;
    if (d->dtype != LMOE_NONE) {
        if (lmoe_dtype_bytes(d->dtype) == 0) wrong = "has an unknown dtype";
        if (d->rank < 0 || d->rank > LMOE_MAX_DIMS) wrong = "has an impossible rank";
        for (int i = 0; !wrong && i < d->rank; i++) {
            if (d->dim[i] < 1) wrong = "has a size below 1";
            if (!d->axis[i] || !*d->axis[i]) wrong = "has an axis without a name";
            for (int k = 0; !wrong && k < i; k++) {
                if (strcmp(d->axis[i], d->axis[k]) == 0) wrong = "has two axes of one name";
            }
        }
    }
    if (wrong) lmoe__check_fail(x, "output '%s' %s", port->name, wrong);
    return !wrong;
}

static void samples(lmoe__exam *x)
{
    const lmoe_op *op = op_of(x);
    lmoe_case c = {.size = sizeof c};
    uint32_t flags = 0;
    int n = 0, small = 0;
    if (!op->sample) {
        lmoe__check_fail(x, "it has no sampler, so nothing of it can be tested");
        return;
    }
    for (; n < 10000 && op->sample(n, &c) && !lmoe__check_failed(x); n++) {
        lmoe__trial t = {0};
        char text[200];
        bool big = (c.flags & LMOE_CASE_BENCH) != 0;
        flags |= c.flags;
        small += !big;
        lmoe__check_case(x, "case %d", n);
        if (c.n_in > lmoe__ports(op->inputs))
            lmoe__check_fail(x, "the case has %d inputs; the op has %d", c.n_in,
                             lmoe__ports(op->inputs));
        else if (big) { /* its values would take long to draw */
            lmoe_desc out[LMOE_MAX_IO] = {{LMOE_NONE, 0, {0}, {0}}};
            lmoe__check_ok(x, op->shape(NULL, c.attrs.bytes, c.in, lmoe__ports(op->inputs), out),
                           "its shape function refuses a case for timing");
        } else if (lmoe__check_ok(x, lmoe__trial_init(x->ctx, op, &c, LMOE_F32, &t),
                                  "its sample")) {
            lmoe__check_case(x, "case %d %s", n, lmoe__trial_text(text, sizeof text, &t));
            for (int i = 0; i < t.n_out; i++) good_desc(x, &op->outputs[i], &t.out[i]);
        }
        lmoe__trial_free(&t);
        c = (lmoe_case){.size = sizeof c};
    }
    if (lmoe__check_failed(x)) return;
    if (n == 10000) lmoe__check_fail(x, "its sampler does not end: it has a case number 10000");
    if (small == 0) lmoe__check_fail(x, "its sampler gives no case that is not for timing only");
    if (op->vjp && !(flags & LMOE_CASE_GRADCHECK))
        lmoe__check_fail(x, "it has a derivative, but no sample case with LMOE_CASE_GRADCHECK");
    lmoe__check_note(x, "%d cases", n);
}

/* Operands that nobody should give: another rank, an absent one, sizes that do not fit. */
static void wrong_operands(lmoe__exam *x)
{
    const lmoe_op *op = op_of(x);
    int refused = 0, taken = 0;
    lmoe_case c = {.size = sizeof c};
    if (!op->sample || !op->sample(0, &c)) {
        lmoe__check_skip(x, "it has no sample case");
        return;
    }
    int n_in = lmoe__ports(op->inputs);
    for (int i = 0; i < n_in; i++) {
        for (int way = 0; way < 4; way++) {
            lmoe_desc in[LMOE_MAX_IO], out[LMOE_MAX_IO] = {{LMOE_NONE, 0, {0}, {0}}};
            static const char *const ways[] = {"without axes", "with another size",
                                               "with an axis more", "as whole numbers"};
            memcpy(in, c.in, sizeof in);
            if (in[i].dtype == LMOE_NONE) continue;
            if (way == 0) in[i].rank = 0;
            if (way == 1 && in[i].rank > 0) in[i].dim[0] += 3;
            if (way == 2 && in[i].rank < LMOE_MAX_DIMS) {
                in[i].dim[in[i].rank] = 2;
                in[i].axis[in[i].rank++] = "zoo";
            }
            if (way == 3) in[i].dtype = LMOE_I64;
            lmoe__check_case(x, "'%s' %s", op->inputs[i].name, ways[way]);
            lmoe_status status = op->shape(NULL, c.attrs.bytes, in, n_in, out);
            lmoe__ctx_clear(x->ctx);
            refused += status != LMOE_OK;
            taken += status == LMOE_OK;
            for (int k = 0; status == LMOE_OK && op->outputs[k].name; k++)
                if (!good_desc(x, &op->outputs[k], &out[k])) return;
        }
    }
    lmoe__check_note(x, "%d refused, %d taken", refused, taken);
}

/* ---- reference ---- */

static bool same_bits(const lmoe__run *a, const lmoe__run *b, int n, int leave, int *which)
{
    for (int i = 0; i < n; i++) {
        lmoe_buf x = lmoe__run_buf(a, i), y = lmoe__run_buf(b, i);
        *which = i;
        if (i == leave || !lmoe_buf_present(&x)) continue;
        size_t bytes = (size_t)lmoe_buf_count(&x) * lmoe_dtype_bytes(x.dtype);
        if (memcmp(x.data, y.data, bytes) != 0) return false;
    }
    return true;
}

static const char *tensor_name(const lmoe__trial *t, int i)
{
    return i < t->n_in ? t->op->inputs[i].name : t->op->outputs[i - t->n_in].name;
}

/* Runs the reference again in another way: the same bits, except in tensor `leave`. */
static void run_again(lmoe__exam *x, const lmoe__trial *t, const lmoe__run *first, int dropped,
                      int inplace, const char *way)
{
    lmoe__bench_device host = {NULL, NULL};
    lmoe__run r;
    char text[256];
    int which;
    lmoe_status status = lmoe__run_new(x->ctx, t, NULL, host, false, dropped, inplace, &r);
    if (status == LMOE_OK) status = lmoe__run_once(&r);
    if (lmoe__check_ok(x, status, way)) {
        const char *damage = lmoe__run_damage(&r, text, sizeof text);
        int leave = dropped >= 0   ? t->n_in + dropped
                    : inplace >= 0 ? t->op->inplace[inplace] - 1
                                   : -1;
        if (damage) lmoe__check_fail(x, "%s: %s", way, damage);
        if (!same_bits(first, &r, t->n_in + t->n_out, leave, &which))
            lmoe__check_fail(x, "%s: '%s' has other bits than before", way, tensor_name(t, which));
    }
    lmoe__run_free(&r);
}

static void no_nan(lmoe__exam *x, const lmoe__trial *t, const lmoe__run *r)
{
    for (int i = t->n_in; i < t->n_in + t->n_out; i++) {
        lmoe_buf b = lmoe__run_buf(r, i);
        for (int64_t k = 0; lmoe_buf_present(&b) && k < lmoe_buf_count(&b); k++) {
            if (!isnan(lmoe_get(&b, k))) continue;
            lmoe__check_fail(x,
                             "output '%s' is NaN at element %lld: it was not written, or the case "
                             "is not legal",
                             tensor_name(t, i), (long long)k);
            return;
        }
    }
}

static void run_reference(lmoe__exam *x, const lmoe__trial *t)
{
    lmoe__bench_device host = {NULL, NULL};
    const lmoe_op *op = t->op;
    lmoe__run r;
    char text[256];
    lmoe_status status = lmoe__run_new(x->ctx, t, NULL, host, false, -1, -1, &r);
    if (status == LMOE_OK) status = lmoe__run_once(&r);
    if (lmoe__check_ok(x, status, "its reference")) {
        const char *damage = lmoe__run_damage(&r, text, sizeof text);
        if (damage) lmoe__check_fail(x, "%s", damage);
        no_nan(x, t, &r);
        run_again(x, t, &r, -1, -1, "a second run");
        for (int i = 0; i < t->n_out; i++) {
            if (t->out[i].dtype == LMOE_NONE) continue;
            int input = op->inplace ? op->inplace[i] - 1 : -1;
            snprintf(text, sizeof text, "without output '%s'", op->outputs[i].name);
            if (t->n_out > 1) run_again(x, t, &r, i, -1, text);
            if (input < 0 || t->in[input].dtype == LMOE_NONE ||
                lmoe_desc_bytes(&t->in[input]) != lmoe_desc_bytes(&t->out[i]))
                continue;
            snprintf(text, sizeof text, "with '%s' written over '%s'", op->outputs[i].name,
                     op->inputs[input].name);
            run_again(x, t, &r, -1, i, text);
        }
    }
    lmoe__run_free(&r);
}

static void reference(lmoe__exam *x)
{
    static const lmoe_dtype dtypes[] = {LMOE_F64, LMOE_F32, LMOE_BF16};
    static const char *const words[] = {"f64", "f32", "bf16"};
    const lmoe_op *op = op_of(x);
    bool more = true;
    for (int i = 0; more && !lmoe__check_failed(x); i++) {
        for (int d = 0; d < 3 && more && !lmoe__check_failed(x); d++) {
            lmoe_case c = {.size = sizeof c};
            lmoe__trial t;
            char text[200];
            more = op->sample && op->sample(i, &c);
            if (!more || (c.flags & LMOE_CASE_BENCH)) break;
            if (!lmoe__check_ok(x, lmoe__trial_init(x->ctx, op, &c, dtypes[d], &t), "its sample"))
                return;
            lmoe__check_case(x, "case %d %s, %s", i, lmoe__trial_text(text, sizeof text, &t),
                             words[d]);
            run_reference(x, &t);
            lmoe__trial_free(&t);
        }
    }
    lmoe__check_note(x, "%lld runs", (long long)x->verdict->cases);
}

/* ---- FLOPs ---- */

static void flops(lmoe__exam *x)
{
    const lmoe_op *op = op_of(x);
    if (!op->flops) {
        lmoe__check_skip(x, "it declares none");
        return;
    }
    for (int i = 0; !lmoe__check_failed(x); i++) {
        lmoe_case c = {.size = sizeof c};
        lmoe_desc out[LMOE_MAX_IO] = {{LMOE_NONE, 0, {0}, {0}}},
                  more[LMOE_MAX_IO] = {{LMOE_NONE, 0, {0}, {0}}};
        int n_in = lmoe__ports(op->inputs), n_out = lmoe__ports(op->outputs);
        if (!op->sample || !op->sample(i, &c)) return;
        lmoe__check_case(x, "case %d", i);
        if (op->shape(NULL, c.attrs.bytes, c.in, n_in, out) != LMOE_OK) continue;
        double one = op->flops(c.attrs.bytes, c.in, n_in, out, n_out);
        if (!isfinite(one) || one < 0) {
            lmoe__check_fail(x, "it counts %g FLOPs", one);
            return;
        }
        for (int k = 0; k < n_in; k++) {
            for (int d = 0; c.in[k].dtype != LMOE_NONE && d < c.in[k].rank; d++)
                if (strcmp(c.in[k].axis[d], "batch") == 0) c.in[k].dim[d] *= 2;
        }
        if (op->shape(NULL, c.attrs.bytes, c.in, n_in, more) != LMOE_OK) continue;
        double two = op->flops(c.attrs.bytes, c.in, n_in, more, n_out);
        if (two < one || two > 2.001 * one + 1)
            lmoe__check_fail(x, "twice the batch takes %g FLOPs where one takes %g", two, one);
    }
}

const lmoe__check lmoe__checks_ops[] = {
    {"ops", "samples", "the sampler ends, and every case of it has a shape", LMOE_KIND_OP,
     LMOE__QUICK, 60, samples, 0},
    {"ops", "operands", "operands that do not fit are refused, or give a good shape", LMOE_KIND_OP,
     LMOE__QUICK, 10, wrong_operands, 0},
    {"ops", "reference",
     "the reference writes all of its outputs and nothing else, with the same bits in every way "
     "that "
     "it may be run",
     LMOE_KIND_OP, LMOE__QUICK, 120, reference, 0},
    {"ops", "rule", "parts of the inputs along a letter give parts of the result, or of its sum",
     LMOE_KIND_OP, LMOE__QUICK, 120, lmoe__ops_rule, 0},
    {"ops", "gradient", "the derivative agrees with differences of the reference", LMOE_KIND_OP,
     LMOE__QUICK, 120, lmoe__ops_gradient, 0},
    {"ops", "carry", "pieces that hand the carry on give what the whole gives", LMOE_KIND_OP,
     LMOE__QUICK, 60, lmoe__ops_carry, 0},
    {"ops", "reset", "a reset forgets all that was before, a skipped token changes nothing",
     LMOE_KIND_OP, LMOE__QUICK, 60, lmoe__ops_reset, 0},
    {"ops", "summary", "combined summaries give the carry with which each segment starts",
     LMOE_KIND_OP, LMOE__QUICK, 60, lmoe__ops_summary, 0},
    {"ops", "flops", "FLOPs are a number, not below 0, and grow with the batch", LMOE_KIND_OP,
     LMOE__QUICK, 10, flops, 0},
    {0},
};
