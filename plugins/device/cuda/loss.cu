/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/loss.cu: linear_cross_entropy/1 in chunks of tokens, without the whole
 * logits.
 *
 * For each chunk: logits = x table^T; each row becomes its derivative, factor * (softmax - one at
 * the label); dx = that table; dtable += that^T x. A block does a row; rows of tokens that do not
 * count become zero. Losses are added up in double, in an order that depends on their number.
 */
#include "kernel.cuh"

enum { X, TABLE, LABELS, FACTOR };

struct Loss {
    int64_t tokens, width, rows; /* of the table */
    const int32_t *labels;
    const float *factor;
    int want_grad;
};

/* logits: (token, row) from token `first` on; loss of each token, without the factor. */
static __global__ void row_loss(Loss w, int64_t first, float *logits, float *loss)
{
    int64_t token = first + blockIdx.x, label = w.labels[token];
    float *c = logits + blockIdx.x * w.rows, most = -INFINITY, rest = 0;
    if (label < 0 || label >= w.rows) {
        if (threadIdx.x == 0) loss[token] = 0;
        for (int64_t v = threadIdx.x; v < w.rows && w.want_grad; v += blockDim.x) c[v] = 0;
        return;
    }
    for (int64_t v = threadIdx.x; v < w.rows; v += blockDim.x) most = fmaxf(most, c[v]);
    most = block_max(most);
    for (int64_t v = threadIdx.x; v < w.rows; v += blockDim.x)
        rest += v == label ? 0.0f : expf(c[v] - most);
    rest = block_sum(rest);
    float own = c[label], sum = rest + expf(own - most);
    if (threadIdx.x == 0) loss[token] = (float)(log((double)sum) + ((double)most - (double)own));
    if (!w.want_grad) return;
    __syncthreads(); /* c[label] was read */
    float scale = *w.factor / sum;
    for (int64_t v = threadIdx.x; v < w.rows; v += blockDim.x) {
        /* softmax - 1 at the label, without cancellation where the label has nearly all of it */
        c[v] = v == label ? -scale * rest : scale * expf(c[v] - most);
    }
}

/* One block. */
static __global__ void total_loss(Loss w, const float *loss, float *y)
{
    double sum = 0;
    for (int64_t i = threadIdx.x; i < w.tokens; i += blockDim.x) sum += loss[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *y = (float)(*w.factor * sum);
}

/* Long chunks spread the cost of reading and writing dtable, short ones keep the logits small. */
static int64_t chunk_of(int64_t tokens, int64_t rows)
{
    const int64_t logits = (int64_t)1 << 25;
    return cuda_min(tokens, cuda_max(64, logits / rows));
}

static Loss describe(const lmoe_args *a)
{
    const lmoe_buf *table = &a->in[TABLE];
    Loss w = {lmoe_buf_count(&a->in[LABELS]), table->dim[1], table->dim[0],
              input<int32_t>(a, LABELS), input<float>(a, FACTOR)};
    return w;
}

static size_t workspace(const lmoe_args *a)
{
    Loss w = describe(a);
    return cuda_words(w.tokens) + cuda_words(chunk_of(w.tokens, w.rows) * w.rows);
}

/* op(A) op(B) + beta C of dense matrices. */
static lmoe_status product(const lmoe_args *args, int ta, int tb, int64_t m, int64_t n, int64_t k,
                           const float *a, const float *b, float beta, float *c)
{
    cuda_product p = {ta, tb, m, n, k, ta ? m : k, tb ? k : n, n, beta, a, b, c, 1, 0, 0, 0};
    return cuda_gemm(args, &p);
}

static lmoe_status launch(const lmoe_args *a)
{
    Loss w = describe(a);
    const float *x = input<float>(a, X), *table = input<float>(a, TABLE);
    float *y = output<float>(a, 0), *dx = output<float>(a, 1), *dtable = output<float>(a, 2);
    char *cursor = (char *)a->workspace;
    float *loss = (float *)cuda_take(&cursor, w.tokens), *logits = (float *)cursor;
    int64_t chunk = chunk_of(w.tokens, w.rows);
    w.want_grad = dx || dtable;
    for (int64_t first = 0; first < w.tokens; first += chunk) {
        int64_t n = cuda_min(chunk, w.tokens - first);
        const float *xs = x + first * w.width;
        LMOE_TRY(product(a, 0, 1, n, w.rows, w.width, xs, table, 0, logits));
        row_loss<<<(unsigned)n, THREADS, 0, stream_of(a)>>>(w, first, logits, loss);
        if (dx)
            LMOE_TRY(product(a, 0, 0, n, w.width, w.rows, logits, table, 0, dx + first * w.width));
        if (dtable) LMOE_TRY(product(a, 1, 0, w.rows, w.width, n, logits, xs, first > 0, dtable));
    }
    if (y) total_loss<<<1, 1024, 0, stream_of(a)>>>(w, loss, y);
    return cuda_launched(a);
}

static int can(const lmoe_args *a)
{
    return cuda_all_f32(a) && a->in[LABELS].dtype == LMOE_I32;
}

CUDA_KERNEL(linear_cross_entropy, 1, can, workspace, launch)
