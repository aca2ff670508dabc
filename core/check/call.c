/* SPDX-License-Identifier: Apache-2.0
 * core/check/call.c: calls of an op's reference that can be cut and compared.
 */
#include "core/check/call.h"

#include <math.h>
#include <stdlib.h>

lmoe__part lmoe__part_new(lmoe__arena *a, const lmoe_desc *d)
{
    lmoe__part p = {.d = *d};
    if (d->dtype == LMOE_NONE) return p;
    p.b = (lmoe_buf){.dtype = d->dtype, .rank = d->rank};
    memcpy(p.b.dim, d->dim, sizeof p.b.dim);
    p.b.data = lmoe__arena_alloc(a, (size_t)lmoe_desc_bytes(d) + 1);
    return p;
}

void lmoe__part_fill(lmoe__part *p, double x)
{
    for (int64_t i = 0, n = lmoe_desc_count(&p->d); lmoe_buf_present(&p->b) && i < n; i++)
        lmoe_put(&p->b, i, x);
}

lmoe__part lmoe__part_cut(lmoe__arena *a, const lmoe__part *p, int dim, int64_t from, int64_t n)
{
    lmoe_desc d = p->d;
    size_t inner = lmoe_dtype_bytes(d.dtype), outer = 1;
    for (int i = 0; i < d.rank; i++) {
        if (i < dim) outer *= (size_t)d.dim[i];
        if (i > dim) inner *= (size_t)d.dim[i];
    }
    size_t rows = (size_t)d.dim[dim];
    d.dim[dim] = n;
    lmoe__part q = lmoe__part_new(a, &d);
    for (size_t o = 0; o < outer; o++)
        memcpy((char *)q.b.data + o * (size_t)n * inner,
               (const char *)p->b.data + (o * rows + (size_t)from) * inner, (size_t)n * inner);
    return q;
}

int lmoe__part_axis(const lmoe__part *p, const char *axis)
{
    for (int i = 0; lmoe_buf_present(&p->b) && i < p->d.rank; i++) {
        if (strcmp(p->d.axis[i], axis) == 0) return i;
    }
    return -1;
}

bool lmoe__part_close(lmoe__exam *x, const lmoe__part *got, const lmoe__part *want,
                      const char *what)
{
    int64_t n = lmoe_desc_count(&want->d);
    double largest = 1;
    if (!lmoe_buf_present(&want->b)) return true;
    if (lmoe_desc_count(&got->d) != n || !lmoe_buf_present(&got->b)) {
        lmoe__check_fail(x, "%s: %lld elements where %lld were expected", what,
                         (long long)lmoe_desc_count(&got->d), (long long)n);
        return false;
    }
    for (int64_t i = 0; i < n; i++) {
        double y = lmoe_get(&want->b, i);
        if (isfinite(y)) largest = fmax(largest, fabs(y));
    }
    for (int64_t i = 0; i < n; i++) {
        double a = lmoe_get(&got->b, i), b = lmoe_get(&want->b, i);
        if (a == b || fabs(a - b) <= 1e-9 * largest) continue;
        lmoe__check_fail(x, "%s: element %lld is %.12g; expected %.12g", what, (long long)i, a, b);
        return false;
    }
    return true;
}

/* ---- calls ---- */

const lmoe_op *lmoe__check_op(const lmoe__exam *x, const char *name)
{
    for (int i = 0; x->plugin && i < x->plugin->n_classes; i++) {
        const lmoe_class *c = x->plugin->classes[i];
        if (strcmp(c->kind, LMOE_KIND_OP) == 0 && strcmp(c->name, name) == 0)
            return (const lmoe_op *)(const void *)c;
    }
    for (int i = 0; lmoe__ops[i]; i++) {
        if (strcmp(lmoe__ops[i]->base.name, name) == 0) return lmoe__ops[i];
    }
    return NULL;
}

static void take_trial(lmoe__arena *a, const lmoe__trial *t, lmoe__called *c)
{
    void *attrs = lmoe__arena_alloc(a, sizeof t->c.attrs);
    memcpy(attrs, &t->c.attrs, sizeof t->c.attrs);
    memset(c, 0, sizeof *c);
    c->op = t->op;
    c->attrs = attrs;
    c->n_in = t->n_in;
    c->n_out = t->n_out;
    for (int i = 0; i < t->n_in; i++) {
        c->in[i] = lmoe__part_new(a, &t->in[i]);
        for (int64_t k = 0; lmoe_buf_present(&c->in[i].b) && k < lmoe_desc_count(&t->in[i]); k++)
            lmoe_put(&c->in[i].b, k, t->value[i][k]);
    }
}

bool lmoe__called_sample(lmoe__exam *x, lmoe__arena *a, int index, int64_t seq, lmoe__called *c,
                         uint32_t *flags)
{
    const lmoe_op *op = (const lmoe_op *)(const void *)x->class;
    lmoe_case k = {.size = sizeof k};
    lmoe__trial t;
    if (!op->sample || !op->sample(index, &k)) return false;
    for (int i = 0; i < k.n_in && seq > 0; i++) {
        for (int d = 0; k.in[i].dtype != LMOE_NONE && d < k.in[i].rank; d++) {
            if (strcmp(k.in[i].axis[d], "seq") == 0) k.in[i].dim[d] = seq;
        }
    }
    *flags = k.flags;
    bool big = (k.flags & LMOE_CASE_BENCH) != 0;
    if (big) { /* only its shapes matter; nobody computes it here */
        memset(c, 0, sizeof *c);
        return true;
    }
    if (!lmoe__check_ok(x, lmoe__trial_init(x->ctx, op, &k, LMOE_F64, &t), "a sample case"))
        return false;
    take_trial(a, &t, c);
    char text[200];
    lmoe__check_case(x, "case %d %s", index, lmoe__trial_text(text, sizeof text, &t));
    lmoe__trial_free(&t);
    return true;
}

bool lmoe__called_try(lmoe__exam *x, lmoe__arena *a, lmoe__called *c, bool *refused)
{
    lmoe_desc in[LMOE_MAX_IO] = {{LMOE_NONE, 0, {0}, {0}}},
              out[LMOE_MAX_IO] = {{LMOE_NONE, 0, {0}, {0}}};
    lmoe_buf bufs[2 * LMOE_MAX_IO] = {{0}};
    for (int i = 0; i < c->n_in; i++) {
        in[i] = c->in[i].d;
        bufs[i] = c->in[i].b;
    }
    *refused = c->op->shape(NULL, c->attrs, in, c->n_in, out) != LMOE_OK;
    lmoe__ctx_clear(x->ctx);
    if (*refused) return true;
    for (int i = 0; i < c->n_out; i++) {
        c->out[i] = lmoe__part_new(a, &out[i]);
        lmoe__part_fill(&c->out[i], lmoe_dtype_is_float(out[i].dtype) ? NAN : -77);
        bufs[c->n_in + i] = c->out[i].b;
    }
    lmoe_args args = {.size = sizeof args,
                      .attrs = c->attrs,
                      .n_in = c->n_in,
                      .n_out = c->n_out,
                      .in = bufs,
                      .out = bufs + c->n_in,
                      .ctx = x->ctx};
    return lmoe__check_ok(x, c->op->reference(&args), "its reference");
}

bool lmoe__called_run(lmoe__exam *x, lmoe__arena *a, lmoe__called *c)
{
    bool refused;
    if (!lmoe__called_try(x, a, c, &refused)) return false;
    if (refused) lmoe__check_fail(x, "its shape function refuses operands that it must take");
    return !refused;
}
