/* SPDX-License-Identifier: Apache-2.0
 * tests/op/test_gradcheck.c: the derivative of every op against central differences, in float64
 * over references.
 *
 * For each sample case marked GRADCHECK: loss = sum over float outputs of <output, random weights>;
 * the recorded vjp gives d loss / d input for every input that may have a gradient; each element
 * (some hundred at most) is moved by
 * +-h and the loss computed again. Carry inputs take part as operands, carry outputs do not enter
 * the loss.
 */
#include "tests/host_device.h"

#include <check.h>
#include <math.h>

typedef struct fixture {
    lmoe_ctx ctx;
    lmoe__op_set ops;
    const lmoe_op *op;
    lmoe_case c;
    lmoe_trace t;
    lmoe__store store;
    lmoe__plan *plan;
    lmoe_tensor in[LMOE_MAX_IO], d[LMOE_MAX_IO];
    int n_in;
} fixture;

static double drawn(const lmoe_fill *f, int input, int64_t i, int64_t last)
{
    uint64_t stream = (uint64_t)input + 17;
    double u = lmoe__uniform(7, stream, (uint64_t)i);
    switch (f->kind) {
    case LMOE_FILL_NORMAL: return f->a + f->b * lmoe__normal(7, stream, (uint64_t)i);
    case LMOE_FILL_UNIFORM: return f->a + (f->b - f->a) * u;
    case LMOE_FILL_INT: return floor(f->a + (f->b - f->a) * u);
    case LMOE_FILL_CONST: return f->a;
    case LMOE_FILL_FLAG: return u < f->a;
    case LMOE_FILL_RAMP: return f->a + (double)(i % last);
    case LMOE_FILL_DECAY: return -0.1 - u;
    case LMOE_FILL_SORTED:
        return i % last == last - 1 ? f->b : floor(f->b * (double)(i % last) / (double)last);
    default: return -1; /* permutations and what comes later are filled by the caller */
    }
}

static void fill_input(fixture *f, int i)
{
    char name[32];
    snprintf(name, sizeof name, "x%d", i);
    lmoe__buffer *b = lmoe__store_find(&f->store, name);
    if (!b) return;
    lmoe_buf buf = {.data = b->data, .dtype = b->desc.dtype};
    int64_t n = lmoe_desc_count(&b->desc);
    int64_t last = b->desc.rank ? b->desc.dim[b->desc.rank - 1] : 1;
    for (int64_t k = 0; k < n; k++) {
        double x = drawn(&f->c.fill[i], i, k, last);
        if (f->c.fill[i].kind > LMOE_FILL_SORTED)
            x = (double)((k * 7 + 3) % n); /* a permutation if gcd(7, n) = 1 */
        if (f->c.fill[i].kind > LMOE_FILL_SORTED && n % 7 == 0) x = (double)(n - 1 - k);
        lmoe_put(&buf, k, x);
    }
}

static bool wants(const fixture *f, int i)
{
    return f->c.in[i].dtype == LMOE_F32 && !(f->op->inputs[i].flags & LMOE_PORT_NO_GRAD);
}

/* Traces op, loss and gradients; binds a plan over references. */
static void build(fixture *f)
{
    lmoe_tensor out[LMOE_MAX_IO], total = lmoe_absent();
    lmoe__trace_init(&f->t, &f->ctx, &f->ops, LMOE_F64);
    lmoe_tensor want[LMOE_MAX_IO], grad[LMOE_MAX_IO];
    int n_want = 0;
    for (int i = 0; i < f->n_in; i++) {
        lmoe_desc d = f->c.in[i];
        char name[32];
        f->in[i] = lmoe_absent();
        if (d.dtype == LMOE_NONE) continue;
        if (d.dtype == LMOE_F32) d.dtype = LMOE_F64;
        snprintf(name, sizeof name, "x%d", i);
        f->in[i].id = lmoe__graph_enter(f->t.graph, LMOE_VALUE_STATE, name, &d);
        if (wants(f, i)) want[n_want++] = f->in[i];
    }
    int n_out = lmoe__ports(f->op->outputs);
    lmoe_apply_at(&f->t, __FILE__, __LINE__, f->op->base.name, f->in, f->n_in, f->c.attrs.bytes,
                  f->op->base.options_size, out, n_out);
    for (int k = 0; k < n_out; k++) {
        lmoe_desc d;
        if (lmoe_describe(&f->t, out[k], &d) != LMOE_OK || !lmoe_dtype_is_float(d.dtype)) continue;
        if (f->op->outputs[k].flags & (LMOE_PORT_CARRY | LMOE_PORT_NO_GRAD)) continue;
        lmoe_tensor w = lmoe_map(
            &f->t, out[k], LMOE_MAP_SIGMOID); /* a nonlinear, bounded function of each element */
        char text[96] = "";
        for (int a = 0; a < d.rank; a++) {
            char letter[3] = {(char)('a' + a), ' ', 0};
            strcat(text, letter);
        }
        strcat(text, "->");
        lmoe_tensor s = d.rank ? lmoe_sum(&f->t, text, w) : w;
        total = lmoe_is_absent(total) ? s : lmoe_add(&f->t, total, s);
    }
    ck_assert_msg(!f->t.failed, "%s: %s", f->op->base.name, f->ctx.message);
    lmoe__trace_result(&f->t, total, "loss");
    lmoe_status status = lmoe__vjp(&f->t, total, want, n_want, grad);
    ck_assert_msg(status == LMOE_OK, "%s: %s", f->op->base.name, f->ctx.message);
    for (int i = 0, k = 0; i < f->n_in; i++) {
        char name[32];
        f->d[i] = lmoe_absent();
        if (lmoe_is_absent(f->in[i]) || !wants(f, i)) continue;
        f->d[i] = grad[k++];
        snprintf(name, sizeof name, "d%d", i);
        if (f->d[i].id > 0) lmoe__trace_result(&f->t, f->d[i], name);
    }
    lmoe__store_init(&f->store, &f->ctx, &host_device, HOST_DEV);
    status = lmoe__plan_new(&f->ctx, f->t.graph, &f->store, NULL, &f->plan);
    ck_assert_msg(status == LMOE_OK, "%s: %s", f->op->base.name, f->ctx.message);
    void *a = malloc((size_t)f->plan->arena_bytes + 64),
         *w = malloc((size_t)f->plan->workspace_bytes + 64);
    ck_assert_int_eq(lmoe__plan_bind(f->plan, a, w), LMOE_OK);
}

