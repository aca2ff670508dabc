/* SPDX-License-Identifier: Apache-2.0
 * core/bench/bench.h: the tool that tests each kernel against its op's reference and times it.
 *
 *   trial (trial.c)    one legal call of an op, drawn from its sampler: shapes and input values
 *   run (run.c)        executes a trial once, by the reference or by a kernel of a device, in one
 *                      block of memory with guards around every tensor
 *   check (check.c)    runs a kernel in all the ways it may be called and compares
 *   time (time.c)      median seconds of a launch
 *   experts.c          a mixture of experts against plain products
 *   scans.c            recurrences against plain products, and along seq
 *   cli_bench.c        lmoe bench
 */
#ifndef LMOE_CORE_BENCH_H
#define LMOE_CORE_BENCH_H

#include <lmoe/device.h>

#include "core/op/op.h"

/* ---- trial ---- */

typedef struct lmoe__trial {
    const lmoe_op *op;
    lmoe_case c;
    int n_in, n_out;                             /* ports of the op */
    lmoe_desc in[LMOE_MAX_IO], out[LMOE_MAX_IO]; /* in the dtype under test; LMOE_NONE: absent */
    lmoe_desc wide[LMOE_MAX_IO];                 /* outputs when the float inputs are f64 */
    double *value[LMOE_MAX_IO];                  /* of the inputs, rounded to their dtype */
    uint64_t variation;                          /* other values; 0: those of the sampler's cases */
} lmoe__trial;

/* Makes trial number `index` of the op, its float inputs in `dtype`. *more = false if there is no
 * such case. Fails with the shape function's message if the op refuses its own sample. */
lmoe_status lmoe__trial_sample(lmoe_ctx *ctx, const lmoe_op *op, int index, lmoe_dtype dtype,
                               lmoe__trial *t, bool *more);
/* The same from a case at hand. */
lmoe_status lmoe__trial_init(lmoe_ctx *ctx, const lmoe_op *op, const lmoe_case *c, lmoe_dtype dtype,
                             lmoe__trial *t);
/* Variation number `index` of a random case of the op: another length along seq, other values. */
lmoe_status lmoe__trial_vary(lmoe_ctx *ctx, const lmoe_op *op, int index, lmoe_dtype dtype,
                             lmoe__trial *t);
void lmoe__trial_free(lmoe__trial *t);
/* "(2 63 31), (31 17)" into buf; returned. */
const char *lmoe__trial_text(char *buf, size_t n, const lmoe__trial *t);
double lmoe__trial_bytes(const lmoe__trial *t); /* each tensor once */
double lmoe__trial_flops(const lmoe__trial *t);

/* ---- run ---- */

typedef struct lmoe__bench_device {
    const lmoe_device *device; /* NULL: host memory, for references */
    void *dev;
} lmoe__bench_device;

/* A call laid out in memory; see run.c. */
typedef struct lmoe__run {
    const lmoe__trial *trial;
    const lmoe_kernel *kernel; /* NULL: the reference, in host memory */
    lmoe__bench_device on;
    int inplace;                    /* output that lies over its input; -1: none */
    size_t bytes;                   /* of the block */
    unsigned char *before;          /* contents before a launch */
    unsigned char *after;           /* and after it, on the host */
    unsigned char *block;           /* where it works: memory of the device, or `after` */
    size_t at[2 * LMOE_MAX_IO + 1]; /* inputs, outputs, workspace */
    lmoe_buf buf[2 * LMOE_MAX_IO];  /* inputs, then outputs; data: in `block` */
    lmoe_args args;
} lmoe__run;

/* Lays out and prepares a call. wide: float inputs in f64. dropped: output that nobody reads,
 * inplace: output written over the input that the op allows; -1: none. Free it even if it fails. */
lmoe_status lmoe__run_new(lmoe_ctx *ctx, const lmoe__trial *t, const lmoe_kernel *kernel,
                          lmoe__bench_device on, bool wide, int dropped, int inplace, lmoe__run *r);
/* Moves every float input of a wide run up or down by this part of itself, as rounding would;
 * which way, a draw says. */
void lmoe__run_nudge(lmoe__run *r, double relative, uint64_t draw);
/* Fresh contents (inputs; NaN in outputs and workspace), one launch, contents back. */
lmoe_status lmoe__run_once(lmoe__run *r);
lmoe_status lmoe__run_launch(lmoe__run *r);
void lmoe__run_free(lmoe__run *r);
/* Tensor i (inputs, then outputs) after the launch, on the host. */
lmoe_buf lmoe__run_buf(const lmoe__run *r, int i);
/* A sentence about memory that the launch must not have touched, or NULL. */
const char *lmoe__run_damage(const lmoe__run *r, char *text, size_t n);
/* ---- check and time ---- */

typedef struct lmoe__bench {
    lmoe_ctx *ctx; /* its team is the many threads of the comparison "one or many" */
    lmoe__bench_device on;
    const lmoe_kernel *const *kernels; /* to be tested; ends with NULL */
    lmoe_dtype dtype;
    bool large; /* checks take the cases made for timing too */
    bool all;   /* times every kernel, not only the one that would be chosen */
    int vary;   /* so many variations of its cases are checked, too */
    FILE *out;  /* reports; NULL: none */
    int passed, failed;
} lmoe__bench;

/* Kernels that take the trial, the best first; returns how many. */
int lmoe__bench_kernels(const lmoe__bench *b, const lmoe__trial *t, const lmoe_kernel **list,
                        int max);
/* Every case of the op with the reference and every kernel that takes it. What fails
 * is counted and reported; a status says that the tool itself could not go on. */
lmoe_status lmoe__bench_op(lmoe__bench *b, const lmoe_op *op);
/* The op's cases that are worth timing. */
lmoe_status lmoe__bench_time(lmoe__bench *b, const lmoe_op *op);
/* Matrix products through einsum/1; m, n, k: one shape, or 0: a list. Checked by samples of the
 * result. */
lmoe_status lmoe__bench_gemm(lmoe__bench *b, int64_t m, int64_t n, int64_t k);
/* A mixture of experts; every number above 0. skew: Zipf's exponent of the second measurement. */
typedef struct lmoe__experts_options {
    int64_t tokens, experts, top_k, embed, hidden, repeats;
    double skew;
} lmoe__experts_options;
lmoe_status lmoe__bench_experts(lmoe__bench *b, const lmoe__experts_options *o);
/* The recurrences' share of the rate of matrix products at length seq, and how their time grows from
 * there to long_seq. */
lmoe_status lmoe__bench_scans(lmoe__bench *b, int64_t seq, int64_t long_seq);
/* lmoe bench ...: argv[0] is "bench". Returns the exit code. */
int lmoe__cli_bench(lmoe_ctx *ctx, int argc, char **argv);

#endif
