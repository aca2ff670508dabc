/* SPDX-License-Identifier: Apache-2.0
 * core/check/ops_gradient.c: the derivative of an op against central differences, in float64 over
 * references.
 *
 * For each sample case marked GRADCHECK: loss = sum over float outputs of sigmoid(output), which
 * weighs every element differently; the recorded vjp gives d loss / d input for every input that may
 * have a gradient; elements (some sixty at most) are moved and the loss computed again. Carry inputs
 * take part as operands, carry outputs do not enter the loss.
 */
#include "core/check/call.h"

#include <math.h>
#include <stdlib.h>

typedef struct fixture {
    lmoe__exam *x;
    const lmoe_op *op;
    lmoe__called c;
    lmoe__op_set ops;
    lmoe_device device; /* that of the checks, without kernels */
    lmoe_trace t;
    lmoe__store store;
    lmoe__plan *plan;
    void *activations, *workspace;
    lmoe_tensor in[LMOE_MAX_IO], d[LMOE_MAX_IO];
} fixture;

static bool wants(const fixture *f, int i)
{
    return f->c.in[i].d.dtype == LMOE_F64 && !(f->op->inputs[i].flags & LMOE_PORT_NO_GRAD);
}

static lmoe_tensor sum_all(lmoe_trace *t, lmoe_tensor x, int rank)
{
    char text[2 * LMOE_MAX_DIMS + 3] = "";
    for (int a = 0; a < rank; a++) snprintf(text + 2 * a, 3, "%c ", 'a' + a);
    strcat(text, "->");
    return rank ? lmoe_sum(t, text, x) : x;
}

static void record(fixture *f)
{
    lmoe_trace *t = &f->t;
    lmoe_tensor out[LMOE_MAX_IO] = {{0}}, total = lmoe_absent(), want[LMOE_MAX_IO],
                grad[LMOE_MAX_IO];
    int n_want = 0;
    for (int i = 0; i < f->c.n_in; i++) {
        char name[32];
        if (!lmoe_buf_present(&f->c.in[i].b)) continue;
        snprintf(name, sizeof name, "x%d", i);
        f->in[i].id = lmoe__graph_enter(t->graph, LMOE_VALUE_STATE, name, &f->c.in[i].d);
        if (wants(f, i)) want[n_want++] = f->in[i];
    }
    lmoe_apply_at(t, __FILE__, __LINE__, f->op->base.name, f->in, f->c.n_in, f->c.attrs,
                  f->op->base.options_size, out, f->c.n_out);
    for (int k = 0; k < f->c.n_out; k++) {
        lmoe_desc d;
        if (lmoe_describe(t, out[k], &d) != LMOE_OK || !lmoe_dtype_is_float(d.dtype)) continue;
        if (f->op->outputs[k].flags & (LMOE_PORT_CARRY | LMOE_PORT_NO_GRAD)) continue;
        lmoe_tensor s = sum_all(t, lmoe_map(t, out[k], LMOE_MAP_SIGMOID), d.rank);
        total = lmoe_is_absent(total) ? s : lmoe_add(t, total, s);
    }
    lmoe__trace_result(t, total, "loss");
    if (lmoe__vjp(t, total, want, n_want, grad) != LMOE_OK) return;
    for (int i = 0, k = 0; i < f->c.n_in; i++) {
        char name[32];
        if (lmoe_is_absent(f->in[i]) || !wants(f, i)) continue;
        f->d[i] = grad[k++];
        snprintf(name, sizeof name, "d%d", i);
        if (f->d[i].id > 0) lmoe__trace_result(t, f->d[i], name);
    }
}

static bool build(fixture *f)
{
    lmoe__exam *x = f->x;
    lmoe__trace_init(&f->t, x->ctx, &f->ops, LMOE_F64);
    record(f);
    lmoe__store_init(&f->store, x->ctx, &f->device, x->dev);
    if (!lmoe__check_ok(x, lmoe__trace_status(&f->t), "its derivative")) return false;
    if (!lmoe__check_ok(x, lmoe__plan_new(x->ctx, f->t.graph, &f->store, NULL, &f->plan),
                        "a plan of it and its derivative"))
        return false;
    f->activations = aligned_alloc(64, ((size_t)f->plan->arena_bytes + 127) & ~(size_t)63);
    f->workspace = aligned_alloc(64, ((size_t)f->plan->workspace_bytes + 127) & ~(size_t)63);
    if (!lmoe__check_ok(x, lmoe__plan_bind(f->plan, f->activations, f->workspace), "its plan"))
        return false;
    for (int i = 0; i < f->c.n_in; i++) {
        char name[32];
        snprintf(name, sizeof name, "x%d", i);
        lmoe__buffer *b = lmoe__store_find(&f->store, name);
        if (b) memcpy(b->data, f->c.in[i].b.data, (size_t)lmoe_desc_bytes(&b->desc));
    }
    return true;
}

