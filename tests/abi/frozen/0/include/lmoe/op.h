/* SPDX-License-Identifier: Apache-2.0
 * lmoe/op.h: ops, the mathematics. An op is open by name ("vendor.x/op/1" is as good as
 * "scan_diag/1"): it declares its ports, shape, axis rule, carry, derivative, a reference kernel
 * that is obviously right, and legal random inputs. Fast kernels are registered separately
 * (lmoe/kernel.h), by anyone.
 */
#ifndef LMOE_OP_H
#define LMOE_OP_H

#include <lmoe/kernel.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    LMOE_PORT_OPTIONAL = 1, /* may be absent */
    LMOE_PORT_NO_GRAD = 2,  /* input: no gradient flows back into it; output: none flows from it */
    LMOE_PORT_MUTATES = 4,  /* the input's buffer is changed in place (optimiser, accumulation) */
    LMOE_PORT_CARRY = 8,    /* carry in / carry out: filled by the core, never by layers */
    LMOE_PORT_FORWARD_CARRY = 16, /* of a backward op: the carry that its forward op was given */
    LMOE_PORT_STATE =
        32,              /* in the state dtype: f32 beside 16-bit floats (f64 in gradient checks) */
    LMOE_PORT_SHAPE = 64 /* only the input's shape is read; its values need not exist */
};

/* Values that the core fills in when a caller leaves the port absent. */
typedef enum lmoe_ambient {
    LMOE_AMBIENT_NONE = 0,
    LMOE_AMBIENT_TOKENS = 1,    /* (batch seq) i32 token ids */
    LMOE_AMBIENT_POSITIONS = 2, /* (batch seq) i32 position in the stream */
    LMOE_AMBIENT_DOCUMENT = 3,  /* (batch seq) i32 position at which the token's document starts */
    LMOE_AMBIENT_RESET =
        4, /* (batch seq) u8: 1 = forget the past before this token; absent if not packing */
    LMOE_AMBIENT_SKIP = 5,  /* (batch seq) u8: 1 = this token is padding; absent if there is none */
    LMOE_AMBIENT_NOISE = 7, /* (batch seq) i32: keys for random/1, other ones in each step */
    LMOE_AMBIENT_VALID = 6  /* (batch seq) f32: 1 for tokens that count in the loss, else 0 */
} lmoe_ambient;

typedef struct lmoe_port {
    const char *name; /* NULL ends the list */
    uint32_t flags;
    lmoe_ambient ambient;
} lmoe_port;

/* What an op must remember of the tokens before, to go on with the next ones. A segment is a run of
 * tokens along seq. y, carry_out = op(x, carry_in) summary(x of a segment)                  what
 * the others need to know of this segment combine(summaries of all segments, rank) the carry with
 * which segment `rank` starts Absent carry inputs mean "nothing before" (zero). A backward op is a
 * carry op too, with reverse = 1: it walks seq from its end, carry in is d(carry out) and carry out
 * is d(carry in) of the forward op. */
typedef struct lmoe_carry {
    size_t size;
    int32_t count;   /* carry tensors */
    int32_t in;      /* index of the first carry input port */
    int32_t out;     /* index of the first carry output port */
    int32_t reverse; /* 1: walks seq from its end */
    /* Shapes of the carry tensors, from the shapes of the op's inputs. `context` is the largest
     * number of past tokens that must be kept (softmax attention's ring); recurrent carries ignore
     * it. */
    lmoe_status (*shape)(const void *attrs, const lmoe_desc *in, int n_in, int64_t context,
                         lmoe_desc *carry);
    const char *summary; /* op; its inputs are the op's inputs listed in summary_in. NULL: none,
                            hand over */
    int32_t n_summary_in;
    int32_t summary_in[LMOE_MAX_IO];
    int32_t n_summary; /* tensors in a summary */
    /* op: n_summary tensors, each (rank ...) = the segments' summaries stacked -> count carry
     * tensors. Attributes: lmoe_combine_attrs. Segments after `rank` (before it, if reverse) must
     * not matter. */
    const char *combine;
    double initial; /* value of a carry with nothing before, every element (0; attention's positions
                       use -1) */
    int32_t initial_of; /* which carry tensor `initial` is for; the others start at 0 */
    /* The summary tensor (1 is the first) that is carry tensor i after a segment with nothing before
     * it; 0: none is. With it a carry can be handed over a segment without running the op. */
    int32_t summary_state[4];
} lmoe_carry;

/* Attributes of every combine op; reverse: as the carry's (segments before `rank` do not matter).
 */
typedef struct lmoe_combine_attrs {
    int64_t rank, ranks, reverse;
} lmoe_combine_attrs;

/* What a vjp is given and must fill. Handles are tensors of the trace `t`; dout[i] is absent when
 * nothing depends on output i. Set din[i] for each input with want[i]; leaving it absent means a
 * zero gradient. */
