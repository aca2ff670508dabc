/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/sequence.cu: small ops, by one block (sequence.h). Each has a kernel of its own,
 * which wins where the op is small.
 *
 * Sums are in f32 by a fixed order of threads; a norm's in double, as in rmsnorm.cu.
 */
#include "sequence.h"

#include "early.cuh"
#include "functions.cuh"

enum { BLOCK = 1024 };

static __device__ inline Floats in_at(const cuda_small &o, int i)
{
    return {o.in[i], (o.narrow >> i & 1) != 0};
}

static __device__ inline Results out_at(const cuda_small &o, int i)
{
    return {o.out[i], (o.narrow >> (3 + i) & 1) != 0};
}

template <class Body> static __device__ inline void for_packs(int count, Body body)
{
    for (int i = threadIdx.x * PACK; i < count; i += BLOCK * PACK) body(i, min(PACK, count - i));
}

/* ---- element by element ---- */

static __device__ void do_add(const cuda_small &o)
{
    Floats a = in_at(o, 0), b = in_at(o, 1);
    Results y = out_at(o, 0);
    for_packs(o.count, [&](int i, int m) {
        Pack x = a.pack(i, m), z;
        if (o.inner == 1 && o.n % PACK == 0)
            z = b.pack(i % o.n, m);
        else
            for (int k = 0; k < PACK; k++) z.x[k] = k < m ? b[(i + k) / o.inner % o.n] : 0.0f;
        for (int k = 0; k < PACK; k++) x.x[k] += z.x[k];
        y.pack(i, m, x);
    });
}

static __device__ void do_each(const cuda_small &o)
{
    Floats a = in_at(o, 0);
    Results y = out_at(o, 0);
    for_packs(o.count, [&](int i, int m) {
        Pack x = a.pack(i, m);
        if (o.kind == CUDA_SMALL_AFFINE)
            for (int k = 0; k < PACK; k++) x.x[k] = fmaf(o.scale, x.x[k], o.shift);
        if (o.kind == CUDA_SMALL_MAP)
            for (int k = 0; k < PACK; k++) x.x[k] = map_function(o.fn, x.x[k]);
        y.pack(i, m, x);
    });
}

/* ---- by rows ---- */

/* Rows of `width` up to 512 are a warp's; longer ones the whole block's. */
static __device__ void do_norm(const cuda_small &o)
{
    Floats a = in_at(o, 0), weight = in_at(o, 1), gate = in_at(o, 2);
    Results y = out_at(o, 0);
    const bool narrow_rows = o.width <= 512;
    int rows = o.count / o.width, lanes = narrow_rows ? WARP : BLOCK;
    int lane = threadIdx.x % lanes, first = threadIdx.x / lanes;
    for (int row = first; row < rows; row += BLOCK / lanes) {
        double sum = 0;
        for (int i = lane * PACK; i < o.width; i += lanes * PACK) {
            Pack x = a.pack(row * o.width + i, min(PACK, o.width - i));
            for (int k = 0; k < PACK; k++) sum += (double)x.x[k] * x.x[k];
        }
        sum = narrow_rows ? warp_sum(sum) : block_sum(sum);
        float r = (float)rsqrt(sum / o.width + (double)o.scale);
        for (int i = lane * PACK; i < o.width; i += lanes * PACK) {
            int at = row * o.width + i, m = min(PACK, o.width - i);
            Pack x = a.pack(at, m), z;
            for (int k = 0; k < PACK; k++) x.x[k] *= r;
            if (weight) {
                z = weight.pack(i, m);
                for (int k = 0; k < PACK; k++) x.x[k] *= z.x[k];
            }
            if (gate) {
                z = gate.pack(at, m);
                for (int k = 0; k < PACK; k++) x.x[k] *= silu(z.x[k]);
            }
            y.pack(at, m, x);
        }
        if (!narrow_rows) __syncthreads();
    }
}