static double loss(fixture *f)
{
    if (!lmoe__check_ok(f->x, lmoe__plan_replay(f->plan), "running it")) return NAN;
    const lmoe__buffer *b = lmoe__store_find(&f->store, "loss");
    lmoe_buf value = {.data = b->data, .dtype = b->desc.dtype};
    return lmoe_get(&value, 0);
}

static bool compare(fixture *f, int i, double *worst)
{
    static const double steps[4] = {-2, -1, 1, 2};
    char x_name[32], d_name[32];
    snprintf(x_name, sizeof x_name, "x%d", i);
    snprintf(d_name, sizeof d_name, "d%d", i);
    lmoe__buffer *x = lmoe__store_find(&f->store, x_name), *d = lmoe__store_find(&f->store, d_name);
    if (!x) return true; /* not used by what is needed */
    loss(f);             /* gradients at the point itself */
    int64_t n = lmoe_desc_count(&x->desc), stride = n > 60 ? n / 60 : 1;
    double *analytic = LMOE_NEW_N(f->x->arena, double, n), h = 1e-3, error = 0, norm = 1e-12;
    if (d) memcpy(analytic, d->data, sizeof *analytic * (size_t)n);
    for (int64_t k = 0; k < n; k += stride) {
        double *at = (double *)x->data + k, was = *at, f_of[4];
        for (int p = 0; p < 4; p++) { /* five-point stencil: error of order h^4 */
            *at = was + steps[p] * h;
            f_of[p] = loss(f);
        }
        *at = was;
        double numeric = (f_of[0] - 8 * f_of[1] + 8 * f_of[2] - f_of[3]) / (12 * h);
        error += (numeric - analytic[k]) * (numeric - analytic[k]);
        norm += numeric * numeric + analytic[k] * analytic[k];
    }
    if (lmoe__check_failed(f->x)) return false;
    double off = sqrt(error) < 1e-10 ? 0 : sqrt(error / norm);
    *worst = fmax(*worst, off);
    if (off < 1e-7) return true;
    lmoe__check_fail(f->x, "the gradient of '%s' is off by %.3g of itself", f->op->inputs[i].name,
                     off);
    return false;
}

static void release(fixture *f)
{
    lmoe__plan_free(f->plan);
    lmoe__store_free(&f->store);
    lmoe__trace_free(&f->t);
    free(f->activations);
    free(f->workspace);
}

static int check_case(fixture *f, double *worst)
{
    int compared = 0;
    if (build(f)) {
        for (int i = 0; i < f->c.n_in && !lmoe__check_failed(f->x); i++) {
            if (lmoe_is_absent(f->in[i]) || !wants(f, i)) continue;
            compare(f, i, worst);
            compared++;
        }
    }
    release(f);
    return compared;
}

/* lmoe's ops and those of the plugin. */
static void know_ops(const lmoe__exam *x, lmoe__op_set *s)
{
    lmoe__op_set_init(s);
    for (int i = 0; x->plugin && i < x->plugin->n_classes; i++) {
        if (strcmp(x->plugin->classes[i]->kind, LMOE_KIND_OP) == 0)
            LMOE_PUSH(s->ops, s->count, s->capacity, (const void *)x->plugin->classes[i]);
    }
}

void lmoe__ops_gradient(lmoe__exam *x)
{
    static const lmoe_kernel *const none[] = {NULL};
    const lmoe_op *op = (const lmoe_op *)(const void *)x->class;
    int compared = 0;
    double worst = 0;
    bool more = true;
    if (!op->vjp) {
        lmoe__check_skip(x, "it has no derivative");
        return;
    }
    if (!lmoe__check_device(x)) return;
    for (int i = 0; more && !lmoe__check_failed(x); i++) {
        fixture f = {.x = x, .op = op, .device = *x->device};
        lmoe__arena *a = lmoe__arena_new();
        uint32_t flags;
        f.device.kernels = none;
        know_ops(x, &f.ops);
        more = lmoe__called_sample(x, a, i, 0, &f.c, &flags);
        if (more && (flags & LMOE_CASE_GRADCHECK)) compared += check_case(&f, &worst);
        lmoe__op_set_free(&f.ops);
        lmoe__arena_free(a);
    }
    if (compared == 0 && !lmoe__check_failed(x))
        lmoe__check_fail(x, "it has a derivative, but its sampler has no case with the flag "
                            "LMOE_CASE_GRADCHECK");
    lmoe__check_note(x, "%d inputs, worst error %.2g", compared, worst);
}
