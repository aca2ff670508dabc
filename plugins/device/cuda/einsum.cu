/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/einsum.cu: einsum/1: a matrix product by cuBLAS where there is one worth the
 * name, over strided operands without a copy; otherwise (sums, permutations, products of rows) a
 * kernel of our own.
 *
 * One loop each over m (in a and c), n (in b and c) and k (in a and b) makes the matrix product,
 * such that each matrix is contiguous along one side. Of the loops that are left, one over c is the
 * product's batch; the others are called one by one, and summed ones add to c.
 */
#include "kernel.cuh"
#include "loops.h"

/* ---- as a matrix product ---- */

/* Which loops are m, n and k; their sizes multiplied, 0 if there are no such loops. */
struct Core {
    int m, n, k;
    double size;
};

static int has_contiguous_side(int64_t x, int64_t y)
{
    return x == 1 || y == 1;
}

static Core choose_core(const cuda_nest *nest)
{
    Core best = {0, 0, 0, 0};
    for (int m = 0; m < nest->n; m++) {
        const cuda_loop *x = &nest->loop[m];
        if (!x->a || x->b || !x->c) continue;
        for (int n = 0; n < nest->n; n++) {
            const cuda_loop *y = &nest->loop[n];
            if (y->a || !y->b || !y->c || !has_contiguous_side(x->c, y->c)) continue;
            for (int k = 0; k < nest->n; k++) {
                const cuda_loop *z = &nest->loop[k];
                double size = (double)x->size * (double)y->size * (double)z->size;
                if (!z->a || !z->b || z->c || size <= best.size) continue;
                if (has_contiguous_side(x->a, z->a) && has_contiguous_side(y->b, z->b))
                    best = {m, n, k, size};
            }
        }
    }
    return best;
}

/* Below this a product costs less than its call. */
static int is_worth_it(const cuda_nest *nest, Core c)
{
    return c.size >= 4096 && nest->loop[c.k].size >= 4;
}

static cuda_loop swapped(cuda_loop l)
{
    return {l.size, l.b, l.a, l.c};
}

/* The loops that are left, the largest over c last: it is the batch. */
static int other_loops(const cuda_nest *nest, Core o, cuda_loop *list)
{
    int n = 0, largest = -1;
    for (int i = 0; i < nest->n; i++) {
        if (i == o.m || i == o.n || i == o.k) continue;
        list[n] = nest->loop[i];
        if (list[n].c && (largest < 0 || list[n].size > list[largest].size)) largest = n;
        n++;
    }
    if (largest < 0) {
        list[n++] = {1, 0, 0, 0};
    } else {
        cuda_loop last = list[n - 1];
        list[n - 1] = list[largest];
        list[largest] = last;
    }
    return n;
}

/* The first of the products: c = a b, or, where c is contiguous along m, its transpose. */
static cuda_product make_product(const lmoe_args *args, const cuda_nest *nest, Core o)
{
    cuda_loop m = nest->loop[o.m], n = nest->loop[o.n], k = nest->loop[o.k];
    cuda_product p = {};
    p.from = args->in[0].dtype;
    p.to = args->out[0].dtype;
    p.a = input<void>(args, 0);
    p.b = input<void>(args, 1);
    p.c = output<void>(args, 0);
    if (n.c != 1) {
        cuda_loop t = swapped(m);
        m = swapped(n);
        n = t;
        k = swapped(k);
        p.a = input<void>(args, 1);
        p.b = input<void>(args, 0);
    }
    p.m = m.size;
    p.n = n.size;
    p.k = k.size;
    p.ta = k.a != 1;
    p.tb = n.b != 1;
    p.lda = p.ta ? k.a : m.a;
    p.ldb = p.tb ? n.b : k.b;
    p.ldc = m.c;
    return p;
}

