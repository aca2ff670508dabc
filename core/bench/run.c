/* SPDX-License-Identifier: Apache-2.0
 * core/bench/run.c: a call laid out in one block of memory:
 *
 *   guard, input 0, guard, input 1, ..., guard, output 0, ..., guard, workspace, guard
 *
 * Guards hold a pattern; outputs and workspace start as NaN. After a launch the whole block comes
 * back, and what a kernel must not touch is compared with what was there before.
 */
#include "core/bench/bench.h"

#include <stdlib.h>

enum { GUARD = 256, GUARD_BYTE = 0xa5, NAN_BYTE = 0xff };

static size_t tensor_bytes(const lmoe_buf *b)
{
    return lmoe_buf_present(b) ? (size_t)lmoe_buf_count(b) * lmoe_dtype_bytes(b->dtype) : 0;
}

static size_t round_up(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

static lmoe_buf describe(const lmoe_desc *d, bool wide)
{
    lmoe_buf b = {.dtype = d->dtype, .rank = d->rank};
    if (wide && lmoe_dtype_is_float(d->dtype)) b.dtype = LMOE_F64;
    memcpy(b.dim, d->dim, sizeof b.dim);
    return b;
}

/* Tensors and arguments without memory, as score and workspace see them. */
static void describe_call(lmoe_ctx *ctx, const lmoe__trial *t, bool wide, lmoe_buf *buf,
                          lmoe_args *args)
{
    for (int i = 0; i < t->n_in; i++) buf[i] = describe(&t->in[i], wide);
    for (int i = 0; i < t->n_out; i++)
        buf[t->n_in + i] = describe(wide ? &t->wide[i] : &t->out[i], false);
    *args = (lmoe_args){.size = sizeof *args,
                        .attrs = t->c.attrs.bytes,
                        .n_in = t->n_in,
                        .n_out = t->n_out,
                        .in = buf,
                        .out = buf + t->n_in,
                        .ctx = ctx};
}

int lmoe__bench_kernels(const lmoe__bench *b, const lmoe__trial *t, const lmoe_kernel **list,
                        int max)
{
    lmoe_buf buf[2 * LMOE_MAX_IO];
    lmoe_args args;
    int n = 0, score[64];
    describe_call(b->ctx, t, false, buf, &args);
    for (int i = 0; b->kernels[i]; i++) {
        const lmoe_kernel *k = b->kernels[i];
        int s = strcmp(k->op, t->op->base.name) == 0 ? k->score(&args) : 0;
        bool full = n == max || n == 64;
        if (s <= 0 || (full && score[n - 1] >= s)) continue;
        int at = full ? n - 1 : n++; /* full: in the place of the worst */
        for (; at > 0 && score[at - 1] < s; at--) {
            score[at] = score[at - 1];
            list[at] = list[at - 1];
        }
        score[at] = s;
        list[at] = k;
    }
    return n;
}

/* The input that output i lies over; -1: it has memory of its own. */
static int lies_over(const lmoe__run *r, int i)
{
    return i >= 0 && i == r->inplace ? r->trial->op->inplace[i] - 1 : -1;
}

/* Gives every tensor its place; returns the size of the block. */
static size_t lay_out(lmoe__run *r)
{
    const lmoe__trial *t = r->trial;
    int n = t->n_in + t->n_out;
    size_t at = GUARD;
    for (int i = 0; i < n; i++) {
        int input = lies_over(r, i - t->n_in);
        r->at[i] = input >= 0 ? r->at[input] : at;
        if (input < 0) at += round_up(tensor_bytes(&r->buf[i])) + GUARD;
    }
    r->at[n] = at;
    return at + round_up(r->args.workspace_size) + GUARD;
}

/* What the block holds before a launch. */
static void fill_block(lmoe__run *r)
{
    const lmoe__trial *t = r->trial;
    int n = t->n_in + t->n_out;
    memset(r->before, GUARD_BYTE, r->bytes);
    memset(r->before + r->at[n], NAN_BYTE, r->args.workspace_size);
    for (int i = t->n_in; i < n; i++)
        memset(r->before + r->at[i], NAN_BYTE, tensor_bytes(&r->buf[i]));
    for (int i = 0; i < t->n_in; i++) {
        lmoe_buf b = r->buf[i];
        b.data = r->before + r->at[i];
        for (int64_t k = 0; lmoe_buf_present(&b) && k < lmoe_buf_count(&b); k++)
            lmoe_put(&b, k, t->value[i][k]);
    }
}

lmoe_status lmoe__run_new(lmoe_ctx *ctx, const lmoe__trial *t, const lmoe_kernel *kernel,
                          lmoe__bench_device on, bool wide, int dropped, int inplace, lmoe__run *r)
{
    memset(r, 0, sizeof *r);
    r->trial = t;
    r->kernel = kernel;
    r->on = on;
    r->inplace = inplace;
    describe_call(ctx, t, wide, r->buf, &r->args);
    if (dropped >= 0) memset(&r->buf[t->n_in + dropped], 0, sizeof r->buf[0]);
    if (kernel && kernel->workspace) r->args.workspace_size = kernel->workspace(&r->args);
    r->bytes = lay_out(r);
    r->before = aligned_alloc(64, r->bytes);
    r->after = aligned_alloc(64, r->bytes);
    if (!r->before || !r->after) return lmoe_error(ctx, LMOE_E_MEMORY, "out of memory");
    fill_block(r);

    r->block = r->after;
    if (kernel) {
        void *block;
        if (on.device->alloc(on.dev, r->bytes, &block) != LMOE_OK)
            return lmoe_error(ctx, LMOE_E_MEMORY, "%s has no memory for %.0f MiB",
                              on.device->base.name, (double)r->bytes / 1048576);
        r->block = block;
        r->args.stream = on.device->stream(on.dev);
        r->args.dev = on.dev;
    }
    for (int i = 0; i < t->n_in + t->n_out; i++)
        if (lmoe_buf_present(&r->buf[i])) r->buf[i].data = r->block + r->at[i];
    r->args.workspace = r->block + r->at[t->n_in + t->n_out];
    return kernel && kernel->prepare ? kernel->prepare(&r->args, &r->args.prepared) : LMOE_OK;
}

void lmoe__run_nudge(lmoe__run *r, double relative, uint64_t draw)
{
    const lmoe__trial *t = r->trial;
    for (int i = 0; i < t->n_in; i++) {
        lmoe_buf b = r->buf[i];
        b.data = r->before + r->at[i];
        for (int64_t k = 0; lmoe_dtype_is_float(b.dtype) && k < lmoe_buf_count(&b); k++) {
            double up = lmoe__below(1 + draw, (uint64_t)i, (uint64_t)k, 2) ? relative : -relative;
            lmoe_put(&b, k, t->value[i][k] * (1 + up));
        }
    }
}

lmoe_status lmoe__run_launch(lmoe__run *r)
{
    return r->kernel ? r->kernel->launch(&r->args) : r->trial->op->reference(&r->args);
}

lmoe_status lmoe__run_once(lmoe__run *r)
{
    const lmoe_device *d = r->on.device;
    if (!r->kernel) {
        memcpy(r->after, r->before, r->bytes);
        return lmoe__run_launch(r);
    }
    LMOE_TRY(d->upload(r->on.dev, r->block, r->before, r->bytes));
    LMOE_TRY(lmoe__run_launch(r));
    LMOE_TRY(d->synchronize(r->on.dev));
    return d->download(r->on.dev, r->after, r->block, r->bytes);
}

void lmoe__run_free(lmoe__run *r)
{
    if (r->kernel && r->kernel->release && r->args.prepared) r->kernel->release(r->args.prepared);
    if (r->block && r->block != r->after) r->on.device->free(r->on.dev, r->block);
    free(r->before);
    free(r->after);
    memset(r, 0, sizeof *r);
}

lmoe_buf lmoe__run_buf(const lmoe__run *r, int i)
{
    lmoe_buf b = r->buf[i];
    if (lmoe_buf_present(&b)) b.data = r->after + r->at[i];
    return b;
}

/* May tensor i (the workspace is the one after the last) change? */
static bool may_change(const lmoe__run *r, int i)
{
    const lmoe__trial *t = r->trial;
    if (i >= t->n_in) return true;
    bool covered = r->inplace >= 0 && lies_over(r, r->inplace) == i;
    return covered || (t->op->inputs[i].flags & LMOE_PORT_MUTATES);
}

static const char *port_name(const lmoe__trial *t, int i)
{
    if (i < t->n_in) return t->op->inputs[i].name;
    return i < t->n_in + t->n_out ? t->op->outputs[i - t->n_in].name : "workspace";
}

/* Says what lies at a byte of the block that was changed. */
static const char *blame(const lmoe__run *r, size_t at, char *text, size_t n)
{
    const lmoe__trial *t = r->trial;
    int i = t->n_in + t->n_out;
    while (i >= 0 && (r->at[i] > at || lies_over(r, i - t->n_in) >= 0)) i--;
    if (i >= 0 && i < t->n_in && at < r->at[i] + tensor_bytes(&r->buf[i]))
        snprintf(text, n, "input '%s' was changed at byte %zu", port_name(t, i), at - r->at[i]);
    else if (i >= 0)
        snprintf(text, n, "memory after '%s' was written, %zu bytes from its start",
                 port_name(t, i), at - r->at[i]);
    else
        snprintf(text, n, "memory before '%s' was written", port_name(t, 0));
    return text;
}

const char *lmoe__run_damage(const lmoe__run *r, char *text, size_t n)
{
    const lmoe__trial *t = r->trial;
    size_t from = 0;
    for (int i = 0; i <= t->n_in + t->n_out + 1; i++) {
        bool end = i > t->n_in + t->n_out;
        if (!end && (!may_change(r, i) || lies_over(r, i - t->n_in) >= 0)) continue;
        size_t to = end ? r->bytes : r->at[i];
        if (memcmp(r->before + from, r->after + from, to - from) != 0) {
            while (r->before[from] == r->after[from]) from++;
            return blame(r, from, text, n);
        }
        if (!end)
            from =
                to + (i < t->n_in + t->n_out ? tensor_bytes(&r->buf[i]) : r->args.workspace_size);
    }
    return NULL;
}
