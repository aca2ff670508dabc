/* SPDX-License-Identifier: Apache-2.0
 * tests/cuda/test_nccl.c: comm/nccl does what every communicator does, on as many ranks as there are
 * processes (RANK and WORLD_SIZE, one GPU each), or one. Links the plugin built with
 * -DLMOE_BUILTIN=comm_nccl. The common check has its data on the host, so a communicator around
 * this one copies them to the GPU and back. Sums of more than two ranks are in NCCL's order, so
 * with more than two ranks some of their bits differ.
 */
#include "../../core/check/comm_exchange.h"

#include <lmoe/exchange.h>
#include <lmoe/plugin.h>

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdlib.h>

const lmoe_plugin *lmoe_plugin_v1_comm_nccl(const lmoe_host *host);

static const lmoe_comm *nccl(void)
{
    return (const lmoe_comm *)lmoe_plugin_v1_comm_nccl(NULL)->classes[0];
}

typedef struct around {
    void *comm;
    cudaStream_t stream;
} around;

typedef struct copied {
    void *request;
    char *send, *recv; /* on the GPU; one of them may lie in the other */
    void *host;
    size_t bytes;
    bool own_send, own_recv;
} copied;

static char *upload(const void *host, size_t bytes, cudaStream_t stream)
{
    void *p = NULL;
    if (cudaMalloc(&p, bytes + 1) != cudaSuccess) abort();
    if (bytes > 0 && cudaMemcpyAsync(p, host, bytes, cudaMemcpyHostToDevice, stream)) abort();
    return p;
}

static lmoe_status start(void *p, const lmoe_exchange *e, void **out)
{
    around *a = p;
    int32_t rank = nccl()->rank(a->comm), ranks = nccl()->ranks(a->comm);
    size_t size = lmoe_dtype_bytes(e->dtype);
    size_t sends = (size_t)lmoe_exchange_sends(e, rank, ranks) * size;
    size_t receives = (size_t)lmoe_exchange_receives(e, ranks) * size;
    const char *send = e->send, *recv = e->recv;
    copied *c = calloc(1, sizeof *c);
    bool in_recv = sends > 0 && receives > 0 && send >= recv && send < recv + receives;
    bool in_send = !in_recv && sends > 0 && receives > 0 && recv >= send && recv < send + sends;
    c->own_send = !in_recv;
    c->own_recv = !in_send;
    if (c->own_send) c->send = upload(send, sends, a->stream);
    if (c->own_recv) c->recv = upload(recv, receives, a->stream);
    if (in_recv) c->send = c->recv + (send - recv);
    if (in_send) c->recv = c->send + (recv - send);
    c->host = e->recv;
    c->bytes = receives;
    lmoe_exchange there = *e;
    there.send = c->send;
    there.recv = c->recv;
    there.stream = a->stream;
    *out = c;
    return nccl()->start(a->comm, &there, &c->request);
}

static lmoe_status wait_for(void *p, void *request)
{
    around *a = p;
    copied *c = request;
    LMOE_TRY(nccl()->wait(a->comm, c->request));
    if (c->bytes > 0 &&
        cudaMemcpyAsync(c->host, c->recv, c->bytes, cudaMemcpyDeviceToHost, a->stream))
        return LMOE_E_DEVICE;
    if (cudaStreamSynchronize(a->stream)) return LMOE_E_DEVICE;
    if (c->own_send) cudaFree(c->send);
    if (c->own_recv) cudaFree(c->recv);
    free(c);
    return LMOE_OK;
}

static lmoe_status test(void *p, void *request, int32_t *done)
{
    return nccl()->test(((around *)p)->comm, ((copied *)request)->request, done);
}

static int32_t rank_of(void *p)
{
    return nccl()->rank(((around *)p)->comm);
}

static int32_t ranks_of(void *p)
{
    return nccl()->ranks(((around *)p)->comm);
}

static lmoe_status split(void *p, int32_t color, int32_t key, void **sub)
{
    around *a = p, *b = calloc(1, sizeof *b);
    b->stream = a->stream;
    *sub = b;
    return nccl()->split(a->comm, color, key, &b->comm);
}

static void close_around(void *p)
{
    nccl()->close(((around *)p)->comm);
    free(p);
}

static int number(const char *variable, int missing)
{
    const char *text = getenv(variable);
    return text ? atoi(text) : missing;
}

int main(void)
{
    const lmoe_comm around_nccl = {.split = split,
                                   .close = close_around,
                                   .rank = rank_of,
                                   .ranks = ranks_of,
                                   .start = start,
                                   .wait = wait_for,
                                   .test = test};
    lmoe_comm_env env = {.size = sizeof env, .rank = number("RANK", 0), .timeout = 60};
    char text[256] = "";
    int gpus = 0;
    env.ranks = env.local_ranks = number("WORLD_SIZE", 1);
    if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus <= env.rank) {
        printf("skipped: there is no GPU for rank %d\n", (int)env.rank);
        return 77;
    }
    around *a = calloc(1, sizeof *a);
    cudaSetDevice(env.rank);
    cudaStreamCreateWithFlags(&a->stream, cudaStreamNonBlocking);
    if (nccl()->open(NULL, &env, &a->comm) != LMOE_OK) {
        printf("open: %s\n", nccl()->message(a->comm));
        return 1;
    }
    int wrong = lmoe__exchange_check(&around_nccl, a, false, LMOE__EXCHANGE_ALL, NULL);
    if (wrong) printf("message: %s\n", nccl()->message(a->comm));
    if (nccl()->watch(a->comm, text, sizeof text) != LMOE_OK) wrong++;
    close_around(a);
    printf("rank %d of %d: %d wrong %s\n", (int)env.rank, (int)env.ranks, wrong, text);
    return wrong != 0;
}
