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

/* A product and its cut. */
typedef struct work {
    const cpu_product *p;
    int64_t tile_m, tile_n, tiles_m, tiles_n; /* of one matrix C */
} work;

static int64_t pieces(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}

/* Large tiles waste least on packing; but there should be enough of them for many cores, each worth
 * handing over. */
static void cut(work *w, int64_t batch)
{
    const int64_t enough = 32, largest = 512, smallest = 64;
    const double least = 4e6; /* FLOP */
    const cpu_product *p = w->p;
    int64_t side_m = largest, side_n = largest;
    for (;;) {
        int64_t tm = cpu_min(side_m, p->m), tn = cpu_min(side_n, p->n);
        if (batch * pieces(p->m, tm) * pieces(p->n, tn) >= enough) break;
        if (2.0 * (double)tm * (double)tn * (double)p->k < 2 * least) break;
        int64_t *side = tm >= tn ? &side_m : &side_n;
        if (*side <= smallest) break;
        *side /= 2;
    }
    /* Equal pieces, whole cache lines of C. */
    w->tiles_m = pieces(p->m, side_m);
    w->tiles_n = pieces(p->n, side_n);
    w->tile_m = pieces(pieces(p->m, w->tiles_m), 16) * 16;
    w->tile_n = pieces(pieces(p->n, w->tiles_n), 16) * 16;
}

static void run_tiles(void *arg, int64_t begin, int64_t end, int thread)
{
    const work *w = arg;
    const cpu_product *p = w->p;
    int64_t each = w->tiles_m * w->tiles_n, sums = cpu_rounds(p->sum, p->n_sum);
    for (int64_t t = begin; t < end; t++) {
        cpu_walk matrix, part;
        cpu_walk_from(&matrix, p->batch, p->n_batch, t / each);
        cpu_walk_from(&part, p->sum, p->n_sum, 0);
        int64_t i = t % each / w->tiles_n * w->tile_m, j = t % each % w->tiles_n * w->tile_n;
        const float *a = p->a + matrix.at.a + (p->ta ? i : i * p->lda);
        const float *b = p->b + matrix.at.b + (p->tb ? j * p->ldb : j);
        float *c = p->c + matrix.at.c + i * p->ldc + j;
        for (int64_t s = 0; s < sums; s++, cpu_walk_next(&part, p->sum, p->n_sum))
            cpu_gemm_1(p->ta, p->tb, cpu_min(w->tile_m, p->m - i), cpu_min(w->tile_n, p->n - j),
                       p->k, p->alpha, a + part.at.a, p->lda, b + part.at.b, p->ldb,
                       s == 0 ? p->beta : 1.0f, c, p->ldc);
    }
}

lmoe_status cpu_gemm_many(lmoe_ctx *ctx, const cpu_product *p)
{
    work w = {.p = p};
    int64_t batch = cpu_rounds(p->batch, p->n_batch);
    if (batch <= 0 || p->m <= 0 || p->n <= 0) return LMOE_OK;
    cut(&w, batch);
    int64_t steps = cpu_min(w.tile_m, p->m) * cpu_min(w.tile_n, p->n) * (p->k + 1) / 16;
    steps *= cpu_rounds(p->sum, p->n_sum);
    return lmoe_parallel(ctx, batch * w.tiles_m * w.tiles_n, cpu_grain(steps), run_tiles, &w);
}

lmoe_status cpu_gemm(lmoe_ctx *ctx, int ta, int tb, int64_t m, int64_t n, int64_t k, float alpha,
                     const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                     int64_t ldc)
{
    cpu_product p = {.ta = ta,
                     .tb = tb,
                     .m = m,
                     .n = n,
                     .k = k,
                     .lda = lda,
                     .ldb = ldb,
                     .ldc = ldc,
                     .alpha = alpha,
                     .beta = beta,
                     .a = a,
                     .b = b,
                     .c = c};
    return cpu_gemm_many(ctx, &p);
}
