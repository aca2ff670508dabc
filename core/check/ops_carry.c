/* SPDX-License-Identifier: Apache-2.0
 * core/check/ops_carry.c: does the carry of an op keep its promises?
 *
 *   carry    y, c = op(x, nothing) equals the pieces of x one after another, each with the carry of
 *            the one before
 *   reset    from a reset on, all is as if nothing had been before; a skipped token changes no carry
 *            and gives zero
 *   summary  combine(summaries of equal segments) gives the carry with which each segment starts,
 *            and reads no summary of that segment or a later one
 *
 * For carries that walk seq forwards. Those of derivatives are held to the same by the gradients of
 * split layers.
 */
#include "core/check/call.h"

#include <math.h>

static const int64_t lengths[] = {1, 2, 7, 12, 33};
enum { N_LENGTHS = sizeof lengths / sizeof *lengths };

static const lmoe_op *op_of(const lmoe__exam *x)
{
    return (const lmoe_op *)(const void *)x->class;
}

/* True if the class has a carry that these checks are for. */
static bool asked(lmoe__exam *x)
{
    const lmoe_carry *c = op_of(x)->carry;
    if (!c || c->reverse) {
        lmoe__check_skip(x, c ? "its carry walks backwards: it is of a derivative"
                              : "it declares no carry");
        return false;
    }
    return true;
}

/* Carry tensors that say "nothing before", as a run enters them. */
static bool put_initial(lmoe__exam *x, lmoe__arena *a, lmoe__called *c, int64_t context)
{
    const lmoe_carry *k = c->op->carry;
    lmoe_desc in[LMOE_MAX_IO] = {{LMOE_NONE, 0, {0}, {0}}},
              shape[LMOE_MAX_IO] = {{LMOE_NONE, 0, {0}, {0}}};
    for (int i = 0; i < c->n_in; i++) in[i] = c->in[i].d;
    for (int i = 0; i < k->count; i++) memset(&in[k->in + i], 0, sizeof in[0]);
    if (!lmoe__check_ok(x, k->shape(c->attrs, in, c->n_in, context, shape), "its carry's shape"))
        return false;
    for (int i = 0; i < k->count; i++) {
        c->in[k->in + i] = lmoe__part_new(a, &shape[i]);
        lmoe__part_fill(&c->in[k->in + i], i == k->initial_of ? k->initial : 0);
    }
    return true;
}

static int64_t seq_of(const lmoe__called *c)
{
    for (int i = 0; i < c->n_in; i++) {
        int dim = lmoe__part_axis(&c->in[i], "seq");
        if (dim >= 0) return c->in[i].d.dim[dim];
    }
    return 0;
}

/* Tokens from ... from+n-1, with the carry as it is. */
static lmoe__called cut(lmoe__arena *a, const lmoe__called *c, int64_t from, int64_t n)
{
    lmoe__called p = *c;
    for (int i = 0; i < p.n_in; i++) {
        int dim = lmoe__part_axis(&p.in[i], "seq");
        if (dim >= 0) p.in[i] = lmoe__part_cut(a, &p.in[i], dim, from, n);
    }
    return p;
}

static bool is_carry_out(const lmoe__called *c, int i)
{
    const lmoe_carry *k = c->op->carry;
    return i >= k->out && i < k->out + k->count;
}

/* Outputs of a piece against the same tokens of the whole. */
static bool same_tokens(lmoe__exam *x, lmoe__arena *a, const lmoe__called *piece,
                        const lmoe__called *whole, int64_t from, const char *what)
{
    for (int i = 0; i < piece->n_out; i++) {
        int dim = lmoe__part_axis(&whole->out[i], "seq");
        if (is_carry_out(whole, i) || dim < 0) continue;
        lmoe__part want = lmoe__part_cut(a, &whole->out[i], dim, from, piece->out[i].d.dim[dim]);
        if (!lmoe__part_close(x, &piece->out[i], &want, what)) return false;
    }
    return true;
}

