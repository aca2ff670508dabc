/* SPDX-License-Identifier: Apache-2.0
 * core/bench/scans.c: lmoe bench scans: the recurrences, forward and backward, against the matrix
 * product of the same process, and their time along seq.
 *
 * Multiplications and additions for each token and head, with keys of K and values of V channels, as
 * chunks of C = 64 tokens need them when each chunk is a few matrix products:
 *
 *   scan_diag     forward 2 C (K + V) + 4 K V                 backward 6 C K + 4 C V + 8 K V
 *   scan_delta    forward 6 K V + 4 C (K + V) + 2 C^2 / 3     backward 16 K V + 16 C K + 10 C V + 4 C^2
 *   with b        forward 8 K V + 8 C (K + V)                 backward 2.7 times as many
 *
 * A kernel may need fewer. Beside it stands the share of what the recurrence itself says (the op's own
 * count), which no kernel can do without. Runs take turns and the shortest of each counts, and with one
 * thread of the host's processor it is the processor's time that counts: so what else the machine does
 * matters little.
 */
#include "core/bench/bench.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

enum { PRODUCT, FORWARD, BACKWARD, RUNS, SIDE = 2048 };

typedef struct timed_run {
    lmoe__trial trial;
    lmoe__run run;
    double best; /* seconds */
} timed_run;

typedef struct scans_bench {
    lmoe__bench *b;
    bool processor; /* its time, not that of the clock */
    timed_run runs[RUNS];
} scans_bench;

static void resize(lmoe_case *c, const char *axis, int64_t size)
{
    for (int i = 0; i < c->n_in; i++) {
        for (int k = 0; k < c->in[i].rank; k++) {
            if (strcmp(c->in[i].axis[k], axis) == 0) c->in[i].dim[k] = size;
        }
    }
}

static void make_product(lmoe_case *c)
{
    static const lmoe_einsum_attrs o = {"m k, k n -> m n"};
    static const int64_t size[2] = {SIDE, SIDE};
    *c = (lmoe_case){.size = sizeof *c};
    memcpy(c->attrs.bytes, &o, sizeof o);
    lmoe__case_input(c, 0, LMOE_F32, "a c", size, LMOE_FILL_NORMAL, 0, 1);
    lmoe__case_input(c, 1, LMOE_F32, "c b", size, LMOE_FILL_NORMAL, 0, 1);
}

/* Case `index` of the op at another length; alone: of one sequence. */
static bool make_case(const lmoe_op *op, int index, int64_t seq, bool alone, lmoe_case *c)
{
    *c = (lmoe_case){.size = sizeof *c};
    if (!op->sample(index, c)) return false;
    resize(c, "seq", seq);
    if (alone) resize(c, "batch", 1);
    return true;
}

static lmoe_status start(scans_bench *s, int which, const lmoe_op *op, const lmoe_case *c)
{
    timed_run *r = &s->runs[which];
    const lmoe_kernel *kernel = NULL;
    *r = (timed_run){.best = INFINITY};
    LMOE_TRY(lmoe__trial_init(s->b->ctx, op, c, s->b->dtype, &r->trial));
    if (lmoe__bench_kernels(s->b, &r->trial, &kernel, 1) == 0)
        return lmoe_error(s->b->ctx, LMOE_E_UNSUPPORTED, "%s has no kernel of %s for this case",
                          s->b->on.device->base.name, op->base.name);
    LMOE_TRY(lmoe__run_new(s->b->ctx, &r->trial, kernel, s->b->on, false, -1, -1, &r->run));
    return lmoe__run_once(&r->run);
}

static void stop(scans_bench *s, int which)
{
    lmoe__run_free(&s->runs[which].run);
    lmoe__trial_free(&s->runs[which].trial);
    memset(&s->runs[which], 0, sizeof s->runs[which]);
}

