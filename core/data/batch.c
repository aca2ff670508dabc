/* SPDX-License-Identifier: Apache-2.0
 * core/data/batch.c: which tokens are in row i of a run, and batches of rows.
 *
 * Windows (n tokens to train on, W of them an epoch, W = max(1, n / seq - 1)):
 *   row i = tokens p ... p+seq-1, labels p+1 ... p+seq
 *   epoch e = i / W, p = phase(e) + seq * permutation of epoch e (i mod W)
 *   0 <= phase(e) < min(seq, n - W seq), so that the last label is a token to train on
 * Packed: the documents of epoch 0 in shuffled order, then those of epoch 1, ... are one stream;
 *   row i = tokens i seq ... i seq + seq - 1 of it.
 * permutation and phase are functions of (seed, epoch): nothing has to be remembered between rows.
 */
#include "core/data/data.h"

/* Tokens of one document, from where a row goes on to where the document (or the part) ends. */
typedef struct run {
    const lmoe__tokens *tokens;
    int64_t first, end;
    bool starts; /* with the document's first token */
} run;

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- the stream of tokens as it is in the file ---- */

static run stream_run(const lmoe__part *part, int64_t at)
{
    const lmoe__tokens *t = part->tokens;
    int64_t k = lmoe__document_of(t, at);
    int64_t end = smaller(lmoe__document_start(t, k + 1), part->first + part->count);
    return (run){t, at, end, at == lmoe__document_start(t, k)};
}

static int64_t window_start(const lmoe__data *d, int64_t index)
{
    static const char order[] = "data window order", shift[] = "data window phase";
    int64_t epoch = index / d->windows;
    int64_t phases = smaller(d->seq, d->train.count - d->windows * d->seq);
    uint64_t window = lmoe__permute(d->seed, lmoe__hash_text(order) + (uint64_t)epoch,
                                    (uint64_t)(index % d->windows), (uint64_t)d->windows);
    uint64_t phase =
        lmoe__below(d->seed, lmoe__hash_text(shift), (uint64_t)epoch, (uint64_t)phases);
    return (int64_t)phase + (int64_t)window * d->seq;
}

/* ---- the stream of shuffled documents ---- */

static int64_t document_at(const lmoe__data *d, int64_t epoch, int64_t i)
{
    return (int64_t)lmoe__permute(d->seed, lmoe__hash_text("data document order") + (uint64_t)epoch,
                                  (uint64_t)i, (uint64_t)d->documents);
}

/* Two epochs are kept: a row may straddle them. */
static const int64_t *epoch_ends(lmoe__data *d, int64_t epoch)
{
    lmoe__epoch *e = &d->epochs[epoch & 1];
    if (e->number == epoch) return e->ends;
    int64_t end = 0;
    for (int64_t i = 0; i < d->documents; i++) {
        int64_t k = document_at(d, epoch, i);
        end += smaller(lmoe__document_start(d->train.tokens, k + 1), d->train.count) -
               lmoe__document_start(d->train.tokens, k);
        e->ends[i] = end;
    }
    e->number = epoch;
    return e->ends;
}

static run shuffled_run(lmoe__data *d, int64_t at)
{
    int64_t epoch = at / d->train.count, offset = at % d->train.count;
    const int64_t *ends = epoch_ends(d, epoch);
    int64_t low = 0, high = d->documents - 1; /* the first with ends > offset */
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (ends[middle] > offset) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    int64_t before = low ? ends[low - 1] : 0;
    int64_t start = lmoe__document_start(d->train.tokens, document_at(d, epoch, low));
    return (run){d->train.tokens, start + offset - before, start + ends[low] - before,
                 offset == before};
}

/* ---- rows ---- */

/* Tokens at ... at+n-1 of a row of the batch, from a run that has so many. Returns how many labels
 * count, or a negative status. */
