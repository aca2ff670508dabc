/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/short_conv.cu: short_conv/1 and its derivative; a thread an element.
 *
 *   p_s = sum over j of weight[kernel-1-j] x_{s-j}      y_s = silu(p_s), or p_s
 *   dp_s = dy_s silu'(p_s)   dx_s = sum over j of weight[kernel-1-j] dp_{s+j} (+ dtail)
 *   dweight[kernel-1-j] = sum over b, s of dp_s x_{s-j}
 *
 * x_{s-j} is the j-th of those before token s that s sees: skipped tokens are not counted, nothing
 * is seen beyond a reset, and before the first token come the last `count` rows of the tail. Walks
 * go back from a token, or forth, over those it sees, or is seen by.
 */
#include "kernel.cuh"

struct Conv {
    int64_t batch, seq, width, kernel; /* width: elements of a token */
    int silu;
    Floats x, weight, tail;
    const uint8_t *reset, *skip;
    const int32_t *count;
};

static __device__ bool flag(const uint8_t *flags, int64_t at)
{
    return flags && flags[at];
}

/* ---- walks ---- */

/* From the newest input that is seen to the oldest. at >= 0: a token; below, row -1 - at of the
 * tail, counted from its end; `more` is false past the end. */
struct Back {
    int64_t first, at; /* first: token 0 of the sequence, in the tensor */
    int64_t rows;      /* of the tail that are seen */
    bool more;
};

static __device__ void settle(const Conv &c, Back *w)
{
    while (w->at >= 0 && flag(c.skip, w->first + w->at)) {
        if (flag(c.reset, w->first + w->at)) w->more = false;
        w->at--;
    }
    if (w->at < 0 && -1 - w->at >= w->rows) w->more = false;
}

/* What is seen of the tokens up to s, s included. */
static __device__ Back back_from(const Conv &c, int64_t b, int64_t s)
{
    Back w = {b * c.seq, s, c.tail ? c.count[b] : 0, true};
    settle(c, &w);
    return w;
}

static __device__ void step(const Conv &c, Back *w)
{
    if (w->at >= 0 && flag(c.reset, w->first + w->at)) w->more = false;
    w->at--;
    settle(c, w);
}

static __device__ float value(const Conv &c, const Back &w, int64_t b, int64_t d)
{
    if (w.at >= 0) return c.x[(w.first + w.at) * c.width + d];
    return c.tail[(b * (c.kernel - 1) + c.kernel - 1 + w.at) * c.width + d];
}

static __device__ float convolve(const Conv &c, int64_t b, int64_t s, int64_t d)
{
    Floats weight = c.weight + (d * c.kernel + c.kernel - 1);
    float p = 0;
    Back w = back_from(c, b, s);
    for (int64_t j = 0; j < c.kernel && w.more; j++, step(c, &w))
        p += weight[-j] * value(c, w, b, d);
    return p;
}

/* ---- the op ---- */

static __global__ void conv(Conv c, Results y)
{
    int64_t i = item(), token = i / c.width, d = i % c.width;
    if (token >= c.batch * c.seq) return;
    float p = flag(c.skip, token) ? 0.0f : convolve(c, token / c.seq, token % c.seq, d);
    y.put(i, c.silu ? silu(p) : p);
}

/* Inputs that the segment leaves to the tail, and whether it forgets what was before it. */
static __device__ int64_t own_rows(const Conv &c, int64_t b, bool *forgets)
{
    int64_t n = 0;
    Back w = back_from(c, b, c.seq - 1);
    for (; w.more && w.at >= 0 && n < c.kernel - 1; step(c, &w)) n++;
    *forgets = false;
    for (int64_t s = 0; s < c.seq && n < c.kernel - 1; s++)
        *forgets |= flag(c.reset, b * c.seq + s);
    return n;
}

/* A thread a column of the tail, which may lie over the one that is read: rows move towards the
 * front, so the oldest is written first. */
static __global__ void leave_tail(Conv c, Results tail)
{
    int64_t i = item(), b = i / c.width, d = i % c.width, rows = c.kernel - 1;
    if (b >= c.batch) return;
    bool forgets;
    int64_t own = own_rows(c, b, &forgets), old = forgets || !c.tail ? 0 : c.count[b];
    for (int64_t j = rows - 1; j >= own; j--) /* j-th from the end */
        tail.put((b * rows + rows - 1 - j) * c.width + d,
                 j - own < old ? c.tail[(b * rows + rows - 1 - j + own) * c.width + d] : 0.0f);
    Back w = back_from(c, b, c.seq - 1);
    for (int64_t j = 0; j < own; j++, step(c, &w))
        tail.put((b * rows + rows - 1 - j) * c.width + d, value(c, w, b, d));
}

static __global__ void leave_count(Conv c, int32_t *count)
{
    int64_t b = item();
    if (b >= c.batch) return;
    bool forgets;
    int64_t own = own_rows(c, b, &forgets), old = forgets || !c.tail ? 0 : c.count[b];
    count[b] = (int32_t)min(own + old, c.kernel - 1);
}

static Conv describe(const lmoe_args *a, int tail)
{
    const lmoe_buf *x = &a->in[0], *weight = &a->in[1];
    Conv c = {x->dim[0], x->dim[1], 0, weight->dim[weight->rank - 1],
              ((const lmoe_conv_attrs *)a->attrs)->silu};
    c.width = lmoe_buf_count(weight) / c.kernel;
    c.x = floats(a, 0);
    c.weight = floats(a, 1);
    c.reset = input<uint8_t>(a, 2);
    c.skip = input<uint8_t>(a, 3);
    c.tail = floats(a, tail);
    c.count = input<int32_t>(a, tail + 1);
    return c;
}

