/* SPDX-License-Identifier: Apache-2.0
 * tests/op/test_ops_c.c: references of the ops that choose (top_k, moe), of grouped products, of
 * the optimiser and of collectives, against formulas written in another way.
 */
#include "core/graph/graph.h"
#include "core/op/op.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

/* ---- tensors of a test; freed together ---- */

static lmoe__arena *pool;

static void set_up(void)
{
    pool = lmoe__arena_new();
}

static void tear_down(void)
{
    lmoe__arena_free(pool);
}

typedef struct tensor {
    lmoe_desc d;
    lmoe_buf b;
} tensor;

static void attach(tensor *x)
{
    size_t bytes = (size_t)lmoe_desc_bytes(&x->d);
    x->b = (lmoe_buf){.dtype = x->d.dtype, .rank = x->d.rank};
    memcpy(x->b.dim, x->d.dim, sizeof x->b.dim);
    x->b.data = lmoe__arena_alloc(pool, bytes + 1);
    memset(x->b.data, 0xff, bytes); /* NaN, -1 */
}

/* axes: up to four blank-separated names, one for each size. */
static tensor make(lmoe_dtype dtype, const char *axes, int64_t n0, int64_t n1, int64_t n2)
{
    const int64_t dim[3] = {n0, n1, n2};
    tensor x = {.d = {.dtype = dtype}};
    char *word = lmoe__arena_strdup(pool, axes), *rest;
    for (word = strtok_r(word, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        x.d.dim[x.d.rank] = dim[x.d.rank];
        x.d.axis[x.d.rank++] = word;
    }
    attach(&x);
    return x;
}

static void normals(tensor *x, uint64_t stream)
{
    for (int64_t i = 0; i < lmoe_desc_count(&x->d); i++)
        lmoe_put(&x->b, i, lmoe__normal(1, stream, (uint64_t)i));
}

static void integers(tensor *x, uint64_t stream, int64_t from, int64_t to)
{
    for (int64_t i = 0; i < lmoe_desc_count(&x->d); i++) {
        uint64_t r = lmoe__below(1, stream, (uint64_t)i, (uint64_t)(to - from));
        lmoe_put(&x->b, i, (double)(from + (int64_t)r));
    }
}

static double at(const tensor *x, int64_t i)
{
    return lmoe_get(&x->b, i);
}

/* Shapes, then the reference; results are new tensors. */
static lmoe_status call(lmoe_ctx *ctx, const lmoe_op *op, const void *attrs, const tensor *in,
                        int n_in, tensor *out)
{
    lmoe_desc d[LMOE_MAX_IO] = {{0}}, out_d[LMOE_MAX_IO] = {{0}};
    lmoe_buf b[LMOE_MAX_IO] = {{0}}, out_b[LMOE_MAX_IO] = {{0}};
    int ports = lmoe__ports(op->inputs), n_out = lmoe__ports(op->outputs);
    for (int i = 0; i < n_in; i++) {
        d[i] = in[i].d;
        b[i] = in[i].b;
    }
    ck_assert_int_eq(op->shape(NULL, attrs, d, ports, out_d), LMOE_OK);
    for (int i = 0; i < n_out; i++) {
        out[i].d = out_d[i];
        attach(&out[i]);
        out_b[i] = out[i].b;
    }
    lmoe_args a = {.size = sizeof a, .attrs = attrs, .n_in = ports, .n_out = n_out, .ctx = ctx};
    a.in = b;
    a.out = out_b;
    return op->reference(&a);
}

static void apply(const lmoe_op *op, const void *attrs, const tensor *in, int n_in, tensor *out)
{
    lmoe_ctx ctx;
    lmoe__ctx_init(&ctx);
    ck_assert_msg(call(&ctx, op, attrs, in, n_in, out) == LMOE_OK, "%s: %s", op->base.name,
                  ctx.message);
}

/* ---- top_k, gather_last, scatter_last ---- */

typedef struct ranked {
    double value;
    int64_t index;
} ranked;

static int by_rank(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->value != y->value) return x->value > y->value ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

static void check_top_k(lmoe_dtype dtype, int64_t rows, int64_t n, int64_t k, int64_t different)
{
    lmoe_top_k_attrs o = {k};
    tensor x = make(dtype, "batch seq expert", 1, rows, n), out[2];
    ranked *want = LMOE_NEW_N(pool, ranked, n);
    if (different)
        integers(&x, 1, 0, different);
    else
        normals(&x, 1);
    apply(&lmoe__op_top_k, &o, &x, 1, out);
    ck_assert_str_eq(out[0].d.axis[2], "choice");
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < n; i++) want[i] = (ranked){at(&x, r * n + i), i};
        qsort(want, (size_t)n, sizeof *want, by_rank);
        for (int64_t j = 0; j < k; j++) {
            ck_assert_int_eq((int64_t)at(&out[1], r * k + j), want[j].index);
            ck_assert_double_eq(at(&out[0], r * k + j), want[j].value);
        }
    }
}

