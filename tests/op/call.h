/* SPDX-License-Identifier: Apache-2.0
 * tests/op/call.h: tensors in host memory, and calls of an op's shape function and reference: for
 * tests that state properties of ops. Everything is f64, and lives until the end of its test.
 */
#ifndef LMOE_TESTS_OP_CALL_H
#define LMOE_TESTS_OP_CALL_H

#include "core/graph/graph.h"
#include "core/op/op.h"

#include <check.h>
#include <math.h>

typedef struct tensor {
    lmoe_desc d; /* dtype LMOE_NONE: absent */
    lmoe_buf b;
} tensor;

typedef struct call {
    const lmoe_op *op;
    const void *attrs;
    tensor in[LMOE_MAX_IO], out[LMOE_MAX_IO];
} call;

static lmoe__arena *arena; /* of the running test */
static lmoe_ctx ctx;

static inline void call_setup(void)
{
    arena = lmoe__arena_new();
    lmoe__ctx_init(&ctx);
}

static inline void call_teardown(void)
{
    lmoe__arena_free(arena);
}

/* ---- tensors ---- */

/* Floats start as NaN, integers as -1. */
static inline tensor new_tensor(const lmoe_desc *d)
{
    tensor x = {.d = *d};
    if (d->dtype == LMOE_NONE) return x;
    size_t bytes = (size_t)lmoe_desc_bytes(d);
    x.b.data = memset(lmoe__arena_alloc(arena, bytes + 1), 0xff, bytes);
    x.b.dtype = d->dtype;
    x.b.rank = d->rank;
    memcpy(x.b.dim, d->dim, sizeof d->dim);
    return x;
}

static inline int64_t count_of(const tensor *x)
{
    return x->d.dtype == LMOE_NONE ? 0 : lmoe_desc_count(&x->d);
}

/* Draws from (seed, stream): as samplers describe their inputs. */
static inline void draw(tensor *x, lmoe_fill f, uint64_t seed, uint64_t stream)
{
    int64_t last = x->d.rank ? x->d.dim[x->d.rank - 1] : 1;
    for (int64_t i = 0; i < count_of(x); i++) {
        double u = lmoe__uniform(seed, stream, (uint64_t)i), value = f.a;
        if (f.kind == LMOE_FILL_NORMAL) value = f.a + f.b * lmoe__normal(seed, stream, (uint64_t)i);
        if (f.kind == LMOE_FILL_UNIFORM) value = f.a + (f.b - f.a) * u;
        if (f.kind == LMOE_FILL_INT) value = floor(f.a + (f.b - f.a) * u);
        if (f.kind == LMOE_FILL_FLAG) value = u < f.a;
        if (f.kind == LMOE_FILL_RAMP) value = f.a + (double)(i % last);
        if (f.kind == LMOE_FILL_DECAY)
            value = u < 0.1 ? -INFINITY : u < 0.2 ? 0 : u < 0.25 ? -80 : -2 * u * u;
        lmoe_put(&x->b, i, value);
    }
}

/* Input i of the call: axes are blank-separated. */
static inline tensor *operand(call *c, int i, lmoe_dtype dtype, const char *axes,
                              const int64_t *dim, lmoe_fill_kind kind, double a, double b,
                              uint64_t seed)
{
    lmoe_case one = {0};
    lmoe__case_input(&one, 0, dtype, axes, dim, kind, a, b);
    c->in[i] = new_tensor(&one.in[0]);
    draw(&c->in[i], one.fill[0], seed, (uint64_t)i);
    return &c->in[i];
}

static inline int axis_of(const tensor *x, const char *axis)
{
    for (int i = 0; x->d.dtype != LMOE_NONE && i < x->d.rank; i++) {
        if (strcmp(x->d.axis[i], axis) == 0) return i;
    }
    return -1;
}

/* Rows index[0 .. n-1] along a dimension. */
static inline tensor pick(const tensor *x, int axis, const int64_t *index, int64_t n)
{
    lmoe_desc d = x->d;
    d.dim[axis] = n;
    tensor y = new_tensor(&d);
    int64_t inner = 1, outer = 1;
    for (int i = 0; i < d.rank; i++) {
        if (i < axis) outer *= d.dim[i];
        if (i > axis) inner *= d.dim[i];
    }
    for (int64_t o = 0; o < outer; o++) {
        for (int64_t r = 0; r < n; r++) {
            for (int64_t i = 0; i < inner; i++)
                lmoe_put(&y.b, (o * n + r) * inner + i,
                         lmoe_get(&x->b, (o * x->d.dim[axis] + index[r]) * inner + i));
        }
    }
    return y;
}

