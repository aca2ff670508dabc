/* SPDX-License-Identifier: Apache-2.0
 * plugins/comm/nccl/request.c: exchanges, as they are queued on the GPU.
 */
#include "nccl_comm.h"

#include <stdio.h>

/* ---- requests ---- */

void nccl_request_delete(request *r)
{
    if (r->done) cudaEventDestroy(r->done);
    if (r->ready) cudaEventDestroy(r->ready);
    if (r->over) cudaEventDestroy(r->over);
    if (r->copy) cudaFree(r->copy);
    free(r);
}

/* One that nobody uses, if possible with room for the bytes of a send. */
static request *take(world *w, size_t bytes)
{
    request **at = &w->unused;
    while (*at && (*at)->room < bytes) at = &(*at)->next;
    if (!*at) at = &w->unused;
    request *r = *at;
    if (r) {
        *at = r->next;
    } else {
        r = calloc(1, sizeof *r);
        if (!r) nccl_fail(w, "rank %d: out of memory", (int)w->rank);
    }
    return r;
}

static bool make_room(world *w, request *r, size_t bytes)
{
    cudaEvent_t *const events[] = {&r->done, &r->ready, &r->over};
    for (int i = 0; i < 3; i++) {
        if (!*events[i] &&
            nccl_cuda_failed(w, "making an event",
                             cudaEventCreateWithFlags(events[i], cudaEventDisableTiming)))
            return false;
    }
    if (r->room >= bytes) return true;
    cudaFree(r->copy);
    r->copy = NULL;
    r->room = 0;
    if (nccl_cuda_failed(w, "memory for a message", cudaMalloc(&r->copy, bytes))) return false;
    r->room = bytes;
    return true;
}

bool nccl_over(const request *r)
{
    return cudaEventQuery(r->over) == cudaSuccess;
}

void nccl_collect(world *w)
{
    for (request **at = &w->active; *at;) {
        request *r = *at;
        if (!r->waited || !nccl_over(r)) {
            at = &r->next;
            continue;
        }
        *at = r->next;
        r->next = w->unused;
        w->unused = r;
    }
}

/* ---- what NCCL is asked for ---- */

static ncclDataType_t type_of(lmoe_dtype dtype)
{
    static const ncclDataType_t types[] = {ncclUint8,   ncclFloat32, ncclFloat64, ncclBfloat16,
                                           ncclFloat16, ncclInt32,   ncclInt64,   ncclUint8};
    return types[dtype];
}

/* Blocks to and from every rank, this one included. */
static ncclResult_t all_to_all(comm *c, const lmoe_exchange *e, cudaStream_t stream)
{
    const library *l = &c->world->nccl;
    size_t size = lmoe_dtype_bytes(e->dtype), sent = 0, got = 0;
    bool equal = e->kind == LMOE_ALL_TO_ALL;
    ncclResult_t code = l->GroupStart(), ended;
    for (int32_t i = 0; i < c->ranks && code == ncclSuccess; i++) {
        size_t to = (size_t)(equal ? e->count : e->send_counts[i]);
        size_t from = (size_t)(equal ? e->count : e->recv_counts[i]);
        ncclComm_t lane = c->lane[COLLECTIVES];
        if (to > 0)
            code = l->Send((const char *)e->send + sent, to, type_of(e->dtype), i, lane, stream);
        if (from > 0 && code == ncclSuccess)
            code = l->Recv((char *)e->recv + got, from, type_of(e->dtype), i, lane, stream);
        sent += to * size;
        got += from * size;
    }
    ended = l->GroupEnd();
    return code == ncclSuccess ? ended : code;
}

