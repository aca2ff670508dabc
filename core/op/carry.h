/* SPDX-License-Identifier: Apache-2.0
 * core/op/carry.h: what the carry ops (short_conv, scan_diag, scan_delta, attention) share: operands described
 * by letters, as in axis rules; from these forms shapes are checked, results described and test
 * cases drawn.
 *
 *   form = letters [ "..." ] [ ":" dtype ]     "b s h k": four axes; "b s ...": two and some more
 *
 * A letter has one size in all operands of an op; "..." stands for the same run of axes in each.
 * The dtype is u8 or i32; without it any float dtype, or for a port with LMOE_PORT_STATE f32 or
 * f64.
 */
#ifndef LMOE_CORE_OP_CARRY_H
#define LMOE_CORE_OP_CARRY_H

#include "core/op/op.h"

/* Port flags, and the ambient flags that all carry ops take. */
enum {
    LMOE__OPTIONAL = LMOE_PORT_OPTIONAL,
    LMOE__CARRY_IN = LMOE_PORT_OPTIONAL | LMOE_PORT_CARRY,
    LMOE__FORWARD_CARRY = LMOE_PORT_OPTIONAL | LMOE_PORT_FORWARD_CARRY,
    LMOE__GIVEN = LMOE_PORT_OPTIONAL | LMOE_PORT_NO_GRAD
};
#define LMOE__RESET .name = "reset", .flags = LMOE__GIVEN, .ambient = LMOE_AMBIENT_RESET
#define LMOE__SKIP  .name = "skip", .flags = LMOE__GIVEN, .ambient = LMOE_AMBIENT_SKIP

/* What the letters of one call stand for. Zeroed before the first use. */
typedef struct lmoe__letters {
    int64_t dim[128];
    const char *axis[128];
    const char *port[128]; /* the operand that said so first; NULL: not known yet */
    int dots;              /* axes of "...", letters 1, 2, ... */
    bool dots_known;
} lmoe__letters;

void lmoe__letters_set(lmoe__letters *l, char letter, const char *axis, int64_t dim);
/* Checks every operand against its form (ports and forms in the same order) and learns the letters.
 */
lmoe_status lmoe__letters_bind(lmoe_trace *t, lmoe__letters *l, const lmoe_port *ports,
                               const char *const *forms, const lmoe_desc *in, int n_in);
void lmoe__letters_desc(const lmoe__letters *l, const char *text, lmoe_dtype dtype, lmoe_desc *out);

/* Operand i of n; an absent one when there are fewer. */
const lmoe_desc *lmoe__desc_at(const lmoe_desc *in, int n_in, int i);
/* f64 if an operand is f64, else f32. */
lmoe_dtype lmoe__state_dtype_of(const lmoe_desc *in, int n_in);

/* Draws operand i of a test case; the letters' sizes must be known. */
void lmoe__case_port(lmoe_case *c, int i, const char *form, const lmoe__letters *l,
                     lmoe_fill_kind kind, double a, double b);
/* Sequence lengths that kernels get wrong. */
enum { LMOE__CASE_SEQS = 13 };
extern const int64_t lmoe__case_seq[LMOE__CASE_SEQS];

/* The attributes of every combine op, lmoe_combine_attrs. */
extern const lmoe_option lmoe__combine_options[];
/* The stacked summaries have `ranks` segments, and `rank` is one of them. */
lmoe_status lmoe__combine_check(lmoe_trace *t, const lmoe_combine_attrs *o, int64_t stacked);
/* Sampled attributes: case `index` walks through ranks 1, 2, 4 and every rank of them. */
enum { LMOE__COMBINE_CASES = 7 };
lmoe_combine_attrs lmoe__combine_case(int index, int reverse);

/* ---- for reference kernels ---- */

/* Operand i of n; an absent one when there is none. */
const lmoe_buf *lmoe__buf_at(const lmoe_buf *bufs, int n, int i);

static inline bool lmoe__flag(const lmoe_buf *flags, int64_t i)
{
    return lmoe_get(flags, i) != 0; /* an absent operand reads as 0 */
}

void lmoe__buf_fill(const lmoe_buf *b, double x); /* every element; absent: nothing */
/* n zeroed doubles (at least one); NULL with a message when memory is exhausted. */
double *lmoe__ref_doubles(const lmoe_args *a, int64_t n);

lmoe_status lmoe__short_conv_ref(const lmoe_args *a);
lmoe_status lmoe__short_conv_grad_ref(const lmoe_args *a);
lmoe_status lmoe__short_conv_summary_ref(const lmoe_args *a);
lmoe_status lmoe__short_conv_combine_ref(const lmoe_args *a);
lmoe_status lmoe__short_conv_grad_summary_ref(const lmoe_args *a);
lmoe_status lmoe__short_conv_grad_combine_ref(const lmoe_args *a);
lmoe_status lmoe__scan_diag_ref(const lmoe_args *a);
lmoe_status lmoe__scan_diag_grad_ref(const lmoe_args *a);
lmoe_status lmoe__scan_diag_summary_ref(const lmoe_args *a);
lmoe_status lmoe__scan_diag_grad_summary_ref(const lmoe_args *a);
lmoe_status lmoe__scan_diag_combine_ref(const lmoe_args *a);
lmoe_status lmoe__scan_delta_ref(const lmoe_args *a);
lmoe_status lmoe__scan_delta_grad_ref(const lmoe_args *a);
lmoe_status lmoe__scan_delta_summary_ref(const lmoe_args *a);
lmoe_status lmoe__scan_delta_grad_summary_ref(const lmoe_args *a);
lmoe_status lmoe__scan_delta_combine_ref(const lmoe_args *a);
lmoe_status lmoe__scan_elem_ref(const lmoe_args *a);
lmoe_status lmoe__scan_elem_grad_ref(const lmoe_args *a);
lmoe_status lmoe__scan_elem_summary_ref(const lmoe_args *a);
lmoe_status lmoe__scan_elem_grad_summary_ref(const lmoe_args *a);
lmoe_status lmoe__scan_elem_combine_ref(const lmoe_args *a);
lmoe_status lmoe__scan_learn_ref(const lmoe_args *a);
lmoe_status lmoe__scan_learn_grad_ref(const lmoe_args *a);
lmoe_status lmoe__attention_ref(const lmoe_args *a);
lmoe_status lmoe__attention_grad_ref(const lmoe_args *a);
lmoe_status lmoe__attention_summary_ref(const lmoe_args *a);
lmoe_status lmoe__attention_combine_ref(const lmoe_args *a);
lmoe_status lmoe__attention_grad_summary_ref(const lmoe_args *a);
lmoe_status lmoe__attention_grad_combine_ref(const lmoe_args *a);

#endif
