/* SPDX-License-Identifier: Apache-2.0
 * core/check/layers.c: whether a sequence layer goes through a sequence as it must: in pieces, packed,
 * padded, saved and put back, and never ahead of it.
 */
#include "core/check/ranks.h"

#include <math.h>
#include <stdlib.h>

enum { SEQ = 37 };

static const lmoe_dtype dtypes[2] = {LMOE_F64, LMOE_F32};
static const double bars[2] = {1e-11, 3e-5}; /* float32: sums in another order */

static int forms(const lmoe__exam *x)
{
    return x->level == LMOE__QUICK ? 1 : x->level == LMOE__FULL ? 2 : 8;
}

/* Calls fn for the form with defaults and some others. */
static void each_form(lmoe__exam *x, bool (*fn)(lmoe__exam *x, const lmoe__form *f))
{
    for (int i = 0; i < forms(x); i++) {
        lmoe__form f;
        if (!lmoe__form_make(x, i, &f)) {
            if (i == 0) return;
            continue;
        }
        if (!fn(x, &f)) return;
    }
}

static lmoe__lab_weights weights(const lmoe__exam *x)
{
    return (lmoe__lab_weights){x->seed, 0.2, LMOE_F32};
}

static void put_back(lmoe__sheet *whole, const lmoe__sheet *piece, int64_t at)
{
    size_t e = (size_t)whole->embed, n = (size_t)piece->seq;
    for (int64_t b = 0; b < whole->batch; b++)
        memcpy(whole->y + (size_t)(b * whole->seq + at) * e, piece->y + (size_t)b * n * e,
               sizeof(double) * n * e);
}

/* Documents that start at chance. */
static void start_documents(lmoe__sheet *s, uint64_t seed)
{
    for (int64_t b = 0; b < s->batch; b++) {
        for (int64_t i = s->seq - 1; i > 0; i--) /* from the end: each goes on to the next one */
            if (lmoe__below(seed, 8, (uint64_t)(b * s->seq + i), 11) == 0)
                lmoe__sheet_start(s, b, i);
        lmoe__sheet_start(s, b, 0);
    }
}

/* ---- in pieces ---- */

typedef struct cutting {
    const char *what;
    int64_t pieces[SEQ + 1]; /* lengths, up to a 0 */
} cutting;

/* The sheet in pieces that hand their carry on; y goes into it. */
static bool run_pieces(lmoe__lab *l, lmoe__sheet *s, const int64_t *pieces,
                       lmoe__program *const *programs)
{
    for (int64_t at = 0, i = 0; at < s->seq; at += pieces[i++]) {
        lmoe__sheet piece = lmoe__sheet_cut(l->x, s, at, pieces[i]);
        if (!lmoe__lab_run(l, programs[pieces[i]], &piece)) return false;
        put_back(s, &piece, at);
    }
    return true;
}

static bool same_y(lmoe__exam *x, const lmoe__sheet *got, const lmoe__sheet *want, double bar,
                   const char *what)
{
    int64_t e = want->embed, all = want->batch * want->seq;
    double size = lmoe__norm(want->y, all * e) / sqrt((double)all); /* of a token's y */
    for (int64_t t = 0; t < want->seq; t++) {                       /* the first that is off */
        for (int64_t b = 0; b < want->batch; b++) {
            const double *p = got->y + (b * want->seq + t) * e,
                         *q = want->y + (b * want->seq + t) * e;
            double off = 0;
            for (int64_t k = 0; k < e; k++) off += (p[k] - q[k]) * (p[k] - q[k]);
            off = sqrt(off) / (size + 1e-300);
            if (off < bar) continue;
            lmoe__check_fail(x, "%s: y of token %d (row %d) is off by %.2g; allowed is %.2g", what,
                             (int)t, (int)b, off, bar);
            return false;
        }
    }
    return true;
}

