/* SPDX-License-Identifier: Apache-2.0
 * core/data/data.c: opens what a run trains on, and holds tokens out for validation.
 */
#include "core/data/data.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>

/* "10 %", "0.5%" -> true and the fraction; other texts are names of files. */
static bool read_percent(const char *text, double *percent)
{
    char *end;
    *percent = strtod(text, &end);
    if (end == text) return false;
    while (isspace((unsigned char)*end)) end++;
    if (*end++ != '%') return false;
    while (isspace((unsigned char)*end)) end++;
    return *end == '\0';
}

/* The last tokens of train become valid, and train ends before them. */
static lmoe_status hold_out(lmoe_ctx *ctx, const char *text, double percent, lmoe__data *d)
{
    if (!(percent > 0 && percent < 100))
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "[data] valid = %s: expected a share above 0 %% and below 100 %%", text);
    int64_t held = (int64_t)floor((double)d->train.count * percent / 100);
    if (held < 2)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "[data] valid = %s: of the %lld tokens of %s that is %lld, and a "
                          "prediction needs 2; hold out more, or name another file",
                          text, (long long)d->train.count, d->files[0].path, (long long)held);
    d->train.count -= held;
    d->valid = (lmoe__part){&d->files[0], d->train.count, held};
    return LMOE_OK;
}

static lmoe_status open_valid(lmoe_ctx *ctx, const char *valid, lmoe__data *d)
{
    double percent;
    if (!valid || !*valid) return LMOE_OK;
    if (read_percent(valid, &percent)) return hold_out(ctx, valid, percent, d);
    LMOE_TRY(lmoe__tokens_open(ctx, valid, &d->files[1]));
    d->valid = (lmoe__part){&d->files[1], 0, d->files[1].count};
    if (d->valid.count >= 2) return LMOE_OK;
    return lmoe_error(ctx, LMOE_E_CONFIG,
                      "%s holds %lld tokens; a prediction needs 2: take a longer text", valid,
                      (long long)d->valid.count);
}

static lmoe_status open_all(lmoe_ctx *ctx, const lmoe__data_options *o, lmoe__data *d)
{
    if (o->seq < 1 || o->vocab < 1)
        return lmoe_error(ctx, LMOE_E_CONFIG, "seq is %lld and vocab_size is %lld; both start at 1",
                          (long long)o->seq, (long long)o->vocab);
    LMOE_TRY(lmoe__tokens_open(ctx, o->train, &d->files[0]));
    d->train = (lmoe__part){&d->files[0], 0, d->files[0].count};
    LMOE_TRY(open_valid(ctx, o->valid, d));

    /* a window needs the token behind it as its last label, and up to seq-1 tokens before the first
     * window are passed over */
    int64_t n = d->train.count;
    if (n <= o->seq)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "%s has %lld tokens to train on; a row of seq = %lld needs %lld: take a "
                          "longer text or a shorter seq",
                          d->files[0].path, (long long)n, (long long)o->seq, (long long)o->seq + 1);
    d->windows = n / o->seq > 1 ? n / o->seq - 1 : 1;
    d->documents = lmoe__document_of(d->train.tokens, n - 1) + 1;
    for (int i = 0; d->packed && i < 2; i++)
        d->epochs[i].ends = lmoe__malloc(sizeof *d->epochs[i].ends * (size_t)d->documents);
    return LMOE_OK;
}

lmoe_status lmoe__data_open(lmoe_ctx *ctx, const lmoe__data_options *o, lmoe__data *d)
{
    *d = (lmoe__data){.seq = o->seq,
                      .vocab = o->vocab,
                      .seed = o->seed,
                      .packed = o->packed,
                      .tokenizer = o->tokenizer,
                      .epochs = {{.number = -1}, {.number = -1}}};
    for (int i = 0; i < 2; i++) d->files[i] = (lmoe__tokens){.bin.fd = -1, .idx.fd = -1};
    lmoe_status status = open_all(ctx, o, d);
    if (status != LMOE_OK) lmoe__data_close(d);
    return status;
}

void lmoe__data_close(lmoe__data *d)
{
    for (int i = 0; i < 2; i++) {
        lmoe__tokens_close(&d->files[i]);
        free(d->epochs[i].ends);
        d->epochs[i] = (lmoe__epoch){.number = -1};
    }
}

bool lmoe__data_has_starts(const lmoe__data *d)
{
    return d->packed || d->documents > 1 || (d->valid.count && d->valid.tokens->documents > 1);
}

double lmoe__data_epoch_rows(const lmoe__data *d)
{
    return d->packed ? (double)d->train.count / (double)d->seq : (double)d->windows;
}

int64_t lmoe__valid_windows(const lmoe__data *d)
{
    return d->valid.count ? (d->valid.count - 2) / d->seq + 1 : 0;
}
