/* SPDX-License-Identifier: Apache-2.0
 * core/data/writer.c: makes a pair of token files, aside, then in place.
 */
#include "core/data/data.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

struct lmoe__tokens_writer {
    lmoe_ctx *ctx;
    char *bin_path, *idx_path, *bin_aside, *idx_aside, *bin_old, *idx_old;
    FILE *file; /* bin_aside */
    int64_t vocab;
    int item;
    int32_t open; /* tokens of the open sequence */
    int64_t tokens;
    int32_t *lengths;
    int64_t sequences, cap_sequences;
    uint8_t *modes; /* of the sequences: 1 context, 0 predicted */
    int64_t n_modes, cap_modes;
    bool context, any_context;
    int64_t *documents; /* first sequence of each, and the end */
    int64_t indices, cap_indices;
};

static char *text_of(const char *format, const char *prefix)
{
    lmoe__text s = {0};
    lmoe__text_add(&s, format, prefix, (int)getpid());
    return s.data;
}

static lmoe_status failed(lmoe__tokens_writer *w, const char *doing, const char *path, int error)
{
    return lmoe_error(w->ctx, LMOE_E_IO, "cannot %s %s: %s; nothing was changed", doing, path,
                      strerror(error));
}

/* A new file for writing; what a killed process of our number left is written over. */
static lmoe_status create(lmoe__tokens_writer *w, const char *path, FILE **file)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    *file = fd < 0 ? NULL : fdopen(fd, "wb");
    if (*file) return LMOE_OK;
    int error = errno;
    if (fd >= 0) close(fd);
    return failed(w, "create", path, error);
}

lmoe_status lmoe__tokens_create(lmoe_ctx *ctx, const char *prefix, int64_t vocab,
                                lmoe__tokens_writer **out)
{
    *out = NULL;
    if (vocab < 1 || vocab > INT32_MAX)
        return lmoe_error(ctx, LMOE_E_CONFIG, "a vocabulary has 1 to 2147483647 tokens; found %lld",
                          (long long)vocab);
    lmoe__tokens_writer *w = lmoe__malloc(sizeof *w);
    *w = (lmoe__tokens_writer){.ctx = ctx, .vocab = vocab, .item = vocab < 65500 ? 2 : 4};
    w->bin_path = text_of("%s.bin", prefix);
    w->idx_path = text_of("%s.idx", prefix);
    w->bin_aside = text_of("%s.bin.%d.tmp", prefix);
    w->idx_aside = text_of("%s.idx.%d.tmp", prefix);
    w->bin_old = text_of("%s.bin.%d.old", prefix);
    w->idx_old = text_of("%s.idx.%d.old", prefix);
    LMOE_PUSH(w->documents, w->indices, w->cap_indices, 0);
    lmoe_status status = create(w, w->bin_aside, &w->file);
    if (status != LMOE_OK) {
        lmoe__tokens_discard(w);
        return status;
    }
    *out = w;
    return LMOE_OK;
}

/* Lengths have 31 bits: a longer document is several sequences. */
static void end_sequence(lmoe__tokens_writer *w)
{
    if (w->open == 0) return;
    LMOE_PUSH(w->lengths, w->sequences, w->cap_sequences, w->open);
    LMOE_PUSH(w->modes, w->n_modes, w->cap_modes, w->context);
    w->any_context |= w->context;
    w->open = 0;
}

void lmoe__tokens_context(lmoe__tokens_writer *w, bool context)
{
    if (context != w->context) end_sequence(w);
    w->context = context;
}

lmoe_status lmoe__tokens_put(lmoe__tokens_writer *w, const int32_t *ids, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= w->vocab)
            return lmoe_error(w->ctx, LMOE_E_USAGE, "token %lld is %d; expected 0 to %lld",
                              (long long)(w->tokens + i), (int)ids[i], (long long)w->vocab - 1);
    }
    while (n > 0) {
        uint16_t small[4096];
        int64_t piece = n < 4096 ? n : 4096;
        if (w->open > INT32_MAX - piece) end_sequence(w);
        for (int64_t i = 0; i < piece; i++) small[i] = (uint16_t)ids[i];
        const void *data = w->item == 2 ? (const void *)small : ids;
        if (fwrite(data, (size_t)w->item, (size_t)piece, w->file) != (size_t)piece)
            return failed(w, "write", w->bin_path, errno);
        w->open += (int32_t)piece;
        w->tokens += piece;
        ids += piece;
        n -= piece;
    }
    return LMOE_OK;
}