/* With documents that start in between, one after another and at once. */
static bool compare_pieces(lmoe__exam *x, const lmoe__form *f, const cutting *cuts, int n_cuts)
{
    for (int d = 0; d < 2; d++) {
        lmoe__lab l;
        lmoe__program *programs[SEQ + 1] = {NULL};
        lmoe__sheet s = lmoe__sheet_new(x, f, 2, SEQ, x->seed, 1);
        const lmoe__lab_weights w = weights(x);
        start_documents(&s, x->seed);
        lmoe__sheet whole = lmoe__sheet_cut(x, &s, 0, SEQ);
        if (!lmoe__lab_open(&l, x, f, dtypes[d], 0)) return false;
        lmoe__program *all = lmoe__lab_program(&l, 2, SEQ, LMOE__RUN_RESETS, 0);
        bool ok = all;
        for (int c = 0; ok && c < n_cuts; c++) {
            for (const int64_t *n = cuts[c].pieces; ok && *n; n++) {
                if (programs[*n]) continue;
                programs[*n] =
                    lmoe__lab_program(&l, 2, *n, LMOE__RUN_RESETS | LMOE__RUN_CARRIES, SEQ);
                ok = programs[*n];
            }
        }
        ok = ok && lmoe__lab_bind(&l, &w) && lmoe__lab_run(&l, all, &whole);
        for (int c = 0; ok && c < n_cuts; c++) {
            lmoe__check_case(x, "%s, %s, %s", cuts[c].what, lmoe__dtype_word(dtypes[d]), f->text);
            ok = lmoe__check_ok(x, lmoe__program_clear_carries(&l.e, programs[cuts[c].pieces[0]]),
                                "clearing carries") &&
                 run_pieces(&l, &s, cuts[c].pieces, programs) &&
                 same_y(x, &s, &whole, bars[d], cuts[c].what);
        }
        lmoe__lab_close(&l);
        if (!ok) return false;
    }
    return true;
}

static bool decode_form(lmoe__exam *x, const lmoe__form *f)
{
    static cutting const ways[] = {{"token by token", {0}}, {"20 tokens, then one by one", {20}}};
    cutting cuts[2];
    for (int c = 0; c < 2; c++) {
        int64_t first = ways[c].pieces[0];
        int n = 0;
        cuts[c] = ways[c];
        if (first) cuts[c].pieces[n++] = first;
        while (first++ < SEQ) cuts[c].pieces[n++] = 1;
        cuts[c].pieces[n] = 0;
    }
    return compare_pieces(x, f, cuts, 2);
}

static void decode(lmoe__exam *x)
{
    each_form(x, decode_form);
}

static bool split_form(lmoe__exam *x, const lmoe__form *f)
{
    enum { MOST = 8 };
    cutting cuts[MOST];
    int n_cuts = x->level == LMOE__SOAK ? MOST : 3;
    for (int c = 0; c < n_cuts; c++) {
        lmoe__text what = {0};
        int64_t at = 0;
        int n = 0;
        while (at < SEQ) {
            uint64_t most = c == 0 ? 5 : 19;
            int64_t k = 1 + (int64_t)lmoe__below(x->seed + (uint64_t)c, 12, (uint64_t)n, most);
            if (k > SEQ - at) k = SEQ - at;
            lmoe__text_add(&what, "%s%d", n ? "+" : "pieces of ", (int)k);
            cuts[c].pieces[n++] = k;
            at += k;
        }
        cuts[c].pieces[n] = 0;
        cuts[c].what = lmoe__arena_strdup(x->arena, what.data);
        lmoe__text_free(&what);
    }
    return compare_pieces(x, f, cuts, n_cuts);
}

static void split(lmoe__exam *x)
{
    each_form(x, split_form);
}

/* ---- never ahead ---- */

