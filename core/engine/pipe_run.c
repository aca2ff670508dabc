/* SPDX-License-Identifier: Apache-2.0
 * core/engine/pipe_run.c: one rank's work in a pipeline.
 *
 * A message has the number of its transfer as its tag. Both ends work through the micro-batches of a
 * unit in order, so messages of one tag come in the order in which they are expected.
 */
#include "core/engine/pipeline.h"

static lmoe_status failed(const lmoe__pipeline *p, lmoe_status status)
{
    return lmoe_error(p->engine->ctx, status, "%s: %s", p->comm->comm->base.name,
                      p->comm->comm->message(p->comm->handle));
}

/* Starts an exchange of a buffer with one rank. */
static lmoe_status start(lmoe__pipeline *p, lmoe_exchange_kind kind, const char *name, int peer,
                         int tag, void **request)
{
    lmoe__engine *e = p->engine;
    lmoe__buffer *b = lmoe__store_find(&e->store, name);
    const lmoe_comm *c = p->comm->comm;
    if (!b) return lmoe_error(e->ctx, LMOE_E_INTERNAL, "the stages have no buffer '%s'", name);
    if (strcmp(e->device->device, "cpu") != 0 && !(c->base.flags & LMOE_COMM_DEVICE))
        return lmoe_error(e->ctx, LMOE_E_UNSUPPORTED, "%s cannot exchange the memory of %s",
                          c->base.name, e->device->base.name);
    const lmoe_exchange x = {.size = sizeof x,
                             .kind = kind,
                             .dtype = b->desc.dtype,
                             .peer = peer,
                             .tag = tag,
                             .send = kind == LMOE_RECV ? NULL : b->data,
                             .recv = kind == LMOE_SEND ? NULL : b->data,
                             .count = lmoe_desc_count(&b->desc),
                             .stream = e->device->stream ? e->device->stream(e->dev) : NULL};
    lmoe_status status = c->start(p->comm->handle, &x, request);
    return status == LMOE_OK ? LMOE_OK : failed(p, status);
}

static lmoe_status wait(lmoe__pipeline *p, void *request)
{
    lmoe_status status = p->comm->comm->wait(p->comm->handle, request);
    return status == LMOE_OK ? LMOE_OK : failed(p, status);
}

/* ---- transfers ---- */

static lmoe__pipe_chunk *chunk_of(lmoe__pipeline *p, int stage)
{
    return &p->chunk[stage / p->axis->ranks];
}

static const char *buffer_name(lmoe__pipeline *p, char *buf, size_t n, int stage, int micro_batch,
                               int32_t value)
{
    return lmoe__cut_name(buf, n, p->cut, stage, micro_batch % chunk_of(p, stage)->slots, value);
}

/* Between two chunks of this rank; by way of the host where memory is not the host's. */
static lmoe_status copy_here(lmoe__pipeline *p, const char *from, const char *to)
{
    lmoe__engine *e = p->engine;
    lmoe__buffer *a = lmoe__store_find(&e->store, from), *b = lmoe__store_find(&e->store, to);
    size_t bytes = (size_t)lmoe_desc_bytes(&a->desc);
    if (strcmp(e->device->device, "cpu") == 0)
        return e->device->upload(e->dev, b->data, a->data, bytes);
    if (bytes > e->scratch_bytes) {
        e->scratch = lmoe__realloc(e->scratch, bytes);
        e->scratch_bytes = bytes;
    }
    LMOE_TRY(e->device->download(e->dev, e->scratch, a->data, bytes));
    return e->device->upload(e->dev, b->data, e->scratch, bytes);
}

static lmoe_status receive(lmoe__pipeline *p, int transfer, int micro_batch)
{
    const lmoe__transfer *t = &p->cut->transfers[transfer];
    int from = lmoe__unit_stage(p->stages.count, t->from);
    int to = lmoe__unit_stage(p->stages.count, t->to), peer = from % p->axis->ranks;
    char name[64], source[64];
    void *request;
    buffer_name(p, name, sizeof name, to, micro_batch, t->value);
    if (peer == p->axis->rank) {
        buffer_name(p, source, sizeof source, from, micro_batch, t->value);
        return copy_here(p, source, name);
    }
    double begun = lmoe__now();
    LMOE_TRY(start(p, LMOE_RECV, name, peer, transfer, &request));
    LMOE_TRY(wait(p, request));
    p->exposed += lmoe__now() - begun;
    p->received += lmoe_desc_bytes(&p->cut->graph->values[t->value].desc);
    return LMOE_OK;
}

static lmoe_status send(lmoe__pipeline *p, lmoe__pipe_chunk *c, int transfer, int micro_batch)
{
    const lmoe__transfer *t = &p->cut->transfers[transfer];
    int peer = lmoe__unit_stage(p->stages.count, t->to) % p->axis->ranks;
    int slot = micro_batch % c->slots;
    char name[64];
    if (peer == p->axis->rank) return LMOE_OK; /* who needs it copies it */
    buffer_name(p, name, sizeof name, c->stage, micro_batch, t->value);
    LMOE_TRY(
        start(p, LMOE_SEND, name, peer, transfer, &c->sends[slot * c->n_sends + c->n_open[slot]]));
    c->n_open[slot]++;
    return LMOE_OK;
}

/* A slot's buffers are free when what they held has gone. */
static lmoe_status finish_sends(lmoe__pipeline *p, lmoe__pipe_chunk *c, int slot)
{
    lmoe_status status = LMOE_OK;
    for (int i = 0; i < c->n_open[slot]; i++) {
        lmoe_status s = wait(p, c->sends[slot * c->n_sends + i]);
        if (status == LMOE_OK) status = s;
    }
    c->n_open[slot] = 0;
    return status;
}

