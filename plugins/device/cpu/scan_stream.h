/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/scan_stream.h: the recurrence of scan_diag, as all its kernels run it.
 *
 * A chunkwise scan on matrix units trades the recurrence's decays for products of chunks. On a
 * processor the recurrence itself has as many operations, if the state stays in registers: so here
 * tokens go in groups of four, and a tile of the state runs through all groups of a block of tokens
 * before it returns to memory. For a state M (rows lanes) and four tokens,
 *
 *   out_i += x_i^T M   (i = 0 ... 3)      M <- E M + sum_i w_i u_i^T
 *
 * where E is the decay over the group (of rows, or of lanes), and x, w or u carry the decays
 * between the group's start or end and their token. The pairs of tokens within a group are added
 * apart. All factors are products of exp(decay) <= 1: nothing overflows, and an exact 0 (a reset, a
 * decay of -infinity) needs no case of its own. Four kinds of sums are this one loop:
 *
 *   y  = M^T q    M: rows head_k, lanes head_v, forwards
 *   dq = M dy     M^T: rows head_v, lanes head_k, forwards
 *   dk = G v      G^T: rows head_v, lanes head_k, backwards
 *   dv = G^T k    G: rows head_k, lanes head_v, backwards
 */
#ifndef CPU_SCAN_STREAM_H
#define CPU_SCAN_STREAM_H

#include "lanes.h"

enum { SCAN_GROUP = 4, SCAN_BLOCK = 32, SCAN_GROUPS = SCAN_BLOCK / SCAN_GROUP, SCAN_AHEAD = 10 };

#if CPU_LEVEL == 2
#define SCAN_TILE 8
#else
#define SCAN_TILE 4
#endif

typedef float scan_pairs[SCAN_GROUP][SCAN_GROUP];

/* How many factors a token's decay has, and in the loop over tiles also where they act. */
typedef enum scan_fade {
    SCAN_KEEP,  /* none: nothing fades */
    SCAN_ALL,   /* one, for the whole state */
    SCAN_ROWS,  /* one for each channel of head_k, and these are the state's rows */
    SCAN_LANES, /* the same, and these are its lanes */
    SCAN_BOTH,  /* one for each row and one for each lane: the values decay too */
} scan_fade;

/* ---- the recurrence ---- */

/* Rows of memory that will be wanted soon. Those of a head lie apart, which defeats the processor's
 * own prefetching; and fetching them all at once would stop it until most have come. */
typedef struct scan_ahead {
    int64_t tokens, count;
    struct {
        const char *row;     /* of the first token */
        int64_t step, bytes; /* between rows; of a row */
        int write;
    } of[SCAN_AHEAD];
} scan_ahead;

/* Part `part` of `parts`. */
CPU_INLINE void scan_fetch(const scan_ahead *a, int64_t part, int64_t parts)
{
    int64_t begin = a->tokens * part / parts, end = a->tokens * (part + 1) / parts;
    for (int64_t i = 0; i < a->count; i++) {
        for (int64_t t = begin; t < end; t++) {
            const char *row = a->of[i].row + t * a->of[i].step;
            for (int64_t at = 0; at < a->of[i].bytes; at += 64) {
                if (a->of[i].write)
                    __builtin_prefetch(row + at, 1, 2);
                else
                    __builtin_prefetch(row + at, 0, 2);
            }
        }
    }
}

/* tokens: at most SCAN_BLOCK. Arrays have padded (CPU_PAD) rows. */
typedef struct scan_stream {
    int64_t tokens, rows, lanes;
    int backwards;
    float *m;                /* (rows lanes) */
    const float *x, *w;      /* (token rows) */
    const float *u;          /* (token lanes) */
    const float *e;          /* (group), (group rows) or (group lanes) */
    const float *e_lanes;    /* (group lanes), of SCAN_BOTH */
    float *out;              /* (token lanes), added to; NULL: only the state is wanted */
    const scan_ahead *ahead; /* memory of the next block, fetched meanwhile; may be NULL */
} scan_stream;

