/* SPDX-License-Identifier: Apache-2.0
 * core/data/data.h: text to tokens, token files, and the rows that a step trains on.
 *
 *   tokenizer (tokenizer.c)   bytes <-> token ids
 *   tokens (tokens.c)         a token file, mapped: plain text, or a Megatron pair PREFIX.bin/.idx
 *   writer (writer.c)         makes such a pair
 *   data (data.c, batch.c)    which tokens are in row i of the run, and batches of rows
 *   cli_data.c, prepare.c, mqar.c   lmoe data prepare | peek | verify
 */
#ifndef LMOE_CORE_DATA_H
#define LMOE_CORE_DATA_H

#include "core/base/base.h"

/* ---- tokenizer ---- */

/* Takes ids as they are made; a failure ends the encoding and is passed up. */
typedef lmoe_status (*lmoe__ids_fn)(void *user, const int32_t *ids, int64_t n);

typedef struct lmoe__tokenizer lmoe__tokenizer;
struct lmoe__tokenizer {
    const char *name;
    int32_t vocab; /* ids are 0 ... vocab-1 */
    /* The ids of one document, in one or more calls of `put`. */
    lmoe_status (*encode)(const lmoe__tokenizer *t, const char *text, size_t n, lmoe__ids_fn put,
                          void *user);
    /* Bytes of text that an id stands for (0: none); `out` takes as many of them as have room. */
    size_t (*decode)(const lmoe__tokenizer *t, int32_t id, char *out, size_t room);
    const void *state;
};

/* Token = byte. Ids from 256 on have no text: a model may use them for marks such as the end of a
 * document. */
extern const lmoe__tokenizer lmoe__tokenizer_bytes;

/* The tokenizer of this name; NULL, with a sentence, if there is none. */
const lmoe__tokenizer *lmoe__tokenizer_find(lmoe_ctx *ctx, const char *name);

/* ---- token files ---- */

/* Megatron's pair (version 1). PREFIX.bin: ids, all sequences back to back. PREFIX.idx, little
 * endian, arrays not aligned:
 *   "MMIDIDX\0\0"  u64 version = 1  u8 dtype  u64 sequences  u64 documents + 1
 *   i32 length[sequences]  i64 byte offset[sequences]  i64 document[documents + 1]
 *   optionally i8 mode[sequences]: the tokens of a sequence whose mode is not 0 are read but not
 *   predicted; without modes all are predicted
 * document[k] is the first sequence of document k; the last entry is the number of sequences.
 * A text file is one document, a byte a token. */
enum { LMOE__IDX_HEADER = 34 };

typedef struct lmoe__tokens {
    char *path;     /* of the text or .bin file */
    char *idx_path; /* NULL: text */
    lmoe__map bin, idx;
    int code;      /* of the ids, as in the .idx; text: 1 (u8) */
    int64_t count; /* tokens */
    int64_t sequences, documents;
    bool modes; /* the .idx has some */
} lmoe__tokens;

/* Opens a text file, a .bin or .idx file, or the PREFIX of a pair. The whole .idx is checked; ids
 * are not (lmoe__tokens_verify). LMOE_E_CONFIG with file, field, expected and found. */
lmoe_status lmoe__tokens_open(lmoe_ctx *ctx, const char *path, lmoe__tokens *t);
void lmoe__tokens_close(lmoe__tokens *t);

/* First token of document k; k = documents gives count. */
int64_t lmoe__document_start(const lmoe__tokens *t, int64_t k);
/* The document that token i (0 <= i < count) is in. */
int64_t lmoe__document_of(const lmoe__tokens *t, int64_t i);
/* Ids of tokens first ... first+n-1, which must exist. What does not fit into 31 bits becomes -1.
 */
void lmoe__tokens_read(const lmoe__tokens *t, int64_t first, int64_t n, int32_t *ids);
/* Tokens first ... first+n-1 as labels: those that are not predicted become -1. */
void lmoe__tokens_mask(const lmoe__tokens *t, int64_t first, int64_t n, int32_t *labels);
/* One id as it is in the file. */
int64_t lmoe__token(const lmoe__tokens *t, int64_t i);
const char *lmoe__tokens_dtype(const lmoe__tokens *t); /* "u16" */

/* Reads every id: LMOE_E_CONFIG at the first that is negative or not below `vocab` (0: no limit).
 * *largest (may be NULL): the largest id, -1 without tokens. */
lmoe_status lmoe__tokens_verify(lmoe_ctx *ctx, const lmoe__tokens *t, int64_t vocab,
                                int64_t *largest);

/* Says that token i is not below vocab; LMOE_E_CONFIG. */
lmoe_status lmoe__tokens_refuse(lmoe_ctx *ctx, const lmoe__tokens *t, int64_t i, int64_t vocab);

/* ---- writing a pair ---- */

/* Writes aside; finish puts both files in place, after syncing them. Until then nothing that was
 * there is touched. ids are u16 when vocab < 65500, else i32, as Megatron writes them. */
typedef struct lmoe__tokens_writer lmoe__tokens_writer;
lmoe_status lmoe__tokens_create(lmoe_ctx *ctx, const char *prefix, int64_t vocab,
                                lmoe__tokens_writer **out);