static bool same_carry(lmoe__exam *x, const lmoe__called *got, const lmoe__called *want,
                       const char *what)
{
    const lmoe_carry *k = got->op->carry;
    for (int i = 0; i < k->count; i++) {
        if (!lmoe__part_close(x, &got->out[k->out + i], &want->out[k->out + i], what)) return false;
    }
    return true;
}

/* Calls of every sample case at every length, with a carry of nothing. */
typedef bool (*case_fn)(lmoe__exam *x, lmoe__arena *a, lmoe__called *c, int64_t seq);

static void each_case(lmoe__exam *x, case_fn fn, const int64_t *seqs, int n)
{
    bool more = true;
    int seen = 0;
    for (int i = 0; more && !lmoe__check_failed(x); i++) {
        for (int l = 0; more && l < n; l++) {
            lmoe__arena *a = lmoe__arena_new();
            lmoe__called c;
            uint32_t flags;
            more = lmoe__called_sample(x, a, i, seqs[l], &c, &flags);
            if (more && !(flags & LMOE_CASE_BENCH) && seq_of(&c) == seqs[l]) {
                more = put_initial(x, a, &c, seqs[l]) && fn(x, a, &c, seqs[l]);
                seen++;
            }
            lmoe__arena_free(a);
        }
    }
    if (seen == 0 && !lmoe__check_failed(x))
        lmoe__check_fail(x, "it declares a carry, but no case of its sampler has an axis seq");
}

/* ---- carry ---- */

static bool in_pieces(lmoe__exam *x, lmoe__arena *a, lmoe__called *c, int64_t seq)
{
    const lmoe_carry *k = c->op->carry;
    lmoe__called bare = *c;
    if (!lmoe__called_run(x, a, c)) return false;
    for (int i = 0; i < k->count; i++) memset(&bare.in[k->in + i], 0, sizeof bare.in[0]);
    if (!lmoe__called_run(x, a, &bare) ||
        !same_tokens(x, a, &bare, c, 0, "without a carry, against a carry of nothing"))
        return false;
    lmoe__called piece = *c;
    for (int64_t at = 0, round = 0; at < seq; round++) {
        int64_t n = 1 + (int64_t)lmoe__below(x->seed, (uint64_t)seq, (uint64_t)round, 5);
        if (n > seq - at) n = seq - at;
        lmoe__part carry[LMOE_MAX_IO];
        memcpy(carry, &piece.in[k->in], sizeof *carry * (size_t)k->count);
        piece = cut(a, c, at, n);
        memcpy(&piece.in[k->in], carry, sizeof *carry * (size_t)k->count);
        if (!lmoe__called_run(x, a, &piece) ||
            !same_tokens(x, a, &piece, c, at, "in pieces, against the whole"))
            return false;
        for (int i = 0; i < k->count; i++) piece.in[k->in + i] = piece.out[k->out + i];
        at += n;
    }
    return same_carry(x, &piece, c, "the carry after the pieces, against that of the whole");
}

void lmoe__ops_carry(lmoe__exam *x)
{
    if (asked(x)) each_case(x, in_pieces, lengths, N_LENGTHS);
}

/* ---- reset and skip ---- */

static int port_of(const lmoe__called *c, lmoe_ambient which)
{
    for (int i = 0; i < c->n_in; i++) {
        if (c->op->inputs[i].ambient == which) return i;
    }
    return -1;
}

/* (batch seq) flags: 1 in tokens from ... to-1. */
static lmoe__part flags_at(lmoe__arena *a, const lmoe__called *c, int64_t from, int64_t to)
{
    int64_t batch = 1, seq = seq_of(c);
    for (int i = 0; i < c->n_in; i++) {
        int dim = lmoe__part_axis(&c->in[i], "batch");
        if (dim >= 0) batch = c->in[i].d.dim[dim];
    }
    lmoe_desc d = {LMOE_U8, 2, {batch, seq}, {"batch", "seq"}};
    lmoe__part p = lmoe__part_new(a, &d);
    for (int64_t i = 0; i < batch * seq; i++)
        lmoe_put(&p.b, i, i % seq >= from && i % seq < to ? 1 : 0);
    return p;
}