START_TEST(top_k_sorts)
{
    check_top_k(LMOE_F64, 1, 1, 1, 0);
    check_top_k(LMOE_F32, 17, 64, 8, 0);
    check_top_k(LMOE_BF16, 9, 127, 5, 0); /* rounding makes ties */
    check_top_k(LMOE_F32, 5, 33, 33, 4);
    check_top_k(LMOE_F32, 3, 8, 8, 1);
}
END_TEST

/* Whatever the values are, choices are different and inside. */
START_TEST(top_k_of_nan)
{
    lmoe_top_k_attrs o = {6};
    tensor x = make(LMOE_F32, "expert", 6, 0, 0), out[2];
    const double values[] = {NAN, -INFINITY, 3, NAN, INFINITY, 3};
    const int64_t want[] = {4, 2, 5, 1, 0, 3};
    for (int i = 0; i < 6; i++) lmoe_put(&x.b, i, values[i]);
    apply(&lmoe__op_top_k, &o, &x, 1, out);
    for (int i = 0; i < 6; i++) ck_assert_int_eq((int64_t)at(&out[1], i), want[i]);
}
END_TEST

/* gather is the product with a one-hot matrix, scatter with its transpose. */
START_TEST(gather_and_scatter_are_one_hot_products)
{
    enum { ROWS = 40, N = 5, K = 7 }; /* more choices than places, some outside */
    lmoe_scatter_attrs o = {N, "expert"};
    tensor wide = make(LMOE_F64, "seq expert", ROWS, N, 0);
    tensor narrow = make(LMOE_F64, "seq choice", ROWS, K, 0);
    tensor index = make(LMOE_I32, "seq choice", ROWS, K, 0), gathered, scattered;
    normals(&wide, 2);
    normals(&narrow, 3);
    integers(&index, 4, -3, N + 3);
    apply(&lmoe__op_gather_last, NULL, (tensor[]){wide, index}, 2, &gathered);
    apply(&lmoe__op_scatter_last, &o, (tensor[]){narrow, index}, 2, &scattered);
    for (int r = 0; r < ROWS; r++) {
        double gather[K] = {0}, scatter[N] = {0};
        for (int j = 0; j < K; j++) {
            for (int i = 0; i < N; i++) {
                double one_hot = (int)at(&index, r * K + j) == i;
                gather[j] += one_hot * at(&wide, r * N + i);
                scatter[i] += one_hot * at(&narrow, r * K + j);
            }
        }
        for (int j = 0; j < K; j++) ck_assert_double_eq(at(&gathered, r * K + j), gather[j]);
        for (int i = 0; i < N; i++)
            ck_assert_double_eq_tol(at(&scattered, r * N + i), scatter[i], 1e-14);
    }
}
END_TEST

START_TEST(histogram_counts)
{
    enum { N = 7 };
    lmoe_histogram_attrs o = {N, LMOE_F32};
    tensor index = make(LMOE_I32, "batch seq choice", 3, 41, 4), y;
    double want[N] = {0};
    integers(&index, 5, -2, N + 2);
    for (int64_t i = 0; i < lmoe_desc_count(&index.d); i++) {
        int x = (int)at(&index, i);
        if (x >= 0 && x < N) want[x]++;
    }
    apply(&lmoe__op_histogram, &o, &index, 1, &y);
    for (int i = 0; i < N; i++) ck_assert_double_eq(at(&y, i), want[i]);
}
END_TEST

/* ---- moe ---- */

