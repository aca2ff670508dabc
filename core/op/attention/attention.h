/* SPDX-License-Identifier: Apache-2.0
 * core/op/attention/attention.h: what the files of attention share. The ports of all its ops stand
 * in attention.c.
 */
#ifndef LMOE_CORE_OP_ATTENTION_H
#define LMOE_CORE_OP_ATTENTION_H

#include "core/op/carry.h"

#define LMOE__POSITIONS \
    .name = "positions", .flags = LMOE_PORT_NO_GRAD, .ambient = LMOE_AMBIENT_POSITIONS
#define LMOE__DOCUMENT \
    .name = "document", .flags = LMOE_PORT_NO_GRAD, .ambient = LMOE_AMBIENT_DOCUMENT

extern const lmoe_option lmoe__attention_options[];

/* Binds operands whose cached keys (if any) start at port `keys`. Without them c is s. */
lmoe_status lmoe__attention_bind(lmoe_trace *t, lmoe__letters *l, const lmoe_port *ports,
                                 const char *const *forms, int keys, const lmoe_desc *in, int n_in);
/* Pairs of query and key (own: also own keys) that a full ring and no documents leave visible. */
double lmoe__attention_pairs(const lmoe_attention_attrs *o, const lmoe_desc *q,
                             const lmoe_desc *keys, bool own);

/* Test cases: letters of case `index`, one operand of it, a whole case. */
enum { LMOE__ATTENTION_BENCH = 2 * LMOE__CASE_SEQS + 6 }; /* the first one worth timing */
lmoe__letters lmoe__attention_letters(int index);
void lmoe__attention_draw(lmoe_case *c, int i, const char *port, const char *form,
                          const lmoe__letters *l, int index);
int lmoe__attention_sample(int index, lmoe_case *c, const lmoe_port *ports,
                           const char *const *forms);

#endif