/* Positions from ... from+n-1 along seq; x itself if it has none. */
static inline tensor part(const tensor *x, int64_t from, int64_t n)
{
    int axis = axis_of(x, "seq");
    int64_t index[512];
    if (axis < 0) return *x;
    for (int64_t i = 0; i < n; i++) index[i] = from + i;
    return pick(x, axis, index, n);
}

/* Writes `x` into y from `at` on along seq; without seq y += x (gradients of what all share). */
static inline void place(tensor *y, const tensor *x, int64_t at)
{
    int axis = axis_of(x, "seq");
    int64_t inner = 1, n = axis < 0 ? 1 : x->d.dim[axis], rows = axis < 0 ? 1 : y->d.dim[axis];
    for (int i = axis + 1; axis >= 0 && i < x->d.rank; i++) inner *= x->d.dim[i];
    for (int64_t i = 0; i < count_of(x); i++) {
        int64_t o = i / (n * inner), s = i / inner % n;
        if (axis < 0)
            lmoe_put_add(&y->b, i, lmoe_get(&x->b, i));
        else
            lmoe_put(&y->b, (o * rows + at + s) * inner + i % inner, lmoe_get(&x->b, i));
    }
}

/* (rank ...) of n tensors of one shape. */
static inline tensor stack(const tensor *x, int n)
{
    lmoe_desc d = {.dtype = x->d.dtype, .rank = x->d.rank + 1, .dim = {n}, .axis = {"rank"}};
    for (int i = 0; i < x->d.rank; i++) {
        d.dim[i + 1] = x->d.dim[i];
        d.axis[i + 1] = x->d.axis[i];
    }
    tensor y = new_tensor(&d);
    for (int64_t i = 0; i < n * count_of(x); i++)
        lmoe_put(&y.b, i, lmoe_get(&x[i / count_of(x)].b, i % count_of(x)));
    return y;
}

/* Equal up to `tolerance` relative to 1 + |y|; NaN never is. */
static inline void check_close(const tensor *x, const tensor *y, double tolerance, const char *what)
{
    ck_assert_msg(x->d.dtype == y->d.dtype && count_of(x) == count_of(y), "%s: other shapes", what);
    for (int64_t i = 0; i < count_of(x); i++) {
        double a = lmoe_get(&x->b, i), b = lmoe_get(&y->b, i);
        ck_assert_msg(a == b || fabs(a - b) <= tolerance * (1 + fabs(b)),
                      "%s: element %lld is %.17g and should be %.17g", what, (long long)i, a, b);
    }
}

/* ---- calls ---- */

static inline int ports_of(const lmoe_port *ports)
{
    int n = 0;
    while (ports[n].name) n++;
    return n;
}

static inline int port_of(const lmoe_port *ports, const char *name)
{
    for (int i = 0; ports[i].name; i++) {
        if (strcmp(ports[i].name, name) == 0) return i;
    }
    return -1;
}

static inline void run(call *c)
{
    lmoe_desc in[LMOE_MAX_IO] = {{0}}, out[LMOE_MAX_IO] = {{0}};
    lmoe_buf bufs[2 * LMOE_MAX_IO] = {{0}};
    int n_in = ports_of(c->op->inputs), n_out = ports_of(c->op->outputs);
    for (int i = 0; i < n_in; i++) {
        in[i] = c->in[i].d;
        bufs[i] = c->in[i].b;
    }
    ck_assert_msg(c->op->shape(NULL, c->attrs, in, n_in, out) == LMOE_OK, "%s refuses",
                  c->op->base.name);
    for (int i = 0; i < n_out; i++) {
        c->out[i] = new_tensor(&out[i]);
        bufs[n_in + i] = c->out[i].b;
    }
    lmoe_args a = {.size = sizeof a, .attrs = c->attrs, .n_in = n_in, .n_out = n_out};
    a.in = bufs;
    a.out = bufs + n_in;
    a.ctx = &ctx;
    ck_assert_msg(c->op->reference(&a) == LMOE_OK, "%s: %s", c->op->base.name, ctx.message);
}

static inline const lmoe_op *op_named(const char *name)
{
    for (int i = 0; lmoe__ops[i]; i++) {
        if (strcmp(lmoe__ops[i]->base.name, name) == 0) return lmoe__ops[i];
    }
    ck_abort_msg("there is no op %s", name);
    return NULL;
}

#endif