static bool causal_form(lmoe__exam *x, const lmoe__form *f)
{
    for (int d = 0; d < 2; d++) {
        lmoe__lab l;
        lmoe__sheet s = lmoe__sheet_new(x, f, 2, SEQ, x->seed, 1);
        const lmoe__lab_weights w = weights(x);
        if (!lmoe__lab_open(&l, x, f, dtypes[d], 0)) return false;
        lmoe__program *p = lmoe__lab_program(&l, 2, SEQ, 0, 0);
        bool ok = p && lmoe__lab_bind(&l, &w) && lmoe__lab_run(&l, p, &s);
        double *before = LMOE_NEW_N(x->arena, double, 2 * SEQ * s.embed);
        memcpy(before, s.y, sizeof *before * (size_t)(2 * SEQ * s.embed));
        for (int64_t t = 1; ok && t < SEQ; t += 1 + (int64_t)lmoe__below(x->seed, 13, t, 6)) {
            lmoe__check_case(x, "token %d, %s, %s", (int)t, lmoe__dtype_word(dtypes[d]), f->text);
            for (int b = 0; b < 2; b++) {
                int64_t at = b * SEQ + t;
                s.tokens[at] = (s.tokens[at] + 1) % (int32_t)f->model.o.vocab_size;
                s.noise[at]++;
                for (int64_t e = 0; e < s.embed; e++) s.x[at * s.embed + e] += e % 3 ? 0.5 : -3;
            }
            ok = lmoe__lab_run(&l, p, &s);
            for (int b = 0; ok && b < 2; b++) {
                int64_t at = b * SEQ * s.embed;
                int64_t bad = lmoe__first_difference(s.y + at, before + at, t * s.embed);
                if (bad < 0) continue;
                lmoe__check_fail(x, "another token %d changes y of token %d from %.17g to %.17g",
                                 (int)t, (int)(bad / s.embed), before[at + bad], s.y[at + bad]);
                ok = false;
            }
            memcpy(before, s.y, sizeof *before * (size_t)(2 * SEQ * s.embed));
        }
        lmoe__lab_close(&l);
        if (!ok) return false;
    }
    return true;
}

static void causal(lmoe__exam *x)
{
    each_form(x, causal_form);
}

/* ---- documents and rows ---- */

typedef struct result {
    lmoe__sheet s;
    double **grad;
    int64_t *n;
    int n_weights;
    bool aux; /* there are auxiliary losses, which may be means over all tokens */
} result;

static bool train_once(lmoe__exam *x, const lmoe__form *f, const lmoe__sheet *s, int flags,
                       result *r)
{
    lmoe__lab l;
    const lmoe__lab_weights w = weights(x);
    r->s = *s;
    if (!lmoe__lab_open(&l, x, f, LMOE_F64, 0)) return false;
    lmoe__program *p = lmoe__lab_program(&l, s->batch, s->seq, LMOE__RUN_GRADIENTS | flags, 0);
    bool ok = p && lmoe__lab_bind(&l, &w) && lmoe__lab_run(&l, p, &r->s);
    r->n_weights = l.e.n_weights;
    r->grad = LMOE_NEW_N(x->arena, double *, l.e.n_weights + 1);
    r->n = LMOE_NEW_N(x->arena, int64_t, l.e.n_weights + 1);
    for (int i = 0; ok && i < l.e.n_weights; i++) r->grad[i] = lmoe__lab_grad(&l, i, &r->n[i]);
    for (int i = 0; i < l.e.store.count; i++)
        r->aux |= strncmp(l.e.store.buffers[i].name, "aux:", 4) == 0;
    lmoe__lab_close(&l);
    return ok;
}