static lmoe_status launch_products(const lmoe_args *args, const cuda_nest *nest, Core o)
{
    cuda_loop list[CUDA_MAX_LOOPS];
    cuda_product first = make_product(args, nest, o), p = first;
    int n = other_loops(nest, o, list);
    bool swap = nest->loop[o.n].c != 1;
    int64_t calls = 1, from = (int64_t)lmoe_dtype_bytes(first.from);
    int64_t to = (int64_t)lmoe_dtype_bytes(first.to);
    for (int i = 0; i < n - 1; i++) calls *= list[i].size;
    p.batch = list[n - 1].size;
    p.step_a = swap ? list[n - 1].b : list[n - 1].a;
    p.step_b = swap ? list[n - 1].a : list[n - 1].b;
    p.step_c = list[n - 1].c;
    for (int64_t call = 0; call < calls; call++) {
        int64_t a = 0, b = 0, c = 0, rest = call;
        p.beta = 0;
        for (int i = n - 2; i >= 0; i--) {
            int64_t at = rest % list[i].size;
            rest /= list[i].size;
            a += at * list[i].a;
            b += at * list[i].b;
            c += at * list[i].c;
            if (list[i].c == 0 && at > 0) p.beta = 1; /* c holds the terms before */
        }
        p.a = (const char *)first.a + (swap ? b : a) * from;
        p.b = (const char *)first.b + (swap ? a : b) * from;
        p.c = (char *)first.c + c * to;
        LMOE_TRY(cuda_gemm(args, &p));
    }
    return LMOE_OK;
}

/* ---- as nested loops ---- */

/* Loops over c, outermost first, and summed ones. c is dense, so these cover it in order. */
struct Nest {
    int n_out, n_sum;
    int64_t results, terms; /* elements of c, and summands of each */
    int64_t part_terms;     /* of a part */
    cuda_loop out[LMOE_MAX_DIMS], sum[CUDA_MAX_LOOPS];
    Floats a, b;
    bool two; /* operands */
};

enum { FEW = 32 /* terms that one thread adds up */, PART_TERMS = 16384, FEW_RESULTS = 256 };

/* Sums of the columns of one matrix: neighbours of c lie side by side in a. */
enum { COLUMN_ROWS = 64, MOST_PARTS = 256, STEP = WARP * PACK };

static bool is_column_sum(const Nest &t)
{
    return !t.two && t.n_out == 1 && t.n_sum == 1 && t.out[0].a == 1 && t.terms >= COLUMN_ROWS;
}

static void sort_loops(cuda_loop *list, int n, bool by_c)
{
    for (int i = 1; i < n; i++) {
        cuda_loop x = list[i];
        int at = i;
        for (; at > 0 && (by_c ? list[at - 1].c < x.c : list[at - 1].a < x.a); at--)
            list[at] = list[at - 1];
        list[at] = x;
    }
}

static Nest make_nest(const lmoe_args *args, const cuda_nest *from)
{
    Nest t = {};
    t.results = t.terms = 1;
    t.a = floats(args, 0);
    t.b = floats(args, 1);
    t.two = lmoe_buf_present(cuda_at(args->in, args->n_in, 1));
    for (int i = 0; i < from->n; i++) {
        if (from->loop[i].c) {
            t.out[t.n_out++] = from->loop[i];
            t.results *= from->loop[i].size;
        } else {
            t.sum[t.n_sum++] = from->loop[i];
            t.terms *= from->loop[i].size;
        }
    }
    sort_loops(t.out, t.n_out, true);
    sort_loops(t.sum, t.n_sum, false);
    t.part_terms = t.results <= FEW_RESULTS ? cuda_min(t.terms, PART_TERMS) : t.terms;
    if (is_column_sum(t)) t.part_terms = cuda_max(COLUMN_ROWS, cuda_pieces(t.terms, MOST_PARTS));
    return t;
}

struct Place {
    int64_t a, b;
};

static __device__ Place place_of(const cuda_loop *loops, int n, int64_t i)
{
    Place p = {0, 0};
    for (int l = n - 1; l >= 0; l--) {
        int64_t at = i % loops[l].size;
        i /= loops[l].size;
        p.a += at * loops[l].a;
        p.b += at * loops[l].b;
    }
    return p;
}

static __device__ float term(const Nest &t, Place at, int64_t i)
{
    Place p = place_of(t.sum, t.n_sum, i);
    float a = t.a[at.a + p.a];
    return t.two ? a * t.b[at.b + p.b] : a;
}

/* A thread a result. */
static __global__ void few_terms(Nest t, Results c)
{
    int64_t i = item();
    if (i >= t.results) return;
    Place at = place_of(t.out, t.n_out, i);
    float sum = 0;
    for (int64_t k = 0; k < t.terms; k++) sum += term(t, at, k);
    c.put(i, sum);
}