static void check_sort(int64_t tokens, int64_t choice, int64_t experts, int64_t from, int64_t to)
{
    lmoe_moe_sort_attrs o = {experts, 0};
    tensor index = make(LMOE_I32, "batch seq choice", 1, tokens, choice), out[3];
    int64_t slots = tokens * choice;
    integers(&index, 6, from, to);
    apply(&lmoe__op_moe_sort, &o, &index, 1, out);
    const tensor *order = &out[0], *offsets = &out[1], *position = &out[2];
    int64_t *count = LMOE_NEW_N(pool, int64_t, experts + 1);
    for (int64_t s = 0; s < slots; s++) count[(int64_t)at(&index, s)]++;
    ck_assert_int_eq((int64_t)at(offsets, 0), 0);
    ck_assert_int_eq(offsets->d.dim[0], experts + 1);
    for (int64_t x = 0; x < experts; x++) {
        int64_t begin = (int64_t)at(offsets, x), end = (int64_t)at(offsets, x + 1);
        ck_assert_int_eq(end - begin, count[x]);
        for (int64_t r = begin; r < end; r++) {
            int64_t slot = (int64_t)at(order, r);
            ck_assert_int_eq((int64_t)at(&index, slot), x);
            ck_assert_int_eq((int64_t)at(position, slot), r);
            if (r > begin) ck_assert_int_gt(slot, (int64_t)at(order, r - 1)); /* stable */
        }
    }
}

START_TEST(moe_sort_is_stable)
{
    check_sort(1, 1, 1, 0, 1);
    check_sort(65, 3, 8, 0, 8);
    check_sort(33, 2, 1, 0, 1);  /* one expert */
    check_sort(17, 4, 6, 5, 6);  /* all to the last */
    check_sort(29, 2, 16, 3, 7); /* none to most */
    check_sort(2, 1, 1000, 0, 1000);
}
END_TEST

START_TEST(moe_sort_names_a_bad_choice)
{
    lmoe_ctx ctx;
    lmoe_moe_sort_attrs o = {4, 0};
    tensor index = make(LMOE_I32, "batch seq choice", 1, 3, 1), out[3];
    lmoe__ctx_init(&ctx);
    for (int i = 0; i < 3; i++) lmoe_put(&index.b, i, i == 1 ? 4 : 0);
    ck_assert_int_eq(call(&ctx, &lmoe__op_moe_sort, &o, &index, 1, out), LMOE_E_USAGE);
    ck_assert_ptr_nonnull(strstr(ctx.message, "choice 1 is expert 4"));
}
END_TEST

/* sort, gather, grouped product, combine = for each token the sum over its choices of weight times
 * (token times the matrix of the expert), with the weight stored either way. */
static void check_experts(int64_t tokens, int64_t choice, int64_t experts, int64_t from, int64_t to,
                          bool weighted, int transpose)
{
    enum { E = 5, F = 3 };
    lmoe_moe_sort_attrs o = {experts, 0};
    lmoe_grouped_attrs g = {transpose};
    tensor index = make(LMOE_I32, "batch seq choice", 1, tokens, choice), order[3], rows, y, out;
    tensor x = make(LMOE_F64, "batch seq embed", 1, tokens, E);
    tensor p = make(LMOE_F64, "batch seq choice", 1, tokens, choice);
    tensor w = transpose ? make(LMOE_F64, "expert hidden embed", experts, F, E)
                         : make(LMOE_F64, "expert embed hidden", experts, E, F);
    integers(&index, 7, from, to);
    normals(&x, 8);
    normals(&p, 9);
    normals(&w, 10);
    apply(&lmoe__op_moe_sort, &o, &index, 1, order);
    apply(&lmoe__op_moe_gather, NULL, (tensor[]){x, order[0], order[2]}, 3, &rows);
    apply(&lmoe__op_grouped_linear, &g, (tensor[]){rows, w, order[1]}, 3, &y);
    apply(&lmoe__op_moe_combine, NULL, (tensor[]){y, order[0], order[2], p}, weighted ? 4 : 3,
          &out);
    ck_assert_str_eq(out.d.axis[2], "hidden");
    for (int64_t t = 0; t < tokens; t++) {
        for (int f = 0; f < F; f++) {
            double want = 0;
            for (int64_t j = 0; j < choice; j++) {
                int64_t expert = (int64_t)at(&index, t * choice + j);
                double dot = 0;
                for (int e = 0; e < E; e++) {
                    int64_t place = transpose ? f * E + e : e * F + f;
                    dot += at(&x, t * E + e) * at(&w, expert * E * F + place);
                }
                want += weighted ? at(&p, t * choice + j) * dot : dot;
            }
            ck_assert_double_eq_tol(at(&out, t * F + f), want, 1e-13);
        }
    }
}

START_TEST(experts_equal_a_loop_over_tokens)
{
    check_experts(1, 1, 1, 0, 1, true, 0);
    check_experts(13, 2, 4, 0, 4, true, 0);
    check_experts(13, 2, 4, 0, 4, false, 1);
    check_experts(7, 3, 9, 4, 5, true, 1);
    check_experts(11, 4, 4, 1, 3, false, 0);
    check_experts(2, 1, 40, 0, 40, true, 0);
}
END_TEST