/* More ids of the open document. LMOE_E_USAGE for an id that is not in the vocabulary. */
lmoe_status lmoe__tokens_put(lmoe__tokens_writer *w, const int32_t *ids, int64_t n);
/* What is put from now on is read but not predicted (context), or predicted, as at the beginning. */
void lmoe__tokens_context(lmoe__tokens_writer *w, bool context);
/* Ends the document; one without tokens is left out. */
void lmoe__tokens_end_document(lmoe__tokens_writer *w);
int64_t lmoe__tokens_written(const lmoe__tokens_writer *w, int64_t *documents);
/* Both free the writer. finish ends an open document. */
lmoe_status lmoe__tokens_finish(lmoe__tokens_writer *w);
void lmoe__tokens_discard(lmoe__tokens_writer *w); /* NULL is fine */

/* ---- what a run trains on and is measured with ---- */

typedef struct lmoe__data_options {
    const char *train; /* token file */
    const char
        *valid;  /* another token file, or "10 %": the last tokens of train; NULL or "": none */
    int64_t seq; /* tokens in a row */
    uint64_t seed;
    /* Order of rows. false: windows of the stream of tokens, which do not overlap within an epoch,
     * shuffled; where the first one starts differs from epoch to epoch. true: documents shuffled,
     * back to back, cut into rows; a document that does not end in a row goes on in the next one.
     */
    bool packed;
    int64_t vocab;                    /* of the model; an id that is not below it ends the run */
    const lmoe__tokenizer *tokenizer; /* to count bytes of text; NULL: not known, bytes stay 0 */
} lmoe__data_options;

/* Tokens first ... first+count-1 of a file. */
typedef struct lmoe__part {
    const lmoe__tokens *tokens;
    int64_t first, count;
} lmoe__part;

/* Documents of one epoch in shuffled order. */
typedef struct lmoe__epoch {
    int64_t number; /* -1: not made */
    int64_t *ends;  /* (documents) tokens up to and with each document */
} lmoe__epoch;

typedef struct lmoe__data {
    lmoe__tokens files[2]; /* train, valid */
    lmoe__part train, valid;
    int64_t seq, vocab, windows;
    uint64_t seed;
    bool packed;
    int64_t documents; /* that train has a token of */
    lmoe__epoch epochs[2];
    const lmoe__tokenizer *tokenizer;
} lmoe__data;

/* One data a thread. */
lmoe_status lmoe__data_open(lmoe_ctx *ctx, const lmoe__data_options *o, lmoe__data *d);
void lmoe__data_close(lmoe__data *d);

/* True if rows may hold starts of documents: then the model needs `reset` and `document`. */
bool lmoe__data_has_starts(const lmoe__data *d);
/* Rows of one pass over the training tokens; packed rows may straddle two passes. */
double lmoe__data_epoch_rows(const lmoe__data *d);
/* Windows that cover the tokens held out; 0 without any. */
int64_t lmoe__valid_windows(const lmoe__data *d);

/* The caller's buffers, each (batch seq); reset may be NULL. */
typedef struct lmoe__batch {
    int64_t batch, seq;
    int32_t *tokens;
    int32_t *labels;    /* the next token of the same document; -1: none, or not predicted */
    int32_t *positions; /* 0 ... seq-1 */
    int32_t *document;  /* position at which the token's document starts in this row */
    uint8_t *reset;     /* 1 at the first token of a document (not where one only goes on) */
    int64_t bytes;      /* filled in: bytes of text that the labels stand for */
} lmoe__batch;

/* Rows index ... index+batch-1 of the run; a row depends on (seed, its index) alone. Returns the
 * number of labels that count, or a negative status. */
int64_t lmoe__batch_fill(lmoe_ctx *ctx, lmoe__data *d, int64_t index, lmoe__batch *b);
/* The same for windows of the tokens held out, in order; what lies behind the last is padding
 * (token 0, label -1). */
int64_t lmoe__valid_fill(lmoe_ctx *ctx, lmoe__data *d, int64_t window, lmoe__batch *b);

/* ---- commands ---- */

int lmoe__cli_data(lmoe_ctx *ctx, int argc, char **argv); /* argv[0]: prepare, peek or verify */

typedef struct lmoe__prepare_options {
    char **in; /* files */
    int count;
    const char *out;    /* prefix */
    const char *format; /* "text", "jsonl"; NULL: by the ending of each file's name */
    const char *field;  /* of a line's object that holds the text */
    int64_t end;        /* id put behind each document; -1: none */
    const lmoe__tokenizer *tokenizer;
} lmoe__prepare_options;

typedef struct lmoe__prepare_result {
    int64_t documents, tokens, empty;
} lmoe__prepare_result;

lmoe_status lmoe__prepare(lmoe_ctx *ctx, const lmoe__prepare_options *o, lmoe__prepare_result *r);

/* Multi-query associative recall (mqar.c). */
typedef struct lmoe__mqar_options {
    const char *out; /* prefix */
    int64_t documents, length, pairs, vocab, seed;
} lmoe__mqar_options;

lmoe_status lmoe__mqar(lmoe_ctx *ctx, const lmoe__mqar_options *o, lmoe__prepare_result *r);

#endif
