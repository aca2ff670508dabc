/* SPDX-License-Identifier: Apache-2.0
 * core/op/shape.h: what shape functions and derivatives of many ops need: checks of operands in
 * terms of their axis names, dtypes of results.
 *
 * Checks return LMOE_OK, or record a sentence with lmoe_shape_error and return its status; `name`
 * is the operand's port. t may be NULL, as in shape functions.
 */
#ifndef LMOE_CORE_OP_SHAPE_H
#define LMOE_CORE_OP_SHAPE_H

#include "core/op/op.h"

/* The dtype that holds values of both: f64 over f32 over the 16-bit ones (bf16 with f16: f32). */
lmoe_dtype lmoe__widest(lmoe_dtype a, lmoe_dtype b);

/* Dtype of sums, norms and losses of values of dtype x: f64 for f64, else f32. */
lmoe_dtype lmoe__state_of(lmoe_dtype x);

const char *lmoe__dtype_name(lmoe_dtype d);

/* "(batch 4, seq 16)" into buf; returned. */
const char *lmoe__desc_text(char *buf, size_t n, const lmoe_desc *d);

lmoe_status lmoe__need_float(lmoe_trace *t, const lmoe_desc *d, const char *name);
lmoe_status lmoe__need_dtype(lmoe_trace *t, const lmoe_desc *d, const char *name, lmoe_dtype want);
/* axes: what the operand should be, for the message: "batch seq embed". */
lmoe_status lmoe__need_rank(lmoe_trace *t, const lmoe_desc *d, const char *name, int rank,
                            const char *axes);
/* Dimension i of a and dimension j of b are one axis: same name, same size. */
lmoe_status lmoe__need_axis(lmoe_trace *t, const lmoe_desc *a, const char *a_name, int i,
                            const lmoe_desc *b, const char *b_name, int j);
/* b has a's axes: names, order and sizes. */
lmoe_status lmoe__need_axes(lmoe_trace *t, const lmoe_desc *a, const char *a_name,
                            const lmoe_desc *b, const char *b_name);
/* b has a's axes and dtype. */
lmoe_status lmoe__need_like(lmoe_trace *t, const lmoe_desc *a, const char *a_name,
                            const lmoe_desc *b, const char *b_name);
/* No two axes of the result have one name. */
lmoe_status lmoe__need_unique_axes(lmoe_trace *t, const lmoe_desc *d);

/* A gradient in the dtype of the operand it belongs to. */
lmoe_tensor lmoe__cast_like(lmoe_trace *t, lmoe_tensor gradient, lmoe_tensor operand);

#endif