START_TEST(rows_of_nobody_are_zero)
{
    enum { ROWS = 5, USED = 3, E = 2, F = 4 };
    lmoe_grouped_attrs g = {0};
    tensor rows = make(LMOE_F32, "row embed", ROWS, E, 0), y, dw;
    tensor w = make(LMOE_F32, "expert embed hidden", 2, E, F);
    tensor offsets = make(LMOE_I32, "bound", 3, 0, 0);
    tensor drows = make(LMOE_F32, "row hidden", ROWS, F, 0);
    const double bounds[] = {0, 1, USED};
    normals(&rows, 11);
    normals(&w, 12);
    for (int i = 0; i < 3; i++) lmoe_put(&offsets.b, i, bounds[i]);
    for (int64_t i = 0; i < ROWS * F; i++) lmoe_put(&drows.b, i, i < USED * F ? 1 : NAN);
    apply(&lmoe__op_grouped_linear, &g, (tensor[]){rows, w, offsets}, 3, &y);
    apply(&lmoe__op_grouped_weight_grad, NULL, (tensor[]){rows, drows, offsets}, 3, &dw);
    for (int64_t i = USED * F; i < ROWS * F; i++) ck_assert_double_eq(at(&y, i), 0);
    for (int64_t i = 0; i < 2 * E * F; i++) ck_assert(isfinite(at(&dw, i)));
    lmoe_put(&offsets.b, 2, ROWS + 1);
    lmoe_ctx ctx;
    lmoe__ctx_init(&ctx);
    ck_assert_int_eq(call(&ctx, &lmoe__op_grouped_linear, &g, (tensor[]){rows, w, offsets}, 3, &y),
                     LMOE_E_USAGE);
    ck_assert_ptr_nonnull(strstr(ctx.message, "offset 2 is 6"));
}
END_TEST

/* ---- optimiser ---- */

START_TEST(squares_are_summed)
{
    static const int64_t sizes[] = {1, 4095, 4096, 4097, 12289};
    for (int k = 0; k < 5; k++) {
        tensor x = make(LMOE_F64, "embed", sizes[k], 0, 0), y;
        long double want = 0;
        normals(&x, 13);
        for (int64_t i = sizes[k] - 1; i >= 0; i--) want += (long double)at(&x, i) * at(&x, i);
        apply(&lmoe__op_sum_squares, NULL, &x, 1, &y);
        ck_assert_int_eq(y.d.rank, 0);
        ck_assert_double_eq_tol(at(&y, 0), (double)want, 1e-13 * (double)want);
    }
}
END_TEST

START_TEST(buffers_accumulate)
{
    tensor x[2] = {make(LMOE_F32, "embed hidden", 3, 5, 0),
                   make(LMOE_BF16, "embed hidden", 3, 5, 0)};
    float before[15];
    normals(&x[0], 14);
    normals(&x[1], 15);
    memcpy(before, x[0].b.data, sizeof before);
    apply(&lmoe__op_accumulate, NULL, x, 2, NULL);
    for (int i = 0; i < 15; i++) {
        float want = before[i] + (float)at(&x[1], i);
        ck_assert_float_eq((float)at(&x[0], i), want);
    }
}
END_TEST

enum { PARAM, GRAD, M, V, NORM, LR, STEP, ADAMW_INPUTS, ADAMW_N = 11 };

static void adamw_inputs(tensor *in)
{
    for (int i = 0; i < ADAMW_INPUTS; i++)
        in[i] = i < NORM ? make(LMOE_F64, "embed", ADAMW_N, 0, 0) : make(LMOE_F64, "", 0, 0, 0);
    normals(&in[PARAM], 16);
    memset(in[M].b.data, 0, sizeof(double) * ADAMW_N);
    memset(in[V].b.data, 0, sizeof(double) * ADAMW_N);
}

/* The mean with its bias taken off is a weighted mean of all gradients so far; written so here. */
static double mean_so_far(const double *g, int steps, double beta, int power)
{
    double sum = 0, weights = 0;
    for (int s = 0; s < steps; s++) {
        double w = pow(beta, steps - 1 - s);
        sum += w * pow(g[s], power);
        weights += w;
    }
    return sum / weights;
}