static ncclResult_t call(comm *c, const request *r, int lane_of)
{
    static const ncclRedOp_t ops[] = {ncclSum, ncclMax, ncclMin};
    const lmoe_exchange *e = &r->e;
    const library *l = &c->world->nccl;
    cudaStream_t stream = c->stream[lane_of];
    ncclComm_t lane = c->lane[lane_of];
    size_t n = (size_t)e->count;
    ncclDataType_t type = type_of(e->dtype);
    void *byte = c->world->byte;
    switch (e->kind) {
    case LMOE_ALL_REDUCE:
        return l->AllReduce(e->send, e->recv, n, type, ops[e->reduce], lane, stream);
    case LMOE_REDUCE_SCATTER:
        return l->ReduceScatter(e->send, e->recv, n, type, ops[e->reduce], lane, stream);
    case LMOE_ALL_GATHER: return l->AllGather(e->send, e->recv, n, type, lane, stream);
    case LMOE_BROADCAST:
        return l->Broadcast(c->rank == e->peer ? e->send : e->recv, e->recv, n, type, e->peer, lane,
                            stream);
    case LMOE_ALL_TO_ALL:
    case LMOE_ALL_TO_ALL_V: return all_to_all(c, e, stream);
    case LMOE_SEND: return l->Send(r->copy, n, type, e->peer, lane, stream);
    case LMOE_RECV: return l->Recv(e->recv, n, type, e->peer, lane, stream);
    default: return l->AllReduce(byte, byte, 1, ncclUint8, ncclMax, lane, stream);
    }
}

/* Messages to higher ranks have a lane of their own, so that two ranks that send to each other do
 * not wait for one another on the GPU. */
static int lane_of(const comm *c, const lmoe_exchange *e)
{
    if (lmoe_exchange_is_collective(e)) return COLLECTIVES;
    bool up = e->kind == LMOE_SEND ? e->peer > c->rank : e->peer < c->rank;
    return up ? UP : DOWN;
}

/* The caller's stream -> copy of a send -> the lane. */
static bool queue(comm *c, request *r)
{
    world *w = c->world;
    const lmoe_exchange *e = &r->e;
    cudaStream_t theirs = e->stream;
    int at = lane_of(c, e);
    size_t bytes = (size_t)e->count * lmoe_dtype_bytes(e->dtype);
    bool sends = e->kind == LMOE_SEND;
    if (sends && bytes > 0 &&
        nccl_cuda_failed(
            w, "copying a message",
            cudaMemcpyAsync(r->copy, e->send, bytes, cudaMemcpyDeviceToDevice, theirs)))
        return false;
    if (nccl_cuda_failed(w, "recording an event", cudaEventRecord(r->ready, theirs)) ||
        nccl_cuda_failed(w, "waiting for an event",
                         cudaStreamWaitEvent(c->stream[at], r->ready, 0)))
        return false;
    bool empty = e->count == 0 && e->kind != LMOE_BARRIER && e->kind != LMOE_ALL_TO_ALL_V;
    if (!empty && nccl_failed(w, lmoe_exchange_name(e), call(c, r, at))) return false;
    return !nccl_cuda_failed(w, "recording an event", cudaEventRecord(r->over, c->stream[at])) &&
           !nccl_cuda_failed(w, "recording an event",
                             cudaEventRecord(r->done, sends ? theirs : c->stream[at]));
}

request *nccl_start(comm *c, const lmoe_exchange *e)
{
    world *w = c->world;
    int64_t number = lmoe_exchange_is_collective(e) ? ++c->collectives : ++c->messages;
    size_t bytes = e->kind == LMOE_SEND ? (size_t)e->count * lmoe_dtype_bytes(e->dtype) : 0;
    nccl_collect(w);
    if (w->failed) return NULL;
    request *r = take(w, bytes);
    if (!r) return NULL;
    r->comm = c;
    r->e = *e;
    r->number = number;
    r->waited = false;
    if (!make_room(w, r, bytes) || !queue(c, r)) {
        r->next = w->unused;
        w->unused = r;
        return NULL;
    }
    r->e.send_counts = r->e.recv_counts = NULL; /* the caller's */
    r->next = NULL;
    request **last = &w->active;
    while (*last) last = &(*last)->next;
    *last = r;
    return r;
}