void lmoe__tokens_end_document(lmoe__tokens_writer *w)
{
    end_sequence(w);
    if (w->sequences == w->documents[w->indices - 1]) return;
    LMOE_PUSH(w->documents, w->indices, w->cap_indices, w->sequences);
}

int64_t lmoe__tokens_written(const lmoe__tokens_writer *w, int64_t *documents)
{
    if (documents) *documents = w->indices - 1;
    return w->tokens;
}

static void put(FILE *f, const void *data, size_t n)
{
    fwrite(data, 1, n, f); /* its failure stays in the stream's error flag */
}

static void write_idx(const lmoe__tokens_writer *w, FILE *f)
{
    uint64_t head[2] = {(uint64_t)w->sequences, (uint64_t)w->indices}, version = 1;
    unsigned char code = w->item == 2 ? 8 : 4;
    put(f, "MMIDIDX\0\0", 9);
    put(f, &version, 8);
    put(f, &code, 1);
    put(f, head, 16);
    put(f, w->lengths, sizeof *w->lengths * (size_t)w->sequences);
    int64_t offset = 0;
    for (int64_t s = 0; s < w->sequences; s++) {
        put(f, &offset, 8);
        offset += (int64_t)w->lengths[s] * w->item;
    }
    put(f, w->documents, sizeof *w->documents * (size_t)w->indices);
    if (w->any_context) put(f, w->modes, (size_t)w->n_modes);
}

/* 0, or what errno should say. The stream is closed in any case. */
static int close_synced(FILE **file)
{
    int error = 0;
    errno = 0;
    if (fflush(*file) != 0 || ferror(*file) || fsync(fileno(*file)) != 0)
        error = errno ? errno : EIO;
    if (fclose(*file) != 0 && !error) error = errno;
    *file = NULL;
    return error;
}

/* What is there moves away first, the .idx before its .bin: no moment shows the index of other
 * tokens. If a step fails, the steps before it are undone. */
static lmoe_status put_in_place(lmoe__tokens_writer *w)
{
    const char *moves[4][2] = {{w->idx_path, w->idx_old},
                               {w->bin_path, w->bin_old},
                               {w->bin_aside, w->bin_path},
                               {w->idx_aside, w->idx_path}};
    bool done[4] = {false};
    for (int i = 0; i < 4; i++) {
        done[i] = rename(moves[i][0], moves[i][1]) == 0;
        if (done[i] || (i < 2 && errno == ENOENT)) continue;
        int error = errno;
        while (i-- > 0) {
            if (done[i]) rename(moves[i][1], moves[i][0]);
        }
        return failed(w, "write", w->bin_path, error);
    }
    unlink(w->idx_old);
    unlink(w->bin_old);
    if (lmoe__sync_folder(w->idx_path) == 0) return LMOE_OK;
    return lmoe_error(w->ctx, LMOE_E_IO, "cannot sync the folder of %s: %s", w->idx_path,
                      strerror(errno));
}

static lmoe_status finish(lmoe__tokens_writer *w)
{
    FILE *idx;
    lmoe__tokens_end_document(w);
    int error = close_synced(&w->file);
    if (error) return failed(w, "write", w->bin_path, error);
    LMOE_TRY(create(w, w->idx_aside, &idx));
    write_idx(w, idx);
    error = close_synced(&idx);
    if (error) return failed(w, "write", w->idx_path, error);
    return put_in_place(w);
}

lmoe_status lmoe__tokens_finish(lmoe__tokens_writer *w)
{
    lmoe_status status = finish(w);
    lmoe__tokens_discard(w);
    return status;
}

void lmoe__tokens_discard(lmoe__tokens_writer *w)
{
    if (!w) return;
    if (w->file) fclose(w->file);
    unlink(w->bin_aside); /* not there any more if it was put in place */
    unlink(w->idx_aside);
    free(w->bin_path);
    free(w->idx_path);
    free(w->bin_aside);
    free(w->idx_aside);
    free(w->bin_old);
    free(w->idx_old);
    free(w->lengths);
    free(w->modes);
    free(w->documents);
    free(w);
}