static bool packed_form(lmoe__exam *x, const lmoe__form *f)
{
    static const int64_t lengths[] = {5, 1, 2, 13};
    enum { DOCUMENTS = 4, TOGETHER = 21 };
    result all = {0}, one[DOCUMENTS];
    lmoe__sheet s = lmoe__sheet_new(x, f, 1, TOGETHER, x->seed, 1);
    lmoe__check_case(x, "documents of 5, 1, 2 and 13 tokens, %s", f->text);
    for (int64_t d = 0, at = 0; d < DOCUMENTS; at += lengths[d++]) {
        lmoe__sheet_start(&s, 0, at);
        for (int64_t i = at; i < TOGETHER; i++) s.document[i] = (int32_t)at;
    }
    if (!train_once(x, f, &s, LMOE__RUN_RESETS, &all)) return false;
    for (int64_t d = 0, at = 0; d < DOCUMENTS; at += lengths[d++]) {
        one[d] = (result){0};
        lmoe__sheet alone = lmoe__sheet_cut(x, &s, at, lengths[d]);
        for (int64_t i = 0; i < lengths[d]; i++) {
            alone.positions[i] = (int32_t)i;
            alone.document[i] = 0;
        }
        if (!train_once(x, f, &alone, 0, &one[d])) return false;
        int64_t n = lengths[d] * s.embed;
        double y = lmoe__apart(all.s.y + at * s.embed, one[d].s.y, n);
        double dx = lmoe__apart(all.s.dx + at * s.embed, one[d].s.dx, n);
        if (!(y < 1e-10) || (!all.aux && !(dx < 1e-9))) {
            lmoe__check_fail(
                x,
                "the document at token %d gives another result packed than alone: y is "
                "off by %.2g, the gradient of x by %.2g (float64, %s)",
                (int)at, y, dx, f->text);
            return false;
        }
    }
    for (int i = 0; i < all.n_weights && !all.aux; i++) {
        if (!all.grad[i]) continue;
        double *sum = LMOE_NEW_N(x->arena, double, all.n[i]);
        for (int d = 0; d < DOCUMENTS; d++)
            for (int64_t k = 0; k < all.n[i]; k++) sum[k] += one[d].grad[i][k];
        double e = lmoe__apart(all.grad[i], sum, all.n[i]);
        if (e < 1e-9 || lmoe__norm(sum, all.n[i]) < 1e-9) continue;
        lmoe__check_fail(x, "gradient number %d of packed documents is off by %.2g (float64, %s)",
                         i, e, f->text);
        return false;
    }
    return true;
}

static void packed(lmoe__exam *x)
{
    each_form(x, packed_form);
}

static bool rows_form(lmoe__exam *x, const lmoe__form *f)
{
    enum { ROWS = 3, LENGTH = 19 };
    lmoe__lab l;
    lmoe__sheet s = lmoe__sheet_new(x, f, ROWS, LENGTH, x->seed, 1);
    const lmoe__lab_weights w = weights(x);
    const int64_t n = LENGTH * s.embed;
    if (!lmoe__lab_open(&l, x, f, LMOE_F32, 0)) return false;
    lmoe__program *p = lmoe__lab_program(&l, ROWS, LENGTH, 0, 0);
    bool ok = p && lmoe__lab_bind(&l, &w) && lmoe__lab_run(&l, p, &s);
    double *before = LMOE_NEW_N(x->arena, double, ROWS *n);
    for (int row = 0; ok && row < ROWS; row++) {
        lmoe__check_case(x, "row %d of %d, %s", row, ROWS, f->text);
        memcpy(before, s.y, sizeof *before * (size_t)(ROWS * n));
        for (int64_t i = row * n; i < (row + 1) * n; i++) s.x[i] = 1.5 - s.x[i];
        for (int64_t t = row * LENGTH; t < (row + 1) * LENGTH; t++) s.tokens[t] ^= 1;
        ok = lmoe__lab_run(&l, p, &s);
        for (int other = 0; ok && other < ROWS; other++) {
            if (other == row) continue;
            int64_t bad = lmoe__first_difference(s.y + other * n, before + other * n, n);
            if (bad < 0) continue;
            lmoe__check_fail(x, "other tokens in row %d change y of row %d, token %d (%s)", row,
                             other, (int)(bad / s.embed), f->text);
            ok = false;
        }
    }
    lmoe__lab_close(&l);
    return ok;
}

static void rows(lmoe__exam *x)
{
    each_form(x, rows_form);
}

/* ---- padding ---- */