static double loss(fixture *f)
{
    lmoe_status status = lmoe__plan_replay(f->plan);
    ck_assert_msg(status == LMOE_OK, "%s: %s", f->op->base.name, f->ctx.message);
    return *(double *)lmoe__store_find(&f->store, "loss")->data;
}

static void compare(fixture *f, int index, int i)
{
    char x_name[32], d_name[32];
    snprintf(x_name, sizeof x_name, "x%d", i);
    snprintf(d_name, sizeof d_name, "d%d", i);
    lmoe__buffer *x = lmoe__store_find(&f->store, x_name), *d = lmoe__store_find(&f->store, d_name);
    if (!x) return; /* not used by what is needed */
    loss(f);        /* gradients at the point itself */
    int64_t n = lmoe_desc_count(&x->desc), stride = n > 60 ? n / 60 : 1;
    double *analytic = malloc(sizeof(double) * (size_t)n), h = 1e-3, error = 0, norm = 1e-12;
    for (int64_t k = 0; k < n; k++) analytic[k] = d ? ((double *)d->data)[k] : 0;
    for (int64_t k = 0; k < n; k += stride) {
        double *at = (double *)x->data + k, was = *at, f_of[4];
        static const double steps[4] = {-2, -1, 1, 2};
        for (int p = 0; p < 4; p++) { /* five-point stencil: error of order h^4 */
            *at = was + steps[p] * h;
            f_of[p] = loss(f);
        }
        *at = was;
        double numeric = (f_of[0] - 8 * f_of[1] + 8 * f_of[2] - f_of[3]) / (12 * h);
        error += (numeric - analytic[k]) * (numeric - analytic[k]);
        norm += numeric * numeric + analytic[k] * analytic[k];
    }
    free(analytic);
    ck_assert_msg(sqrt(error / norm) < 1e-7 || sqrt(error) < 1e-10,
                  "%s, case %d: gradient of %s is off by %g", f->op->base.name, index,
                  f->op->inputs[i].name, sqrt(error / norm));
}

static int check_case(const lmoe_op *op, int index, const lmoe_case *c)
{
    fixture f = {.op = op, .c = *c, .n_in = c->n_in};
    lmoe__ctx_init(&f.ctx);
    lmoe__op_set_init(&f.ops);
    build(&f);
    for (int i = 0; i < f.n_in; i++) fill_input(&f, i);
    loss(&f);
    int compared = 0;
    for (int i = 0; i < f.n_in; i++) {
        if (lmoe_is_absent(f.in[i]) || !wants(&f, i)) continue;
        compare(&f, index, i);
        compared++;
    }
    lmoe__plan_free(f.plan);
    lmoe__store_free(&f.store);
    lmoe__trace_free(&f.t);
    lmoe__op_set_free(&f.ops);
    return compared;
}

START_TEST(gradients)
{
    lmoe__op_set ops;
    lmoe__op_set_init(&ops);
    const lmoe_op *op = ops.ops[_i];
    int checked = 0;
    lmoe_case c;
    for (int i = 0; op->vjp && memset(&c, 0, sizeof c) && op->sample && op->sample(i, &c); i++) {
        if (c.flags & LMOE_CASE_GRADCHECK) checked += check_case(op, i, &c);
    }
    ck_assert_msg(!op->vjp || checked > 0, "%s has a derivative but no case to check it",
                  op->base.name);
    lmoe__op_set_free(&ops);
}
END_TEST

int main(void)
{
    lmoe__op_set ops;
    lmoe__op_set_init(&ops);
    Suite *s = suite_create("gradcheck");
    TCase *t = tcase_create("ops");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, gradients, 0, ops.count);
    suite_add_tcase(s, t);
    lmoe__op_set_free(&ops);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
