/* SPDX-License-Identifier: Apache-2.0
 * core/generate/sample.c: from logits to a token: temperature, then the k likeliest, then the
 * fewest whose probabilities reach top_p.
 */
#include "core/generate/generate.h"

#include <math.h>

/* Sift-down of a heap of token numbers, the likeliest on top (the lower number on ties). */
static bool before(const double *w, int32_t a, int32_t b)
{
    return w[a] > w[b] || (w[a] == w[b] && a < b);
}

static void sift(int32_t *heap, int64_t n, int64_t i, const double *w)
{
    for (;;) {
        int64_t best = i, l = 2 * i + 1, r = l + 1;
        if (l < n && before(w, heap[l], heap[best])) best = l;
        if (r < n && before(w, heap[r], heap[best])) best = r;
        if (best == i) return;
        int32_t swap = heap[i];
        heap[i] = heap[best];
        heap[best] = swap;
        i = best;
    }
}

/* The first of the largest numbers. Several are looked for at a time, as each step of one search waits
 * for the step before. */
static int32_t first_largest(const double *x, int64_t n)
{
    enum { LANES = 8 };
    int64_t at[LANES] = {0}, best = 0;
    double most[LANES];
    for (int l = 0; l < LANES; l++) most[l] = x[0];
    for (int64_t i = 0; i + LANES <= n; i += LANES) {
        for (int l = 0; l < LANES; l++) {
            bool more = x[i + l] > most[l];
            most[l] = more ? x[i + l] : most[l];
            at[l] = more ? i + l : at[l];
        }
    }
    for (int l = 0; l < LANES; l++)
        if (x[at[l]] > x[best] || (x[at[l]] == x[best] && at[l] < best)) best = at[l];
    for (int64_t i = n / LANES * LANES; i < n; i++)
        if (x[i] > x[best]) best = i;
    return (int32_t)best;
}

int32_t lmoe__generator_sample(lmoe__generator *g, const lmoe__sampling *s)
{
    int64_t n = g->vocab, taken = 0;
    int32_t *heap = g->order;
    double *w = g->weight, total = 0, kept = 0;
    const int32_t likeliest = first_largest(g->logits, n);
    const double most = g->logits[likeliest];
    if (s->temperature <= 0) return likeliest;
    for (int64_t i = 0; i < n; i++) {
        w[i] = exp((g->logits[i] - most) / s->temperature);
        total += w[i];
        heap[i] = (int32_t)i;
    }
    for (int64_t i = n / 2; i-- > 0;) sift(heap, n, i, w);
    int64_t limit = s->top_k > 0 && s->top_k < n ? s->top_k : n;
    int64_t left = n; /* taken tokens go behind the heap, the last taken first */
    while (taken < limit && (taken == 0 || kept < s->top_p * total)) {
        int32_t top = heap[0];
        heap[0] = heap[--left];
        heap[left] = top;
        sift(heap, left, 0, w);
        kept += w[top];
        taken++;
    }
    double u = lmoe__uniform(s->seed, lmoe__hash_text("sample"), (uint64_t)g->position) * kept;
    for (int64_t i = n - 1; i >= left; i--) {
        u -= w[heap[i]];
        if (u < 0) return heap[i];
    }
    return heap[left];
}