/* A block a result, of a part of the terms. c: (part, result) */
static __global__ void many_terms(Nest t, Results c)
{
    int64_t i = blockIdx.x, begin = blockIdx.y * t.part_terms;
    int64_t end = min(t.terms, begin + t.part_terms);
    Place at = place_of(t.out, t.n_out, i);
    float sum = 0;
    for (int64_t k = begin + threadIdx.x; k < end; k += blockDim.x) sum += term(t, at, k);
    sum = block_sum(sum);
    if (threadIdx.x == 0) c.put(blockIdx.y * t.results + i, sum);
}

/* A block has STEP columns of a part of the rows; c: (part, result) */
static __global__ void column_sums(Nest t, float *c)
{
    __shared__ float sums[ROWS][STEP];
    int64_t column = (int64_t)blockIdx.x * STEP + threadIdx.x * PACK;
    int64_t begin = blockIdx.y * t.part_terms, end = min(t.terms, begin + t.part_terms);
    int n = (int)max((int64_t)0, min((int64_t)PACK, t.results - column));
    Pack sum = {};
    for (int64_t row = begin + threadIdx.y; row < end && n > 0; row += ROWS) {
        Pack x = t.a.pack(row * t.sum[0].a + column, n);
        for (int k = 0; k < PACK; k++) sum.x[k] += x.x[k];
    }
    for (int k = 0; k < PACK; k++) sums[threadIdx.y][threadIdx.x * PACK + k] = sum.x[k];
    __syncthreads();
    int i = threadIdx.y * WARP + threadIdx.x;
    column = (int64_t)blockIdx.x * STEP + i;
    if (column >= t.results) return;
    float all = 0;
    for (int row = 0; row < ROWS; row++) all += sums[row][i];
    c[blockIdx.y * t.results + column] = all;
}

static int64_t parts_of(const Nest &t)
{
    return cuda_pieces(t.terms, t.part_terms);
}

static lmoe_status launch_nest(const lmoe_args *a, const Nest &t)
{
    Results c = results(a, 0);
    float *partial = (float *)a->workspace;
    int64_t parts = parts_of(t);
    if (is_column_sum(t)) {
        dim3 grid(blocks(t.results, STEP), (unsigned)parts);
        column_sums<<<grid, dim3(WARP, ROWS), 0, stream_of(a)>>>(t, partial);
        cuda_add_parts(stream_of(a), partial, parts, t.results, &a->out[0]);
        return cuda_launched(a);
    }
    if (t.terms < FEW) {
        few_terms<<<blocks(t.results, THREADS), THREADS, 0, stream_of(a)>>>(t, c);
        return cuda_launched(a);
    }
    int threads = WARP;
    while (threads < THREADS && threads < t.part_terms) threads *= 2;
    dim3 grid((unsigned)t.results, (unsigned)parts);
    many_terms<<<grid, threads, 0, stream_of(a)>>>(t, parts > 1 ? Results{partial, false} : c);
    if (parts > 1) cuda_add_parts(stream_of(a), partial, parts, t.results, &a->out[0]);
    return cuda_launched(a);
}

/* ---- the kernel ---- */

static int can(const lmoe_args *a)
{
    cuda_nest nest;
    return cuda_floats(a) && cuda_read_loops(a, &nest);
}

/* cuBLAS takes operands of one dtype, with a result of the same. */
static int is_product(const lmoe_args *a, const cuda_nest *nest, Core core)
{
    return is_worth_it(nest, core) && a->in[0].dtype == a->in[1].dtype &&
           a->in[0].dtype == a->out[0].dtype;
}

static size_t workspace(const lmoe_args *a)
{
    cuda_nest nest;
    cuda_read_loops(a, &nest);
    if (is_product(a, &nest, choose_core(&nest))) return 0;
    Nest t = make_nest(a, &nest);
    bool in_parts = parts_of(t) > 1 || is_column_sum(t);
    return in_parts ? cuda_words(parts_of(t) * t.results) : 0;
}

static lmoe_status launch(const lmoe_args *a)
{
    cuda_nest nest;
    cuda_read_loops(a, &nest);
    Core core = choose_core(&nest);
    if (is_product(a, &nest, core)) return launch_products(a, &nest, core);
    return launch_nest(a, make_nest(a, &nest));
}

CUDA_KERNEL(einsum, 1, can, workspace, launch)
