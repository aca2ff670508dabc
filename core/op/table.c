/* SPDX-License-Identifier: Apache-2.0
 * core/op/table.c: the table of ops, and the helper of their samplers.
 */
#include "core/op/op.h"

const lmoe_op *const lmoe__ops[] = {
#define LMOE_OP(name) &lmoe__op_##name,
#include "core/op/list.def"
#undef LMOE_OP
    NULL};

/* Axis names must outlive the case: samplers draw from this list. */
static const char *const axis_names[] = {
    "batch",   "seq",    "embed",  "heads",  "kv_heads", "head_k", "head_v", "hidden",
    "vocab",   "kernel", "expert", "choice", "row",      "bound",  "rank",   "context",
    "channel", "slot",   "state",  "part",   "a",        "b",      "c",      "d"};

static const char *intern(const char *word, size_t n)
{
    for (size_t i = 0; i < sizeof axis_names / sizeof *axis_names; i++) {
        if (strlen(axis_names[i]) == n && memcmp(axis_names[i], word, n) == 0) return axis_names[i];
    }
    return "other";
}

void lmoe__case_input(lmoe_case *c, int i, lmoe_dtype dtype, const char *axes, const int64_t *dim,
                      lmoe_fill_kind fill, double a, double b)
{
    lmoe_desc *d = &c->in[i];
    d->dtype = dtype;
    d->rank = 0;
    for (const char *p = axes; *p;) {
        size_t n = strcspn(p, " ");
        d->axis[d->rank] = intern(p, n);
        d->dim[d->rank] = dim[d->rank];
        d->rank++;
        p += n;
        while (*p == ' ') p++;
    }
    c->fill[i].kind = fill;
    c->fill[i].a = a;
    c->fill[i].b = b;
    if (c->n_in < i + 1) c->n_in = i + 1;
}