typedef struct lmoe_vjp {
    size_t size;
    const void *attrs;
    int32_t n_in, n_out;
    const lmoe_tensor *in, *out, *dout;
    const uint8_t *want;
    lmoe_tensor *din;
} lmoe_vjp;

/* How a test or benchmark draws one input. */
typedef enum lmoe_fill_kind {
    LMOE_FILL_NORMAL = 0,  /* mean a, deviation b */
    LMOE_FILL_UNIFORM = 1, /* [a, b) */
    LMOE_FILL_INT = 2,     /* integers of [a, b) */
    LMOE_FILL_CONST = 3,   /* a */
    LMOE_FILL_FLAG = 4,    /* 1 with probability a, else 0 */
    LMOE_FILL_RAMP = 5,    /* a, a+1, ... along the last axis */
    LMOE_FILL_DECAY =
        6, /* log decays: mild (-0.1), strong (-3), exactly 0, -80 and -infinity mixed */
    LMOE_FILL_SORTED =
        7, /* non-decreasing integers 0 ... b along the last axis, first 0, last b (offsets) */
    LMOE_FILL_PERMUTED = 8 /* (a i + b) modulo the number of elements, i their row-major index:
             with a coprime to it a permutation, whose inverse is of this kind too */
} lmoe_fill_kind;

typedef struct lmoe_fill {
    lmoe_fill_kind kind;
    double a, b;
} lmoe_fill;

enum {
    LMOE_CASE_GRADCHECK = 1, /* small and smooth enough for central differences in float64 */
    LMOE_CASE_BENCH = 2      /* a size worth timing */
};

/* One legal call of an op, for tests and benchmarks. */
typedef struct lmoe_case {
    size_t size;
    uint32_t flags;
    int32_t n_in; /* ports past it are absent; an absent one in between has dtype LMOE_NONE */
    lmoe_desc in[LMOE_MAX_IO]; /* float inputs are given as LMOE_F32; the tool sets the dtype under
                                  test */
    lmoe_fill fill[LMOE_MAX_IO];
    union {
        unsigned char bytes[LMOE_MAX_ATTRS];
        double align;
    } attrs;
} lmoe_case;

#define LMOE_KIND_OP "lmoe.op/1"

typedef struct lmoe_op {
    lmoe_class base; /* name "scan_diag/1" (with its revision); options = the attribute table */
    const lmoe_port *inputs;
    const lmoe_port *outputs;

    /* Output descriptions from input descriptions; absent inputs have dtype LMOE_NONE. Say what is
     * wrong with lmoe_shape_error. */
    lmoe_status (*shape)(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out);

    /* Axis rule: how splitting an axis of one tensor shows in the others.
     *   operands -> results | clauses
     * with one comma-separated term for each port, in order; `.` for "takes no part". Dimensions
     * are one-letter names; (h k) is a product, h outer, only h may be split; ... is any leading
     * ones. A letter in operands and results may be split; one missing from the results is summed,
     * so splitting it gives partial results. Clauses, separated by blanks or commas:
     *   whole x   the letter must not be split
     *   order s   split along with the carry
     *   linear i  a partial operand i may pass through; `linear all`: all partial together
     *   shape i   of operand i only the shape is read
     *   same i    result i is no sum: whole when the split letter is not in it
     *   ragged r  rows numbered within a rank: a rank's own wherever tokens (b, s) are split
     *   expert x  only together with the rows: of an expert's own rank
     *   offset v  ids relative to a shard (kept whole so far)
     * NULL: inputs must be whole. Ports past the written terms, and carry ports, take no part. */
    const char *rule;
    /* Writes the rule for these attributes and inputs into text (n bytes); used when `rule` is
     * NULL. */
    lmoe_status (*rule_of)(const void *attrs, const lmoe_desc *in, int n_in, char *text, size_t n);

    const lmoe_carry *carry; /* NULL: nothing is remembered along seq */

    lmoe_status (*vjp)(lmoe_trace *t, const lmoe_vjp *v); /* NULL: not differentiable */
    lmoe_status (*reference)(const lmoe_args *a); /* host memory, any float dtype; required */

    /* Writes case number `index` (0, 1, ...) into *c, zeroed by the caller; returns 0 when there
     * are no more. */
    int (*sample)(int index, lmoe_case *c);

    /* FLOPs of one call (bytes are counted by the core: each input read and output written once).
     * NULL: elements. */
    double (*flops)(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                    int n_out);

    /* Output i may be written over input inplace[i] - 1 (same bytes, elementwise access); 0: no.
     * NULL: never. */
    const signed char *inplace;
    /* 1: output 0 is input 0 under another shape: no kernel runs, the buffer is shared. */
    int32_t view;
    /* Tolerance of kernels against the float64 reference, in units of the rounding of the tested
     * dtype; 0: 8. */
    double tolerance;
} lmoe_op;

#ifdef __cplusplus
}
#endif
#endif