static double now(const scans_bench *s)
{
    struct timespec t;
    if (!s->processor) return lmoe__now();
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static lmoe_status time_once(const scans_bench *s, timed_run *r)
{
    double begin = now(s);
    LMOE_TRY(lmoe__run_launch(&r->run));
    LMOE_TRY(s->b->on.device->synchronize(s->b->on.dev));
    r->best = fmin(r->best, now(s) - begin);
    return LMOE_OK;
}

static lmoe_status take_turns(scans_bench *s, int repeats)
{
    fflush(s->b->out);
    for (int i = 0; i < repeats; i++) {
        for (int k = 0; k < RUNS; k++)
            if (s->runs[k].run.kernel) LMOE_TRY(time_once(s, &s->runs[k]));
    }
    return LMOE_OK;
}

/* As chunks of 64 tokens; 0 for an op that is not made of matrix products. */
static double chunk_flops(const lmoe__trial *t)
{
    const double c = 64;
    const lmoe_desc *q = &t->in[1], *v = &t->in[2];
    if (strncmp(t->op->base.name, "scan_d", 6) != 0) return 0;
    double k = (double)q->dim[q->rank - 1], w = (double)v->dim[v->rank - 1];
    double heads = (double)lmoe_desc_count(q) / k;
    if (strncmp(t->op->base.name, "scan_diag", 9) == 0)
        return heads * (2 * c * (k + w) + 4 * k * w + 6 * c * k + 4 * c * w + 8 * k * w);
    if (t->in[4].dtype != LMOE_NONE) return heads * 3.7 * (8 * k * w + 8 * c * (k + w));
    return heads * (6 * k * w + 4 * c * (k + w) + 2 * c * c / 3 + 16 * k * w + 16 * c * k +
                    10 * c * w + 4 * c * c);
}

/* "by token; 8 heads of 64" */
static const char *describe(char *text, size_t n, const lmoe__trial *t)
{
    static const char *const by[] = {"none", "by head", "", "by token", "by channel"};
    const lmoe_desc *q = &t->in[0];
    bool heads = q->rank == 4, delta = strncmp(t->op->base.name, "scan_delta", 10) == 0;
    const lmoe_desc *decay = &t->in[delta ? 5 : 3];
    if (heads && strncmp(t->op->base.name, "scan_d", 6) == 0)
        snprintf(text, n, "decay %s%s, %lld x %lld tokens, %lld heads of %lld",
                 by[decay->dtype == LMOE_NONE ? 0 : decay->rank],
                 delta && t->in[4].dtype != LMOE_NONE ? " and b" : "", (long long)q->dim[0],
                 (long long)q->dim[1], (long long)q->dim[2], (long long)q->dim[3]);
    else
        lmoe__trial_text(text, n, t);
    return text;
}

static lmoe_status one_share(scans_bench *s, const lmoe_op *op, const lmoe_op *grad, int index,
                             int64_t seq)
{
    lmoe_case forward, backward;
    char text[256];
    timed_run *f = &s->runs[FORWARD], *g = &s->runs[BACKWARD];
    make_case(op, index, seq, false, &forward);
    make_case(grad, index, seq, false, &backward);
    LMOE_TRY(start(s, FORWARD, op, &forward));
    LMOE_TRY(start(s, BACKWARD, grad, &backward));
    s->runs[PRODUCT].best = INFINITY; /* measured again beside each case */
    LMOE_TRY(take_turns(s, 9));
    double seconds = f->best + g->best, cube = 2.0 * SIDE * SIDE * SIDE;
    double rate = cube / s->runs[PRODUCT].best, chunks = chunk_flops(&f->trial);
    double own = lmoe__trial_flops(&f->trial) + lmoe__trial_flops(&g->trial);
    fprintf(s->b->out, "%-10s %8.2f + %7.2f ms, %5.1f GFLOP/s ", op->base.name, 1e3 * f->best,
            1e3 * g->best, 1e-9 * rate);
    if (chunks > 0)
        fprintf(s->b->out, "%6.1f %% (%5.1f %%)  ", 100 * chunks / seconds / rate,
                100 * own / seconds / rate);
    else
        fprintf(s->b->out, "%6.1f GFLOP/s    ", 1e-9 * own / seconds);
    fprintf(s->b->out, "%s\n", describe(text, sizeof text, &f->trial));
    return LMOE_OK;
}

/* The op's time at two lengths. */
static lmoe_status one_length(scans_bench *s, const lmoe_op *op, int index, const int64_t seq[2])
{
    double seconds[2];
    char text[256];
    for (int i = 0; i < 2; i++) {
        lmoe_case c;
        make_case(op, index, seq[i], true, &c);
        LMOE_TRY(start(s, FORWARD, op, &c));
        LMOE_TRY(take_turns(s, i == 0 ? 16 : 4));
        seconds[i] = s->runs[FORWARD].best;
        describe(text, sizeof text, &s->runs[FORWARD].trial);
        stop(s, FORWARD);
    }
    fprintf(s->b->out, "%-16s %9.2f, %9.2f ms: %5.2f times  %s\n", op->base.name, 1e3 * seconds[0],
            1e3 * seconds[1], seconds[1] / seconds[0], text);
    return LMOE_OK;
}

/* Cases that are made for timing: of decay_v only scan_diag knows. */
static bool worth_timing(const lmoe_op *op, int index)
{
    lmoe_case c;
    bool diag = strcmp(op->base.name, "scan_diag/1") == 0;
    if (!make_case(op, index, 1, false, &c) || !(c.flags & LMOE_CASE_BENCH)) return false;
    return !diag || (c.in[7].dtype == LMOE_NONE && c.in[0].dim[0] == 1);
}

static lmoe_status all_scans(scans_bench *s, int64_t seq, int64_t long_seq)
{
    static const lmoe_op *const ops[][2] = {{&lmoe__op_scan_diag, &lmoe__op_scan_diag_grad},
                                            {&lmoe__op_scan_delta, &lmoe__op_scan_delta_grad},
                                            {&lmoe__op_scan_elem, &lmoe__op_scan_elem_grad},
                                            {&lmoe__op_scan_learn, &lmoe__op_scan_learn_grad}};
    const int64_t seqs[2] = {seq, long_seq};
    lmoe_case c;
    make_product(&c);
    LMOE_TRY(start(s, PRODUCT, &lmoe__op_einsum, &c));
    fprintf(s->b->out, "%-10s %8s + %7s ms  of the product (the recurrence alone)%s\n", "",
            "forward", "back", s->processor ? "; processor time" : "");
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        for (int index = 0; make_case(ops[i][0], index, 1, false, &c); index++) {
            if (!worth_timing(ops[i][0], index)) continue;
            lmoe_status status = one_share(s, ops[i][0], ops[i][1], index, seq);
            stop(s, FORWARD);
            stop(s, BACKWARD);
            LMOE_TRY(status);
        }
    }
    stop(s, PRODUCT);
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        for (int index = 0; make_case(ops[i][0], index, 1, false, &c); index++) {
            if (!worth_timing(ops[i][0], index)) continue;
            for (int back = 0; back < 2; back++) LMOE_TRY(one_length(s, ops[i][back], index, seqs));
        }
    }
    return LMOE_OK;
}

lmoe_status lmoe__bench_scans(lmoe__bench *b, int64_t seq, int64_t long_seq)
{
    scans_bench s = {.b = b};
    s.processor = strcmp(b->on.device->device, "cpu") == 0 && lmoe_threads(b->ctx) == 1;
    lmoe_status status = all_scans(&s, seq, long_seq);
    for (int i = 0; i < RUNS; i++) stop(&s, i);
    return status;
}