static void check_adamw(const lmoe_adamw_attrs *o)
{
    enum { STEPS = 5 };
    static const double norms[STEPS] = {3, 0.25, 1, 40, 0};
    tensor in[ADAMW_INPUTS];
    double p[ADAMW_N], g[ADAMW_N][STEPS];
    adamw_inputs(in);
    for (int i = 0; i < ADAMW_N; i++) p[i] = at(&in[PARAM], i);
    for (int s = 0; s < STEPS; s++) {
        double lr = 0.01 / (s + 1), scale = 1;
        normals(&in[GRAD], 17 + (uint64_t)s);
        lmoe_put(&in[NORM].b, 0, norms[s]);
        lmoe_put(&in[LR].b, 0, lr);
        lmoe_put(&in[STEP].b, 0, s + 1);
        apply(&lmoe__op_adamw, o, in, ADAMW_INPUTS, NULL);
        if (o->clip > 0) scale = fmin(1, o->clip / norms[s]);
        for (int i = 0; i < ADAMW_N; i++) {
            g[i][s] = at(&in[GRAD], i) * scale;
            double m = mean_so_far(g[i], s + 1, o->beta1, 1);
            double v = mean_so_far(g[i], s + 1, o->beta2, 2);
            p[i] = p[i] * (1 - lr * o->weight_decay) - lr * m / (sqrt(v) + o->eps);
            ck_assert_double_eq_tol(at(&in[PARAM], i), p[i], 1e-13);
        }
    }
}

START_TEST(adamw_follows_its_formula)
{
    check_adamw(&(lmoe_adamw_attrs){0.9, 0.999, 1e-8, 0.1, 1});
    check_adamw(&(lmoe_adamw_attrs){0.8, 0.95, 1e-3, 0, 0});
    check_adamw(&(lmoe_adamw_attrs){0.5, 0.5, 0.1, 2, 30});
}
END_TEST

START_TEST(adamw_leaves_out_a_bad_step)
{
    static const double norms[] = {NAN, INFINITY, -INFINITY};
    for (int clip = 0; clip < 2; clip++) {
        for (int k = 0; k < 3; k++) {
            tensor in[ADAMW_INPUTS];
            double before[3][ADAMW_N];
            static const int changed[] = {PARAM, M, V};
            adamw_inputs(in);
            for (int i = 0; i < ADAMW_N; i++) lmoe_put(&in[GRAD].b, i, i == 3 ? INFINITY : 1);
            lmoe_put(&in[NORM].b, 0, norms[k]);
            lmoe_put(&in[LR].b, 0, 0.1);
            lmoe_put(&in[STEP].b, 0, 1);
            for (int i = 0; i < 3; i++) memcpy(before[i], in[changed[i]].b.data, sizeof before[i]);
            apply(&lmoe__op_adamw, &(lmoe_adamw_attrs){0.9, 0.95, 1e-8, 0.1, clip}, in,
                  ADAMW_INPUTS, NULL);
            for (int i = 0; i < 3; i++)
                ck_assert_mem_eq(before[i], in[changed[i]].b.data, sizeof before[i]);
        }
    }
}
END_TEST

/* A master in halves moves as one in f32 does, bit for bit, ties and all. */
START_TEST(adamw_halves_are_one_number)
{
    enum { STEPS = 40, N = 512, MASTER = ADAMW_INPUTS };
    tensor whole[MASTER + 1], halves[MASTER + 1];
    for (int i = 0; i <= MASTER; i++) {
        const bool scalar = i == NORM || i == LR || i == STEP;
        lmoe_dtype dtype = i == PARAM || i == GRAD ? LMOE_BF16 : LMOE_F32;
        whole[i] = make(dtype, scalar ? "" : "embed", scalar ? 0 : N, 0, 0);
        halves[i] = whole[i];
        if (i == MASTER) halves[i].d.dtype = LMOE_U16;
        attach(&halves[i]);
        if (i != M && i != V) continue;
        memset(whole[i].b.data, 0, sizeof(float) * N);
        memset(halves[i].b.data, 0, sizeof(float) * N);
    }
    normals(&whole[MASTER], 16);
    float *exact = whole[MASTER].b.data;
    uint16_t *upper = halves[PARAM].b.data, *lower = halves[MASTER].b.data;
    for (int i = 0; i < N; i++) {
        uint32_t tie = 0x3f808000u + ((uint32_t)i << 15);
        if (i % 2) memcpy(&exact[i], &tie, 4);
        upper[i] = lmoe_upper_half(exact[i]);
        lower[i] = lmoe_lower_half(exact[i]);
    }
    for (int s = 0; s < STEPS; s++) {
        for (int i = 0; i < N; i++) {
            float x = lmoe_join_halves(upper[i], lower[i]), rounded = lmoe_bf16_to_float(upper[i]);
            ck_assert_mem_eq(&x, &exact[i], 4);
            ck_assert(fabs(rounded - x) <= fabs(x) / 256);
        }
        normals(&whole[GRAD], 60 + (uint64_t)s);
        memcpy(halves[GRAD].b.data, whole[GRAD].b.data, sizeof(uint16_t) * N);
        for (int side = 0; side < 2; side++) {
            tensor *in = side ? halves : whole;
            lmoe_put(&in[NORM].b, 0, 1);
            lmoe_put(&in[LR].b, 0, s == 0 ? 0 : 1e-3);
            lmoe_put(&in[STEP].b, 0, s + 1);
            apply(&lmoe__op_adamw, &(lmoe_adamw_attrs){0.9, 0.95, 1e-8, 0.1, 1}, in, MASTER + 1,
                  NULL);
        }
    }
}
END_TEST