CPU_INLINE void scan_tile(const scan_stream *s, scan_fade fade, int width, int64_t row,
                          int64_t lane)
{
    cpu_vec m[SCAN_TILE][2];
    int64_t rows = s->rows, lanes = s->lanes;
    int64_t groups = (s->tokens + SCAN_GROUP - 1) / SCAN_GROUP;
    float *home = s->m + row * lanes + lane;
    for (int r = 0; r < SCAN_TILE; r++) {
        for (int v = 0; v < width; v++) m[r][v] = cpu_load(home + r * lanes + v * CPU_LANES);
    }
    for (int64_t i = 0; i < groups; i++) {
        int64_t group = s->backwards ? groups - 1 - i : i, first = group * SCAN_GROUP;
        int64_t tokens = cpu_min(SCAN_GROUP, s->tokens - first);
        const float *x = s->x + first * rows + row, *w = s->w + first * rows + row;
        const float *u = s->u + first * lanes + lane;
        float *out = s->out ? s->out + first * lanes + lane : NULL;
        for (int64_t t = 0; out && t < tokens; t++, x += rows, out += lanes) {
            cpu_vec y[2];
            for (int v = 0; v < width; v++) y[v] = cpu_load(out + v * CPU_LANES);
            CPU_UNROLL
            for (int r = 0; r < SCAN_TILE; r++) {
                for (int v = 0; v < width; v++) y[v] += x[r] * m[r][v];
            }
            for (int v = 0; v < width; v++) cpu_store(out + v * CPU_LANES, y[v]);
        }
        int64_t factors = fade == SCAN_ALL ? 1 : fade == SCAN_LANES ? lanes : rows;
        const float *e = s->e + group * factors;
        const float *e_lanes = fade == SCAN_BOTH ? s->e_lanes + group * lanes + lane : NULL;
        CPU_UNROLL
        for (int r = 0; r < SCAN_TILE && fade != SCAN_KEEP; r++) {
            for (int v = 0; v < width; v++) {
                if (fade == SCAN_ALL) m[r][v] *= cpu_all(*e);
                if (fade == SCAN_ROWS) m[r][v] *= cpu_all(e[row + r]);
                if (fade == SCAN_LANES) m[r][v] *= cpu_load(e + lane + v * CPU_LANES);
                if (fade == SCAN_BOTH)
                    m[r][v] *= cpu_all(e[row + r]) * cpu_load(e_lanes + v * CPU_LANES);
            }
        }
        for (int64_t t = 0; t < tokens; t++, w += rows, u += lanes) {
            CPU_UNROLL
            for (int r = 0; r < SCAN_TILE; r++) {
                for (int v = 0; v < width; v++) m[r][v] += w[r] * cpu_load(u + v * CPU_LANES);
            }
        }
    }
    for (int r = 0; r < SCAN_TILE; r++) {
        for (int v = 0; v < width; v++) cpu_store(home + r * lanes + v * CPU_LANES, m[r][v]);
    }
}

CPU_INLINE void scan_tiles(const scan_stream *s, scan_fade fade)
{
    int64_t wide = 2 * CPU_LANES, strips = (s->lanes + wide - 1) / wide, part = 0;
    for (int64_t lane = 0; lane < s->lanes; lane += wide) {
        for (int64_t row = 0; row < s->rows; row += SCAN_TILE, part++) {
            if (s->ahead) scan_fetch(s->ahead, part, strips * (s->rows / SCAN_TILE));
            if (lane + wide <= s->lanes) {
                scan_tile(s, fade, 2, row, lane);
            } else {
                for (int64_t l = lane; l < s->lanes; l += CPU_LANES) scan_tile(s, fade, 1, row, l);
            }
        }
    }
}

static inline void scan_run(const scan_stream *s, scan_fade fade)
{
    switch (fade) {
    case SCAN_KEEP: scan_tiles(s, SCAN_KEEP); break;
    case SCAN_ALL: scan_tiles(s, SCAN_ALL); break;
    case SCAN_ROWS: scan_tiles(s, SCAN_ROWS); break;
    case SCAN_LANES: scan_tiles(s, SCAN_LANES); break;
    case SCAN_BOTH: scan_tiles(s, SCAN_BOTH); break;
    }
}

/* Factors of token t, channels d ... of n. */
CPU_INLINE cpu_vec scan_factor(scan_fade fade, const float *a, int64_t n, int64_t t, int64_t d)
{
    return fade == SCAN_ALL ? cpu_all(a[t]) : cpu_load(a + t * n + d);
}

/* Pairs within the group that starts at token t: p[i][j] = sum_d x_i[d] w_j[d] a_{j+1}[d] ...
 * a_i[d] for j <= i. x, w: (token n). */
CPU_INLINE void scan_group_pairs(scan_fade fade, int64_t t, int64_t n, const float *x,
                                 const float *w, const float *a, scan_pairs p)
{
    cpu_vec s[SCAN_GROUP][SCAN_GROUP];
    CPU_UNROLL
    for (int i = 0; i < SCAN_GROUP; i++) {
        CPU_UNROLL
        for (int j = 0; j <= i; j++) s[i][j] = cpu_all(0);
    }
    for (int64_t d = 0; d < n; d += CPU_LANES) {
        cpu_vec faded[SCAN_GROUP];
        CPU_UNROLL
        for (int i = 0; i < SCAN_GROUP; i++) {
            cpu_vec xi = cpu_load(x + (t + i) * n + d);
            for (int j = 0; fade == SCAN_ROWS && j < i; j++)
                faded[j] *= scan_factor(fade, a, n, t + i, d);
            faded[i] = cpu_load(w + (t + i) * n + d);
            for (int j = 0; j <= i; j++) s[i][j] += xi * faded[j];
        }
    }
    CPU_UNROLL
    for (int i = 0; i < SCAN_GROUP; i++) {
        float f = 1;
        CPU_UNROLL
        for (int j = i; j >= 0; j--) {
            p[i][j] = f * cpu_sum(s[i][j]);
            if (fade == SCAN_ALL) f *= a[t + j];
        }
    }
}

/* The pairs of all groups. */
static inline void scan_all_pairs(scan_fade fade, int64_t tokens, int64_t n, const float *x,
                                  const float *w, const float *a, scan_pairs *p)
{
    for (int64_t t = 0; t < tokens; t += SCAN_GROUP, p++) {
        if (fade == SCAN_KEEP) scan_group_pairs(SCAN_KEEP, t, n, x, w, a, *p);
        if (fade == SCAN_ALL) scan_group_pairs(SCAN_ALL, t, n, x, w, a, *p);
        if (fade == SCAN_ROWS) scan_group_pairs(SCAN_ROWS, t, n, x, w, a, *p);
    }
}

#endif
