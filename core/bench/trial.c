/* SPDX-License-Identifier: Apache-2.0
 * core/bench/trial.c: one legal call of an op: shapes, and input values from a counter-based
 * generator, so that every run of the tool draws the same.
 */
#include "core/bench/bench.h"

#include <math.h>
#include <stdlib.h>

enum { SEED = 20240501 };

/* Log decays as they occur: mostly mild, some strong, none at all, and those that forget. */
static double draw_decay(uint64_t stream, uint64_t i)
{
    double kind = lmoe__uniform(SEED, stream, 2 * i), u = lmoe__uniform(SEED, stream, 2 * i + 1);
    if (kind < 0.55) return -0.1 * u;
    if (kind < 0.80) return -3.0 * u;
    if (kind < 0.90) return 0.0;
    if (kind < 0.96) return -80.0;
    return -INFINITY;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Rows of the last axis become 0 = x_0 <= x_1 <= ... = last. */
static void draw_sorted(double *x, int64_t count, int64_t row, double last, uint64_t stream)
{
    for (int64_t i = 0; i < count; i++)
        x[i] = (double)lmoe__below(SEED, stream, (uint64_t)i, (uint64_t)last + 1);
    for (int64_t i = 0; i < count; i += row) {
        x[i] = 0;
        x[i + row - 1] = last;
        if (row > 2) qsort(x + i + 1, (size_t)(row - 2), sizeof *x, by_size);
    }
}

/* Element i of `count`, in column `column` of the last axis. */
static double draw(const lmoe_fill *f, uint64_t stream, uint64_t i, int64_t column, int64_t count)
{
    switch (f->kind) {
    case LMOE_FILL_NORMAL: return f->a + f->b * lmoe__normal(SEED, stream, i);
    case LMOE_FILL_UNIFORM: return f->a + (f->b - f->a) * lmoe__uniform(SEED, stream, i);
    case LMOE_FILL_INT: return f->a + (double)lmoe__below(SEED, stream, i, (uint64_t)(f->b - f->a));
    case LMOE_FILL_CONST: return f->a;
    case LMOE_FILL_FLAG: return lmoe__uniform(SEED, stream, i) < f->a;
    case LMOE_FILL_RAMP: return f->a + (double)column;
    case LMOE_FILL_DECAY: return draw_decay(stream, i);
    case LMOE_FILL_PERMUTED: return (double)(((int64_t)f->a * (int64_t)i + (int64_t)f->b) % count);
    default: return 0;
    }
}

/* Values of input `port`, rounded to its dtype. */
static void draw_input(lmoe__trial *t, int port)
{
    const lmoe_desc *d = &t->in[port];
    const lmoe_fill *f = &t->c.fill[port];
    int64_t n = lmoe_desc_count(d), row = d->rank ? d->dim[d->rank - 1] : 1;
    uint64_t stream =
        lmoe__hash_text(t->op->base.name) + (uint64_t)port + t->variation * LMOE_MAX_IO;
    double *x = t->value[port] = lmoe__malloc(sizeof(double) * (size_t)(n + 1));
    if (f->kind == LMOE_FILL_SORTED) {
        if (n > 0) draw_sorted(x, n, row, f->b, stream);
        return;
    }
    unsigned char cell[8];
    lmoe_buf round = {.data = cell, .dtype = d->dtype};
    for (int64_t i = 0; i < n; i++) {
        lmoe_put(&round, 0, draw(f, stream, (uint64_t)i, i % row, n));
        x[i] = lmoe_get(&round, 0);
    }
}

/* Samplers give float inputs as f32; the tool sets their dtype. */
static lmoe_dtype input_dtype(const lmoe__trial *t, int port, lmoe_dtype want)
{
    const uint32_t state = LMOE_PORT_STATE | LMOE_PORT_CARRY | LMOE_PORT_FORWARD_CARRY;
    if (t->c.in[port].dtype != LMOE_F32) return t->c.in[port].dtype;
    return (t->op->inputs[port].flags & state) && lmoe_dtype_bytes(want) == 2 ? LMOE_F32 : want;
}

static lmoe_status shapes(lmoe_ctx *ctx, lmoe__trial *t, lmoe_dtype dtype, lmoe_desc *out)
{
    memset(t->in, 0, sizeof t->in);
    for (int i = 0; i < t->c.n_in; i++) {
        t->in[i] = t->c.in[i];
        t->in[i].dtype = input_dtype(t, i, dtype);
    }
    lmoe_status status = t->op->shape(NULL, t->c.attrs.bytes, t->in, t->n_in, out);
    if (status == LMOE_OK) return status;
    return lmoe_error(ctx, status, "%s refuses the shapes of its own sample", t->op->base.name);
}

static lmoe_status init(lmoe_ctx *ctx, const lmoe_op *op, const lmoe_case *c, lmoe_dtype dtype,
                        uint64_t variation, lmoe__trial *t)
{
    memset(t, 0, sizeof *t);
    t->op = op;
    t->variation = variation;
    t->c = *c;
    while (op->inputs[t->n_in].name) t->n_in++;
    while (op->outputs[t->n_out].name) t->n_out++;
    LMOE_TRY(shapes(ctx, t, LMOE_F64, t->wide));
    LMOE_TRY(shapes(ctx, t, dtype, t->out));
    for (int i = 0; i < t->n_in; i++) {
        if (t->in[i].dtype != LMOE_NONE) draw_input(t, i);
    }
    return LMOE_OK;
}

lmoe_status lmoe__trial_init(lmoe_ctx *ctx, const lmoe_op *op, const lmoe_case *c, lmoe_dtype dtype,
                             lmoe__trial *t)
{
    return init(ctx, op, c, dtype, 0, t);
}

lmoe_status lmoe__trial_vary(lmoe_ctx *ctx, const lmoe_op *op, int index, lmoe_dtype dtype,
                             lmoe__trial *t)
{
    enum { MOST = 65, LONG = 127, MORE = 3 }; /* lengths 1 ... 65, 127, 128, 129 */
    uint64_t stream = lmoe__hash_text(op->base.name) - 1;
    lmoe_case c = {.size = sizeof c};
    int cases = 0;
    while (op->sample(cases, &c) && !(c.flags & LMOE_CASE_BENCH)) {
        cases++;
        c = (lmoe_case){.size = sizeof c};
    }
    c = (lmoe_case){.size = sizeof c};
    op->sample((int)lmoe__below(SEED, stream, 2 * (uint64_t)index, (uint64_t)cases), &c);
    int64_t seq = 1 + (int64_t)lmoe__below(SEED, stream, 2 * (uint64_t)index + 1, MOST + MORE);
    if (seq > MOST) seq += LONG - MOST - 1;
    for (int i = 0; i < c.n_in; i++) {
        for (int k = 0; k < c.in[i].rank; k++) {
            if (strcmp(c.in[i].axis[k], "seq") == 0) c.in[i].dim[k] = seq;
        }
    }
    return init(ctx, op, &c, dtype, 1 + (uint64_t)index, t);
}

lmoe_status lmoe__trial_sample(lmoe_ctx *ctx, const lmoe_op *op, int index, lmoe_dtype dtype,
                               lmoe__trial *t, bool *more)
{
    lmoe_case c;
    memset(&c, 0, sizeof c);
    c.size = sizeof c;
    *more = op->sample && op->sample(index, &c);
    return *more ? lmoe__trial_init(ctx, op, &c, dtype, t) : LMOE_OK;
}

void lmoe__trial_free(lmoe__trial *t)
{
    for (int i = 0; i < t->n_in; i++) free(t->value[i]);
}

const char *lmoe__trial_text(char *buf, size_t n, const lmoe__trial *t)
{
    size_t at = 0;
    buf[0] = 0;
    for (int i = 0; i < t->n_in && at < n; i++) {
        const lmoe_desc *d = &t->in[i];
        if (d->dtype == LMOE_NONE) continue;
        at += (size_t)snprintf(buf + at, n - at, at ? ", (" : "(");
        for (int k = 0; k < d->rank && at < n; k++)
            at += (size_t)snprintf(buf + at, n - at, k ? " %lld" : "%lld", (long long)d->dim[k]);
        if (at < n) at += (size_t)snprintf(buf + at, n - at, ")");
    }
    return buf;
}

double lmoe__trial_bytes(const lmoe__trial *t)
{
    double bytes = 0;
    for (int i = 0; i < t->n_in; i++)
        if (t->in[i].dtype != LMOE_NONE) bytes += (double)lmoe_desc_bytes(&t->in[i]);
    for (int i = 0; i < t->n_out; i++)
        if (t->out[i].dtype != LMOE_NONE) bytes += (double)lmoe_desc_bytes(&t->out[i]);
    return bytes;
}

double lmoe__trial_flops(const lmoe__trial *t)
{
    if (!t->op->flops) return 0;
    return t->op->flops(t->c.attrs.bytes, t->in, t->n_in, t->out, t->n_out);
}