static __device__ void do_softmax(const cuda_small &o)
{
    Floats a = in_at(o, 0);
    Results y = out_at(o, 0);
    int lane = threadIdx.x % WARP;
    for (int row = threadIdx.x / WARP; row < o.count / o.width; row += BLOCK / WARP) {
        float m = -INFINITY, sum = 0;
        for (int i = lane; i < o.width; i += WARP) m = fmaxf(m, a[row * o.width + i]);
        m = warp_max(m);
        for (int i = lane; i < o.width; i += WARP) sum += expf(a[row * o.width + i] - m);
        sum = warp_sum(sum);
        for (int i = lane; i < o.width; i += WARP)
            y.put(row * o.width + i, expf(a[row * o.width + i] - m) / sum);
    }
}

/* Larger ones first, then lower indices; NaN after all numbers. A number's place is how many come
 * before it. */
static __device__ bool comes_before(float x, int i, float y, int j)
{
    if (isnan(x) != isnan(y)) return isnan(y);
    if (x > y || x < y) return x > y;
    return i < j;
}

static __device__ void do_top_k(const cuda_small &o)
{
    enum { LANES = 16 }; /* threads of a number */
    __shared__ float x[BLOCK];
    Floats a = in_at(o, 0);
    Results values = out_at(o, 0);
    int32_t *index = (int32_t *)o.out[1];
    for (int i = threadIdx.x; i < o.count; i += BLOCK) x[i] = a[i];
    __syncthreads();
    for (int from = 0; from < o.count; from += BLOCK / LANES) {
        int at = min(from + (int)threadIdx.x / LANES, o.count - 1);
        int row = at / o.width * o.width, i = at - row, place = 0;
        for (int j = threadIdx.x % LANES; j < o.width; j += LANES)
            place += comes_before(x[row + j], j, x[at], i);
        for (int step = LANES / 2; step > 0; step /= 2) place += __shfl_xor_sync(~0u, place, step);
        if (threadIdx.x % LANES > 0 || place >= o.n || from + threadIdx.x / LANES >= o.count)
            continue;
        if (values) values.put(row / o.width * o.n + place, x[at]);
        if (index) index[row / o.width * o.n + place] = i;
    }
}

/* ---- rows of experts ---- */

static __device__ void do_count(const cuda_small &o)
{
    const int32_t *index = (const int32_t *)o.in[0];
    Results y = out_at(o, 0);
    for (int x = threadIdx.x; x < o.n; x += BLOCK) {
        int n = 0;
        for (int i = 0; i < o.count; i++) n += index[i] == x;
        y.put(x, (float)n);
    }
}

/* Slot i of expert x goes behind those of lower experts, and of its own before it. */
static __device__ void do_sort(const cuda_small &o)
{
    const int32_t *index = (const int32_t *)o.in[0];
    int32_t *order = (int32_t *)o.out[0], *offsets = (int32_t *)o.out[1],
            *position = (int32_t *)o.out[2];
    int last = o.n - 1; /* of the experts */
    for (int i = threadIdx.x; order && i < o.width; i += BLOCK) order[i] = -1;
    __syncthreads();
    for (int x = threadIdx.x; offsets && x <= o.n; x += BLOCK) {
        int before = 0;
        for (int i = 0; i < o.count; i++) before += index[i] >= 0 && min(index[i], last) < x;
        offsets[x] = before;
    }
    for (int slot = threadIdx.x; slot < o.count; slot += BLOCK) {
        int x = min(index[slot], last), row = x < 0 ? -1 : 0;
        for (int i = 0; x >= 0 && i < o.count; i++) {
            int other = min(index[i], last);
            row += other >= 0 && (other < x || (other == x && i < slot));
        }
        if (row >= o.width) row = -1;
        if (order && row >= 0) order[row] = slot;
        if (position) position[slot] = row;
    }
}

static __device__ void do_gather(const cuda_small &o)
{
    Floats a = in_at(o, 0);
    Results y = out_at(o, 0);
    const int32_t *order = (const int32_t *)o.in[1];
    for_packs(o.count, [&](int i, int m) {
        int slot = order[i / o.width];
        Pack none = {};
        y.pack(i, m, slot < 0 ? none : a.pack(slot / o.choice * o.width + i % o.width, m));
    });
}

static __device__ void do_pick(const cuda_small &o)
{
    Floats a = in_at(o, 0);
    Results y = out_at(o, 0);
    const int32_t *from = (const int32_t *)o.in[1];
    for (int i = threadIdx.x; i < o.count; i += BLOCK) y.put(i, from[i] < 0 ? 0.0f : a[from[i]]);
}

