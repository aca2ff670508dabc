/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/embedding.cu: embedding/1 and its derivative. For the derivative, tokens of one
 * id are linked, each to the next one; a block belongs to a token, and that of the first one of an id
 * adds up the rows of all of them, in their order.
 */
#include "kernel.cuh"

struct Table {
    int64_t tokens, rows, width;
    const int32_t *ids;
};

enum { COLUMNS = 128 /* threads of a block: of packs */ };

static __global__ void lookup(Table t, Floats table, Results y)
{
    int64_t token = blockIdx.x, id = t.ids[token];
    bool inside = id >= 0 && id < t.rows;
    for (int64_t e = threadIdx.x * PACK; e < t.width; e += COLUMNS * PACK) {
        int n = (int)min((int64_t)PACK, t.width - e);
        y.pack(token * t.width + e, n, inside ? table.pack(id * t.width + e, n) : Pack{});
    }
}

/* What a token knows of its id: the token behind it (-1: none), and whether there is one before. */
struct Link {
    int32_t next, is_later;
};

enum { LINK_THREADS = 128 };

/* A thread a token, which looks at all of them. */
static __global__ void link_tokens(Table t, Link *links)
{
    __shared__ int32_t ids[LINK_THREADS];
    int64_t token = item();
    int32_t id = token < t.tokens ? t.ids[token] : -1;
    Link mine = {-1, 0};
    for (int64_t from = 0; from < t.tokens; from += LINK_THREADS) {
        int n = (int)min((int64_t)LINK_THREADS, t.tokens - from);
        __syncthreads();
        if (threadIdx.x < n) ids[threadIdx.x] = t.ids[from + threadIdx.x];
        __syncthreads();
        if (from + n <= token) { /* all before this one */
#pragma unroll 8
            for (int i = 0; i < n; i++) mine.is_later |= ids[i] == id;
            continue;
        }
#pragma unroll 8
        for (int i = n - 1; i >= 0; i--) {
            bool same = ids[i] == id, behind = from + i > token;
            if (same && behind && (mine.next < 0 || mine.next >= from)) mine.next = (int)from + i;
            mine.is_later |= same && from + i < token;
        }
    }
    if (token < t.tokens) links[token] = mine;
}

static __global__ void add_linked(Table t, const Link *links, Floats dy, Results dtable)
{
    int64_t first = blockIdx.x, id = t.ids[first];
    if (id < 0 || id >= t.rows || links[first].is_later) return;
    for (int64_t e = threadIdx.x * PACK; e < t.width; e += COLUMNS * PACK) {
        int n = (int)min((int64_t)PACK, t.width - e);
        Pack sum = {};
        for (int64_t token = first, next; token >= 0; token = next) {
            next = links[token].next;
            Pack row = dy.pack(token * t.width + e, n);
            for (int k = 0; k < PACK; k++) sum.x[k] += row.x[k];
        }
        dtable.pack(id * t.width + e, n, sum);
    }
}

static int can(const lmoe_args *a)
{
    return cuda_floats(a) && a->in[1].dtype == LMOE_I32;
}

static lmoe_status launch(const lmoe_args *a)
{
    const lmoe_buf *table = &a->in[0];
    Table t = {lmoe_buf_count(&a->in[1]), table->dim[0], table->dim[1], input<int32_t>(a, 1)};
    lookup<<<(unsigned)t.tokens, COLUMNS, 0, stream_of(a)>>>(t, floats(a, 0), results(a, 0));
    return cuda_launched(a);
}

static int can_grad(const lmoe_args *a)
{
    return cuda_floats(a) && a->in[0].dtype == LMOE_I32;
}

static size_t grad_workspace(const lmoe_args *a)
{
    return cuda_words(2 * lmoe_buf_count(&a->in[0]));
}

static lmoe_status launch_grad(const lmoe_args *a)
{
    const lmoe_buf *dtable = &a->out[0];
    Table t = {lmoe_buf_count(&a->in[0]), dtable->dim[0], dtable->dim[1], input<int32_t>(a, 0)};
    Link *links = (Link *)a->workspace;
    size_t bytes = (size_t)lmoe_buf_count(dtable) * lmoe_dtype_bytes(dtable->dtype);
    cudaMemsetAsync(dtable->data, 0, bytes, stream_of(a));
    link_tokens<<<blocks(t.tokens, LINK_THREADS), LINK_THREADS, 0, stream_of(a)>>>(t, links);
    add_linked<<<(unsigned)t.tokens, COLUMNS, 0, stream_of(a)>>>(t, links, floats(a, 1),
                                                                 results(a, 0));
    return cuda_launched(a);
}

CUDA_KERNEL(embedding, 1, can, NULL, launch)
CUDA_KERNEL(embedding_grad, 1, can_grad, grad_workspace, launch_grad)
