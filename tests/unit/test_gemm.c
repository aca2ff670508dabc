/* SPDX-License-Identifier: Apache-2.0
 * tests/unit/test_gemm.c: matrix products of device/cpu, built without a library: every
 * transposition, odd sizes, distances of rows, alpha and beta, threads, loops around the product.
 */
#include "plugins/device/cpu/gemm.h"

#include "core/base/base.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

static float *draw(int64_t n, uint64_t stream)
{
    float *x = malloc(sizeof *x * (size_t)(n + 1));
    for (int64_t i = 0; i < n; i++) x[i] = (float)lmoe__normal(7, stream, (uint64_t)i);
    return x;
}

typedef struct shape {
    int64_t m, n, k;
} shape;

static const shape shapes[] = {{1, 1, 1},     {1, 1, 0},    {3, 2, 5},      {7, 33, 257},
                               {65, 31, 300}, {13, 1, 64},  {1, 129, 1000}, {97, 100, 96},
                               {200, 64, 17}, {600, 70, 3}, {64, 530, 256}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* One product with rows that lie further apart than they are long; C's gaps must stay. */
static void check_product(lmoe_ctx *ctx, const shape *s, int ta, int tb, float alpha, float beta)
{
    int64_t m = s->m, n = s->n, k = s->k;
    int64_t lda = (ta ? m : k) + 3, ldb = (tb ? k : n) + 1, ldc = n + 2;
    float *a = draw(lda * (ta ? k : m), 1), *b = draw(ldb * (tb ? n : k), 2);
    float *c = draw(ldc * m, 3), *before = draw(ldc * m, 3);
    for (int64_t i = 0; beta == 0 && i < m; i++)
        for (int64_t j = 0; j < n; j++) c[i * ldc + j] = NAN; /* must not be read */
    ck_assert_int_eq(cpu_gemm(ctx, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc), LMOE_OK);
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < ldc; j++) {
            double want = before[i * ldc + j], size = 1;
            if (j < n) {
                want *= beta;
                for (int64_t p = 0; p < k; p++) {
                    double x = a[ta ? p * lda + i : i * lda + p];
                    double y = b[tb ? j * ldb + p : p * ldb + j];
                    want += alpha * x * y;
                    size += fabs(alpha * x * y);
                }
            }
            ck_assert_double_eq_tol(c[i * ldc + j], want, 1e-6 * size);
        }
    }
    free(a);
    free(b);
    free(c);
    free(before);
}

START_TEST(products_are_right)
{
    lmoe_ctx ctx;
    lmoe__ctx_init(&ctx);
    ctx.team = lmoe__team_new(2);
    for (int t = 0; t < 4; t++) {
        check_product(&ctx, &shapes[_i], t & 1, t >> 1, 1, 0);
        check_product(&ctx, &shapes[_i], t & 1, t >> 1, 0.5f, -2);
        check_product(&ctx, &shapes[_i], t & 1, t >> 1, -1, 1);
    }
    lmoe__team_free(ctx.team);
}
END_TEST

START_TEST(threads_do_not_matter)
{
    const int64_t m = 700, n = 300, k = 120;
    float *a = draw(m * k, 1), *b = draw(k * n, 2), *c[3];
    for (int threads = 1; threads <= 3; threads++) {
        lmoe_ctx ctx;
        lmoe__ctx_init(&ctx);
        ctx.team = lmoe__team_new(threads);
        c[threads - 1] = draw(m * n, 3);
        ck_assert_int_eq(cpu_gemm(&ctx, 0, 0, m, n, k, 1, a, k, b, n, 0, c[threads - 1], n),
                         LMOE_OK);
        lmoe__team_free(ctx.team);
        ck_assert_mem_eq(c[0], c[threads - 1], sizeof(float) * (size_t)(m * n));
    }
    for (int i = 0; i < 3; i++) free(c[i]);
    free(a);
    free(b);
}
END_TEST

/* y[x,r,f] = sum over t and e of a[x,t,r,e] b[t,e,f]: x is looped, t summed. */
START_TEST(loops_around_a_product)
{
    const int64_t X = 3, T = 4, R = 5, E = 6, F = 7;
    float *a = draw(X * T * R * E, 1), *b = draw(T * E * F, 2), *y = draw(X * R * F, 3);
    cpu_product p = {.m = R,
                     .n = F,
                     .k = E,
                     .lda = E,
                     .ldb = F,
                     .ldc = F,
                     .alpha = 1,
                     .a = a,
                     .b = b,
                     .c = y,
                     .n_batch = 1,
                     .n_sum = 1};
    p.batch[0] = (cpu_loop){X, T * R * E, 0, R * F};
    p.sum[0] = (cpu_loop){T, R * E, E * F, 0};
    ck_assert_int_eq(cpu_gemm_many(NULL, &p), LMOE_OK);
    for (int64_t i = 0; i < X * R * F; i++) {
        int64_t x = i / (R * F), r = i / F % R, f = i % F;
        double want = 0;
        for (int64_t t = 0; t < T; t++)
            for (int64_t e = 0; e < E; e++)
                want += (double)a[((x * T + t) * R + r) * E + e] * b[(t * E + e) * F + f];
        ck_assert_double_eq_tol(y[i], want, 1e-5);
    }
    free(a);
    free(b);
    free(y);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("gemm");
    TCase *c = tcase_create("gemm");
    tcase_add_loop_test(c, products_are_right, 0, SHAPES);
    tcase_add_test(c, threads_do_not_matter);
    tcase_add_test(c, loops_around_a_product);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
