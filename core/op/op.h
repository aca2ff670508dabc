/* SPDX-License-Identifier: Apache-2.0
 * core/op/op.h: the table of the ops that lmoe brings (list.def), and helpers that shape functions
 * share.
 */
#ifndef LMOE_CORE_OP_H
#define LMOE_CORE_OP_H

#include <lmoe/ops.h>

#include "core/base/base.h"

#define LMOE_OP(name) extern const lmoe_op lmoe__op_##name;
#include "core/op/list.def"
#undef LMOE_OP

/* NULL-terminated, in the order of list.def. */
extern const lmoe_op *const lmoe__ops[];

/* Attributes of what goes on between ranks: lmoe_collective_attrs, completed by the split pass. */
extern const lmoe_option lmoe__collective_options[];

/* Fills a case's input i with f32 (or `dtype`) and sizes; axes is blank-separated, e.g. "batch seq
 * embed". */
void lmoe__case_input(lmoe_case *c, int i, lmoe_dtype dtype, const char *axes, const int64_t *dim,
                      lmoe_fill_kind fill, double a, double b);

#endif