static lmoe_status launch(const lmoe_args *a)
{
    Conv c = describe(a, 4);
    Results y = results(a, 0), tail = results(a, 1);
    int32_t *count = output<int32_t>(a, 2);
    cudaStream_t stream = stream_of(a);
    if (y) conv<<<blocks(c.batch * c.seq * c.width, THREADS), THREADS, 0, stream>>>(c, y);
    if (tail) leave_tail<<<blocks(c.batch * c.width, THREADS), THREADS, 0, stream>>>(c, tail);
    if (count) leave_count<<<blocks(c.batch, THREADS), THREADS, 0, stream>>>(c, count);
    return cuda_launched(a);
}

CUDA_KERNEL(short_conv, 1, cuda_floats, NULL, launch)

/* ---- its derivative ---- */

static __global__ void grad_p(Conv c, Floats dy, float *dp)
{
    int64_t i = item(), token = i / c.width;
    if (token >= c.batch * c.seq) return;
    float d = dy[i];
    if (flag(c.skip, token))
        d = 0;
    else if (c.silu)
        d *= silu_slope(convolve(c, token / c.seq, token % c.seq, i % c.width));
    dp[i] = d;
}

/* The gradient of an input at place j from the end of what is seen before token s: of the tokens
 * from s on that see it, and of the tail that the segment leaves. */
static __device__ float later(const Conv &c, int64_t b, int64_t s, int64_t j, int64_t d,
                              const float *dp, Floats dtail)
{
    Floats weight = c.weight + (d * c.kernel + c.kernel - 1);
    float sum = 0;
    for (; s < c.seq && j < c.kernel; s++) {
        int64_t token = b * c.seq + s;
        if (flag(c.reset, token)) return sum;
        if (flag(c.skip, token)) continue;
        sum += weight[-j] * dp[token * c.width + d];
        j++;
    }
    /* j tokens are behind the input now, if seq has ended */
    int64_t rows = c.kernel - 1;
    if (s == c.seq && dtail && j - 1 < rows) sum += dtail[(b * rows + rows - j) * c.width + d];
    return sum;
}

static __global__ void grad_x(Conv c, const float *dp, Floats dtail, Results dx)
{
    int64_t i = item(), token = i / c.width, d = i % c.width, b = token / c.seq;
    if (token >= c.batch * c.seq) return;
    float sum = 0;
    if (!flag(c.skip, token))
        sum = c.weight[d * c.kernel + c.kernel - 1] * dp[i] +
              later(c, b, token % c.seq + 1, 1, d, dp, dtail);
    dx.put(i, sum);
}

/* Of the tail that the segment was given; rows that nobody reads have none. */
static __global__ void grad_tail(Conv c, const float *dp, Floats dtail, Results to)
{
    int64_t i = item(), rows = c.kernel - 1, row = i / c.width % rows, b = i / (c.width * rows);
    if (b >= c.batch) return;
    bool seen = c.tail && rows - row <= c.count[b];
    to.put(i, seen ? later(c, b, 0, rows - row, i % c.width, dp, dtail) : 0.0f);
}

enum { PART_TOKENS = 256 };

/* partial: (part, width, kernel). A thread a weight, of the tokens of a part. */
static __global__ void grad_weight(Conv c, const float *dp, float *partial)
{
    int64_t i = item(), d = i % c.width, j = i / c.width; /* neighbours read neighbours */
    if (j >= c.kernel) return;
    int64_t begin = (int64_t)blockIdx.y * PART_TOKENS;
    int64_t end = min(c.batch * c.seq, begin + PART_TOKENS);
    float sum = 0;
    for (int64_t token = begin; token < end; token++) {
        if (flag(c.skip, token)) continue;
        Back w = back_from(c, token / c.seq, token % c.seq);
        for (int64_t k = 0; k < j && w.more; k++) step(c, &w);
        if (w.more) sum += dp[token * c.width + d] * value(c, w, token / c.seq, d);
    }
    partial[(blockIdx.y * c.width + d) * c.kernel + c.kernel - 1 - j] = sum;
}

static int64_t parts_of(const Conv &c)
{
    return cuda_pieces(c.batch * c.seq, PART_TOKENS);
}

static size_t grad_workspace(const lmoe_args *a)
{
    Conv c = describe(a, 5);
    return cuda_words(c.batch * c.seq * c.width) + cuda_words(parts_of(c) * c.width * c.kernel);
}

static lmoe_status launch_grad(const lmoe_args *a)
{
    Conv c = describe(a, 5);
    Floats dy = floats(a, 4), dtail = floats(a, 7);
    Results dx = results(a, 0), dweight = results(a, 1), to = results(a, 2);
    char *cursor = (char *)a->workspace;
    int64_t n = c.batch * c.seq * c.width;
    float *dp = (float *)cuda_take(&cursor, n), *partial = (float *)cursor;
    cudaStream_t stream = stream_of(a);
    grad_p<<<blocks(n, THREADS), THREADS, 0, stream>>>(c, dy, dp);
    if (dx) grad_x<<<blocks(n, THREADS), THREADS, 0, stream>>>(c, dp, dtail, dx);
    if (to)
        grad_tail<<<blocks(c.batch * (c.kernel - 1) * c.width, THREADS), THREADS, 0, stream>>>(
            c, dp, dtail, to);
    if (dweight) {
        dim3 grid(blocks(c.width * c.kernel, THREADS), (unsigned)parts_of(c));
        grad_weight<<<grid, THREADS, 0, stream>>>(c, dp, partial);
        cuda_add_parts(stream, partial, parts_of(c), c.width * c.kernel, &a->out[1]);
    }
    return cuda_launched(a);
}

CUDA_KERNEL(short_conv_grad, 1, cuda_floats, grad_workspace, launch_grad)