/* Eight threads have a pack of a token, each every eighth of its rows. */
static __device__ void do_combine(const cuda_small &o)
{
    enum { LANES = 8 };
    Floats rows = in_at(o, 0), weight = in_at(o, 2);
    Results y = out_at(o, 0);
    const int32_t *position = (const int32_t *)o.in[1];
    for (int from = 0; from < o.count; from += BLOCK / LANES * PACK) {
        int i = from + (int)threadIdx.x / LANES * PACK, token = i / o.width, e = i % o.width;
        Pack sum = {};
        for (int c = threadIdx.x % LANES; c < o.choice && i < o.count; c += LANES) {
            int slot = token * o.choice + c, r = position[slot];
            if (r < 0) continue;
            Pack x = rows.pack(r * o.width + e, PACK);
            float scale = weight ? weight[slot] : 1.0f;
            for (int k = 0; k < PACK; k++) sum.x[k] += scale * x.x[k];
        }
        for (int k = 0; k < PACK; k++)
            for (int step = LANES / 2; step > 0; step /= 2)
                sum.x[k] += __shfl_xor_sync(~0u, sum.x[k], step);
        if (threadIdx.x % LANES == 0 && i < o.count) y.pack(i, PACK, sum);
    }
}

static __device__ void do_act(const cuda_small &o)
{
    Floats gate = in_at(o, 0), up = in_at(o, 1), scale = in_at(o, 2);
    Results y = out_at(o, 0);
    for_packs(o.count, [&](int i, int m) {
        Pack g = gate.pack(i, m), u;
        if (up)
            u = up.pack(i, m);
        else
            for (int k = 0; k < PACK; k++) u.x[k] = 1.0f;
        float weight = scale[i / o.width], slope;
        for (int k = 0; k < PACK; k++) {
            float x = g.x[k];
            float f = o.fn == LMOE_ACT_SILU   ? activation<LMOE_ACT_SILU>(x, &slope)
                      : o.fn == LMOE_ACT_GELU ? activation<LMOE_ACT_GELU>(x, &slope)
                                              : activation<LMOE_ACT_RELU2>(x, &slope);
            u.x[k] *= weight * f;
        }
        y.pack(i, m, u);
    });
}

static __global__ void __launch_bounds__(BLOCK) sequence(const __grid_constant__ cuda_sequence s)
{
    let_next_begin();
    wait_for_earlier();
    for (int i = 0; i < s.count; i++) {
        const cuda_small &o = s.op[i];
        if (i > 0) __syncthreads();
        switch (o.kind) {
        case CUDA_SMALL_ADD: do_add(o); break;
        case CUDA_SMALL_NORM: do_norm(o); break;
        case CUDA_SMALL_SOFTMAX: do_softmax(o); break;
        case CUDA_SMALL_TOP_K: do_top_k(o); break;
        case CUDA_SMALL_COUNT: do_count(o); break;
        case CUDA_SMALL_SORT: do_sort(o); break;
        case CUDA_SMALL_GATHER: do_gather(o); break;
        case CUDA_SMALL_PICK: do_pick(o); break;
        case CUDA_SMALL_COMBINE: do_combine(o); break;
        case CUDA_SMALL_ACT: do_act(o); break;
        default: do_each(o); break;
        }
    }
}

void cuda_launch_sequence(cudaStream_t stream, int early, const cuda_sequence *s)
{
    launch_early(sequence, 1, BLOCK, stream, early, *s);
}

/* ---- the kernels ---- */

/* Elements of what is written. */
static int64_t written(const lmoe_args *a)
{
    int64_t most = 0;
    for (int i = 0; i < a->n_out; i++)
        if (lmoe_buf_present(&a->out[i])) most = cuda_max(most, lmoe_buf_count(&a->out[i]));
    return most;
}

static int is_small(const lmoe_args *a)
{
    for (int i = 0; i < a->n_in; i++)
        if (lmoe_buf_count(&a->in[i]) > CUDA_SMALL_ELEMENTS) return 0;
    return cuda_floats(a) && written(a) <= CUDA_SMALL_ELEMENTS;
}