/* Tokens of `from` at the places that are not skipped; between them wild ones. */
static lmoe__sheet padded(lmoe__exam *x, const lmoe__form *f, const lmoe__sheet *from,
                          const char *pattern)
{
    int64_t n = (int64_t)strlen(pattern), e = from->embed, t = 0;
    lmoe__sheet s = lmoe__sheet_new(x, f, 1, n, x->seed + 5, 30);
    memset(s.reset, 0, (size_t)n);
    for (int64_t i = 0; i < n; i++) {
        bool skip = pattern[i] == '.';
        s.skip[i] = skip;
        s.positions[i] = from->positions[t < from->seq ? t : from->seq - 1];
        for (int64_t k = 0; skip && k < e; k++) s.dy[i * e + k] = 0;
        if (skip) continue;
        memcpy(s.x + i * e, from->x + t * e, sizeof *s.x * (size_t)e);
        memcpy(s.dy + i * e, from->dy + t * e, sizeof *s.x * (size_t)e);
        s.tokens[i] = from->tokens[t];
        s.noise[i] = from->noise[t];
        t++;
    }
    return s;
}

/* A piece of nothing but padding between two others, as if it were not there. Padding stands at the
 * position of the token that follows. */
static bool carry_stays(lmoe__exam *x, const lmoe__form *f)
{
    enum { PIECE = 6, LENGTH = 2 * PIECE };
    lmoe__lab l;
    const lmoe__lab_weights w = weights(x);
    lmoe__sheet s = lmoe__sheet_new(x, f, 2, LENGTH, x->seed, 1), last[2];
    lmoe__check_case(x, "a piece of padding alone, %s", f->text);
    if (!lmoe__lab_open(&l, x, f, LMOE_F32, 0)) return false;
    lmoe__program *p =
        lmoe__lab_program(&l, 2, PIECE, LMOE__RUN_CARRIES | LMOE__RUN_SKIPS, 2 * LENGTH);
    bool ok = p && lmoe__lab_bind(&l, &w);
    for (int with = 0; ok && with < 2; with++) {
        lmoe__sheet first = lmoe__sheet_cut(x, &s, 0, PIECE);
        lmoe__sheet pad = lmoe__sheet_new(x, f, 2, PIECE, x->seed + 1, 30);
        last[with] = lmoe__sheet_cut(x, &s, PIECE, PIECE);
        for (int i = 0; i < 2 * PIECE; i++) {
            pad.skip[i] = 1;
            pad.reset[i] = 0;
            pad.positions[i] = PIECE;
        }
        ok = lmoe__check_ok(x, lmoe__program_clear_carries(&l.e, p), "clearing carries") &&
             lmoe__lab_run(&l, p, &first) && (!with || lmoe__lab_run(&l, p, &pad)) &&
             lmoe__lab_run(&l, p, &last[with]);
    }
    int64_t bad = ok ? lmoe__first_difference(last[0].y, last[1].y, 2 * PIECE * s.embed) : -1;
    if (bad >= 0)
        lmoe__check_fail(x,
                         "a piece of padding changes what is carried: y of token %d after it is "
                         "%.9g instead of %.9g (%s)",
                         (int)(bad / s.embed % PIECE), last[1].y[bad], last[0].y[bad], f->text);
    lmoe__lab_close(&l);
    return ok && bad < 0;
}