/* ---- collectives ---- */

/* Element (i j k) of x is element (i j k - piece's start) of its rank's piece. */
static void check_shards(int dim, int64_t ranks)
{
    tensor x = make(LMOE_F32, "batch seq embed", 4, 6, 10), y;
    normals(&x, 30);
    for (int64_t r = 0; r < ranks; r++) {
        lmoe_collective_attrs o = {.rank = r, .ranks = ranks, .dim = dim};
        apply(&lmoe__op_shard, &o, &x, 1, &y);
        ck_assert_int_eq(y.d.dim[dim] * ranks, x.d.dim[dim]);
        int64_t start[3] = {0};
        start[dim] = r * y.d.dim[dim];
        for (int64_t n = 0; n < lmoe_desc_count(&y.d); n++) {
            int64_t k = n % y.d.dim[2], j = n / y.d.dim[2] % y.d.dim[1];
            int64_t i = n / y.d.dim[2] / y.d.dim[1];
            int64_t from = ((i + start[0]) * 6 + j + start[1]) * 10 + k + start[2];
            ck_assert_double_eq(at(&y, n), at(&x, from));
        }
    }
}

START_TEST(shards_are_pieces)
{
    check_shards(0, 1);
    check_shards(0, 4);
    check_shards(1, 3);
    check_shards(2, 5);
}
END_TEST

START_TEST(collectives_of_one_rank_copy)
{
    static const lmoe_op *const ops[] = {&lmoe__op_all_reduce, &lmoe__op_all_gather};
    for (int k = 0; k < 2; k++) {
        lmoe_ctx ctx;
        lmoe_collective_attrs o = {.ranks = 1}, two = {.rank = 1, .ranks = 2};
        tensor x = make(LMOE_BF16, "batch seq", 3, 5, 0), y, z;
        normals(&x, 31);
        apply(ops[k], &o, &x, 1, &y);
        ck_assert_mem_eq(x.b.data, y.b.data, 2 * 3 * 5);
        ck_assert_int_eq(y.d.rank, 2 + k);
        lmoe__ctx_init(&ctx);
        ck_assert_int_eq(call(&ctx, ops[k], &two, &x, 1, &z), LMOE_E_USAGE);
        ck_assert_ptr_nonnull(strstr(ctx.message, "communicator"));
    }
}
END_TEST

START_TEST(gathered_may_be_gathered_again)
{
    lmoe_collective_attrs o = {.ranks = 1};
    tensor x = make(LMOE_F32, "batch seq", 3, 5, 0), y, z;
    normals(&x, 32);
    apply(&lmoe__op_all_gather, &o, &x, 1, &y);
    apply(&lmoe__op_all_gather, &o, &y, 1, &z);
    ck_assert_str_eq(y.d.axis[0], "rank");
    ck_assert_str_eq(z.d.axis[0], "rank2");
    ck_assert_str_eq(z.d.axis[1], "rank");
}
END_TEST

/* ---- what shapes refuse ---- */

typedef struct refusal {
    const lmoe_op *op;
    const char *axes[5]; /* NULL: absent */
    int64_t dim[5][3];
    const char *says; /* part of the message */
    int ints;         /* bit i: input i is i32 */
    union {
        lmoe_top_k_attrs top_k;
        lmoe_scatter_attrs scatter;
        lmoe_histogram_attrs histogram;
        lmoe_moe_sort_attrs sort;
        lmoe_grouped_attrs grouped;
        lmoe_collective_attrs collective;
    } attrs;
} refusal;