static bool forgets(lmoe__exam *x, lmoe__arena *a, const lmoe__called *c, int port, int64_t at,
                    int64_t seq)
{
    lmoe__called whole = *c;
    whole.in[port] = flags_at(a, c, at, at + 1);
    if (!lmoe__called_run(x, a, &whole)) return false;
    lmoe__called tail = cut(a, &whole, at, seq - at);
    if (!lmoe__called_run(x, a, &tail)) return false;
    return same_tokens(x, a, &tail, &whole, at, "after a reset, against a start there") &&
           same_carry(x, &tail, &whole, "the carry after a reset, against a start there");
}

static bool leaves(lmoe__exam *x, lmoe__arena *a, const lmoe__called *c, int port, int64_t at,
                   int64_t seq)
{
    lmoe__called whole = *c;
    whole.in[port] = flags_at(a, c, at, seq);
    if (!lmoe__called_run(x, a, &whole)) return false;
    lmoe__called head = cut(a, &whole, 0, at);
    if (!lmoe__called_run(x, a, &head)) return false;
    if (!same_carry(x, &whole, &head, "the carry after skipped tokens, against that before them"))
        return false;
    for (int i = 0; i < whole.n_out; i++) {
        int dim = lmoe__part_axis(&whole.out[i], "seq");
        if (is_carry_out(&whole, i) || dim < 0) continue;
        lmoe__part skipped = lmoe__part_cut(a, &whole.out[i], dim, at, seq - at),
                   zero = lmoe__part_new(a, &skipped.d);
        if (i == 0 && !lmoe__part_close(x, &skipped, &zero, "the output of skipped tokens"))
            return false;
    }
    return true;
}

static bool flags_hold(lmoe__exam *x, lmoe__arena *a, lmoe__called *c, int64_t seq)
{
    int reset = port_of(c, LMOE_AMBIENT_RESET), skip = port_of(c, LMOE_AMBIENT_SKIP);
    int64_t at =
        1 + (int64_t)lmoe__below(x->seed, 1, (uint64_t)x->verdict->cases, (uint64_t)(seq - 1));
    if (reset >= 0) memset(&c->in[reset], 0, sizeof c->in[0]);
    if (skip >= 0) memset(&c->in[skip], 0, sizeof c->in[0]);
    if (reset >= 0 && !forgets(x, a, c, reset, at, seq)) return false;
    return skip < 0 || leaves(x, a, c, skip, at, seq);
}

void lmoe__ops_reset(lmoe__exam *x)
{
    if (!asked(x)) return;
    const lmoe_op *op = op_of(x);
    bool reset = false, skip = false, documents = false;
    for (int i = 0; op->inputs[i].name; i++) {
        reset |= op->inputs[i].ambient == LMOE_AMBIENT_RESET;
        skip |= op->inputs[i].ambient == LMOE_AMBIENT_SKIP;
        documents |= op->inputs[i].ambient == LMOE_AMBIENT_DOCUMENT;
    }
    if (!skip || (!reset && !documents))
        lmoe__check_fail(x,
                         "it has a carry, but no ambient input %s: packed documents and padding "
                         "would leak through it",
                         skip ? "reset (or document)" : "skip");
    else
        each_case(x, flags_hold, lengths + 1, N_LENGTHS - 1);
}

/* ---- summaries ---- */

enum { SEGMENT_TOKENS = 12, MOST_SEGMENTS = 4 };

/* The summary of a segment. False: the check has failed. */
static bool summarise(lmoe__exam *x, lmoe__arena *a, const lmoe__called *segment, const lmoe_op *op,
                      lmoe__called *s)
{
    const lmoe_carry *k = segment->op->carry;
    *s = (lmoe__called){.op = op, .attrs = segment->attrs};
    s->n_in = lmoe__ports(op->inputs);
    s->n_out = lmoe__ports(op->outputs);
    if (k->n_summary_in > s->n_in || k->n_summary > s->n_out) {
        lmoe__check_fail(x,
                         "its carry lists %d operands and %d tensors of a summary, but %s has %d "
                         "and %d",
                         k->n_summary_in, k->n_summary, op->base.name, s->n_in, s->n_out);
        return false;
    }
    for (int i = 0; i < k->n_summary_in; i++) s->in[i] = segment->in[k->summary_in[i]];
    return lmoe__called_run(x, a, s);
}

