/* SPDX-License-Identifier: Apache-2.0
 * core/graph/exchange.c: the exchanges of a plan: started where the graph has them, waited for
 * where their results are first read.
 */
#include "core/graph/graph.h"

#include "core/op/collective/collective.h"

typedef struct exchange_op {
    const char *op;
    lmoe_exchange_kind kind;
} exchange_op;

static const exchange_op exchange_ops[] = {
    {"all_reduce/1", LMOE_ALL_REDUCE},
    {"all_gather/1", LMOE_ALL_GATHER},
    {"reduce_scatter/1", LMOE_REDUCE_SCATTER},
    {"all_to_all/1", LMOE_ALL_TO_ALL},
    {"row_exchange/1", LMOE_ALL_TO_ALL_V},
    {"send/1", LMOE_SEND},
    {"recv/1", LMOE_RECV},
};

int lmoe__exchange_kind(const lmoe_op *op)
{
    for (size_t i = 0; i < sizeof exchange_ops / sizeof *exchange_ops; i++) {
        if (strcmp(op->base.name, exchange_ops[i].op) == 0) return (int)exchange_ops[i].kind;
    }
    return 0;
}

int64_t lmoe__exchange_bytes(const lmoe__step *s)
{
    const lmoe_collective_attrs *a = s->node->attrs;
    const lmoe_buf *x = s->exchange == LMOE_RECV ? &s->args.out[0] : &s->args.in[0];
    int64_t bytes = lmoe_buf_count(x) * (int64_t)lmoe_dtype_bytes(x->dtype), n = a->ranks;
    switch (s->exchange) {
    case LMOE_ALL_REDUCE: return 2 * bytes * (n - 1) / n;
    case LMOE_ALL_GATHER: return bytes * (n - 1);
    case LMOE_SEND: return 0; /* counted where it is received */
    case LMOE_RECV: return bytes;
    default: return bytes * (n - 1) / n;
    }
}

/* Rows that go to, and come from, each rank: the table is on the host, or a copy of it is. */
static lmoe_status count_rows(lmoe__plan *p, lmoe__step *s, lmoe_exchange *e)
{
    const lmoe_collective_attrs *a = s->node->attrs;
    const lmoe_buf *rows = &s->args.in[0];
    lmoe_buf table = s->args.in[1];
    int64_t *send = s->counts, *recv = s->counts + a->ranks, width = 1, first, end;
    const lmoe_device *device = p->store->device;
    if (strcmp(device->device, "cpu") != 0) {
        int32_t *host = (int32_t *)(s->counts + 2 * a->ranks);
        size_t bytes = (size_t)lmoe_buf_count(&table) * sizeof *host;
        LMOE_TRY(device->download(p->store->dev, host, table.data, bytes));
        table.data = host;
    }
    for (int i = 1; i < rows->rank; i++) width *= rows->dim[i];
    for (int i = 0; i < a->ranks; i++) {
        lmoe__rows_between(&table, a->rank, i, a->ranks, &first, &end);
        (a->back ? recv : send)[i] = (end - first) * width;
        lmoe__rows_between(&table, i, a->rank, a->ranks, &first, &end);
        (a->back ? send : recv)[i] = (end - first) * width;
    }
    e->send_counts = send;
    e->recv_counts = recv;
    return LMOE_OK;
}

static lmoe_status failed(lmoe__plan *p, const lmoe__mesh_comm *c, lmoe_status status)
{
    return lmoe_error(p->ctx, status, "%s: %s", c->comm->base.name, c->comm->message(c->handle));
}

lmoe_status lmoe__exchange_start(lmoe__plan *p, lmoe__step *s)
{
    const lmoe_collective_attrs *a = s->node->attrs;
    const lmoe_buf *in = &s->args.in[0], *out = &s->args.out[0];
    const lmoe__mesh_comm *c = &p->comms[a->mesh];
    const lmoe_device *device = p->store->device;
    bool host = strcmp(device->device, "cpu") == 0;
    if (!host && !(c->comm->base.flags & LMOE_COMM_DEVICE))
        return lmoe_error(p->ctx, LMOE_E_UNSUPPORTED, "%s cannot exchange the memory of %s",
                          c->comm->base.name, device->base.name);
    lmoe_exchange e = {.size = sizeof e,
                       .kind = (lmoe_exchange_kind)s->exchange,
                       .dtype = in->dtype,
                       .peer = (int32_t)a->peer,
                       .send = in->data,
                       .recv = s->args.n_out > 0 ? out->data : NULL,
                       .count = lmoe_buf_count(in),
                       .stream = s->args.stream};
    if (s->exchange == LMOE_REDUCE_SCATTER || s->exchange == LMOE_ALL_TO_ALL) e.count /= a->ranks;
    if (s->exchange == LMOE_ALL_TO_ALL_V) LMOE_TRY(count_rows(p, s, &e));
    lmoe_status status = c->comm->start(c->handle, &e, &s->request);
    return status == LMOE_OK ? status : failed(p, c, status);
}

/* Bytes that an exchange brought: rows by their number. */
static int64_t moved(const lmoe__step *s)
{
    const lmoe_collective_attrs *a = s->node->attrs;
    int64_t rows = 0;
    if (s->exchange != LMOE_ALL_TO_ALL_V) return lmoe__exchange_bytes(s);
    for (int i = 0; i < a->ranks; i++) rows += i != a->rank ? s->counts[a->ranks + i] : 0;
    return rows * (int64_t)lmoe_dtype_bytes(s->args.in[0].dtype);
}

lmoe_status lmoe__exchange_wait(lmoe__plan *p, lmoe__step *s)
{
    const lmoe_collective_attrs *a = s->node->attrs;
    const lmoe__mesh_comm *c = &p->comms[a->mesh];
    double start = lmoe__now();
    if (!s->request) return LMOE_OK;
    lmoe_status status = c->comm->wait(c->handle, s->request);
    s->request = NULL;
    s->exposed += lmoe__now() - start;
    s->received += moved(s);
    return status == LMOE_OK ? status : failed(p, c, status);
}
