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

/* exp; of what is bf16, as exact as that needs. */
template <bool NARROW> static __device__ inline float power(float x)
{
    if (!NARROW) return expf(x);
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504f));
    return y;
}

/* logits: (token, row) from token `first` on, read and changed; loss of each token, without the
 * factor. `rest` is the sum over all rows but the label's, so that softmax - 1 does not cancel. */
template <bool NARROW, class In, class Out>
static __global__ void __launch_bounds__(1024)
    row_loss(Loss w, int64_t first, In logits, Out derivative, float *loss)
{
    int64_t token = first + blockIdx.x, label = w.labels[token], at = blockIdx.x * w.rows;
    float most = -INFINITY, rest = 0;
    bool counts = label >= 0 && label < w.rows;
    for (int64_t v = threadIdx.x * PACK; v < w.rows && counts; v += blockDim.x * PACK) {
        int n = (int)min((int64_t)PACK, w.rows - v);
        Pack c = logits.pack(at + v, n);
        float larger = most;
        for (int k = 0; k < n; k++) larger = fmaxf(larger, c.x[k]);
        rest = rest > 0 ? rest * power<NARROW>(most - larger) : 0;
        for (int k = 0; k < n; k++) rest += v + k == label ? 0.0f : power<NARROW>(c.x[k] - larger);
        most = larger;
    }
    float larger = block_max(most);
    rest = block_sum(rest > 0 ? rest * power<NARROW>(most - larger) : 0.0f);
    float own = counts ? logits[at + label] : 0.0f, sum = rest + power<NARROW>(own - larger);
    if (threadIdx.x == 0)
        loss[token] = counts ? (float)(log((double)sum) + ((double)larger - (double)own)) : 0.0f;
    if (!w.want_grad) return;
    __syncthreads(); /* logits[label] was read */
    float scale = *w.factor / sum;
    for (int64_t v = threadIdx.x * PACK; v < w.rows; v += blockDim.x * PACK) {
        int n = (int)min((int64_t)PACK, w.rows - v);
        Pack c = {};
        if (counts) c = logits.pack(at + v, n);
        for (int k = 0; k < PACK; k++)
            c.x[k] = !counts          ? 0.0f
                     : v + k == label ? -scale * rest
                                      : scale * power<NARROW>(c.x[k] - larger);
        derivative.pack(at + v, n, c);
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

/* Long chunks spread the cost of reading and writing dtable, short ones keep the logits small.
 * Logits have x's dtype. */
static int64_t chunk_of(const Loss &w)
{
    const int64_t logits = (int64_t)5 << 27; /* 4096 tokens of 150 thousand rows */
    int64_t most = cuda_min(w.tokens, cuda_max(64, logits / w.rows));
    int64_t even = cuda_pieces(w.tokens, cuda_pieces(w.tokens, most));
    return cuda_min(w.tokens, cuda_pieces(even, 128) * 128);
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
    int64_t bytes = chunk_of(w) * w.rows * (int64_t)lmoe_dtype_bytes(a->in[X].dtype);
    return cuda_words(w.tokens) + cuda_words(cuda_pieces(bytes, 4));
}

/* op(A) op(B) + beta C of dense matrices, all of x's dtype. */
static lmoe_status product(const lmoe_args *args, int ta, int tb, int64_t m, int64_t n, int64_t k,
                           const void *a, const void *b, float beta, void *c)
{
    lmoe_dtype dtype = args->in[X].dtype;
    cuda_product p = {ta, tb, m, n, k, ta ? m : k, tb ? k : n, n, beta, dtype, dtype, a, b, c, 1};
    return cuda_gemm(args, &p);
}

static lmoe_status launch(const lmoe_args *a)
{
    Loss w = describe(a);
    size_t row = (size_t)w.width * lmoe_dtype_bytes(a->in[X].dtype);
    const char *x = input<char>(a, X);
    const void *table = input<void>(a, TABLE);
    char *dx = output<char>(a, 1);
    void *dtable = output<void>(a, 2);
    float *y = output<float>(a, 0);
    char *cursor = (char *)a->workspace;
    float *loss = (float *)cuda_take(&cursor, w.tokens);
    bool narrow = cuda_is_bf16(&a->in[X]);
    int64_t chunk = chunk_of(w);
    w.want_grad = dx || dtable;
    for (int64_t first = 0; first < w.tokens; first += chunk) {
        int64_t n = cuda_min(chunk, w.tokens - first);
        const char *xs = x + (size_t)first * row;
        LMOE_TRY(product(a, 0, 1, n, w.rows, w.width, xs, table, 0, cursor));
        Floats from = {cursor, narrow};
        Results to = {cursor, narrow};
        Narrow both = {(bf16 *)cursor};
        unsigned grid = (unsigned)n;
        if (narrow && w.rows % PACK == 0)
            row_loss<true><<<grid, 1024, 0, stream_of(a)>>>(w, first, both, both, loss);
        else if (narrow)
            row_loss<true><<<grid, 1024, 0, stream_of(a)>>>(w, first, from, to, loss);
        else
            row_loss<false><<<grid, 1024, 0, stream_of(a)>>>(w, first, from, to, loss);
        if (dx)
            LMOE_TRY(
                product(a, 0, 0, n, w.width, w.rows, cursor, table, 0, dx + (size_t)first * row));
        if (dtable) LMOE_TRY(product(a, 1, 0, w.rows, w.width, n, cursor, xs, first > 0, dtable));
    }
    if (y) total_loss<<<1, 1024, 0, stream_of(a)>>>(w, loss, y);
    return cuda_launched(a);
}

static int can(const lmoe_args *a)
{
    lmoe_dtype dtype = a->in[X].dtype;
    for (int i = 1; i < a->n_out; i++)
        if (lmoe_buf_present(&a->out[i]) && a->out[i].dtype != dtype) return 0;
    return cuda_floats(a) && a->in[TABLE].dtype == dtype && a->in[LABELS].dtype == LMOE_I32;
}

CUDA_KERNEL(linear_cross_entropy, 1, can, workspace, launch)