static bool skip_form(lmoe__exam *x, const lmoe__form *f)
{
    static const char *const patterns[] = {"xxxxxxxxxxxxx....", "....xxxxxxxxxxxxx",
                                           "xxx..xxx.x.x.xxxxx", ".xxxxx......xxxxxxxx.."};
    lmoe__sheet plain = lmoe__sheet_new(x, f, 1, 13, x->seed, 1);
    result want = {0};
    if (!train_once(x, f, &plain, 0, &want)) return false;
    for (int k = 0; k < 4; k++) {
        result got = {0};
        lmoe__sheet s = padded(x, f, &plain, patterns[k]);
        lmoe__check_case(x, "%s (. is skipped), %s", patterns[k], f->text);
        if (!train_once(x, f, &s, LMOE__RUN_SKIPS, &got)) return false;
        for (int64_t i = 0, t = 0; i < s.seq; i++) {
            if (s.skip[i]) continue;
            double y = lmoe__apart(got.s.y + i * s.embed, want.s.y + t * s.embed, s.embed);
            double dx = lmoe__apart(got.s.dx + i * s.embed, want.s.dx + t * s.embed, s.embed);
            t++;
            if (y < 1e-10 && (dx < 1e-9 || got.aux)) continue;
            lmoe__check_fail(x,
                             "with tokens skipped as in %s, y of token %d is off by %.2g and its "
                             "gradient by %.2g (float64, %s)",
                             patterns[k], (int)t - 1, y, dx, f->text);
            return false;
        }
    }
    return carry_stays(x, f);
}

static void skip(lmoe__exam *x)
{
    each_form(x, skip_form);
}

/* ---- a state that is kept ---- */

typedef struct state {
    int n;
    const char **name;
    void **bytes;
    size_t *size;
} state;

static bool move_state(lmoe__lab *l, lmoe__program *p, state *s, bool back)
{
    lmoe_status status = LMOE_OK;
    if (!back) {
        s->n = p->n_carries;
        s->bytes = LMOE_NEW_N(l->x->arena, void *, s->n + 1);
        s->size = LMOE_NEW_N(l->x->arena, size_t, s->n + 1);
    }
    for (int i = 0; i < s->n && status == LMOE_OK; i++) {
        lmoe__buffer *b = lmoe__store_find(&l->e.store, p->carries[i].name);
        if (!b) continue;
        s->size[i] = (size_t)lmoe_desc_bytes(&b->desc);
        if (!back) s->bytes[i] = lmoe__arena_alloc(l->x->arena, s->size[i] + 1);
        status = back ? l->device.upload(l->e.dev, b->data, s->bytes[i], s->size[i])
                      : l->device.download(l->e.dev, s->bytes[i], b->data, s->size[i]);
    }
    return lmoe__check_ok(l->x, status, back ? "putting the carry back" : "saving the carry");
}

/* Runs the sheet's pieces first ... last-1 of n tokens each; y of the last one stays in *out. */
static bool go_on(lmoe__lab *l, lmoe__program *p, const lmoe__sheet *s, int64_t n, int first,
                  int last, lmoe__sheet *out)
{
    for (int i = first; i < last; i++) {
        *out = lmoe__sheet_cut(l->x, s, i * n, n);
        if (!lmoe__lab_run(l, p, out)) return false;
    }
    return true;
}

static bool state_form(lmoe__exam *x, const lmoe__form *f)
{
    enum { N = 5, PIECES = 4 };
    lmoe__lab l[2];
    lmoe__program *p[2] = {NULL};
    lmoe__sheet s = lmoe__sheet_new(x, f, 2, N * PIECES, x->seed, 1), straight, again, elsewhere;
    const lmoe__lab_weights w = weights(x);
    state kept;
    bool ok = true;
    lmoe__check_case(x, "saved after 10 of 20 tokens, %s", f->text);
    for (int i = 0; i < 2; i++) {
        ok &= lmoe__lab_open(&l[i], x, f, LMOE_F32, 0);
        p[i] = ok ? lmoe__lab_program(&l[i], 2, N, LMOE__RUN_CARRIES, N * PIECES) : NULL;
        ok = ok && p[i] && lmoe__lab_bind(&l[i], &w);
    }
    ok = ok && go_on(&l[0], p[0], &s, N, 0, 2, &straight) &&
         move_state(&l[0], p[0], &kept, false) && go_on(&l[0], p[0], &s, N, 2, 4, &straight) &&
         move_state(&l[0], p[0], &kept, true) && go_on(&l[0], p[0], &s, N, 2, 4, &again) &&
         move_state(&l[1], p[1], &kept, true) && go_on(&l[1], p[1], &s, N, 2, 4, &elsewhere);
    const int64_t n = 2 * N * s.embed;
    if (ok && lmoe__first_difference(straight.y, again.y, n) >= 0)
        lmoe__check_fail(x, "a state that was put back goes on otherwise than it did (%s)",
                         f->text);
    if (ok && lmoe__first_difference(straight.y, elsewhere.y, n) >= 0)
        lmoe__check_fail(x, "a state that was moved to another model goes on otherwise (%s)",
                         f->text);
    for (int i = 0; i < 2; i++) lmoe__lab_close(&l[i]);
    return ok && !lmoe__check_failed(x);
}

