/* SPDX-License-Identifier: Apache-2.0
 * core/check/lab.h: a layer, or the experts behind a router, alone on a device: what checks of such
 * classes are made of.
 *
 *   form   a class with sizes and options that it takes: small ones, found by trying; form 0 has the
 *          defaults of its table, the others have flags and choices drawn by chance
 *   lab    an engine on a form: programs of several lengths over the same weights and carries
 *   sheet  the tokens of one run in host memory, and what came of them; all numbers are doubles
 */
#ifndef LMOE_CORE_LAB_H
#define LMOE_CORE_LAB_H

#include "core/check/check.h"
#include "core/engine/engine.h"

enum {
    LMOE__LAB_LAYERS = 2
}; /* layers of a form's model; the second may read what the first gives */

typedef struct lmoe__form {
    lmoe__model model; /* memory is the exam's */
    const char *text;  /* "embed 16, heads = 2": for messages */
} lmoe__form;

/* The class of the exam; number: 0 for its defaults. False: there is no such form; for number 0 the
 * check has failed. */
bool lmoe__form_make(lmoe__exam *x, int number, lmoe__form *f);

/* ---- sheets ---- */

typedef struct lmoe__sheet {
    int64_t batch, seq, embed;
    double *x, *dy;                                 /* (batch seq embed) */
    int32_t *tokens, *positions, *document, *noise; /* (batch seq) */
    uint8_t *reset, *skip;                          /* (batch seq) */
    double *y, *dx;                                 /* (batch seq embed), results */
} lmoe__sheet;

/* One document a row, positions 0 ..., nothing skipped; x and dy are normal numbers times scale. */
lmoe__sheet lmoe__sheet_new(lmoe__exam *x, const lmoe__form *f, int64_t batch, int64_t seq,
                            uint64_t seed, double scale);
/* Tokens at ... at+n-1 of each row, as they are. */
lmoe__sheet lmoe__sheet_cut(lmoe__exam *x, const lmoe__sheet *s, int64_t at, int64_t n);
/* A document of the row starts at token `at` and goes on to the next one's start. */
void lmoe__sheet_start(lmoe__sheet *s, int64_t row, int64_t at);

/* ---- labs ---- */

enum {
    LMOE__LAB_REFERENCES = 1, /* the references of all ops, no kernels */
    LMOE__LAB_EAGER = 2,      /* the first result that is not finite ends a run */
    LMOE__LAB_ONE = 4         /* one layer instead of two in a row */
};

typedef struct lmoe__lab {
    lmoe__exam *x;
    const lmoe__form *form;
    lmoe_device device; /* without kernels, if asked for */
    lmoe__engine e;
    lmoe_dtype dtype;
    int layers;
    bool open;
} lmoe__lab;

enum {
    LMOE__RUN_GRADIENTS = 1,
    LMOE__RUN_RESETS = 2,
    LMOE__RUN_SKIPS = 4,
    LMOE__RUN_CARRIES = 8,
    LMOE__RUN_RECOMPUTE = 16 /* the backward pass makes all of the forward pass again */
};

/* mesh: NULL for one rank. False: the check has failed. */
bool lmoe__lab_open_at(lmoe__lab *l, lmoe__exam *x, const lmoe__form *f, lmoe_dtype dtype,
                       int flags, const lmoe__mesh *mesh);
bool lmoe__lab_open(lmoe__lab *l, lmoe__exam *x, const lmoe__form *f, lmoe_dtype dtype, int flags);
/* Programs of one lab have the same batch; at most one has gradients. context: with carries, the
 * tokens that the whole text has. NULL: failed. */
lmoe__program *lmoe__lab_program(lmoe__lab *l, int64_t batch, int64_t seq, int flags,
                                 int64_t context);

/* Weights: initial values plus normal numbers times spread, rounded to a dtype. */
typedef struct lmoe__lab_weights {
    uint64_t seed;
    double spread; /* below 0: drawn for each weight, up to -spread */
    lmoe_dtype round;
} lmoe__lab_weights;

/* After the programs are made. */
bool lmoe__lab_bind(lmoe__lab *l, const lmoe__lab_weights *w);
/* Runs p on the sheet and reads y, and dx if the program has it. */
bool lmoe__lab_run(lmoe__lab *l, lmoe__program *p, lmoe__sheet *s);
/* The same, with the status of the run instead of a failure of the check. */
lmoe_status lmoe__lab_try(lmoe__lab *l, lmoe__program *p, lmoe__sheet *s);
/* All values of a named buffer, in the exam's memory; *n their number. NULL if there is none. */
double *lmoe__lab_read(lmoe__lab *l, const char *name, int64_t *n);
double *lmoe__lab_grad(lmoe__lab *l, int weight, int64_t *n);
/* Writes this rank's part of a weight's values. */
bool lmoe__lab_write(lmoe__lab *l, int weight, const double *values);
/* This rank's part of values that lie as the weight does, into `part`; returns how many. */
int64_t lmoe__lab_part(const lmoe__lab *l, int weight, const double *values, double *part);
void lmoe__lab_close(lmoe__lab *l);

/* ---- comparing ---- */

/* norm of a - b / norm of b; infinite if anything is not finite. */
double lmoe__apart(const double *a, const double *b, int64_t n);
double lmoe__norm(const double *a, int64_t n);
/* Index of the first number that is not finite, -1 if all are. */
int64_t lmoe__not_finite(const double *a, int64_t n);
/* Index of the first difference in any bit, -1 if there is none. */
int64_t lmoe__first_difference(const double *a, const double *b, int64_t n);
double lmoe__rounded(double x, lmoe_dtype dtype);
const char *lmoe__dtype_word(lmoe_dtype dtype);

#endif