static int64_t put_run(lmoe_ctx *ctx, const lmoe__data *d, lmoe__batch *b, int64_t row, int64_t at,
                       const run *r, int64_t n)
{
    int32_t *tokens = b->tokens + row * b->seq + at, *labels = b->labels + row * b->seq + at;
    lmoe__tokens_read(r->tokens, r->first, n, tokens);
    memcpy(labels, tokens + 1, sizeof *labels * (size_t)(n - 1));
    bool more = r->first + n < r->end;
    labels[n - 1] = -1;
    if (more) lmoe__tokens_read(r->tokens, r->first + n, 1, &labels[n - 1]);
    for (int64_t i = 0; i < n + more; i++) {
        int32_t id = i < n ? tokens[i] : labels[n - 1];
        if (id < 0 || id >= d->vocab)
            return lmoe__tokens_refuse(ctx, r->tokens, r->first + i, d->vocab);
    }
    lmoe__tokens_mask(r->tokens, r->first + 1, n - !more, labels);
    for (int64_t i = 0; i < n; i++) {
        b->positions[row * b->seq + at + i] = (int32_t)(at + i);
        b->document[row * b->seq + at + i] = (int32_t)at;
        if (b->reset) b->reset[row * b->seq + at + i] = i == 0 && r->starts;
    }
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        if (labels[i] < 0) continue;
        count++;
        if (d->tokenizer)
            b->bytes += (int64_t)d->tokenizer->decode(d->tokenizer, labels[i], NULL, 0);
    }
    return count;
}

/* Goes on with the last document, so that nothing begins in the padding. */
static void put_padding(lmoe__batch *b, int64_t row, int64_t at)
{
    int64_t base = row * b->seq;
    int32_t document = at ? b->document[base + at - 1] : 0;
    for (int64_t i = at; i < b->seq; i++) {
        b->tokens[base + i] = 0;
        b->labels[base + i] = -1;
        b->positions[base + i] = (int32_t)i;
        b->document[base + i] = document;
        if (b->reset) b->reset[base + i] = 0;
    }
}

static lmoe_status begin(lmoe_ctx *ctx, const lmoe__data *d, const lmoe__part *part, int64_t index,
                         lmoe__batch *b)
{
    b->bytes = 0;
    if (index < 0 || b->seq != d->seq || part->count == 0)
        return lmoe_error(
            ctx, LMOE_E_USAGE,
            "a batch of rows of %lld tokens from index %lld, of data with %lld tokens "
            "in rows of %lld",
            (long long)b->seq, (long long)index, (long long)part->count, (long long)d->seq);
    LMOE_TRY(lmoe__map_check(ctx, part->tokens->path, &part->tokens->bin));
    if (part->tokens->idx_path)
        LMOE_TRY(lmoe__map_check(ctx, part->tokens->idx_path, &part->tokens->idx));
    return LMOE_OK;
}

int64_t lmoe__batch_fill(lmoe_ctx *ctx, lmoe__data *d, int64_t index, lmoe__batch *b)
{
    int64_t count = 0;
    LMOE_TRY(begin(ctx, d, &d->train, index, b));
    for (int64_t row = 0; row < b->batch; row++) {
        int64_t start = d->packed ? (index + row) * d->seq : window_start(d, index + row);
        for (int64_t at = 0; at < d->seq;) {
            run r = d->packed ? shuffled_run(d, start + at) : stream_run(&d->train, start + at);
            int64_t n = smaller(d->seq - at, r.end - r.first);
            int64_t labels = put_run(ctx, d, b, row, at, &r, n);
            if (labels < 0) return labels;
            count += labels;
            at += n;
        }
    }
    return count;
}

int64_t lmoe__valid_fill(lmoe_ctx *ctx, lmoe__data *d, int64_t window, lmoe__batch *b)
{
    const lmoe__part *part = &d->valid;
    int64_t count = 0;
    LMOE_TRY(begin(ctx, d, part, window, b));
    for (int64_t row = 0; row < b->batch; row++) {
        /* the last token is a label only, unless a window happens to end with it */
        int64_t start = (window + row) * d->seq;
        int64_t have =
            window + row < lmoe__valid_windows(d) ? smaller(d->seq, part->count - start) : 0;
        int64_t at = 0;
        while (at < have) {
            run r = stream_run(part, part->first + start + at);
            int64_t n = smaller(have - at, r.end - r.first);
            int64_t labels = put_run(ctx, d, b, row, at, &r, n);
            if (labels < 0) return labels;
            count += labels;
            at += n;
        }
        put_padding(b, row, at);
    }
    return count;
}