static lmoe_status run_pass(lmoe__pipeline *p, const lmoe_stage_action *a,
                            lmoe__pipeline_inputs inputs, void *user, double *loss)
{
    lmoe__pipe_chunk *c = &p->chunk[a->chunk];
    lmoe__pipe_unit *u = &c->pass[a->backward];
    int slot = a->micro_batch % c->slots;
    lmoe__program *program = u->programs[slot];
    double x = 0;
    if (!a->backward) LMOE_TRY(finish_sends(p, c, slot));
    for (int i = 0; i < u->n_in; i++) LMOE_TRY(receive(p, u->in[i], a->micro_batch));
    LMOE_TRY(inputs(user, program, a->micro_batch));
    LMOE_TRY(lmoe__program_run(p->engine, program));
    for (int i = 0; i < u->n_out; i++) LMOE_TRY(send(p, c, u->out[i], a->micro_batch));
    if (!a->backward && c->stage == p->stages.count - 1) {
        lmoe__engine_read(p->engine, "out:loss", &x, 1);
        *loss += x;
    }
    return LMOE_OK;
}

/* ---- before and after the passes ---- */

static lmoe_status clear(lmoe__pipeline *p, const char *name)
{
    lmoe__engine *e = p->engine;
    lmoe__buffer *b = lmoe__store_find(&e->store, name);
    return b ? e->device->zero(e->dev, b->data, (size_t)lmoe_desc_bytes(&b->desc)) : LMOE_OK;
}

/* What passes add to: gradients, and what is reported. */
static lmoe_status clear_sums(lmoe__pipeline *p)
{
    const lmoe__engine *e = p->engine;
    char name[320];
    for (int i = 0; i < e->n_weights; i++) {
        if (!lmoe__engine_holds(e, i, p->axis->rank)) continue;
        LMOE_TRY(clear(p, lmoe__engine_grad_of(name, sizeof name, e, i, p->axis->rank)));
    }
    for (int i = 0; i < p->n_results; i++) LMOE_TRY(clear(p, p->results[i].name));
    return LMOE_OK;
}

/* Each rank that has a weight gets the gradients of the others that have it, one after another. */
static lmoe_status exchange_gradient(lmoe__pipeline *p, int weight)
{
    lmoe__engine *e = p->engine;
    int me = p->axis->rank, tag = p->cut->n_transfers + p->n_results + weight;
    char name[320];
    for (int r = 0; r < p->axis->ranks; r++) {
        void *out, *in;
        if (r == me || !lmoe__engine_holds(e, weight, r)) continue;
        lmoe__engine_grad_of(name, sizeof name, e, weight, me);
        LMOE_TRY(start(p, LMOE_SEND, name, r, tag, &out));
        lmoe__engine_grad_of(name, sizeof name, e, weight, r);
        lmoe_status status = start(p, LMOE_RECV, name, r, tag, &in);
        if (status == LMOE_OK) status = wait(p, in);
        lmoe_status sent = wait(p, out);
        if (status != LMOE_OK || sent != LMOE_OK) return status != LMOE_OK ? status : sent;
    }
    return LMOE_OK;
}

/* What is reported goes to rank 0 of the axis. */
static lmoe_status collect_results(lmoe__pipeline *p)
{
    for (int i = 0; i < p->n_results; i++) {
        const lmoe__pipe_result *r = &p->results[i];
        bool first = p->axis->rank == 0;
        void *request;
        if (first ? r->rank == 0 : r->rank != p->axis->rank) continue; /* another's, or is here */
        LMOE_TRY(start(p, first ? LMOE_RECV : LMOE_SEND, r->name, first ? r->rank : 0,
                       p->cut->n_transfers + i, &request));
        LMOE_TRY(wait(p, request));
    }
    return LMOE_OK;
}

/* The last stage's loss, to all. */
static lmoe_status share_loss(lmoe__pipeline *p, double *loss)
{
    lmoe__engine *e = p->engine;
    lmoe__buffer *b = lmoe__store_find(&e->store, "pipe/loss");
    void *request;
    LMOE_TRY(e->device->upload(e->dev, b->data, loss, sizeof *loss));
    LMOE_TRY(start(p, LMOE_ALL_REDUCE, "pipe/loss", 0, 0, &request));
    LMOE_TRY(wait(p, request));
    return e->device->download(e->dev, loss, b->data, sizeof *loss);
}

lmoe_status lmoe__pipeline_run(lmoe__pipeline *p, int n, lmoe__pipeline_inputs inputs, void *user,
                               double *loss)
{
    const lmoe__engine *e = p->engine;
    *loss = 0;
    if (p->train) LMOE_TRY(clear_sums(p));
    for (int i = 0; i < p->n_actions; i++) {
        if (p->actions[i].micro_batch >= n) continue;
        LMOE_TRY(run_pass(p, &p->actions[i], inputs, user, loss));
    }
    for (int i = 0; i < p->chunks; i++) {
        for (int slot = 0; slot < p->chunk[i].slots; slot++)
            LMOE_TRY(finish_sends(p, &p->chunk[i], slot));
    }
    for (int i = 0; p->train && i < e->n_weights; i++) {
        bool state = e->weights[i].flags & LMOE_PARAM_STATE;
        if (!state && lmoe__engine_holds(e, i, p->axis->rank)) LMOE_TRY(exchange_gradient(p, i));
    }
    LMOE_TRY(collect_results(p));
    return share_loss(p, loss);
}