/* (rank ...) of the summaries' tensor i; those of segment `blind` and later hold NaN. */
static lmoe__part stacked(lmoe__arena *a, const lmoe__called *summaries, int n, int i, int blind)
{
    const lmoe__part *first = &summaries[0].out[i];
    lmoe_desc d = {
        .dtype = first->d.dtype, .rank = first->d.rank + 1, .dim = {n}, .axis = {"rank"}};
    if (!lmoe_buf_present(&first->b)) return *first;
    for (int k = 0; k < first->d.rank; k++) {
        d.dim[k + 1] = first->d.dim[k];
        d.axis[k + 1] = first->d.axis[k];
    }
    lmoe__part p = lmoe__part_new(a, &d);
    int64_t count = lmoe_desc_count(&first->d);
    for (int64_t e = 0; e < n * count; e++) {
        bool hidden = e / count >= blind && lmoe_dtype_is_float(d.dtype);
        lmoe_put(&p.b, e, hidden ? NAN : lmoe_get(&summaries[e / count].out[i].b, e % count));
    }
    return p;
}

static bool segments_agree(lmoe__exam *x, lmoe__arena *a, const lmoe__called *c, int n)
{
    const lmoe_carry *k = c->op->carry;
    const lmoe_op *summary = lmoe__check_op(x, k->summary),
                  *combine = lmoe__check_op(x, k->combine);
    lmoe__called segment[MOST_SEGMENTS], sums[MOST_SEGMENTS];
    int64_t tokens = SEGMENT_TOKENS / n;
    for (int r = 0; r < n; r++) {
        segment[r] = cut(a, c, r * tokens, tokens);
        if (!summarise(x, a, &segment[r], summary, &sums[r])) return false;
    }
    for (int r = 0; r < n; r++) {
        lmoe_combine_attrs attrs = {r, n, 0};
        lmoe__called j = {.op = combine, .attrs = &attrs};
        char what[96];
        snprintf(what, sizeof what, "segment %d of %d with the carry of combine", r, n);
        j.n_in = lmoe__ports(combine->inputs);
        j.n_out = lmoe__ports(combine->outputs);
        for (int i = 0; i < k->n_summary && i < j.n_in; i++) j.in[i] = stacked(a, sums, n, i, r);
        if (!lmoe__called_run(x, a, &j)) return false;
        for (int i = 0; i < k->count && i < j.n_out; i++) segment[r].in[k->in + i] = j.out[i];
        if (!lmoe__called_run(x, a, &segment[r]) ||
            !same_tokens(x, a, &segment[r], c, r * tokens, what))
            return false;
    }
    return true; /* what leaves the last segment may lie in another order than the whole's carry */
}

static bool in_segments(lmoe__exam *x, lmoe__arena *a, lmoe__called *c, int64_t seq)
{
    if (!lmoe__called_run(x, a, c)) return false;
    for (int n = 2; n <= MOST_SEGMENTS; n++) {
        if (!segments_agree(x, a, c, n)) return false;
    }
    return true;
}

void lmoe__ops_summary(lmoe__exam *x)
{
    static const int64_t one[] = {SEGMENT_TOKENS};
    if (!asked(x)) return;
    const lmoe_carry *k = op_of(x)->carry;
    if (!k->summary) {
        lmoe__check_skip(x, "its carry has no summary: ranks hand it on one after another");
        return;
    }
    const char *missing = !lmoe__check_op(x, k->summary)   ? k->summary
                          : !lmoe__check_op(x, k->combine) ? k->combine
                                                           : NULL;
    if (missing)
        lmoe__check_fail(x, "its carry names the op %s, which neither this file nor lmoe offers",
                         missing);
    else
        each_case(x, in_segments, one, 1);
}