static void state_kept(lmoe__exam *x)
{
    each_form(x, state_form);
}

/* ---- over ranks ---- */

/* Documents lie across the borders between ranks. What cannot be split (a state of several parts by
 * some strategy) must say so. */
static bool ranks_form(lmoe__exam *x, const lmoe__form *f)
{
    static const lmoe__ranks_case cases[] = {
        {{{"sp", "parallel/lasp2", 2}}, LMOE__RUN_RESETS},
        {{{"sp", "parallel/lasp2", 3}}, LMOE__RUN_RESETS},
        {{{"sp", "parallel/lasp2", 4}}, LMOE__RUN_RESETS},
        {{{"sp", "parallel/ring", 3}}, LMOE__RUN_RESETS},
        {{{"sp", "parallel/scan", 4}}, LMOE__RUN_RESETS},
        {{{"dp", "parallel/dp", 2}, {"sp", "parallel/lasp2", 2}}, LMOE__RUN_RESETS}};
    enum { CASES = sizeof cases / sizeof *cases, LENGTH = 24 };
    double worst = 0;
    int done = 0;
    lmoe__sheet s = lmoe__sheet_new(x, f, 2, LENGTH, x->seed, 1);
    start_documents(&s, x->seed + 3);
    for (int i = 0; i < CASES; i++) {
        const char *refused;
        lmoe__check_case(x, "%s, %s", lmoe__ranks_text(x, &cases[i]), f->text);
        if (!lmoe__ranks_compare(x, f, &s, &cases[i], &refused, &worst)) return false;
        if (refused)
            lmoe__check_warn(x, "%s is refused: %s", lmoe__ranks_text(x, &cases[i]), refused);
        done += !refused;
    }
    lmoe__check_note(x, "%d layouts, worst error %.1e", done, worst);
    return true;
}

static void over_ranks(lmoe__exam *x)
{
    each_form(x, ranks_form);
}

/* ---- it learns ---- */

/* The least mean square of y - target over some steps of Adam, and the first one. */
static bool descend(lmoe__exam *x, const lmoe__form *f, double rate, double *first, double *least)
{
    enum { STEPS = 20, LENGTH = 12 };
    lmoe__lab l;
    const lmoe__lab_weights w = {x->seed, 0, LMOE_F64};
    lmoe__sheet s = lmoe__sheet_new(x, f, 2, LENGTH, x->seed, 1);
    const int64_t n = 2 * LENGTH * s.embed;
    double *target = LMOE_NEW_N(x->arena, double, n);
    if (!lmoe__lab_open(&l, x, f, LMOE_F64, LMOE__LAB_ONE)) return false;
    lmoe__program *p = lmoe__lab_program(&l, 2, LENGTH, LMOE__RUN_GRADIENTS, 0);
    bool ok = p && lmoe__lab_bind(&l, &w);
    double **m = LMOE_NEW_N(x->arena, double *, l.e.n_weights + 1);
    double **v = LMOE_NEW_N(x->arena, double *, l.e.n_weights + 1);
    for (int64_t i = 0; i < n; i++) target[i] = 0.3 * lmoe__normal(x->seed, 21, (uint64_t)i);
    *least = INFINITY;
    for (int step = 0; ok && step <= STEPS; step++) {
        double loss = 0;
        ok = lmoe__lab_run(&l, p, &s);
        for (int64_t i = 0; i < n; i++) loss += (s.y[i] - target[i]) * (s.y[i] - target[i]);
        for (int64_t i = 0; i < n; i++) s.dy[i] = 2 * (s.y[i] - target[i]);
        if (step == 0) *first = loss;
        if (loss < *least) *least = loss;
        ok = ok && lmoe__lab_run(&l, p, &s); /* with the dy of this y */
        for (int i = 0; ok && i < l.e.n_weights; i++) {
            int64_t k;
            double *g = lmoe__lab_grad(&l, i, &k);
            double *value = lmoe__lab_read(&l, l.e.weights[i].name, &k);
            if (!g || !value) continue;
            if (!m[i]) m[i] = LMOE_NEW_N(x->arena, double, k);
            if (!v[i]) v[i] = LMOE_NEW_N(x->arena, double, k);
            for (int64_t j = 0; j < k; j++) {
                m[i][j] = 0.9 * m[i][j] + 0.1 * g[j];
                v[i][j] = 0.99 * v[i][j] + 0.01 * g[j] * g[j];
                double a = m[i][j] / (1 - pow(0.9, step + 1)),
                       b = v[i][j] / (1 - pow(0.99, step + 1));
                value[j] -= rate * a / (sqrt(b) + 1e-12);
            }
            ok = lmoe__lab_write(&l, i, value);
        }
    }
    lmoe__lab_close(&l);
    return ok;
}