static cuda_small small(const lmoe_args *a, int kind, int in0, int in1, int in2)
{
    const int in[3] = {in0, in1, in2};
    cuda_small o = {};
    o.kind = kind;
    o.count = (int32_t)(a->n_out > 0 ? lmoe_buf_count(&a->out[0]) : 0);
    for (int i = 0; i < 3; i++) {
        const lmoe_buf *x = cuda_at(a->in, in[i] < 0 ? 0 : a->n_in, in[i]);
        const lmoe_buf *y = cuda_at(a->out, a->n_out, i);
        o.in[i] = x->data;
        o.out[i] = y->data;
        o.narrow |= (cuda_is_bf16(x) ? 1 << i : 0) | (cuda_is_bf16(y) ? 8 << i : 0);
    }
    return o;
}

static int32_t last_dim(const lmoe_buf *b)
{
    return b->rank > 0 ? (int32_t)b->dim[b->rank - 1] : 1;
}

#define SMALL(op_, revision_, can_, launch_)                                                     \
    static int op_##_small(const lmoe_args *a)                                                   \
    {                                                                                            \
        return can_(a) ? 30 : 0;                                                                 \
    }                                                                                            \
    const lmoe_kernel cuda_##op_##_small = {{sizeof(lmoe_kernel), LMOE_KIND_KERNEL,              \
                                             "cuda/" #op_ "-small", "of one block", NULL, 0, 0}, \
                                            #op_ "/" #revision_,                                 \
                                            "cuda",                                              \
                                            op_##_small,                                         \
                                            NULL,                                                \
                                            NULL,                                                \
                                            launch_,                                             \
                                            NULL};

static lmoe_status launch_add(const lmoe_args *a)
{
    const lmoe_binary_attrs *b = (const lmoe_binary_attrs *)a->attrs;
    cuda_small o = small(a, CUDA_SMALL_ADD, 0, 1, -1);
    o.inner = 1;
    o.n = (int32_t)lmoe_buf_count(&a->in[1]);
    for (int d = (int)b->start + a->in[1].rank; d < a->in[0].rank; d++)
        o.inner *= (int32_t)a->in[0].dim[d];
    return cuda_collect(a, &o);
}

static int is_small_floats(const lmoe_args *a)
{
    return is_small(a) && lmoe_dtype_is_float(a->in[0].dtype) &&
           lmoe_dtype_is_float(a->out[0].dtype);
}

static lmoe_status launch_affine(const lmoe_args *a)
{
    const lmoe_affine_attrs *f = (const lmoe_affine_attrs *)a->attrs;
    cuda_small o = small(a, CUDA_SMALL_AFFINE, 0, -1, -1);
    o.scale = (float)f->scale;
    o.shift = (float)f->shift;
    return cuda_collect(a, &o);
}

static int is_small_map(const lmoe_args *a)
{
    const int fn = ((const lmoe_map_attrs *)a->attrs)->fn;
    return is_small_floats(a) && fn >= 0 && fn <= LMOE_MAP_GELU_ERF;
}

static lmoe_status launch_map(const lmoe_args *a)
{
    cuda_small o = small(a, CUDA_SMALL_MAP, 0, -1, -1);
    o.fn = ((const lmoe_map_attrs *)a->attrs)->fn;
    return cuda_collect(a, &o);
}

static lmoe_status launch_cast(const lmoe_args *a)
{
    cuda_small o = small(a, CUDA_SMALL_CAST, 0, -1, -1);
    return cuda_collect(a, &o);
}

static lmoe_status launch_norm(const lmoe_args *a)
{
    cuda_small o = small(a, CUDA_SMALL_NORM, 0, 1, 2);
    o.width = last_dim(&a->in[0]);
    o.scale = (float)((const lmoe_rmsnorm_attrs *)a->attrs)->eps;
    return cuda_collect(a, &o);
}

static lmoe_status launch_softmax(const lmoe_args *a)
{
    cuda_small o = small(a, CUDA_SMALL_SOFTMAX, 0, -1, -1);
    o.width = last_dim(&a->in[0]);
    return cuda_collect(a, &o);
}

