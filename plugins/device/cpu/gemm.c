/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/gemm.c: matrix products: which library, and the cut into tiles.
 *
 * A library is called with one thread on tiles that are cut here: as fast as its own threads or
 * faster, the order of every sum is fixed, and any number of ranks may run in one process. k is
 * never cut.
 */
#include "gemm.h"

#if CPU_DNNL
#include <dnnl.h>
#if DNNL_CPU_RUNTIME == DNNL_RUNTIME_OMP
void omp_set_num_threads(int n); /* of the calling thread */
#endif
#elif CPU_BLAS
#include <cblas.h>
#include <limits.h>
#endif

/* Tries the library; 0 if there is none or it cannot. */
static int library_gemm(int ta, int tb, int64_t m, int64_t n, int64_t k, float alpha,
                        const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                        float *c, int64_t ldc)
{
#if CPU_DNNL
#if DNNL_CPU_RUNTIME == DNNL_RUNTIME_OMP
    omp_set_num_threads(1);
#endif
    return dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', m, n, k, alpha, a, lda, b, ldb, beta, c,
                      ldc) == dnnl_success;
#elif CPU_BLAS
    if (cpu_max(cpu_max(m, n), cpu_max(k, cpu_max(lda, cpu_max(ldb, ldc)))) > INT_MAX) return 0;
    cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans,
                (int)m, (int)n, (int)k, alpha, a, (int)lda, b, (int)ldb, beta, c, (int)ldc);
    return 1;
#else
    return 0;
#endif
}

void cpu_gemm_1(int ta, int tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    if (m <= 0 || n <= 0) return;
    if (k > 0 && library_gemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)) return;
    cpu_gemm_own(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

typedef struct product {
    int ta, tb;
    int64_t m, n, k, lda, ldb, ldc, astep, bstep, cstep;
    float alpha, beta;
    const float *a, *b;
    float *c;
    int64_t tile_m, tile_n, tiles_m, tiles_n; /* of one matrix */
} product;

static int64_t pieces(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}

/* Large tiles waste least on packing; but there should be enough of them for many cores, each worth
 * handing over. */
static void cut(product *p, int64_t batch)
{
    const int64_t enough = 32, smallest = 64;
    const double least = 4e6; /* FLOP */
    p->tile_m = p->tile_n = 512;
    for (;;) {
        int64_t tm = cpu_min(p->tile_m, p->m), tn = cpu_min(p->tile_n, p->n);
        if (batch * pieces(p->m, tm) * pieces(p->n, tn) >= enough) break;
        if (2.0 * (double)tm * (double)tn * (double)p->k < 2 * least) break;
        int64_t *side = tm >= tn ? &p->tile_m : &p->tile_n;
        if (*side <= smallest) break;
        *side /= 2;
    }
    /* Equal pieces, whole cache lines of C. */
    p->tiles_m = pieces(p->m, p->tile_m);
    p->tiles_n = pieces(p->n, p->tile_n);
    p->tile_m = (pieces(p->m, p->tiles_m) + 15) / 16 * 16;
    p->tile_n = (pieces(p->n, p->tiles_n) + 15) / 16 * 16;
}

static void run_tiles(void *arg, int64_t begin, int64_t end, int thread)
{
    const product *p = arg;
    for (int64_t t = begin; t < end; t++) {
        int64_t matrix = t / (p->tiles_m * p->tiles_n), tile = t % (p->tiles_m * p->tiles_n);
        int64_t i = tile / p->tiles_n * p->tile_m, j = tile % p->tiles_n * p->tile_n;
        const float *a = p->a + matrix * p->astep + (p->ta ? i : i * p->lda);
        const float *b = p->b + matrix * p->bstep + (p->tb ? j * p->ldb : j);
        float *c = p->c + matrix * p->cstep + i * p->ldc + j;
        cpu_gemm_1(p->ta, p->tb, cpu_min(p->tile_m, p->m - i), cpu_min(p->tile_n, p->n - j), p->k,
                   p->alpha, a, p->lda, b, p->ldb, p->beta, c, p->ldc);
    }
}

lmoe_status cpu_gemm_batch(lmoe_ctx *ctx, int ta, int tb, int64_t batch, int64_t m, int64_t n,
                           int64_t k, float alpha, const float *a, int64_t lda, int64_t astep,
                           const float *b, int64_t ldb, int64_t bstep, float beta, float *c,
                           int64_t ldc, int64_t cstep)
{
    product p = {.ta = ta,
                 .tb = tb,
                 .m = m,
                 .n = n,
                 .k = k,
                 .lda = lda,
                 .ldb = ldb,
                 .ldc = ldc,
                 .astep = astep,
                 .bstep = bstep,
                 .cstep = cstep,
                 .alpha = alpha,
                 .beta = beta,
                 .a = a,
                 .b = b,
                 .c = c};
    if (batch <= 0 || m <= 0 || n <= 0) return LMOE_OK;
    cut(&p, batch);
    int64_t steps = cpu_min(p.tile_m, m) * cpu_min(p.tile_n, n) * (k + 1) / 16;
    return lmoe_parallel(ctx, batch * p.tiles_m * p.tiles_n, cpu_grain(steps), run_tiles, &p);
}

lmoe_status cpu_gemm(lmoe_ctx *ctx, int ta, int tb, int64_t m, int64_t n, int64_t k, float alpha,
                     const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                     int64_t ldc)
{
    return cpu_gemm_batch(ctx, ta, tb, 1, m, n, k, alpha, a, lda, 0, b, ldb, 0, beta, c, ldc, 0);
}