static void learns(lmoe__exam *x)
{
    static const double rates[] = {0.03, 0.01, 0.1, 0.003};
    const double bar = 0.95;
    lmoe__form f;
    double best = INFINITY;
    if (!lmoe__form_make(x, 0, &f)) return;
    for (int i = 0; i < 4 && !(best < bar); i++) {
        double first, least;
        lmoe__check_case(x, "learning rate %g, %s", rates[i], f.text);
        if (!descend(x, &f, rates[i], &first, &least)) return;
        best = fmin(best, least / first);
    }
    if (!(best < bar))
        lmoe__check_fail(x,
                         "20 steps at any of four learning rates leave %.3f of the loss; at most "
                         "%.2f of it should be left: do gradients reach the parameters? (%s)",
                         best, bar, f.text);
    lmoe__check_note(x, "20 steps leave %.2f of the loss", best);
}

const lmoe__check lmoe__checks_layers[] = {
    {"layers", "decode", "A prefill and tokens one by one give what the whole gives at once.",
     LMOE_KIND_LAYER, LMOE__QUICK, 120, decode, 0},
    {"layers", "split", "Pieces of any length that hand on what they carry give the whole.",
     LMOE_KIND_LAYER, LMOE__QUICK, 120, split, 0},
    {"layers", "causal", "Another token leaves every bit of what is before it.", LMOE_KIND_LAYER,
     LMOE__QUICK, 120, causal, 0},
    {"layers", "packed", "Documents packed into a row give what each gives alone, gradients too.",
     LMOE_KIND_LAYER, LMOE__QUICK, 120, packed, 0},
    {"layers", "rows", "Other tokens in a row leave every bit of the other rows.", LMOE_KIND_LAYER,
     LMOE__QUICK, 120, rows, 0},
    {"layers", "skip", "Padding anywhere changes nothing else, and leaves what is carried.",
     LMOE_KIND_LAYER, LMOE__QUICK, 120, skip, 0},
    {"layers", "state", "A state that was saved goes on the same, here and in another model.",
     LMOE_KIND_LAYER, LMOE__QUICK, 120, state_kept, 0},
    {"layers", "ranks",
     "A sequence split over 2, 3 and 4 ranks, by summaries or handed on, gives what one rank "
     "gives.",
     LMOE_KIND_LAYER, LMOE__QUICK, 120, over_ranks, 0},
    {"layers", "learns", "20 steps lower a loss.", LMOE_KIND_LAYER, LMOE__QUICK, 120, learns, 0},
    {NULL, NULL, NULL, NULL, 0, 0, NULL, 0}};