static const refusal refusals[] = {
    {&lmoe__op_top_k, {"batch expert"}, {{2, 4}}, "axis 'expert' of 'x' has 4", 0, {{5}}},
    {&lmoe__op_top_k, {"choice expert"}, {{2, 4}}, "two axes named 'choice'", 0, {{2}}},
    {&lmoe__op_top_k, {""}, {{0}}, "scalar", 0, {{1}}},
    {&lmoe__op_gather_last,
     {"batch expert", "batch choice"},
     {{2, 4}, {3, 1}},
     "axis 'batch' has 2 elements in 'x' but 3 in 'index'",
     2,
     {{0}}},
    {&lmoe__op_gather_last, {"batch expert", "choice"}, {{2, 4}, {3}}, "(choice 3)", 2, {{0}}},
    {&lmoe__op_gather_last,
     {"batch expert", "batch choice"},
     {{2, 4}, {2, 1}},
     "'index' must have dtype i32",
     0,
     {{0}}},
    {&lmoe__op_scatter_last,
     {"batch choice", "batch choice"},
     {{2, 4}, {2, 4}},
     "axis name",
     2,
     {.scatter = {4, ""}}},
    {&lmoe__op_scatter_last,
     {"batch choice", "batch choice"},
     {{2, 4}, {2, 5}},
     "(batch 2, choice 5)",
     2,
     {.scatter = {4, "expert"}}},
    {&lmoe__op_histogram, {"seq"}, {{3}}, "n is 0", 1, {.histogram = {0, LMOE_F32}}},
    {&lmoe__op_histogram, {"seq"}, {{3}}, "not i32", 1, {.histogram = {2, LMOE_I32}}},
    {&lmoe__op_moe_sort, {"seq choice"}, {{3, 2}}, "(batch seq choice)", 1, {.sort = {4, 0}}},
    {&lmoe__op_moe_sort, {"batch seq choice"}, {{1, 3, 2}}, "1 expert", 1, {.sort = {0}}},
    {&lmoe__op_moe_gather,
     {"batch seq embed", "row", "batch seq choice"},
     {{1, 3, 8}, {7}, {1, 3, 2}},
     "axis 'row' of 'order' has 7",
     6,
     {{0}}},
    {&lmoe__op_moe_gather,
     {"batch seq embed", "row", "batch seq choice"},
     {{1, 4, 8}, {6}, {1, 3, 2}},
     "axis 'seq' has 3",
     6,
     {{0}}},
    {&lmoe__op_moe_combine,
     {"row embed", "row", "batch seq choice", "batch seq choice"},
     {{6, 8}, {6}, {1, 3, 2}, {1, 2, 3}},
     "'weight' is (batch 1, seq 2, choice 3)",
     6,
     {{0}}},
    {&lmoe__op_moe_combine,
     {"row embed", "row", "batch seq choice"},
     {{5, 8}, {6}, {1, 3, 2}},
     "axis 'row' has 6 elements in 'order' but 5 in 'rows'",
     6,
     {{0}}},
    {&lmoe__op_moe_combine_grad,
     {"row embed", "row", "batch seq choice", "batch seq choice", "batch seq embed"},
     {{6, 8}, {6}, {1, 3, 2}, {1, 3, 2}, {1, 3, 7}},
     "'dy' is (batch 1, seq 3, embed 7)",
     6,
     {{0}}},
    {&lmoe__op_grouped_linear,
     {"row embed", "expert embed hidden", "bound"},
     {{6, 8}, {4, 8, 3}, {4}},
     "'offsets' has 4 elements",
     4,
     {{0}}},
    {&lmoe__op_grouped_linear,
     {"row embed", "expert embed hidden", "bound"},
     {{6, 8}, {4, 7, 3}, {5}},
     "axis 'embed' has 8 elements in 'rows' but 7 in 'weight'",
     4,
     {{0}}},
    {&lmoe__op_grouped_linear,
     {"row embed", "expert embed hidden", "bound"},
     {{6, 8}, {4, 8, 3}, {5}},
     "axis 'hidden' of 'weight' should be axis 'embed' of 'rows'",
     4,
     {.grouped = {1}}},
    {&lmoe__op_grouped_linear,
     {"row embed", "heads embed hidden", "bound"},
     {{6, 8}, {4, 8, 3}, {5}},
     "must be 'expert'",
     4,
     {{0}}},
    {&lmoe__op_grouped_weight_grad,
     {"row embed", "row embed", "bound"},
     {{6, 8}, {6, 8}, {5}},
     "two axes named 'embed'",
     4,
     {{0}}},
    {&lmoe__op_accumulate, {"embed", "embed"}, {{4}, {5}}, "'x' is (embed 5)", 0, {{0}}},
    {&lmoe__op_shard,
     {"batch seq"},
     {{2, 5}},
     "axis 'seq' has 5",
     0,
     {.collective = {.ranks = 2, .dim = 1}}},
    {&lmoe__op_shard, {"batch"}, {{2}}, "dimension 1", 0, {.collective = {.ranks = 2, .dim = 1}}},
    {&lmoe__op_all_reduce,
     {"batch"},
     {{2}},
     "rank 2 of 2",
     0,
     {.collective = {.rank = 2, .ranks = 2}}},
};