/* Each number looks at all of its row. */
static int is_small_top_k(const lmoe_args *a)
{
    return is_small(a) && lmoe_buf_count(&a->in[0]) <= BLOCK && last_dim(&a->in[0]) <= 512;
}

static lmoe_status launch_top_k(const lmoe_args *a)
{
    cuda_small o = small(a, CUDA_SMALL_TOP_K, 0, -1, -1);
    o.count = (int32_t)lmoe_buf_count(&a->in[0]);
    o.width = last_dim(&a->in[0]);
    o.n = (int32_t)((const lmoe_top_k_attrs *)a->attrs)->k;
    return cuda_collect(a, &o);
}

static int is_few_slots(const lmoe_args *a)
{
    return is_small(a) && lmoe_buf_count(&a->in[0]) <= 128;
}

static lmoe_status launch_count(const lmoe_args *a)
{
    cuda_small o = small(a, CUDA_SMALL_COUNT, 0, -1, -1);
    o.count = (int32_t)lmoe_buf_count(&a->in[0]);
    o.n = (int32_t)((const lmoe_histogram_attrs *)a->attrs)->n;
    return cuda_collect(a, &o);
}

static lmoe_status launch_sort(const lmoe_args *a)
{
    cuda_small o = small(a, CUDA_SMALL_SORT, 0, -1, -1);
    o.count = (int32_t)lmoe_buf_count(&a->in[0]);
    o.n = (int32_t)((const lmoe_moe_sort_attrs *)a->attrs)->experts;
    o.width = lmoe_buf_present(&a->out[0]) ? (int32_t)a->out[0].dim[0] : o.count; /* rows */
    return cuda_collect(a, &o);
}

/* Packs must not cross rows. */
static int is_small_gather(const lmoe_args *a)
{
    return is_small(a) && a->in[0].dim[2] % PACK == 0;
}

static lmoe_status launch_gather(const lmoe_args *a)
{
    cuda_small o = small(a, CUDA_SMALL_GATHER, 0, 1, -1);
    o.width = (int32_t)a->in[0].dim[2];
    o.choice = (int32_t)a->in[2].dim[2];
    return cuda_collect(a, &o);
}

static lmoe_status launch_pick(const lmoe_args *a)
{
    cuda_small o = small(a, CUDA_SMALL_PICK, 0, 1, -1);
    return cuda_collect(a, &o);
}

static int is_small_combine(const lmoe_args *a)
{
    return is_small(a) && a->in[0].dim[1] % PACK == 0;
}

static lmoe_status launch_combine(const lmoe_args *a)
{
    cuda_small o = small(a, CUDA_SMALL_COMBINE, 0, 2, 3);
    o.width = (int32_t)a->in[0].dim[1];
    o.choice = (int32_t)a->in[2].dim[2];
    return cuda_collect(a, &o);
}

static lmoe_status launch_act(const lmoe_args *a)
{
    cuda_small o = small(a, CUDA_SMALL_ACT, 0, 1, 2);
    o.width = (int32_t)a->in[0].dim[1];
    o.fn = ((const lmoe_expert_act_attrs *)a->attrs)->fn;
    return cuda_collect(a, &o);
}

static int is_small_act(const lmoe_args *a)
{
    return is_small(a) && a->in[0].dim[1] % PACK == 0;
}

SMALL(add, 1, is_small_floats, launch_add)
SMALL(affine, 1, is_small_floats, launch_affine)
SMALL(map, 1, is_small_map, launch_map)
SMALL(cast, 1, is_small_floats, launch_cast)
SMALL(rmsnorm, 1, is_small, launch_norm)
SMALL(softmax, 1, is_small, launch_softmax)
SMALL(top_k, 1, is_small_top_k, launch_top_k)
SMALL(histogram, 1, is_few_slots, launch_count)
SMALL(moe_sort, 1, is_few_slots, launch_sort)
SMALL(moe_gather, 1, is_small_gather, launch_gather)
SMALL(moe_weight, 1, is_small, launch_pick)
SMALL(moe_combine, 1, is_small_combine, launch_combine)
SMALL(expert_act, 1, is_small_act, launch_act)