START_TEST(shapes_refuse)
{
    const refusal *k = &refusals[_i];
    lmoe_ctx ctx;
    lmoe_trace t = {.ctx = &ctx};
    lmoe_desc in[LMOE_MAX_IO] = {{0}}, out[LMOE_MAX_IO];
    lmoe__ctx_init(&ctx);
    int ports = lmoe__ports(k->op->inputs);
    for (int i = 0; i < 5 && k->axes[i]; i++)
        in[i] = make(k->ints >> i & 1 ? LMOE_I32 : LMOE_F32, k->axes[i], k->dim[i][0], k->dim[i][1],
                     k->dim[i][2])
                    .d;
    ck_assert_int_ne(k->op->shape(&t, &k->attrs, in, ports, out), LMOE_OK);
    ck_assert_msg(strstr(ctx.message, k->says), "%s says \"%s\", without \"%s\"", k->op->base.name,
                  ctx.message, k->says);
    ck_assert_int_ne(k->op->shape(NULL, &k->attrs, in, ports, out), LMOE_OK);
}
END_TEST

START_TEST(adamw_refuses)
{
    lmoe_ctx ctx;
    lmoe_trace t = {.ctx = &ctx};
    tensor in[ADAMW_INPUTS];
    lmoe_desc d[ADAMW_INPUTS];
    lmoe__ctx_init(&ctx);
    adamw_inputs(in);
    lmoe_adamw_attrs good = {0.9, 0.95, 1e-8, 0.1, 1}, bad = {1, 0.95, 1e-8, 0.1, 1};
    for (int i = 0; i < ADAMW_INPUTS; i++) d[i] = in[i].d;
    ck_assert_int_eq(lmoe__op_adamw.shape(&t, &good, d, ADAMW_INPUTS, NULL), LMOE_OK);
    ck_assert_int_ne(lmoe__op_adamw.shape(&t, &bad, d, ADAMW_INPUTS, NULL), LMOE_OK);
    ck_assert_ptr_nonnull(strstr(ctx.message, "beta1"));
    d[LR] = in[PARAM].d;
    ck_assert_int_ne(lmoe__op_adamw.shape(&t, &good, d, ADAMW_INPUTS, NULL), LMOE_OK);
    ck_assert_ptr_nonnull(strstr(ctx.message, "'lr' must be a scalar"));
    d[LR] = in[LR].d;
    d[V].dtype = LMOE_BF16; /* may be; f32 beside f64 may not */
    ck_assert_int_eq(lmoe__op_adamw.shape(&t, &good, d, ADAMW_INPUTS, NULL), LMOE_OK);
    d[V].dtype = LMOE_F32;
    ck_assert_int_ne(lmoe__op_adamw.shape(&t, &good, d, ADAMW_INPUTS, NULL), LMOE_OK);
    ck_assert_ptr_nonnull(strstr(ctx.message, "'v' must have dtype f64"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ops_c");
    TCase *c = tcase_create("references");
    tcase_add_checked_fixture(c, set_up, tear_down);
    tcase_add_test(c, top_k_sorts);
    tcase_add_test(c, top_k_of_nan);
    tcase_add_test(c, gather_and_scatter_are_one_hot_products);
    tcase_add_test(c, histogram_counts);
    tcase_add_test(c, moe_sort_is_stable);
    tcase_add_test(c, moe_sort_names_a_bad_choice);
    tcase_add_test(c, experts_equal_a_loop_over_tokens);
    tcase_add_test(c, rows_of_nobody_are_zero);
    tcase_add_test(c, squares_are_summed);
    tcase_add_test(c, buffers_accumulate);
    tcase_add_test(c, adamw_follows_its_formula);
    tcase_add_test(c, adamw_leaves_out_a_bad_step);
    tcase_add_test(c, adamw_halves_are_one_number);
    tcase_add_test(c, shards_are_pieces);
    tcase_add_test(c, collectives_of_one_rank_copy);
    tcase_add_test(c, gathered_may_be_gathered_again);
    tcase_add_loop_test(c, shapes_refuse, 0, (int)(sizeof refusals / sizeof *refusals));
    tcase_add_test(c, adamw_refuses);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
